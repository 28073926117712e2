"""The constant side of a raw graph: values, the leaves that they are made of, and kernels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from shared.graphs.meaning import evaluate
from shared.graphs.primitives import Array, Raw, RawGraph, is_float

VIEWS = ("transpose", "reshape", "cast", "slice")
Env = dict[int, Array]  # values in the place of leaves, and what follows from them


class Kernel(NamedTuple):
    """A convolution's or matrix' weights in canonical layout."""

    array: Array
    name: str | None
    weight_std_eps: float | None = None
    computed: Array | None = None  # as it is used, where the array is standardised first
    note: str = ""


def decimal(eps: float) -> float:
    """The shortest decimal that is the same float32 or float64: 9.99999974e-06 is 1e-05."""
    eps = float(eps)
    short = float(str(np.float32(eps)))
    return short if abs(short - eps) <= 1e-7 * abs(eps) else eps


class Constants:
    """Values of the nodes that depend on no input; computed when asked for, once."""

    def __init__(self, graph: RawGraph):
        self.nodes = graph.nodes
        self.is_data: list[bool] = []
        for node in graph.nodes:
            depends = any(self.is_data[i] for i in node.ins)
            self.is_data.append(node.prim == "input" or depends)
        self._values: Env = {}

    def value(self, i: int, env: Env | None = None) -> Array:
        """Of a constant node, floats in float64; `env` has other values for leaves."""
        known = self._values if env is None else env
        if i not in known:
            node = self.nodes[i]
            known[i] = evaluate(node, [self.value(k, env) for k in node.ins])
        return known[i]

    def leaves(self, ids: Iterable[int]) -> list[int]:
        """What constants are made of: parameters, literals, and slices of parameters (a stack
        of layers that a scan takes apart).
        """
        found: dict[int, None] = {}
        seen: set[int] = set()
        waiting = list(ids)[::-1]
        while waiting:
            i = waiting.pop()
            if i in seen:
                continue
            seen.add(i)
            node = self.nodes[i]
            if node.prim == "const" or (node.prim == "slice" and self.is_view(i)):
                found[i] = None
            else:
                waiting.extend(reversed(node.ins))
        return list(found)

    def is_view(self, i: int) -> bool:
        """Whether only the layout of one leaf is changed."""
        return all(_keeps(node) for node in self._chain(i)[:-1]) and self._root(i).prim == "const"

    def _chain(self, i: int) -> list[Raw]:
        chain = [self.nodes[i]]
        while _keeps(chain[-1]):
            chain.append(self.nodes[chain[-1].ins[0]])
        return chain

    def _root(self, i: int) -> Raw:
        return self._chain(i)[-1]

    def native(self, i: int) -> Array:
        """The value of a view in its leaf's own dtype; of anything else, in float64."""
        if not self.is_view(i):
            return np.asarray(self.value(i))
        *views, root = self._chain(i)
        array = np.asarray(root.value)
        for node in reversed(views):
            if node.prim not in ("cast", "ew"):
                array = evaluate(node, [array])
        return array

    def name(self, i: int) -> str | None:
        """The user's name of a leaf; of a slice, with the index."""
        node = self.nodes[i]
        if node.prim == "const":
            return node.name
        name = self._root(i).name
        index = node.attrs["index"][0] if node.prim == "slice" else (0, 0, 1)
        return f"{name}[{index[0]}]" if name and index[1] - index[0] == 1 else name

    def is_parameter(self, i: int) -> bool:
        return self.name(i) is not None

    def scalar(self, i: int) -> float:
        return float(np.asarray(self.value(i)).reshape(-1)[0])

    def size(self, i: int) -> int:
        node = self.nodes[i]
        return int(np.size(node.value if node.prim == "const" else self.value(i)))

    def is_number(self, i: int) -> bool:
        """A real one, of any width."""
        node = self.nodes[i]
        return is_float(np.asarray(node.value if node.prim == "const" else self.value(i)))

    def only_leaf(self, i: int) -> int | None:
        """The one leaf of more than one value that a constant is made of."""
        big = [k for k in self.leaves([i]) if self.size(k) > 1]
        return big[0] if len(big) == 1 else None

    def name_of(self, i: int) -> str | None:
        """The user's name of what a constant is made of, where that is one parameter."""
        leaf = self.only_leaf(i)
        if leaf is None and len(found := self.leaves([i])) == 1:
            (leaf,) = found
        return None if leaf is None else self.name(leaf)

    def literals(self, i: int) -> list[float]:
        """Single numbers that a constant is made of, and every `eps` on the way."""
        found = {self.scalar(k) for k in self.leaves([i]) if self.size(k) == 1}
        for node in self._below(i):
            if "eps" in node.attrs:
                found.add(float(node.attrs["eps"]))
        return sorted(found)

    def _below(self, i: int) -> Iterator[Raw]:
        seen, waiting = set(), [i]
        while waiting:
            k = waiting.pop()
            if k not in seen:
                seen.add(k)
                yield self.nodes[k]
                waiting.extend(self.nodes[k].ins)

    def kernel(self, i: int, layout: str) -> Kernel:
        """Of a convolution (`layout` of O, I, H, W) or a matrix (of O, I)."""
        axes = [layout.index(axis) for axis in "OIHW"[: len(layout)]]
        if self.is_view(i):
            name = self.name_of(i)
            several = name is not None and ", " in name  # computed by the framework
            note = f"its kernel is computed from {name}" if several else ""
            return Kernel(np.transpose(self.native(i), axes), name, note=note)
        used = np.transpose(np.asarray(self.value(i), np.float64), axes)
        big = [k for k in self.leaves([i]) if self.size(k) > 1 and self.is_number(k)]
        whole = [k for k in big if self.size(k) == used.size]
        if len(whole) == 1:
            for base in _arrangements(self.native(whole[0]), used.shape):
                eps = _standardisation(base, used, self.literals(i))
                if eps is not None:
                    return Kernel(base, self.name(whole[0]), eps, used)
        names = ", ".join(str(self.name(k)) for k in big)
        return Kernel(used, names, note=f"its kernel is computed from {names or 'constants'}")


def _keeps(node: Raw) -> bool:
    """Whether a node only rearranges its one input."""
    return node.prim in VIEWS or (node.prim == "ew" and node.attrs["op"] == "identity")


def _arrangements(array: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    """A leaf as a canonical kernel of this shape: OIHW or HWIO, [out, in] or [in, out]."""
    orders: dict[int, tuple[tuple[int, ...], ...]] = {
        4: ((0, 1, 2, 3), (3, 2, 0, 1)),
        2: ((0, 1), (1, 0)),
    }
    for order in orders.get(array.ndim, ()):
        found = np.transpose(array, order)
        if found.shape == shape or (found.shape[:2] == shape and found.size == np.prod(shape)):
            yield found.reshape(shape)


def _standardisation(base: Array, used: Array, literals: list[float]) -> float | None:
    """The eps with which every filter of `base` is standardised to be `used`."""
    rows = base.reshape(len(base), -1).astype(np.float64)
    want = used.reshape(len(used), -1)
    mean, variance = rows.mean(1, keepdims=True), rows.var(1, keepdims=True)
    scale = max(float(np.abs(want).max()), 1e-30)
    errors = {}
    for eps in literals:
        if 0 <= eps < 0.1:
            with np.errstate(all="ignore"):
                got = (rows - mean) / np.sqrt(variance + eps)
            errors[eps] = float(np.abs(got - want).max()) / scale
    # An eps of 1e-10 passes for none within the limit; it is still the nearest.
    best = min(errors, key=errors.__getitem__, default=None)
    return decimal(best) if best is not None and errors[best] <= 1e-9 else None
