"""A TensorFlow graph, a GraphDef and its library of functions, as primitives.

The messages are those that `shared.graphs.files` parses; TensorFlow is not imported. Sizes follow
from the image's, so that a graph for images of any size is read at one. What each operator computes
stands in `tensorflow_operators`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from shared.errors import CheckpointError
from shared.graphs.files.messages import Record
from shared.graphs.primitives import RawGraph
from shared.graphs.translate.emit import Unknown
from shared.graphs.translate.tensorflow_node import Node, NodeEmitter
from shared.graphs.translate.tensorflow_operators import RULES

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
SEE_TILES = ("Conv2D", "DepthwiseConv2dNative", "BatchToSpaceND", "Identity")
MAX_CALLS = 64  # functions in functions
MAX_NODES = 1_000_000


class GraphReader(NodeEmitter):
    """Appends functions of a library to a graph."""

    def __init__(self, graph: RawGraph, library: Iterable[Record] = ()):
        super().__init__(graph)
        self._library = {function.signature.name: function for function in library}
        self._nodes = 0

    def function(self, name: str, args: Sequence[int], prefix: str = "", depth: int = 0) -> dict:
        """The ids of a function's results by their names; `args` are those of its arguments."""
        if depth > MAX_CALLS:
            raise Unknown(f"functions call functions, more than {MAX_CALLS} deep")
        function = self._library[name]
        values = {
            argument.name: [id]
            for argument, id in zip(function.signature.input_arg, args, strict=True)
        }
        wanted = [argument.name for argument in function.signature.output_arg]
        found = self.run(
            function.node_def, values, [function.ret[name] for name in wanted], prefix, depth
        )
        return dict(zip(wanted, found, strict=True))

    def run(
        self,
        nodes: Iterable[Record],
        values: dict[str, list[int]],
        outputs: Sequence[str],
        prefix: str = "",
        depth: int = 0,
    ) -> list[int]:
        """The ids of `outputs`, such as `dense/BiasAdd:0`; only what they need is read.

        `values` are those of arguments and placeholders by name.
        """
        table = {node.name: node for node in nodes}
        waiting = [_reference(output)[0] for output in outputs]
        entered: set[str] = set()
        while waiting:
            name = waiting[-1]
            if name in values:
                waiting.pop()
                continue
            if name not in table:
                raise CheckpointError(f"a node reads {name[:100]!r}, which there is not")
            node = table[name]
            references = [_reference(source) for source in node.input if source[:1] != "^"]
            missing = [source for source, _ in references if source not in values]
            if missing:
                if name in entered:
                    raise CheckpointError(f"the node {name[:100]!r} depends on itself")
                entered.add(name)
                waiting.extend(missing)
                continue
            self._nodes += 1
            if self._nodes > MAX_NODES:
                raise CheckpointError(f"it has more than {MAX_NODES} nodes")
            ins = [_one_of(values[source], k) for source, k in references]
            values[name] = self._node(node, ins, prefix, depth)
            waiting.pop()
        return [_one_of(values[name], k) for name, k in map(_reference, outputs)]

    def _node(self, node: Record, ins: list[int], prefix: str, depth: int) -> list[int]:
        where = prefix + node.name
        try:
            called = self._called(node)
            if called:
                scope = prefix if node.name.startswith(CALLS) else f"{where}/"
                return list(self.function(called, ins, scope, depth + 1).values())
            if self.tiled.keys() & set(ins) and node.op not in SEE_TILES:
                raise Unknown("tiles where an image should be")
            return RULES[node.op](self, Node(node, where), ins)
        except (KeyError, Unknown, CheckpointError, ValueError, IndexError, TypeError):
            return [self.graph.opaque(node.op, ins, None, where=where)]

    def _called(self, node: Record) -> str:
        if node.op in self._library:
            return node.op
        if node.op not in CALLS or "f" not in node.attr or node.attr["f"].func is None:
            return ""
        name = node.attr["f"].func.name
        return name if name in self._library else ""


def _reference(text: str) -> tuple[str, int]:
    """`name`, `name:1`, and in functions `name:output:1`."""
    name, *rest = text.split(":")
    return name, int(rest[-1]) if rest and rest[-1].isdigit() else 0


def _one_of(found: Sequence[int], k: int) -> int:
    """Of an operator with several outputs, of which an opaque one has one value."""
    return found[k] if k < len(found) else found[0]


def read_frozen(definition: Record, graph: RawGraph, shape: Sequence[int]) -> GraphReader:
    """A graph whose weights are constants: its placeholder is the image, and what nobody reads is
    the output. Sets `graph.outputs`. Raises `CheckpointError`.
    """
    nodes: Mapping[str, Record] = {node.name: node for node in definition.node}
    library = definition.library.function if definition.library else ()
    reader = GraphReader(graph, library)
    holders = [name for name, node in nodes.items() if node.op.startswith("Placeholder")]
    images = [name for name in holders if nodes[name].op == "Placeholder"]
    if not images:
        raise CheckpointError("it has no placeholder, which images would come in by")
    values = {}
    for name in holders:
        if name == images[0]:
            values[name] = [graph.input(shape, name)]
        elif nodes[name].op == "Placeholder":
            values[name] = [graph.opaque("Placeholder", [], None, where=name)]
    used = {_reference(source.lstrip("^"))[0] for node in nodes.values() for source in node.input}
    ends = [
        name
        for name, node in nodes.items()
        if name not in used and node.op not in ("NoOp", "Const", "Placeholder", "Assert")
    ]
    if not ends:
        raise CheckpointError("it has no output: every node is read by another one")
    graph.outputs = reader.run(definition.node, values, ends[::-1])
    return reader
