"""The proof by numbers: the NumPy reference with the weights that were found, against the model's
own output for the same images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.graphs.net import Node
from shared.graphs.primitives import BATCH, Array, RawGraph
from shared.reference.forward import forward
from shared.weights.canonical import Weights

# Of the largest logit. Worst of the 88 miniatures of `pytest -m zoo tests/graphs`: 2.3e-14 in
# float64, of GRAPHS' 191 models 5e-6 in float32.
LIMITS = {"float64": 1e-12, "float32": 1e-5}
PRECISIONS = {"bfloat16": 5e-2, "float16": 1e-2}


@dataclass(frozen=True)
class Evidence:
    """Images, the precision that the model computes in, and by how much the outputs differ."""

    images: str
    dtype: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit  # NaN is no


def compare_numbers(
    graph: RawGraph,
    spec: ResNetSpec,
    weights: Weights,
    front: Sequence[Node],
    back: Sequence[Node],
    size: int,
) -> Evidence:
    """Run both on random images of `size` pixels. Raises what the user's model raises."""
    if graph.run is None:
        raise ValueError("the reader cannot run this model")
    dtype = graph.dtype if graph.dtype in ("float64", "float32") else "float32"
    shape = (BATCH, size, size, spec.in_channels)
    images = np.random.default_rng(0).normal(size=shape).astype(dtype)
    theirs = np.asarray(graph.run(images), np.float64)
    theirs = np.moveaxis(theirs, 1, -1) if theirs.ndim == 4 and graph.layout == "NCHW" else theirs
    exact = {name: np.asarray(array, np.float64) for name, array in weights.items()}
    ours = np.zeros(0)
    for step in forward(make_plan(spec, size), exact, prepared(front, images.astype(np.float64))):
        ours = step.output
    ours, theirs = logits(back, ours, theirs.reshape(ours.shape))
    scale = max(float(np.abs(ours).max()), 1e-30)
    error = float(np.abs(ours - theirs).max() / scale)
    limit = LIMITS[dtype] if graph.dtype in LIMITS else PRECISIONS.get(graph.dtype, 1e-5)
    return Evidence(f"{BATCH} random images of {size} x {size} pixels", graph.dtype, error, limit)


def prepared(front: Sequence[Node], images: Array) -> Array:
    """Images as the stem gets them: the user's own preprocessing, on NHWC."""
    for node in front:
        match node.op:
            case "Scale":
                images = images * node.attrs["scale"] + node.attrs["shift"]
            case "Affine":
                images = images * node.tensors["scale"] + node.tensors["shift"]
            case "Reverse":
                images = np.flip(images, tuple("NHWC".index(axis) for axis in node.attrs["axes"]))
            case "BatchNorm":
                t = {leaf: np.asarray(array, np.float64) for leaf, array in node.tensors.items()}
                eps = node.attrs["eps"] or 0.0
                scale = t["weight"] / np.sqrt(t["running_var"] + eps)
                images = (images - t["running_mean"]) * scale + t["bias"]
    return images


def logits(back: Sequence[Node], ours: Array, theirs: Array) -> tuple[Array, Array]:
    """Both before a sigmoid, or as log-probabilities: probabilities hide errors."""
    for node in back[::-1]:
        with np.errstate(divide="ignore"):
            if node.op == "Softmax":
                theirs = np.log(theirs)
            elif node.op == "Sigmoid":
                theirs = np.log(theirs) - np.log1p(-theirs)
    if any(node.op in ("Softmax", "LogSoftmax") for node in back):
        shifted = ours - ours.max(-1, keepdims=True)
        ours = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return ours, theirs
