"""Random-sign projections, which stand for the larger tensors of a training step."""

from __future__ import annotations

import numpy as np
import pytest

from shared.verification.recording import PROJECTED, projected

STEPS = range(1, 10)
SHAPE = (3, 5, PROJECTED)


def kernel() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE)


def test_a_small_tensor_stays_as_it_is() -> None:
    small = np.arange(PROJECTED, dtype=np.float64).reshape(2, -1)
    assert projected(small, 1) is small


def test_a_large_tensor_becomes_sums() -> None:
    assert projected(kernel(), 1).shape == (PROJECTED,)
    assert projected(kernel().reshape(-1)[:-7], 1).shape == (PROJECTED,)


@pytest.mark.parametrize("step", STEPS)
def test_one_wrong_value_changes_one_sum_by_as_much(step: int) -> None:
    wrong = kernel()
    wrong[1, 2, 7] += 0.25
    difference = np.abs(projected(wrong, step) - projected(kernel(), step))
    assert difference.argmax() == 7
    assert difference[7] == pytest.approx(0.25)
    assert np.delete(difference, 7).max() < 1e-12


@pytest.mark.parametrize("signs", [(1, 1), (1, -1)])
@pytest.mark.parametrize("rows", [(0, 1), (3, 11), (2, 14)])
def test_two_wrong_values_of_one_sum_do_not_cancel_in_every_step(
    rows: tuple[int, int], signs: tuple[int, int]
) -> None:
    wrong = kernel()
    for row, sign in zip(rows, signs, strict=True):
        wrong.reshape(-1, PROJECTED)[row, 7] += 0.25 * sign
    seen = [np.abs(projected(wrong, s) - projected(kernel(), s)).max() > 0.4 for s in STEPS]
    assert any(seen)
    assert not all(seen)  # else the signs were the same in every step


def test_the_signs_are_pinned() -> None:
    """A stored trace can be compared only if the signs never change."""
    found = projected(np.repeat(2.0 ** np.arange(16), PROJECTED), 1)
    assert (found == found[0]).all()
    assert found[0] == PINNED


PINNED = 47085.0
