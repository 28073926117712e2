"""Of effects that add up, the pair that makes the difference comes first."""

from __future__ import annotations

import numpy as np

from shared.verification.diagnosis.effects import VALUES, Effects
from shared.verification.hypotheses.hypothesis import Hypothesis


def hypothesis(name: str, **changes) -> Hypothesis:
    return Hypothesis("spec", name, name, lambda port: None, set=changes)


def drawn(count: int, size: int = 50) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, size))


def names(effects: Effects, most: int) -> list[tuple[str, str]]:
    return [(a.name, b.name) for a, b in effects.pairs(most)]


def test_the_right_pair_is_first_and_what_explains_more_stands_in_front() -> None:
    rows = drawn(30)
    effects = Effects(rows[21] + 3 * rows[4])
    for i, row in enumerate(rows):
        effects.add(hypothesis(str(i)), row)
    assert names(effects, 1) == [("4", "21")]


def test_no_pair_is_given_twice_and_none_of_two_values_of_a_field() -> None:
    rows = drawn(4)
    effects = Effects(rows.sum(axis=0))
    for i, row in enumerate(rows):
        effects.add(hypothesis(str(i), **{"norm.eps": i} if i < 2 else {}), row)
    found = names(effects, 3) + names(effects, 9)
    assert len({frozenset(pair) for pair in found}) == len(found) == 5
    assert {"0", "1"} not in [set(pair) for pair in found]


def test_effects_that_are_one_and_those_that_are_none_are_last() -> None:
    rows = drawn(3, 10 * VALUES)
    effects = Effects(rows[0] + rows[1])
    for name, row in (
        ("a", rows[0]),
        ("a again", 2 * rows[0]),
        ("b", rows[1]),
        ("zero", 0 * rows[2]),
    ):
        effects.add(hypothesis(name), row)
    assert {frozenset(pair) for pair in names(effects, 2)} == {
        frozenset({"a", "b"}),
        frozenset({"a again", "b"}),
    }


def test_one_effect_makes_no_pair() -> None:
    effects = Effects(np.ones(3))
    assert names(effects, 5) == []
    effects.add(hypothesis("a"), np.ones(3))
    assert names(effects, 5) == []
