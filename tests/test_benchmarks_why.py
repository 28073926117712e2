"""PortBench's cases and the wall's pairs are what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.portbench import __main__ as bench
from benchmarks.portbench.__main__ import answer, report
from benchmarks.portbench.cases import PRESETS, Case, cases
from benchmarks.wall.__main__ import row_named
from benchmarks.wall.installed import NAMED, named, pairs, spec_of
from benchmarks.wall.pairs import PAIRS
from shared import get_spec, make_plan
from shared.verification.hypotheses.hypothesis import weights_for


def test_cases_are_the_same_every_time_and_by_turns() -> None:
    chosen = list(cases(6, 1, 2, ["torch", "flax"]))
    kinds = [case.kind for case in chosen]
    assert kinds == ["alone"] * 3 + ["equal"] + ["alone"] * 3 + ["pair", "equal"]
    assert [case.framework for case in chosen[:4]] == ["torch", "flax"] * 2
    assert [case.preset for case in chosen if case.kind == "alone"] == list(PRESETS[:6])
    assert chosen == list(cases(6, 1, 2, ["torch", "flax"]))


def test_a_run_that_was_broken_off_is_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a line that was cut short is run again."""
    asked: list[Case] = []

    def answered(case: Case) -> dict:
        asked.append(case)
        about = {"preset": case.preset, "framework": case.framework, "mistakes": case.mistakes}
        return {**about, "kind": case.kind, "false_alarm": False, "named": True, "found": True}

    monkeypatch.setattr(bench, "answer", answered)
    wanted = [Case("cifar/resnet20", ("BGR",), "torch"), Case("cifar/resnet20", (), "torch")]
    file = tmp_path / "answers.jsonl"
    first = bench.run(wanted, file)
    assert asked == wanted
    assert len(bench.run(wanted, file)) == len(first)
    assert asked == wanted
    file.write_text(file.read_text()[:-4])
    bench.run(wanted, file)
    assert asked == [*wanted, wanted[1]]
    assert len(file.read_text().splitlines()) == 2


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


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("same model: torchvision/resnet18", {}),
        ("at this size only: torchvision/resnet18 with `norm.eps=0.001`", {"norm.eps": 0.001}),
        (
            'same model: torchvision/resnet18 with `strides=[2, 2, 2, 2]`, `block.padding="same"`',
            {"strides": (2, 2, 2, 2), "block.padding": "same"},
        ),
    ],
)
def test_the_network_of_an_answer(answer: str, wanted: dict) -> None:
    assert spec_of(answer) == get_spec("torchvision/resnet18").replace(**wanted)


@pytest.mark.parametrize(
    "answer",
    [
        "departs from torchvision/resnet18: dropout (head)",
        "same model: torchvision/resnet18 with `norm.eps=0.001` and 2 more",
    ],
)
def test_an_answer_that_does_not_say_it_all_is_no_network(answer: str) -> None:
    assert spec_of(answer) is None


def test_models_of_packages_can_carry_each_others_weights() -> None:
    assert len(pairs()) > 10
    for here, beside in pairs():
        spec = beside.spec.replace(num_classes=here.spec.num_classes)
        tensors = make_plan(here.spec).tensors
        weights = {name: np.zeros(shape, np.float32) for name, shape in tensors.items()}
        assert weights_for(weights, make_plan(spec).tensors) is not None, (here.key, beside.key)


def test_a_network_that_is_said_to_be_another_stands_on_the_wall() -> None:
    page = (Path(__file__).parents[1] / "docs" / "wall" / "installed.md").read_text("utf-8")
    found = named()
    assert {side.key for side, _, _ in found} == NAMED.keys()
    for one in found:
        assert "=" in row_named(*one)
        assert row_named(*one) in page
