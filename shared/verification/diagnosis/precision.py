"""Whether a difference is the rounding of a lower precision: no mistake.

The reference is run with its values rounded as TF32, bfloat16 or float16 round them. What that
changes must be as large as what was observed, and alike: the same weights and images round in the
same way in every framework. Float32 has no such pattern, because the order of sums differs; there
the size has to do, at every key.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from shared.verification.diagnosis.limits import Limits, low_precision
from shared.verification.diagnosis.passes import Passes
from shared.verification.hypotheses.of_surroundings import of_precision
from shared.verification.recording import EVAL

FLOAT32 = "float32"
ALIKE = 0.4  # correlation of the observed difference with that of the rounded reference
BY_CHANCE = 5.0  # over the root of the number of values: no chance makes such a correlation
LARGER = 4.0  # times what the rounded reference differs by
SMALLER = 0.2


class Rounding(NamedTuple):
    """A precision that explains a difference."""

    precision: str
    what: str


def of_float32(limits: Limits) -> Rounding | None:
    """Float32, if it explains every key."""
    in_float32 = Limits(limits.observed, limits.exact, FLOAT32)
    for key in limits.observed.values:
        if in_float32.error(key, limits.exact.get(key)) > in_float32.limit(key):
            return None
    return next(Rounding(h.name, h.what) for h in of_precision() if h.name == FLOAT32)


def as_rounding(exact: Passes, limits: Limits, key: str) -> Rounding | None:
    """The precision whose rounding, by its pattern, the difference at a key is, if any."""
    if not key.startswith(f"{EVAL}/") or limits.dtype == "float64":
        return None  # values that float32 cannot hold were not computed in less
    seen, right = limits.observed.values[key], exact.get(key)
    if seen.shape != right.shape:
        return None
    difference = (seen - right).ravel()
    for hypothesis in of_precision():
        if hypothesis.name == FLOAT32:
            continue
        low = Passes(low_precision(exact.port, hypothesis.name))
        rounded = np.asarray(low.get(key), np.float64)
        size = float(np.abs(rounded - right).max())
        largest = float(np.abs(difference).max())
        if not math.isfinite(size) or size == 0.0:
            continue
        alike = _correlation(difference, (rounded - right).ravel())
        enough = max(ALIKE, BY_CHANCE / math.sqrt(difference.size))
        if SMALLER * size <= largest <= LARGER * size and alike >= enough:
            return Rounding(hypothesis.name, hypothesis.what)
    return None


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm else 0.0
