"""Tensors that are different are explained from the tensors alone, exactly or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from shared.verification.diagnosis.tensors import explain_tensors
from shared.verification.hypotheses.listing import named
from tests.verification.diagnosis.ports import right, small, with_mistakes

NAMES = (
    "stem.conv1: its height and width transposed",
    "every norm: gamma and beta exchanged",
    "stages.0.blocks.0 and stages.0.blocks.1 exchanged",
    "last gammas zero",
    "rounded to bfloat16",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_change_is_named(name: str) -> None:
    base = right(small())
    found = with_mistakes(base, [name]).weights
    ((cause, tensors),), left = explain_tensors(base.spec, base.weights, found)
    assert cause.what == named(name, base.spec).what
    assert left == ()
    assert set(tensors) == {n for n in found if not np.array_equal(found[n], base.weights[n])}


def test_two_changes_and_what_nothing_explains() -> None:
    base = right(small())
    names = ["stem.conv1: flipped in width", "stages.1.blocks.0.norm1: beta not loaded (zeros)"]
    found = dict(with_mistakes(base, names).weights)
    found["head.weight"] = found["head.weight"] * 1.5
    causes, left = explain_tensors(base.spec, base.weights, found)
    assert [cause.name for cause, _ in causes] == names
    assert left == ("head.weight",)


def test_equal_tensors_need_no_cause() -> None:
    base = right(small())
    assert explain_tensors(base.spec, base.weights, dict(base.weights)) == ([], ())
