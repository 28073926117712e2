"""The proof by numbers: the NumPy reference with the weights that were found, against the model's
own output for the same images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.graphs.net import Node
from shared.graphs.primitives import BATCH, Array, RawGraph
from shared.graphs.structure import BACK
from shared.reference.forward import forward
from shared.weights.canonical import Weights

# Of the largest logit. Worst of the 88 miniatures of `pytest -m zoo tests/graphs`: 2.3e-14 in
# float64, of GRAPHS' 191 models 5e-6 in float32.
LIMITS = {"float64": 1e-12, "float32": 1e-5}
# Half a unit in the last place of 1: what rounding each operator's output can change. Rounding
# errors add up as steps of a random walk do: n operators leave sqrt(n) times as much.
ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}

# Of one value: 16 roundings to float32 (2^-24 each). The longest way to a tensor is that of a norm
# folded into a convolution: variance plus eps, root, quotient, product with the kernel or the mean,
# difference, and casts at both ends, at most eight, on either side. A value that is nearly zero as
# a difference of others may be off by 1e-9 of the largest value, or of 1.
TENSOR_RTOL, TENSOR_ATOL = 1e-6, 1e-9


NOTHING = (
    "the numbers show nothing: the output does not depend on the images, or saturates (a head of "
    "zeros, say); give the model random weights"
)


@dataclass(frozen=True)
class Evidence:
    """Images, the precision that the model computes in, and by how much the outputs differ from
    those that are expected, and among the images (`spread`), both over the largest.
    """

    images: str
    dtype: str
    error: float
    limit: float
    spread: float

    @property
    def shows(self) -> bool:
        """Whether a network that takes no notice of the images would have failed: its outputs, the
        same for all, are off by half of the spread at least.
        """
        return self.spread / 2 > self.limit

    @property
    def passed(self) -> bool:
        return self.shows and self.error <= self.limit  # NaN is no

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "shows": self.shows, "passed": self.passed}


def limit_of(dtype: str, operators: int) -> float:
    """How far the logits of so many operators may be, over the largest."""
    if dtype in ROUNDING:
        return ROUNDING[dtype] * operators**0.5
    return LIMITS.get(dtype, LIMITS["float32"])


def judged(
    images: str, dtype: str, limit: float, ours: Array, theirs: Array, floor: float = -np.inf
) -> Evidence:
    """Outputs of the same images; only those above `floor` for every image can show anything."""
    scale = max(float(np.abs(ours).max()), 1e-30)
    error = float(np.abs(ours - theirs).max()) / scale
    seen = ours[:, (ours > floor).all(axis=0)]
    spread = float(np.ptp(seen, axis=0).max(initial=0.0)) / scale
    return Evidence(images, dtype, error, limit, spread)


def difference(a: Array, b: Array) -> float | None:
    """The largest difference of two tensors; None where no value differs by more than rounding,
    NaN where the shapes do.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        return float("nan")
    scale = min(1.0, float(np.abs(b).max(initial=0.0)))
    if np.allclose(a, b, rtol=TENSOR_RTOL, atol=TENSOR_ATOL * scale):
        return None
    return float(np.abs(a - b).max())


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
    # Such that the stem sees numbers around 0, whatever stands before it.
    images = unprepared(front, np.random.default_rng(0).normal(size=shape)).astype(dtype)
    plan = make_plan(spec, size)
    limit = limit_of(graph.dtype, sum(1 for _ in plan.nodes()))
    theirs = _alone(graph.run, images, np.asarray(graph.run(images), np.float64), limit)
    theirs = np.moveaxis(theirs, 1, -1) if theirs.ndim == 4 and graph.layout == "NCHW" else theirs
    exact = {name: np.asarray(array, np.float64) for name, array in weights.items()}
    ours = np.zeros(0)
    for step in forward(plan, exact, prepared(front, images.astype(np.float64))):
        ours = step.output
    ours, theirs = logits(back, ours, theirs.reshape(ours.shape))
    floor = -np.inf
    if any(node.op in BACK for node in back):  # a smaller probability has too few digits, or none
        floor = float(np.log(np.finfo(dtype).tiny))
        ours, theirs = np.maximum(ours, floor), np.maximum(theirs, floor)
    said = f"{len(images)} random images of {size} x {size} pixels"
    return judged(said, graph.dtype, limit, ours, theirs, floor)


def _alone(run: Callable[[Array], Array], images: Array, together: Array, limit: float) -> Array:
    """The outputs, the first image's as it is alone, where that is another: a model may look at the
    number of images, at the others, or at chance.
    """
    try:
        one = np.asarray(run(images[:1]), np.float64).reshape(together[:1].shape)
    except Exception:  # noqa: BLE001 - a model may take so many images and no other number
        return together
    if np.allclose(one, together[:1], rtol=limit, atol=limit * float(np.abs(together).max())):
        return together
    return np.concatenate([one, together[1:]])


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
    return images


def unprepared(front: Sequence[Node], images: Array) -> Array:
    """The images of which what stands before the stem makes `images`: the inverse of `prepared`."""
    for node in reversed(front):
        match node.op:
            case "Scale":
                images = (images - node.attrs["shift"]) / node.attrs["scale"]
            case "Affine":
                images = (images - node.tensors["shift"]) / node.tensors["scale"]
            case "Reverse":
                images = np.flip(images, tuple("NHWC".index(axis) for axis in node.attrs["axes"]))
            case "BatchNorm":
                t = {leaf: np.asarray(array, np.float64) for leaf, array in node.tensors.items()}
                scale = t["weight"] / np.sqrt(t["running_var"] + (node.attrs["eps"] or 0.0))
                images = (images - t["bias"]) / scale + t["running_mean"]
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
