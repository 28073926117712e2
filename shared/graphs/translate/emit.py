"""What translators share: shapes and constant values while a graph is being written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shared.errors import CheckpointError
from shared.formats.containers.archive import MAX_ELEMENTS
from shared.graphs.meaning import NoMeaning, evaluate
from shared.graphs.primitives import Array, RawGraph
from shared.graphs.shapes import shape_of

Pads = tuple[tuple[int, int], tuple[int, int]]
# Of a constant that shapes and axes are computed from. Weights are never folded.
_MAX_FOLDED = 1 << 16


class Unknown(Exception):
    """A translator does not know what this operator computes: it becomes opaque."""


class Emitter:
    """A graph that grows, with the shape and, where it follows from constants alone, the value of
    each node.
    """

    def __init__(self, graph: RawGraph):
        self.graph = graph
        self._shapes: list[tuple[int, ...] | None] = []
        self._known: dict[int, Array | None] = {}

    def add(self, prim: str, *ins: int, where: str = "", line: str = "", **attrs: Any) -> int:
        """Append a primitive. Raises `Unknown` where its attributes do not fit its inputs."""
        if prim == "dot":
            self._check_contraction(ins, attrs)
        id = self.graph.add(prim, *ins, where=where, line=line, **attrs)
        try:
            self.shape(id)
        except (ValueError, IndexError, KeyError, TypeError, ArithmeticError) as error:
            del self.graph.nodes[id:]
            raise Unknown(f"{prim}: {error}") from None
        return id

    def _check_contraction(self, ins: Sequence[int], attrs: dict[str, Any]) -> None:
        """The shape rule takes it for granted that contracted axes have the same sizes."""
        left, right = (self.shape(id) for id in ins)
        for own, other in zip(attrs["lhs"], attrs["rhs"], strict=True):
            if left is not None and right is not None and left[own] != right[other]:
                raise Unknown(f"a product of {list(left)} and {list(right)}")

    def shape(self, id: int) -> tuple[int, ...] | None:
        nodes = self.graph.nodes
        while len(self._shapes) <= id:
            node = nodes[len(self._shapes)]
            self._shapes.append(shape_of(node, [self._shapes[i] for i in node.ins]))
        return self._shapes[id]

    def sized(self, id: int) -> tuple[int, ...]:
        """The shape of a node. Raises `Unknown` where an opaque operator hides it."""
        shape = self.shape(id)
        if shape is None:
            raise Unknown("what stands before it has no known shape")
        return shape

    def attempt(self, rule: Callable[[], list[int]]) -> list[int] | None:
        """What an operator of a file is as primitives; None for one that is not known, that does
        not fit what stands before it, or whose result has a size that none has: a file may say
        anything. Raises `CheckpointError` where the file is damaged.
        """
        before = len(self.graph.nodes)
        try:
            outs = rule()
            for id in range(before, len(self.graph.nodes)):
                self._check_size(id)
        except (KeyError, Unknown, ValueError, IndexError, TypeError, ArithmeticError) as error:
            if isinstance(error, CheckpointError):  # a ValueError, too
                raise
            return None
        return outs

    def _check_size(self, id: int) -> None:
        shape = self.shape(id) or ()
        if any(n < 0 for n in shape) or math.prod(shape) > MAX_ELEMENTS:
            raise Unknown(f"a result of {list(shape)}")

    def known(self, id: int) -> Array | None:
        """The value of a node that depends on small constants only; else None."""
        if id not in self._known:
            self._known[id] = self._fold(id)
        return self._known[id]

    def value(self, id: int) -> Array:
        """`known`. Raises `Unknown` where it is not."""
        found = self.known(id)
        if found is None:
            raise Unknown("a shape or an axis depends on the image")
        return found

    def integers(self, id: int) -> list[int]:
        return [int(n) for n in np.reshape(self.value(id), -1)]

    def _fold(self, id: int) -> Array | None:
        node = self.graph.nodes[id]
        shape = self.shape(id)
        if node.prim == "input" or shape is None or math.prod(shape) > _MAX_FOLDED:
            return None
        if node.prim == "const":
            return np.asarray(node.value)
        args = [self.known(i) for i in node.ins]
        given = [arg for arg in args if arg is not None]
        if len(given) < len(args):
            return None
        try:
            return np.asarray(evaluate(node, given))
        except (NoMeaning, ValueError, IndexError, TypeError, ArithmeticError):
            return None

    def reshape(self, id: int, shape: Sequence[int], **place: str) -> int:
        """To a shape, of which one entry may be -1."""
        own, wanted = self.sized(id), [int(n) for n in shape]
        if -1 in wanted:
            rest = math.prod(n for n in wanted if n != -1)
            wanted[wanted.index(-1)] = math.prod(own) // rest if rest else 0
        if math.prod(wanted) != math.prod(own):
            raise Unknown(f"{list(own)} reshaped to {wanted}")
        return self.add("reshape", id, shape=tuple(wanted), **place)

    def strided(
        self, id: int, index: Sequence[tuple[int, int, int]], gone: Sequence[int] = (), **place: str
    ) -> int:
        """x[index], with steps of either sign; the axes `gone`, of length 1 then, are dropped."""
        own = self.sized(id)
        back = [d for d, (_, _, step) in enumerate(index) if step < 0]
        if back:
            id = self.add("reverse", id, axes=tuple(back), **place)
        forward = []
        for n, (start, stop, step) in zip(own, index, strict=True):
            if step < 0:
                start, stop, step = n - 1 - start, n - 1 - stop, -step
            forward.append((int(start), int(max(stop, start)), int(step)))
        id = self.add("slice", id, index=tuple(forward), **place)
        if gone:
            kept = [n for d, n in enumerate(self.sized(id)) if d not in gone]
            id = self.add("reshape", id, shape=tuple(kept), **place)
        return id

    def stack(self, ids: Sequence[int], axis: int, **place: str) -> int:
        own = self.sized(ids[0])
        axis %= len(own) + 1
        wanted = (*own[:axis], 1, *own[axis:])
        each = [self.reshape(id, wanted, **place) for id in ids]
        return self.add("concat", *each, axis=axis, **place)

    def fold_left(self, op: str, ids: Sequence[int], **place: str) -> int:
        """An elementwise operator over several arrays, from the left."""
        found = ids[0]
        for id in ids[1:]:
            found = self.add("ew", found, id, op=op, **place)
        return found


def same_pads(
    sizes: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int] = (1, 1),
    lower: bool = False,
) -> Pads:
    """SAME of TensorFlow, Keras, JAX: ceil(n / stride) windows, the odd pixel behind (or `lower`,
    in front).
    """
    found = []
    for n, k, s, d in zip(sizes, window, strides, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        least = total // 2
        found.append((total - least, least) if lower else (least, total - least))
    first, second = found
    return first, second
