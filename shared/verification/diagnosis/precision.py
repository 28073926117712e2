"""Whether a difference is the rounding of a lower precision: no mistake.

The reference is run with its values rounded as TF32, bfloat16 or float16 round them. What that
changes must be as large as what was observed, and alike: the same weights and images round in the
same way in every framework. Float32 has no such pattern, because the order of sums differs; there
the size has to do.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from shared.verification.comparison import relative_error
from shared.verification.diagnosis.execution import cast
from shared.verification.diagnosis.limits import Limits
from shared.verification.diagnosis.passes import Passes
from shared.verification.hypotheses.of_surroundings import of_precision
from shared.verification.recording import EVAL
from shared.verification.tolerances import ROUNDING_FACTOR

ALIKE = 0.4  # correlation of the observed difference with that of the rounded reference
BY_CHANCE = 5.0  # over the root of the number of values: no chance makes such a correlation
LARGER = 4.0  # times what the rounded reference differs by
SMALLER = 0.2


class Rounding(NamedTuple):
    """A precision that explains a difference."""

    precision: str
    what: str
    error: float  # of the reference in that precision, from its own float64
    alike: float | None  # correlation


def as_rounding(exact: Passes, limits: Limits, key: str, *, patterned: bool) -> Rounding | None:
    """The precision whose rounding the difference at a key is, if any.

    `patterned` asks for those whose pattern can be told; without it, float32 is asked for.
    """
    if not key.startswith(f"{EVAL}/") or (patterned and limits.dtype == "float64"):
        return None  # values that float32 cannot hold were not computed in less
    seen, right = limits.observed.values[key], exact.get(key)
    if seen.shape != right.shape:
        return None
    difference = (seen - right).ravel()
    for hypothesis in of_precision():
        if (hypothesis.name == "float32") == patterned:
            continue
        port = cast(exact.port, "float32")
        if hypothesis.name != "float32":
            port = dataclasses.replace(port, precision=hypothesis.name)
        rounded = np.asarray(Passes(port).get(key), np.float64)
        own = relative_error(rounded, right)
        size = float(np.abs(rounded - right).max())
        largest = float(np.abs(difference).max())
        if not math.isfinite(size) or size == 0.0:
            continue
        if hypothesis.name == "float32":
            if largest <= ROUNDING_FACTOR * size:
                return Rounding(hypothesis.name, hypothesis.what, own, None)
            continue
        alike = _correlation(difference, (rounded - right).ravel())
        enough = max(ALIKE, BY_CHANCE / math.sqrt(difference.size))
        if SMALLER * size <= largest <= LARGER * size and alike >= enough:
            return Rounding(hypothesis.name, hypothesis.what, own, alike)
    return None


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm else 0.0
