"""What every reader emits: a graph of primitives in the framework's own, physical layout.

A reader only translates: it fuses nothing, folds nothing and drops nothing. Every primitive has a
shape rule (`shared.graphs.shapes`) and a meaning in NumPy (`shared.graphs.meaning`). These are all:

    input      shape
    const      value (in its own dtype), name (the parameter's own; None: a literal)
    conv       (x, w[, b]); x, w, y: layouts such as "NCHW", "OIHW", "NCHW"; strides, dilation: 2;
               pads ((top, bottom), (left, right)), negative ones crop; groups
    maxpool    layout, window, strides, dilation: 2; pads as a convolution's, of -inf
    avgpool    the same without dilation; count_pad: whether padding counts as pixels; counted:
               the pads that do, where ceil_mode adds some that do not; divisor: in place of the
               count
    window_max, window_sum   window, strides, pads, dilation over all axes (JAX, sums of ones)
    dot        (a, b); lhs, rhs: contracted axes; lhs_batch, rhs_batch: axes that run along, first
               in the result, then those of a that are left, then those of b
    bn         (x, [gamma], [beta], [mean], [variance]); slots: which of the four are there; axis,
               eps, training (by the batch's own statistics), momentum (as the framework has it)
    gn         (x, [gamma], [beta]); slots; axis, groups, eps
    ew         op, one of `shared.graphs.meaning.ELEMENTWISE`, over arrays that broadcast
    reduce     op (mean, sum, max, min, var, prod), axes, keepdims, correction (var)
    transpose  perm            reshape    shape         broadcast  shape, dims (or None: trailing)
    pad        pads for each axis, negative ones crop; value; mode (constant, reflect, edge, …)
    slice      index: (start, stop, step) for each axis; reverse: axes
    gather     (x, indices); axis
    concat     axis            softmax    axis, log     dropout    rate
    cast       dtype           opaque     what, shape (None: unknown)

Sizes are concrete: a reader traces at one batch (2; 1 is squeezed ambiguously) and image size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared.errors import printable

Array = np.ndarray
Shape = tuple[int, ...]

BATCH = 2  # images that a reader traces with


@dataclass
class Raw:
    """One primitive: `id = prim(*ins)`."""

    id: int
    prim: str
    ins: tuple[int, ...]
    attrs: dict[str, Any]
    where: str = ""  # the user's own name: module path, scope, node name
    line: str = ""  # the user's own source line as file:line, where the tracer knows it
    value: Any = None  # of a const
    name: str | None = None  # of a const that is a parameter


@dataclass
class RawGraph:
    """A model as its reader found it, for one image size; its names may be anybody's texts, of
    which only what a terminal prints is kept.

    `run` is the model itself: images [N, H, W, C], of the sizes that were traced or of others that
    it takes, to `outputs[0]` as the model returns it; `dtype` is what it computes in.
    """

    source: str  # torch, jax, keras, tensorflow, onnx
    image_size: int
    layout: str = ""  # of the images: NCHW, NHWC, or not known
    dtype: str = "float32"
    nodes: list[Raw] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)  # of several, the logits first
    remarks: list[str] = field(default_factory=list)  # what the reader has to say, in sentences
    run: Callable[[Array], Array] | None = None
    fixed: bool = False  # a file says that the images have this size, and no other

    def add(self, prim: str, *ins: int, where: str = "", line: str = "", **attrs: Any) -> int:
        """Append a primitive and return its id. `ins` stand before it."""
        place = printable(where), printable(line)
        self.nodes.append(Raw(len(self.nodes), prim, tuple(ins), attrs, *place))
        return len(self.nodes) - 1

    def const(self, value: Any, name: str | None = None, where: str = "") -> int:
        """Append a constant: a parameter by its name, or a literal."""
        place, said = printable(where), None if name is None else printable(name)
        node = Raw(len(self.nodes), "const", (), {}, place, "", np.asarray(value), said)
        self.nodes.append(node)
        return node.id

    def input(self, shape: Iterable[int], name: str = "input") -> int:
        """Append an input of the model."""
        self.inputs.append(self.add("input", where=name, shape=tuple(int(n) for n in shape)))
        return self.inputs[-1]

    def opaque(
        self,
        what: str,
        ins: Sequence[int],
        shape: Iterable[int] | None,
        *,
        where: str = "",
        line: str = "",
    ) -> int:
        """Append what the reader does not know, under the framework's name for it."""
        known = None if shape is None else tuple(int(n) for n in shape)
        return self.add("opaque", *ins, where=where, line=line, what=printable(what), shape=known)

    def live(self) -> set[int]:
        """The nodes that the first output depends on."""
        found: set[int] = set()
        waiting = self.outputs[:1]
        while waiting:
            i = waiting.pop()
            if i not in found:
                found.add(i)
                waiting.extend(self.nodes[i].ins)
        return found

    def reached(self) -> set[int]:
        """The nodes that depend on the images."""
        found = set(self.inputs[:1])
        for node in self.nodes:  # what it reads stands before it
            if not found.isdisjoint(node.ins):
                found.add(node.id)
        return found


def is_float(array: Array) -> bool:
    """Of any width; NumPy sees bfloat16 (ml_dtypes) as a kind of its own."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"
