"""One diagnosis: what was observed, and how far ports with hypotheses are from it."""

from __future__ import annotations

import math
from collections.abc import Callable

from shared.errors import SpecError
from shared.verification.diagnosis.execution import cast
from shared.verification.diagnosis.limits import Limits
from shared.verification.diagnosis.observations import Observations
from shared.verification.diagnosis.passes import Passes, TrainerKit
from shared.verification.diagnosis.precision import FLOAT32, Rounding
from shared.verification.hypotheses.hypothesis import Port


class Measured:
    """What was observed, the port without mistakes, what rounding explains, and how many hypotheses
    were tried.
    """

    def __init__(
        self,
        observed: Observations,
        port: Port,
        kit: TrainerKit | None,
        on_try: Callable[[int, str], None] = lambda tried, what: None,
    ):
        self.observed = observed
        self.port = port
        self.kit = kit
        self.on_try = on_try
        self.tried = 0
        self.rounding: Rounding | None = None
        self.keys = list(observed.values)
        self.exact = self.passes(cast(port, "float64"))
        self.limits = self.limits_of(self.exact)

    def passes(self, port: Port, base: Passes | None = None) -> Passes:
        return Passes(port, base, self.kit, self.observed.labels)

    def proof(self, port: Port) -> Passes:
        """The passes of a changed port on all images in float64."""
        return self.passes(port, self.exact)

    def limits_of(self, passes: Passes) -> Limits:
        precision = self.rounding.precision if self.rounding else None
        return Limits(self.observed, passes, precision)

    def take_for(self, rounding: Rounding) -> None:
        """From here on, what that precision rounds by is no difference, at any key."""
        self.rounding = rounding
        self.limits = self.limits_of(self.exact)

    def float32_limit(self, passes: Passes, key: str) -> float:
        """What float32 rounds by, where values are stored in float64 and a port may have computed
        them in float32; 0 elsewhere.
        """
        if self.limits.dtype != "float64":
            return 0.0
        return Limits(self.observed, passes, FLOAT32).limit(key)

    def error(self, passes: Passes, key: str) -> float:
        try:
            return self.limits.error(key, passes.get(key))
        except (KeyError, SpecError):
            return math.inf

    def first_difference(self, passes: Passes) -> str | None:
        """The first key beyond its limit, in the order of the computation."""
        limits = self.limits if passes is self.exact else self.limits_of(passes)
        for key in self.keys:
            error = self.error(passes, key)
            if error > self.limits.limit(key):
                # A port with a softmax behind it, say, rounds in another way.
                if passes is self.exact or not math.isfinite(error):
                    return key
                try:
                    if error > limits.limit(key):
                        return key
                except (KeyError, SpecError):
                    return key
        return None
