"""How far a port may be from the reference and still be the same: rounding, measured here.

The outputs' values say in which precision they were stored. The reference is run in that precision,
or, for float64, in float32: how far it is from its own float64 there is what rounding does to this
network, with these weights and images.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from shared.verification.diagnosis.execution import cast
from shared.verification.diagnosis.observations import Observations
from shared.verification.diagnosis.passes import Passes, check_of
from shared.verification.distance import relative_error
from shared.verification.hypotheses.hypothesis import Array, Port
from shared.verification.hypotheses.of_layers import computes_in_tf32
from shared.verification.recording import EVAL, TRAIN
from shared.verification.rounding import STORED, as_stored
from shared.verification.tolerances import FLOAT64, ROUNDING_FACTOR, ROUNDING_FLOOR_ULPS
from shared.verification.tolerances import ULP as ULP_OF_DTYPES

FLOAT32_OVER_FLOAT64 = 2.0**-29  # of their units in the last place
ULP = {**ULP_OF_DTYPES, "TF32": ULP_OF_DTYPES["float16"]}  # which has as many bits
# No budget is larger: what differs more is no rounding in float32, whatever a network does with it.
A_TIE = ULP["TF32"] / 8  # of a sum's largest value: a few inputs, each off by a unit
LARGEST = {"float32": 2e-3, "TF32": 0.2, "float16": 0.2, "bfloat16": 0.5}


class Limits:
    """Limits and errors of every key, for one port in exact arithmetic and in a low precision.

    `precision` is what the port computed in, where its outputs are stored in a higher one.
    """

    def __init__(self, observed: Observations, exact: Passes, precision: str | None = None):
        self.observed = observed
        self.exact = exact
        self.dtype = precision or observed.dtype
        self._low: Passes | None = None
        self._known: dict[str, float] = {}
        self._groups: dict[str, float] = {}
        for key, array in observed.values.items():
            group = _group(key)
            if group and array.size:
                largest = float(np.abs(array).max())
                self._groups[group] = max(self._groups.get(group, 0.0), largest)

    def error(self, key: str, computed: Array) -> float:
        """How far what is computed under a key is from what was observed, beyond what storing it in
        a lower precision than it was computed in can have done.
        """
        seen = self.observed.values[key]
        if np.shape(computed) != seen.shape:
            return math.inf
        if not seen.any() and not np.any(computed):
            return 0.0  # a dead layer on both sides
        if stored := self._stored_lower(key):
            computed = as_stored(np.asarray(computed, np.float64), seen, stored)
        return relative_error(computed, seen, self._groups.get(_group(key), 0.0))

    def _stored_lower(self, key: str) -> str | None:
        """The precision that a key is stored in, where it is lower than that of the port."""
        stored = self.observed.stored.get(key, "float64")
        ours = self.dtype if self.dtype in STORED else "float32"
        return stored if STORED.index(stored) < STORED.index(ours) else None

    def storage(self, key: str) -> float:
        """What storing a key can have done, relative to its largest value."""
        stored = self._stored_lower(key)
        return ULP[stored] / 2 if stored else 0.0

    def limit(self, key: str) -> float:
        """What rounding alone explains at a key."""
        if key not in self._known:
            self._known[key] = self._limit(key)
        return self._known[key]

    def _limit(self, key: str) -> float:
        # Next to a tie, float32's rounding decides which way TF32 rounds an input.
        return max(self._of_dtype(key), A_TIE if computes_in_tf32(self.exact.port) else 0.0)

    def _of_dtype(self, key: str) -> float:
        check = check_of(key)
        if self.dtype == "float64":
            if check not in (EVAL, TRAIN):
                return FLOAT64[check]
            own = self.own(key) * FLOAT32_OVER_FLOAT64
            return max(FLOAT64[check], ROUNDING_FACTOR * min(own, LARGEST["float32"]))
        floor = ROUNDING_FLOOR_ULPS * ULP[self.dtype]
        return max(min(ROUNDING_FACTOR * self.own(key), LARGEST[self.dtype]), floor)

    def own(self, key: str) -> float:
        """How far the reference in the low precision is from its own float64."""
        if self._low is None:
            self._low = Passes(
                low_precision(self.exact.port, self.dtype),
                kit=self.exact.kit,
                labels=self.exact.labels,
            )
        group = self._groups.get(_group(key), 0.0)
        return relative_error(self._low.get(key), self.exact.get(key), group)


def low_precision(port: Port, dtype: str) -> Port:
    """The port in float32, and with every value rounded further where `dtype` says so."""
    low = cast(port, "float32")
    narrow = dtype in ("TF32", "float16", "bfloat16")
    return dataclasses.replace(low, precision=dtype) if narrow else low


def _group(key: str) -> str:
    """Gradients and steps that are next to nothing in their kind count as zero."""
    return key.rpartition("/")[0] if key.startswith(("grad/", "step")) else ""
