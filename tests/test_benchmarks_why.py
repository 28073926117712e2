"""PortBench's cases and the wall's pairs are what they say."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.portbench.__main__ import answer, report
from benchmarks.portbench.cases import PRESETS, Case, cases
from benchmarks.wall.pairs import PAIRS
from shared import get_spec, make_plan


def test_cases_are_the_same_every_time_and_by_turns() -> None:
    chosen = list(itertools.islice(cases(6, 1, 2, ["torch", "flax"]), 9))
    assert [case.kind for case in chosen] == ["alone"] * 6 + ["pair"] + ["equal"] * 2
    assert [case.framework for case in chosen[:4]] == ["torch", "flax"] * 2
    assert [case.preset for case in chosen[:6]] == list(PRESETS[:6])
    assert chosen == list(itertools.islice(cases(6, 1, 2, ["torch", "flax"]), 9))


@pytest.mark.parametrize(
    ("mistakes", "found", "alarm"),
    [((), None, False), (("BGR",), True, False)],
    ids=["equal", "alone"],
)
def test_an_answer_is_scored(mistakes: tuple[str, ...], found: bool | None, alarm: bool) -> None:
    row = answer(Case("cifar/resnet20", mistakes, "reference"))
    assert (row["found"], row["false_alarm"]) == (found, alarm)
    if mistakes:
        assert row["named"]
        assert row["layer"]
    assert "false alarms" in report([row])


def test_a_wrong_answer_is_not_a_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scored against another mistake than the one that is planted."""
    from benchmarks.portbench import __main__ as bench

    case = Case("cifar/resnet20", ("BGR",), "reference")
    monkeypatch.setattr(
        bench, "outputs", lambda port, framework: bench.returned(bench.right(case.preset))
    )
    row = bench.answer(case)
    assert not row["found"]
    assert not row["named"]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.who}-{pair.beside}")
def test_the_sides_of_a_pair_have_the_same_tensors(pair) -> None:
    spec = get_spec(pair.preset).replace(**pair.given)
    other = spec.replace(**pair.there)
    assert make_plan(spec).tensors == make_plan(other).tensors
    assert (spec == other) == (not pair.there)
