"""ATen operators as primitives of `shared.graphs.primitives`: what every rule works with.

An exported program's arguments are bound by the operator's own schema, so that a rule takes them by
name. An operator without a rule is opaque, with its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from shared.graphs.primitives import RawGraph

Shape = tuple[int, ...]
Value = int | list[int]  # the id of a primitive; of an operator with several outputs, a list
Arguments = dict[str, Any]
Rule = Callable[["AtenReader", Node, Arguments], Value | None]  # None: not in this form
SPELLINGS = {
    "concat": "cat",
    "concatenate": "cat",
    "divide": "div",
    "greater": "gt",
    "less": "lt",
    "multiply": "mul",
    "subtract": "sub",
    "true_divide": "div",
}

VIEWS = (
    *("alias", "chunk", "detach", "expand", "flatten", "permute", "reshape", "select", "slice"),
    *("split", "split_with_sizes", "squeeze", "t", "transpose", "unsqueeze", "view"),
)


def shape_of(node: Node) -> Shape:
    """Of a tensor; a size that is symbolic is the one that was traced with."""
    return tuple(concrete(n) for n in node.meta["val"].shape)


def concrete(n: Any) -> int:
    return n if isinstance(n, int) else int(n.node.hint)


def base_name(node: Node) -> str:
    """`relu` of `aten.relu_.default`."""
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    while name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    return SPELLINGS.get(name, name)


def two(value: Any) -> tuple[int, int]:
    """(height, width) of one number, or of one or two in a list."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return (values[0], values[-1])


class AtenReader:
    """Appends primitives to `graph`, by one rule an operator."""

    def __init__(self, graph: RawGraph, rules: Mapping[str, Rule]):
        self.graph, self.rules = graph, rules
        self.values: dict[Node, Value] = {}
        self.tensors: dict[Node, Any] = {}  # of parameters, and what has been computed from them
        self._constant_nodes: dict[Node, bool] = {}
        self._place: dict[str, str] = {}

    def read(self, node: Node, where: str, line: str) -> Value:
        """The value of a `call_function` node."""
        self._place = {"where": where, "line": line}
        rule = self.rules.get(base_name(node))
        found = rule(self, node, self._arguments(node)) if rule is not None else None
        return self._opaque(node) if found is None else found

    def _arguments(self, node: Node) -> Arguments:
        """By name, with defaults; a node for each tensor."""
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            return {}
        bound = {
            argument.name: argument.default_value
            for argument in schema.arguments
            if argument.has_default_value()
        }
        names = [argument.name for argument in schema.arguments]
        return bound | dict(zip(names, node.args, strict=False)) | dict(node.kwargs)

    def is_constant(self, node: Node) -> bool:
        """Whether a node depends on no image and no chance: asked in order, node by node."""
        if node not in self._constant_nodes:
            inner = node.all_input_nodes
            known = node in self.tensors
            self._constant_nodes[node] = known or (
                node.op == "call_function"
                and bool(inner)
                and all(map(self.is_constant, inner))
                and torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())
            )
        return self._constant_nodes[node]

    def computed(self, node: Node) -> Any:
        """The value of a constant node, by PyTorch itself."""
        if node not in self.tensors:
            args, kwargs = map_arg((node.args, node.kwargs), self.computed)
            self.tensors[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return self.tensors[node]

    def _constant(self, node: Node) -> Value | None:
        """What NumPy lacks an operator for, as a constant under the names that it is made of."""
        if not self.is_constant(node):
            return None
        found = self.computed(node)
        names = [self.graph.nodes[self.id_of(x)].name for x in node.all_input_nodes]
        name = ", ".join(name for name in names if name) or None
        parts = found if isinstance(found, (list, tuple)) else [found]
        ids = [self.graph.const(part.detach().cpu().numpy(), name) for part in parts]
        return ids if isinstance(found, (list, tuple)) else ids[0]

    def _opaque(self, node: Node) -> Value:
        constant = self._constant(node)
        if constant is not None:
            return constant
        value = node.meta.get("val")
        ins = [self.id_of(x) for x in node.all_input_nodes]
        what = base_name(node)
        if isinstance(value, (list, tuple)):
            shapes = [tuple(concrete(n) for n in v.shape) if v is not None else () for v in value]
            return [self.graph.opaque(what, ins, shape, **self._place) for shape in shapes]
        shape = shape_of(node) if hasattr(value, "shape") else None
        return self.graph.opaque(what, ins, shape, **self._place)

    def id_of(self, value: Node | int | float) -> int:
        """The primitive of a node; an int is one already; a float becomes a literal."""
        if isinstance(value, Node):
            found = self.values[value]
            return found if isinstance(found, int) else found[0]
        return value if isinstance(value, int) else self.graph.const(value)

    def add(self, prim: str, *ins: Node | int, **attrs: Any) -> int:
        return self.graph.add(prim, *map(self.id_of, ins), **self._place, **attrs)

    def ew(self, op: str, *ins: Node | int | float) -> int:
        """Elementwise."""
        return self.graph.add("ew", *map(self.id_of, ins), **self._place, op=op)


def operand(value: Any) -> Node | float:
    """A tensor, or a number as a literal."""
    return value if isinstance(value, Node) else float(value)


def is_view(node: Node) -> bool:
    """Whether the result of an operator may share its input's memory."""
    return node.op == "call_function" and base_name(node) in VIEWS


def writes(node: Node) -> bool:
    """Whether an operator changes its first argument."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable
