"""What an exported file has to compute, by the NumPy reference, and how far it may be from that.

Of a file there is the output alone: its layers have no names. In float64 the limit is that of every
comparison. Float32 has a budget that does not depend on the runtime: how far NumPy's own float32 is
from its float64, in the same network with the same weights and images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.reference.forward import forward
from shared.verification.comparison import OUTPUT_ONLY, RECORDED
from shared.verification.distance import distance
from shared.verification.recording import EVAL, OUTPUT
from shared.verification.trace import Trace, provenance
from shared.weights.canonical import Weights
from shared.weights.folding import fold_norms

Array = np.ndarray
KEY = f"{EVAL}/{OUTPUT}"


def output_of(spec: ResNetSpec, weights: Mapping[str, Array], images: Array, dtype: str) -> Array:
    """What the network returns for images [N, H, W, C], computed by NumPy in `dtype`."""
    plan = make_plan(spec, images.shape[1:3])
    own = {name: np.asarray(array, dtype) for name, array in weights.items()}
    output = images.astype(dtype)
    for step in forward(plan, own, output):
        output = step.output
    return output


def exact_trace(spec: ResNetSpec, weights: Weights, images: Array) -> Trace:
    """The reference's output in float64, for weights and images of whatever precision."""
    exact = output_of(spec, weights, images, "float64")
    return _output_trace(spec, "reference", "float64", weights, images, exact)


def file_trace(
    side: str,
    kind: str,
    spec: ResNetSpec,
    weights: Weights,
    images: Array,
    outputs: Array,
    dtype: str,
    *,
    exact: Array | None = None,
    folded: bool = False,
    packages: Sequence[str] = (),
) -> Trace:
    """What a file has computed of `images`, with its limit: `exact` is the reference's output, made
    here where it is not given.
    """
    if exact is None:
        exact = output_of(spec, weights, images, "float64")
    trace = _output_trace(spec, side, dtype, weights, images, outputs, *packages)
    if dtype != "float64":
        own = fold_norms(spec, weights) if folded else (spec, weights)
        trace.about["rounding"] = _figure(output_of(*own, images, dtype), exact)
    elif kind == "onnx" and spec.norm.kind == "batch":
        # ONNX keeps a batch norm's epsilon as a float32: another function, by this much.
        rounded = spec.replace(**{"norm.eps": float(np.float32(spec.norm.eps))})
        trace.about["allowed"] = _figure(output_of(rounded, weights, images, dtype), exact)
    return trace


def _figure(found: Array, exact: Array) -> str:
    return json.dumps({KEY: float(distance(found, exact).error(0.0))})


def _output_trace(
    spec: ResNetSpec,
    side: str,
    dtype: str,
    weights: Weights,
    images: Array,
    output: Array,
    *packages: str,
) -> Trace:
    plan = make_plan(spec)
    ordered = [(name, weights[name]) for name in plan.tensors]
    about = provenance(ordered, images, *packages) | {RECORDED: OUTPUT_ONLY}
    return Trace(spec, side, dtype, {KEY: output}, about)
