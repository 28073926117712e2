"""A TensorFlow graph, a GraphDef and its library of functions, as primitives.

The messages are those that `shared.graphs.files` parses; TensorFlow is not imported. Sizes follow
from the image's, so that a graph for images of any size is read at one. What each operator computes
stands in `tensorflow_operators`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from shared.errors import CheckpointError
from shared.graphs.files.messages import Later, Record
from shared.graphs.files.tensorflow_messages import FUNCTION, functions
from shared.graphs.primitives import RawGraph
from shared.graphs.translate import choices
from shared.graphs.translate.emit import Unknown
from shared.graphs.translate.tensorflow_node import Node, NodeEmitter
from shared.graphs.translate.tensorflow_operators import RULES

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
SEE_TILES = ("Conv2D", "DepthwiseConv2dNative", "BatchToSpaceND", "Identity")
MAX_CALLS = 64  # functions in functions
MAX_NODES = 1_000_000


class GraphReader(NodeEmitter):
    """Appends functions of a library to a graph."""

    def __init__(self, graph: RawGraph, library: Mapping[str, Later]):
        super().__init__(graph)
        self._library = library
        self._read: dict[str, Record] = {}
        self._nodes = 0

    def definition(self, name: str) -> Record:
        """A function of the library. Raises `KeyError`."""
        if name not in self._read:
            self._read[name] = self._library[name].read(FUNCTION)
        return self._read[name]

    def function(self, name: str, args: Sequence[int], prefix: str = "", depth: int = 0) -> dict:
        """The ids of a function's results by their names; `args` are those of its arguments."""
        if depth > MAX_CALLS:
            raise Unknown(f"functions call functions, more than {MAX_CALLS} deep")
        function = self.definition(name)
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
        except (KeyError, Unknown, ValueError, IndexError, TypeError, ArithmeticError):
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


def read_frozen(definition: Record, graph: RawGraph, images: str, shape: Sequence[int]) -> None:
    """A graph whose weights are constants: its placeholder `images` is the input, and what nobody
    reads are the outputs. Sets `graph.outputs`. Raises `CheckpointError`.
    """
    reader = GraphReader(graph, functions(definition))
    values = {images: [graph.input(shape, images)]}
    for node in definition.node:
        if node.op == "Placeholder" and node.name != images:
            values[node.name] = [graph.opaque("Placeholder", [], None, where=node.name)]
    used = {_reference(i.lstrip("^"))[0] for node in definition.node for i in node.input}
    quiet = ("NoOp", "Const", "Placeholder", "Assert")
    ends = [n.name for n in definition.node if n.name not in used and n.op not in quiet]
    if not ends:
        raise CheckpointError("it has no output: every node is read by another one")
    outs = reader.run(definition.node, values, ends)
    k = choices.choose_output(ends, [reader.shape(id) for id in outs], graph)
    graph.outputs = [outs[k], *(out for j, out in enumerate(outs) if j != k)]


def placeholder(definition: Record) -> tuple[str, list[int]]:
    """The name and sizes (-1: any) of the images. Raises `CheckpointError`."""
    for node in definition.node:
        if node.op == "Placeholder":
            shape = node.attr["shape"].shape if "shape" in node.attr else None
            return node.name, [dim.size for dim in shape.dim] if shape else []
    raise CheckpointError("it has no placeholder, which images would come in by")
