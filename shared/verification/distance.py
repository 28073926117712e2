"""How far two tensors are apart: the errors that comparisons are made of."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from shared.verification.tolerances import CHANNEL_FLOAT64, CHANNEL_NOISE, NEGLIGIBLE

PART = 1 << 15  # values of a tensor that are compared at a time


class Channel(NamedTuple):
    """The channel of an activation that is furthest off by its own scale, and by how much."""

    number: int  # from 0
    error: float

    @property
    def passed(self) -> bool:
        return self.error <= CHANNEL_FLOAT64


def relative_error(a: np.ndarray, b: np.ndarray, group: float = 0.0) -> float:
    """Largest absolute difference over the largest absolute value; infinite if that cannot be said.

    A tensor with a value that is not finite never passes, nor does one that is zero everywhere on
    one side: nothing can be seen through a dead layer. `group` is the largest value of the tensors
    of its kind, where next to nothing beside those counts as zero.
    """
    return distance(a, b).error(group)


class Distance(NamedTuple):
    """Two tensors: their largest difference, and the largest absolute value of each."""

    difference: float
    a: float
    b: float

    def error(self, group: float = 0.0) -> float:
        """Relative to the smaller of the two; to the `group` they belong to where both are next to
        nothing in it.

        The gradient of a bias in front of a batch norm is zero, and what is computed for it is
        rounding alone.
        """
        negligible = max(self.a, self.b) <= NEGLIGIBLE * group
        scale = group if negligible else min(self.a, self.b)
        if not all(map(math.isfinite, (self.difference, self.a, self.b))) or scale == 0.0:
            return math.inf
        return self.difference / scale


def distance(a: np.ndarray, b: np.ndarray) -> Distance:
    """Of two tensors, read once and in parts that stay in the processor's cache."""
    if a.shape != b.shape:
        a, b = np.broadcast_arrays(a, b)
    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    largest = [(0.0, 0.0, 0.0)]
    with np.errstate(invalid="ignore"):  # inf - inf
        for start in range(0, flat_a.size, PART):
            part_a = np.asarray(flat_a[start : start + PART], np.float64)
            part_b = np.asarray(flat_b[start : start + PART], np.float64)
            largest.append((_largest(part_a - part_b), _largest(part_a), _largest(part_b)))
    return Distance(*map(float, np.max(largest, axis=0)))


def _largest(x: np.ndarray) -> np.float64:
    """The largest absolute value, without an array of them; NaN where there is one."""
    return np.maximum(x.max(), -x.min())


def worst_channel(a: np.ndarray, b: np.ndarray) -> Channel | None:
    """The channel (last axis) with the largest error relative to its own scale, if any shows more
    than rounding.

    The error of a whole tensor does not see a channel that is a billion times smaller than the
    others. A channel counts where it differs by more than `CHANNEL_NOISE` times what the tensor's
    channels differ by (the median, or float64's rounding of its largest value): rounding in a sum
    of large terms that cancel may be as large as the small channel itself.
    """
    if a.ndim < 2 or a.size == 0:
        return None
    axes = tuple(range(a.ndim - 1))
    wide_a, wide_b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    with np.errstate(invalid="ignore"):  # inf - inf
        difference = np.abs(wide_a - wide_b).max(axis=axes)
    scale = np.minimum(np.abs(wide_a).max(axis=axes), np.abs(wide_b).max(axis=axes))
    noise = max(float(np.median(difference)), float(np.finfo(np.float64).eps * scale.max()))
    if not math.isfinite(noise):
        return None  # the error of the tensor says so
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(difference > CHANNEL_NOISE * noise, difference / scale, 0.0)
    index = int(error.argmax())
    return Channel(index, float(error[index])) if error[index] else None
