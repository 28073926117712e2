"""Tensors grouped into layers by the last part of their names, and the layout of kernels."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np

from shared.architecture.ops import Shape
from shared.recognition.names import Words, parts_of, without_collection, words_of

Kind = Literal["conv", "linear", "norm", "other"]


class Tensor(Protocol):
    """A tensor whose values are read when they are asked for."""

    @property
    def shape(self) -> Shape: ...

    @property
    def dtype(self) -> np.dtype: ...

    def load(self) -> np.ndarray: ...


WEIGHT, SCALE, BIAS = "weight", "scale", "bias"
MEAN, VAR = "running_mean", "running_var"
_NORM_LEAVES = {SCALE, BIAS, MEAN, VAR}
# What frameworks call the leaves of a layer. A vector called `weight` is a scale.
LEAVES: dict[str, str] = {
    leaf: role
    for role, leaves in {
        WEIGHT: ("weight", "weights", "kernel", "w", "W", "filter", "filters"),
        SCALE: ("gamma", "scale", "s"),
        BIAS: ("bias", "biases", "b", "beta", "offset"),
        MEAN: ("running_mean", "moving_mean", "mean", "_mean", "avg_mean", "rm"),
        VAR: (
            "running_var",
            "running_variance",
            "moving_variance",
            "moving_var",
            "var",
            "variance",
            "_variance",
            "avg_var",
            "riv",  # Caffe2
        ),
    }.items()
    for leaf in leaves
}
# Haiku keeps the average of a statistic beside what it is computed from.
_AVERAGES = {"mean_ema": MEAN, "var_ema": VAR}
_JOINED = re.compile(
    rf"(.+?)_({'|'.join(sorted(map(re.escape, LEAVES), key=len, reverse=True))})"
)  # `res2_0_branch2a_bn_riv`


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer by its name, and what it has: role of a leaf -> the tensor's name in the file."""

    parts: Words  # of its name, without wrappers and collections
    words: Words
    order: int  # of its first tensor in the file
    names: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        weight = self.shapes.get(WEIGHT)
        if weight is not None:
            known = set(self.shapes) <= {WEIGHT, BIAS} and len(self.shapes.get(BIAS, (0,))) == 1
            kinds: dict[int, Kind] = {4: "conv", 2: "linear"}
            return kinds.get(len(weight), "other") if known else "other"
        sizes = set(self.shapes.values())
        normal = len(sizes) == 1 and len(next(iter(sizes))) == 1 and len(self.shapes) > 1
        return "norm" if normal and set(self.shapes) <= _NORM_LEAVES else "other"

    @property
    def channels(self) -> int:
        """Of a norm."""
        return next(iter(self.shapes.values()))[0]

    @property
    def has_statistics(self) -> bool:
        return MEAN in self.shapes and VAR in self.shapes


class Layout(NamedTuple):
    """Where the axes of a kernel are: `kernel_axes` are (out, in, height, width) of the file's."""

    name: str
    kernel_axes: tuple[int, int, int, int]
    matrix_axes: tuple[int, int]  # (out, in)


LAYOUTS = (
    Layout("OIHW", (0, 1, 2, 3), (0, 1)),
    Layout("HWIO", (3, 2, 0, 1), (1, 0)),
    Layout("OHWI", (0, 3, 1, 2), (0, 1)),  # MLX
)
MAX_KERNEL = 15
# Of frameworks with HWIO kernels.
_LAST_LEAF = re.compile(r"(.*[./_])?(kernel|weights)")


def oriented(shape: Shape, axes: tuple[int, ...]) -> Shape:
    return tuple(shape[axis] for axis in axes)


def fits(shape: Shape, layout: Layout) -> bool:
    """Whether a kernel in this layout is square, odd and small."""
    _, _, height, width = oriented(shape, layout.kernel_axes)
    return height == width <= MAX_KERNEL and height % 2 == 1


def layout_of(layers: Sequence[Layer]) -> tuple[Layout, str | None]:
    """The layout that most kernels fit; and the doubt, where the shapes fit several as well."""
    kernels = [layer for layer in layers if layer.kind == "conv"]
    votes = [sum(fits(layer.shapes[WEIGHT], layout) for layer in kernels) for layout in LAYOUTS]
    best = [layout for layout, count in zip(LAYOUTS, votes, strict=True) if count == max(votes)]
    if len(best) == 1:
        return best[0], None
    leaves = [layer.names[WEIGHT].removesuffix(":0") for layer in kernels]
    last = sum(_LAST_LEAF.fullmatch(leaf) is not None for leaf in leaves)
    chosen = LAYOUTS[1] if 2 * last > len(kernels) and LAYOUTS[1] in best else best[0]
    told = f"kernels could be {' or '.join(layout.name for layout in best)} by their shapes"
    return chosen, f"{told}; taken as {chosen.name}, because of their leaves" if kernels else None


def read_layers(tensors: Mapping[str, Tensor]) -> list[Layer]:
    """The layers that the tensors belong to, in the order of the file. A tensor that is none's
    leaf is a layer of its own, of kind `other`.
    """
    found: dict[Words, Layer] = {}
    for name, tensor in tensors.items():
        whole = parts_of(name)
        parts, role, shape = _leaf(whole, tensor.shape)
        path = without_collection((*parts, ""))[:-1]
        if path in found and role in found[path].names:
            path = parts  # two collections of the same layer
        if path in found and role in found[path].names:
            path, role = whole, name
        layer = found.get(path)
        if layer is None:
            layer = found[path] = Layer(path, words_of(path), len(found))
        layer.names[role], layer.shapes[role] = name, shape
    return list(found.values())


def _leaf(parts: Words, shape: Shape) -> tuple[Words, str, Shape]:
    """The layer's path, the role of the leaf, and the tensor's shape; a vector's without the axes
    that only spread it: Haiku's are [1, 1, 1, C].
    """
    *path, last = parts or ("",)
    if last == "average" and path and path[-1] in _AVERAGES:
        return tuple(path[:-1]), _AVERAGES[path[-1]], _vector(shape)
    role = LEAVES.get(last)
    if role is None and (match := _JOINED.fullmatch(last)):
        path, role = [*path, match[1]], LEAVES[match[2]]
    if role is None:
        return tuple(path), last, shape
    if role == WEIGHT:
        return tuple(path), SCALE if len(shape) == 1 else WEIGHT, shape
    return tuple(path), role, _vector(shape)


def _vector(shape: Shape) -> Shape:
    return (math.prod(shape),) if shape and math.prod(shape) == max(shape) else shape
