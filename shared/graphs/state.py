"""The normaliser's state: the nodes made so far, and for every raw value where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.graphs.affine import Map, Norm, Recogniser
from shared.graphs.axes import Dims, size_of, whole
from shared.graphs.constants import Constants, decimal
from shared.graphs.net import Node, module_of
from shared.graphs.primitives import Array, Raw, RawGraph
from shared.graphs.shapes import Maybe, shapes_of

IDENTITY = Map()
NEUTRAL = {"weight": 1.0, "bias": 0.0}  # what a norm without one has


class Foreign(Exception):
    """An operator that the normal form has no word for; the message says what it is."""


class LayoutError(Exception):
    """The images have another layout than was assumed."""


@dataclass(eq=False)
class Act:
    """A raw value: a node's output in these dimensions, times a scale, plus a shift."""

    node: int
    dims: Dims
    how: Map = IDENTITY
    raw: Raw | None = None  # the arithmetic, for its names
    made: int | None = None  # the node that the arithmetic has become

    @property
    def is_plain(self) -> bool:
        return self.how == IDENTITY


class State:
    """What the rules of the normaliser read and write."""

    def __init__(self, graph: RawGraph, layout: str):
        self.graph, self.layout = graph, layout
        self.constants = Constants(graph)
        self.shapes: list[Maybe] = shapes_of(graph)
        self.live = graph.live()
        self.users: list[list[int]] = [[] for _ in graph.nodes]
        for node in graph.nodes:
            if node.id in self.live:
                for i in set(node.ins):
                    self.users[i].append(node.id)
        self.nodes: list[Node] = []
        self.values: dict[int, Act] = {}
        self.done: set[int] = set()  # raw nodes inside a region that was recognised as one
        self.rng = np.random.default_rng(0)

    def shape(self, i: int) -> tuple[int, ...]:
        shape = self.shapes[i]
        if shape is None:
            raise Foreign("a shape that is not known")
        return shape

    def is_data(self, i: int) -> bool:
        return self.constants.is_data[i]

    def acts(self, raw: Raw) -> list[Act]:
        """The inputs that depend on the images."""
        return [self.values[i] for i in raw.ins if self.is_data(i)]

    def new(
        self,
        op: str,
        ins: Iterable[int],
        raw: Raw | None,
        size: Mapping[str, int],
        attrs: Mapping[str, Any] | None = None,
    ) -> Node:
        """Append a node."""
        sizes = {axis: int(n) for axis, n in size.items()}
        node = Node(len(self.nodes), op, list(ins), dict(attrs or {}), sizes)
        if raw is not None:
            node.where, node.line = raw.where, raw.line
        self.nodes.append(node)
        return node

    def unary(self, op: str, act: Act, raw: Raw, attrs: Mapping[str, Any] | None = None) -> Act:
        """An operator that keeps sizes and layout."""
        i = self.settle(act)
        return Act(self.new(op, [i], raw, self.nodes[i].size, attrs).id, act.dims)

    def opaque(self, raw: Raw, what: str) -> Act:
        """A node for what the normal form has no word for."""
        acts = self.acts(raw)
        ins = [self.settle(act) for act in acts]
        shape = self.shapes[raw.id]
        dims: Dims = ()
        if shape is not None:
            old = acts[0].dims if acts and len(acts[0].dims) == len(shape) else None
            dims = tuple(
                old[d] if old and size_of(old[d]) == n else self._axis(old, d, n)
                for d, n in enumerate(shape)
            )
        size = {dim[0][0]: size_of(dim) for dim in dims if dim}
        node = self.new("Other", ins, raw, size, {"what": what})
        constants = [i for i in raw.ins if not self.is_data(i)]
        for leaf in self.constants.leaves(constants):
            name = self.constants.name(leaf)
            if name:
                node.names[name] = name
        return Act(node.id, dims)

    @staticmethod
    def _axis(old: Dims | None, d: int, n: int) -> Any:
        """The same axis in another size, where it is one."""
        return whole(old[d][0][0] if old and len(old[d]) == 1 else "?", n)

    def adopted(self, act: Act, layout: str) -> Act:
        """An activation whose axes were lost behind what is not known, in the layout that the next
        operator has. Nothing exact follows: what is not known is a departure.
        """
        lost = any(axis == "?" for dim in act.dims for axis, _, _ in dim)
        if not lost or len(act.dims) != len(layout):
            return act
        i = self.settle(act)
        size = {axis: size_of(dim) for axis, dim in zip(layout, act.dims, strict=True)}
        self.nodes[i].size = size
        return Act(i, tuple(whole(axis, size[axis]) for axis in layout))

    # What an affine map is.

    def settle(self, act: Act) -> int:
        """The node of an activation, its arithmetic recognised."""
        if act.is_plain:
            return act.node
        if act.made is None:
            act.made = self._recognise(act)
        return act.made

    def _recognise(self, act: Act) -> int:
        node, channels = self.nodes[act.node], self.nodes[act.node].channels
        found = Recogniser(self.constants, self.rng, channels, act.how)
        can_have_bias = node.op in ("Conv", "Linear") and "bias" not in node.tensors
        if found.is_literal:
            return self._scaled(act, node)
        if can_have_bias and found.is_bias():
            self.put(node, "bias", found.vectors[0])
            return node.id
        if node.op == "GroupNorm" and not node.tensors:
            pair = found.gamma_beta()
            if pair is not None:
                for leaf, i in zip(("weight", "bias"), pair, strict=True):
                    if i is not None:
                        self.put(node, leaf, i)
                self.fill_norm(node)
                return node.id
        norm = found.batch_norm(can_have_bias and node.op == "Conv")
        if norm is not None:
            return self._batch_norm(act, node, norm)
        return self._times(act, node) or self._numbers(act, node, found, can_have_bias)

    def _times(self, act: Act, node: Node) -> int | None:
        """A batch norm, or a convolution with a bias, whose result is multiplied by a number."""
        parts = act.how.without_factor(self.constants)
        if parts is None:
            return None
        how, factor = parts
        found = Recogniser(self.constants, self.rng, node.channels, how)
        can_have_bias = node.op == "Conv" and "bias" not in node.tensors
        if can_have_bias and found.is_bias():
            self.put(node, "bias", found.vectors[0])
            i = node.id
        else:
            norm = found.batch_norm(can_have_bias)
            if norm is None:
                return None
            i = self._batch_norm(act, node, norm)
        return self.new("Scale", [i], act.raw, node.size, {"scale": factor, "shift": 0.0}).id

    def _scaled(self, act: Act, node: Node) -> int:
        scale, shift = (float(value) for value in act.how.values(self.constants))
        count = node.attrs.get("count") if node.op == "GlobalSum" else None
        if count and not shift and np.isclose(scale * count, 1.0, rtol=1e-6):
            node.op, node.attrs = "GlobalPool", {"mode": "avg"}
            return node.id
        attrs = {"scale": scale, "shift": shift}
        return self.new("Scale", [node.id], act.raw, node.size, attrs).id

    def _batch_norm(self, act: Act, node: Node, norm: Norm) -> int:
        if norm.bias is not None:
            self.put(node, "bias", norm.bias)
        attrs = {"eps": decimal(norm.eps), "momentum": None, "decomposed": True}
        made = self.new("BatchNorm", [node.id], act.raw, node.size, attrs)
        roles = {
            "weight": norm.gamma,
            "bias": norm.beta,
            "running_mean": norm.mean,
            "running_var": norm.variance,
        }
        for leaf, i in roles.items():
            if i is not None:
                self.put(made, leaf, i)
        if norm.variance is None:  # x * gamma + beta: a norm that has been folded
            made.attrs["eps"] = None
        self.fill_norm(made)
        return made.id

    def _numbers(self, act: Act, node: Node, found: Recogniser, can_have_bias: bool) -> int:
        """Nobody's norm: a folded one, or preprocessing."""
        scale, shift = act.how.values(self.constants)
        channels = found.channels
        if {np.size(scale), np.size(shift)} - {1, channels}:  # behind what is not known
            what = {"what": "arithmetic with a constant of other channels"}
            return self.new("Other", [node.id], act.raw, node.size, what).id

        def full(value: Array) -> Array:
            return np.broadcast_to(np.asarray(value, np.float64), (channels,)).copy()

        names = ", ".join(str(self.constants.name(i)) for i in found.vectors)
        if act.how.scale is None and can_have_bias:
            node.tensors["bias"], node.names["bias"] = full(shift), names
            node.notes.append("its bias is computed from constants")
            return node.id
        made = self.new("Affine", [node.id], act.raw, node.size)
        made.tensors = {"scale": full(scale), "shift": full(shift)}
        made.names = {"scale": names, "shift": names}
        return made.id

    # Tensors.

    def put(self, node: Node, leaf: str, i: int) -> None:
        """Give a node the vector of a constant, in its own dtype and under the user's name."""
        node.tensors[leaf] = np.asarray(self.constants.native(i)).reshape(-1)
        node.names[leaf] = self.constants.name_of(i)

    def fill_norm(self, node: Node) -> None:
        """What is absent is 1 or 0; a norm's place is that of its parameters."""
        defaults = dict(NEUTRAL)
        if node.op == "BatchNorm":
            defaults |= {"running_mean": 0.0, "running_var": 1.0}
        for leaf, value in defaults.items():
            if leaf not in node.tensors:
                node.tensors[leaf] = np.full(node.channels, value)
                node.names[leaf] = None
                if leaf in ("weight", "bias"):
                    node.notes.append(f"no {leaf}")
        named = [node.names.get(leaf) for leaf in ("running_mean", "weight", "bias")]
        node.where = next((module_of(name) for name in named if module_of(name)), node.where)
