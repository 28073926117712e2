"""Random arrays and finite differences, for the tests of the reference's gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shared.weights.random import named_rng

STEP = (
    1e-6  # of a finite difference of an operator: its rounding is about 1e-10, its curvature 1e-12
)
AUTOGRAD_LIMIT = 1e-13  # float64 against float64, sums in another order. Measured at most 8e-16


def random(name: str, *shape: int) -> np.ndarray:
    return named_rng(name, 1).standard_normal(shape)


def finite_difference(
    function: Callable[[], float], array: np.ndarray, index: tuple[int, ...], step: float = STEP
) -> float:
    """The central difference of `function`, which reads `array`, at one of its values."""
    value = array[index]
    array[index] = value + step
    above = function()
    array[index] = value - step
    below = function()
    array[index] = value
    return (above - below) / (2 * step)


def some_indices(array: np.ndarray, count: int, name: str) -> list[tuple[int, ...]]:
    flat = named_rng(name, 2).choice(array.size, min(count, array.size), replace=False)
    return [tuple(int(i) for i in np.unravel_index(k, array.shape)) for k in flat]
