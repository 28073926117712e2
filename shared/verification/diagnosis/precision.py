"""Whether a difference is the rounding of a lower precision: no mistake.

The reference is run with its values rounded as TF32, bfloat16 or float16 round them. What that
changes must be as large as what was observed, and alike: the same weights and images round in the
same way in every framework. Float32 has no such pattern, because the order of sums differs; there
the size has to do, at every key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from shared.verification.diagnosis.limits import Limits, low_precision
from shared.verification.diagnosis.passes import Passes
from shared.verification.hypotheses.of_surroundings import of_precision
from shared.verification.recording import EVAL

FLOAT32 = "float32"
ALIKE = 0.4  # correlation of the observed difference with that of the rounded reference
# A small change of one norm's epsilon moves the outputs in the direction in which rounding does:
# 0.76 in 20 outputs. Rounding alone makes 1.0 where every value is rounded as here, and 0.15 to 0.9
# where sums are.
SURE = 0.95
BY_CHANCE = 4.0  # standard deviations: no chance makes such a correlation
LARGER = 4.0  # times what the rounded reference differs by
SMALLER = 0.2
FAR = 8.0  # times what a precision rounds by in another port: not that precision


class Rounding(NamedTuple):
    """A precision that explains a difference."""

    precision: str
    what: str
    alike: float = 1.0

    @property
    def sure(self) -> bool:
        """Whether nothing else makes such a difference."""
        return self.alike >= SURE


def of_float32() -> Rounding:
    return next(Rounding(h.name, h.what) for h in of_precision() if h.name == FLOAT32)


def as_rounding(
    passes: Passes, limits: Limits, key: str, sizes: Mapping[str, float] | None = None
) -> Rounding | None:
    """The precision whose rounding, by its pattern, the difference at a key is, if any.

    `sizes` are what precisions round by in a port much like this one, where that is known: those
    that are far from the difference are not run.
    """
    if not key.startswith(f"{EVAL}/"):
        return None
    seen, right = limits.observed.values[key], np.asarray(passes.get(key))
    if seen.shape != right.shape:
        return None
    difference = (seen - right).ravel()
    largest = float(np.abs(difference).max())
    for hypothesis in of_precision():
        near = (sizes or {}).get(hypothesis.name, largest)
        if hypothesis.name == FLOAT32 or not near / FAR <= largest <= near * FAR:
            continue
        low = Passes(low_precision(passes.port, hypothesis.name))
        rounded = np.asarray(low.get(key), np.float64)
        size = float(np.abs(rounded - right).max())
        if not math.isfinite(size) or size == 0.0:
            continue
        alike = _correlation(difference, (rounded - right).ravel())
        # Fisher's transformation: the deviation of artanh of a correlation by chance.
        enough = max(ALIKE, math.tanh(BY_CHANCE / math.sqrt(max(difference.size - 3, 1))))
        if (
            SMALLER * size <= largest <= LARGER * size
            and alike >= enough
            and _rounds_before(passes, low, limits, key)
        ):
            return Rounding(hypothesis.name, hypothesis.what, alike)
    return None


def _rounds_before(passes: Passes, low: Passes, limits: Limits, key: str) -> bool:
    """Whether the layer that was observed in front of this one is off by rounding, too."""
    keys = [k for k in limits.observed.values if k.startswith(f"{EVAL}/")]
    before = keys[: keys.index(key)]
    if not before:
        return True
    size = limits.error(before[-1], low.get(before[-1]))
    return limits.error(before[-1], passes.get(before[-1])) >= SMALLER * size


def rounding_sizes(exact: Passes, key: str) -> dict[str, float]:
    """How far each low precision takes the values at a key, at most."""
    right = exact.get(key)
    return {
        hypothesis.name: float(
            np.abs(Passes(low_precision(exact.port, hypothesis.name)).get(key) - right).max()
        )
        for hypothesis in of_precision()
        if hypothesis.name != FLOAT32
    }


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm else 0.0
