"""How far two tensors are apart: the errors that comparisons are made of."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from shared.verification.tolerances import CHANNEL_FLOAT64, CHANNEL_NOISE, NEGLIGIBLE


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
    wide_a, wide_b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    with np.errstate(invalid="ignore"):  # inf - inf
        return Distance(
            *(float(np.abs(x).max(initial=0.0)) for x in (wide_a - wide_b, wide_a, wide_b))
        )


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
