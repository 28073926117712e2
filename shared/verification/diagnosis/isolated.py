"""Every layer by itself: fed what the port had in front of it, so that errors do not add up.

A layer that is wrong stays wrong; those behind it are right if they are. So all wrong layers are
named at once, and not the first alone. The other side of each is the reference's operator on the
same inputs.

Backward, every layer has the port's own activations, and the gradient that the reference has
brought down to it from the port's own output: a mistake in front of the loss is none of the
gradients', and those behind a wrong gradient, towards the images, are as wrong as it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from shared.architecture.graph import INPUT
from shared.architecture.ops import ReLU
from shared.reference.backward import Saved, backward
from shared.reference.loss import cross_entropy_backward
from shared.verification.diagnosis.execution import Run, cast, in_training
from shared.verification.diagnosis.limits import ULP
from shared.verification.distance import relative_error
from shared.verification.hypotheses.hypothesis import Array, Port
from shared.verification.recording import EVAL, GRADIENTS, OUTPUT, TRAIN
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
    port: Port,
    values: Mapping[str, Array],
    dtype: str = "float64",
    check: str = EVAL,
    stored: Mapping[str, str] | None = None,
) -> list[Alone]:
    """Each layer that was observed, with what stands in front of it taken from the observation.

    Args:
        port: weights and images, as they are right.
        values: what was observed, by the keys of a trace.
        dtype: the precision that it was computed in.
        check: `eval` or `train`.
        stored: by key the precision of what was stored in a lower one.

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
        dtypes = {dtype, *((stored or {}).get(f"{check}/{n}", dtype) for n in (name, *node.inputs))}
        limit = max(_limit(each, check, own) for each in dtypes)
        rows.append(Alone(name, relative_error(computed, seen), limit))
        known[name] = seen
    return rows


def isolated_gradients(
    port: Port, values: Mapping[str, Array], labels: Array, dtype: str = "float64"
) -> list[Alone]:
    """Each tensor with its gradient, and the images, from the head back to the stem.

    Args:
        port: weights and images, as they are right.
        values: what was observed, by the keys of a trace; `train/…` is what the layers are fed.
        labels: class numbers [N].
        dtype: the precision that it was stored or computed in.
    """
    right = in_training(port)
    computed = _gradients(Run(right), values, labels)
    low = _gradients(Run(cast(right, "float32")), values, labels)
    keys = [key for key in values if key.startswith("grad/")]
    group = max((float(np.abs(values[key]).max(initial=0.0)) for key in keys), default=0.0)
    rows = []
    for key in keys:
        expected, seen = computed[key], values[key]
        error, limit = math.inf, FLOAT64[GRADIENTS]
        if seen.shape == expected.shape:
            own = relative_error(np.asarray(low[key], np.float64), expected, group)
            error = relative_error(expected, seen, group)
            limit = _limit(dtype, GRADIENTS, own)
        rows.append(Alone(key.removeprefix("grad/"), error, limit))
    return rows


def _gradients(run: Run, values: Mapping[str, Array], labels: Array) -> dict[str, Array]:
    """By key; each node is fed what was observed in front of it."""
    dtype = run.port.images.dtype
    known: dict[str, Array] = {INPUT: run.port.images}
    tape = []
    for name, node in run.nodes.items():
        inputs = [known[source] for source in node.inputs]
        seen = values.get(f"{TRAIN}/{name}")
        if seen is None and name == next(reversed(run.nodes)):
            seen = values.get(f"{TRAIN}/{OUTPUT}")
        known[name] = run.apply(node, inputs) if seen is None else np.asarray(seen, dtype)
        kept = [known[name]] if isinstance(node.op, ReLU) else inputs
        tape.append(Saved(node, run.operands(node, inputs), tuple(kept)))
    training = run.port.training
    dy = cross_entropy_backward(known[name], labels, training.label_smoothing)
    found, by_images = backward(tape, dy, frozen_norms=training.frozen_norms)
    return {**{f"grad/{tensor}": g for tensor, g in found.items()}, "grad/input": by_images}


def _limit(dtype: str, check: str, own: float) -> float:
    if dtype == "float64":
        return FLOAT64[check]
    ulp = ULP[dtype]
    # What one layer rounds by, in float32 as measured; in half as many more of its units.
    return max(ROUNDING_FLOOR_ULPS * ulp, ROUNDING_FACTOR * own * ulp / ULP["float32"])
