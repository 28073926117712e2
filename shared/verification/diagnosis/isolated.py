"""Every layer by itself: fed what the port had in front of it, so that errors do not add up.

A layer that is wrong stays wrong; those behind it are right if they are. So all wrong layers are
named at once, and not the first alone. The other side of each is the reference's operator on the
same inputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from shared.architecture.graph import INPUT
from shared.verification.diagnosis.execution import Run, cast, in_training
from shared.verification.diagnosis.limits import ULP
from shared.verification.distance import relative_error
from shared.verification.hypotheses.hypothesis import Array, Port
from shared.verification.recording import EVAL, OUTPUT
from shared.verification.tolerances import FLOAT64, ROUNDING_FACTOR, ROUNDING_FLOOR_ULPS


class Alone(NamedTuple):
    """A layer by itself: its error, and what rounding explains of it."""

    name: str
    error: float
    limit: float

    @property
    def wrong(self) -> bool:
        return self.error > self.limit


def isolated(
    port: Port, values: Mapping[str, Array], dtype: str = "float64", check: str = EVAL
) -> list[Alone]:
    """Each layer that was observed, with what stands in front of it taken from the observation.

    Args:
        port: weights and images, as they are right.
        values: what was observed, by the keys of a trace.
        dtype: the precision that it was stored or computed in.
        check: `eval` or `train`.

    Layers without an observed one in front of them are fed what the reference makes of the nearest
    ones that are.
    """
    run = Run(port if check == EVAL else in_training(port))
    low = Run(cast(run.port, "float32"))
    known: dict[str, Array] = {INPUT: run.port.images}
    last = next(reversed(run.nodes))
    rows = []
    for name, node in run.nodes.items():
        inputs = [known[source] for source in node.inputs]
        computed = run.apply(node, inputs)
        seen = values.get(f"{check}/{name}")
        if seen is None and name == last:
            seen = values.get(f"{check}/{OUTPUT}")
        if seen is None:
            known[name] = computed
            continue
        if seen.shape != computed.shape:
            rows.append(Alone(name, math.inf, FLOAT64[check]))
            known[name] = computed
            continue
        rounded = low.apply(node, [np.asarray(x, np.float32) for x in inputs])
        own = relative_error(np.asarray(rounded, np.float64), computed)
        rows.append(Alone(name, relative_error(computed, seen), _limit(dtype, check, own)))
        known[name] = seen
    return rows


def _limit(dtype: str, check: str, own: float) -> float:
    if dtype == "float64":
        return FLOAT64[check]
    ulp = ULP[dtype]
    # What one layer rounds by, in float32 as measured; in half as many more of its units.
    return max(ROUNDING_FLOOR_ULPS * ulp, ROUNDING_FACTOR * own * ulp / ULP["float32"])


def wrong_layers(rows: list[Alone]) -> list[str]:
    return [row.name for row in rows if row.wrong]
