"""An ONNX graph as primitives.

The messages are those that `shared.graphs.files` parses; the package `onnx` is not needed. Shapes
follow from one concrete image: what exporters compute from them is folded. What each operator
computes stands in `onnx_operators`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from shared.errors import CheckpointError
from shared.graphs.files.messages import Record
from shared.graphs.primitives import Array, RawGraph
from shared.graphs.translate.emit import Unknown
from shared.graphs.translate.onnx_node import Node, NodeEmitter
from shared.graphs.translate.onnx_operators import RULES

STANDARD = ("", "ai.onnx")
MAX_NESTING = 64  # functions and branches in each other
_SCOPES, _STACK = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.stack_trace"
_FRAME = re.compile(r'File "([^"]*)", line (\d+)')

Tensors = Callable[[Record], Array | None]  # the values of a TensorProto


class OnnxReader(NodeEmitter):
    """Appends a model's nodes to a graph."""

    def __init__(self, graph: RawGraph, model: Record, tensors: Tensors):
        versions = [o.version for o in model.opset_import if o.domain in STANDARD]
        super().__init__(graph, max(versions, default=1), tensors)
        self._functions = {(f.domain, f.name, f.overload): f for f in model.functions}

    def initializers(self, found: Iterable[Record]) -> dict[str, int]:
        """Constants by their names; a module's path is what stands before the last dot."""
        values = {}
        for tensor in found:
            value = self.tensors(tensor)
            name = tensor.name
            where = name.rpartition(".")[0] or name.rpartition("/")[0]
            if value is None:
                values[name] = self.graph.opaque("constant", [], None, where=name)
            else:
                values[name] = self.graph.const(value, name, where)
        return values

    def run(
        self,
        nodes: Iterable[Record],
        values: dict[str, int],
        attributes: Mapping[str, Record] | None = None,
        depth: int = 0,
    ) -> None:
        """Add the results of nodes, which stand in their order, to `values`.

        `attributes` are those that a function was called with.
        """
        if depth > MAX_NESTING:
            raise CheckpointError(f"functions call functions, more than {MAX_NESTING} deep")
        for record in nodes:
            missing = [name for name in record.input if name and name not in values]
            if missing:
                raise CheckpointError(f"a node reads {missing[0][:100]!r}, which there is not")
            ins = [values[name] if name else None for name in record.input]
            own = dict(_attributes(record.attribute, attributes or {}))
            outs = self._node(record, ins, own, values, depth)
            for k, name in enumerate(record.output):
                if name:
                    values[name] = outs[k] if k < len(outs) else outs[0]

    def _node(
        self,
        record: Record,
        ins: list[int | None],
        attributes: dict[str, Record],
        values: dict[str, int],
        depth: int,
    ) -> list[int]:
        node = Node(record.op_type, attributes, *_place(record))
        try:
            function = self._functions.get((record.domain, record.op_type, record.overload))
            if function is not None:
                return self._call(function, ins, attributes, depth)
            if record.domain not in STANDARD:
                raise Unknown(record.domain)
            if node.op == "If":
                return self._branch(node, ins, values, depth)
            return RULES[node.op](self, node, ins)
        except (KeyError, Unknown, ValueError, IndexError, TypeError, AttributeError) as error:
            if isinstance(error, CheckpointError):  # a ValueError, too
                raise
            given = [id for id in ins if id is not None]
            return [
                self.graph.opaque(node.op, given, None, where=node.where, line=node.line)
                for _ in record.output
            ]

    def _call(
        self,
        function: Record,
        ins: Sequence[int | None],
        attributes: Mapping[str, Record],
        depth: int,
    ) -> list[int]:
        values = {name: id for name, id in zip(function.input, ins, strict=False) if id is not None}
        defaults = {attribute.name: attribute for attribute in function.attribute_proto}
        self.run(function.node, values, {**defaults, **attributes}, depth + 1)
        return [values[name] for name in function.output]

    def _branch(
        self, node: Node, ins: list[int | None], values: dict[str, int], depth: int
    ) -> list[int]:
        """The branch that constants choose; it sees the values around it."""
        if ins[0] is None:
            raise Unknown("a choice without a condition")
        chosen = "then_branch" if bool(self.value(ins[0])) else "else_branch"
        branch = node.attributes[chosen].g
        inner = values | self.initializers(branch.initializer)
        self.run(branch.node, inner, None, depth + 1)
        return [inner[output.name] for output in branch.output]


def _attributes(
    found: Iterable[Record], given: Mapping[str, Record]
) -> Iterable[tuple[str, Record]]:
    """An attribute of a function's node may stand for one that the function was called with."""
    for attribute in found:
        if not attribute.ref_attr_name:
            yield attribute.name, attribute
        elif attribute.ref_attr_name in given:
            yield attribute.name, given[attribute.ref_attr_name]


def _place(record: Record) -> tuple[str, str]:
    """The user's module and source line, as far as the exporter has kept them."""
    said: dict[str, Any] = {entry.key: entry.value for entry in record.metadata_props}
    where = record.name or next(iter(record.output), "")
    if where.startswith("/"):  # /layer1/layer1.0/conv1/Conv
        where = where[1:].rpartition("/")[0]
    try:
        scopes = [scope for scope in ast.literal_eval(said.get(_SCOPES, "[]")[:4096]) if scope]
        where = str(scopes[-2]) if len(scopes) > 1 else where
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        pass  # the exporter's own text; the node's name remains
    frames = _FRAME.findall(said.get(_STACK, ""))
    own = [f for f in frames if "site-packages" not in f[0] and "/torch/" not in f[0]]
    return where, f"{own[-1][0].rpartition('/')[2]}:{own[-1][1]}" if own else ""
