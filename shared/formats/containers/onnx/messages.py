"""The few messages of an ONNX file that its weights need: the graph's nodes and its tensors.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. An ONNX library would parse all of
an untrusted file, and most of them build what it describes; here nothing is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from shared.architecture.ops import Shape
from shared.formats.containers import spans
from shared.formats.containers.protobuf import BYTES, Field, Source

MAX_NODES = 1 << 15
MAX_NAME = 1024  # bytes
_MAX_INPUTS = 1 << 12  # of a node
_GRAPH, _PRODUCER, _VERSION = 7, 2, 3
_FUNCTIONS = 25
_NODE, _INITIALIZER, _SPARSE = 1, 5, 15
_EXTERNAL = 1


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file, and where its values are."""

    name: str
    code: int  # of its dtype, as ONNX numbers them
    shape: Shape
    values: dict[int, Field]  # by the number of the field that has them
    external: dict[str, str] | None = None  # where they are in a file beside it


@dataclass(frozen=True)
class Node:
    """An operator, with the attributes that say how its weights lie."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    transposed: bool = False  # Gemm's second matrix is [out, in]
    epsilon: float | None = None


@dataclass
class Graph:
    """A graph's operators in their order, and its tensors by their names."""

    producer: str = ""
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)


def read_graph(source: Source) -> Graph:
    """The graph of a file. Raises the source's error."""
    top = source.single(0, source.size, many=(8, 14, 20, 25, 26))
    if _GRAPH not in top:
        raise source.fail("it has no graph")
    found = Graph(
        " ".join(source.text(top[n], MAX_NAME) for n in (_PRODUCER, _VERSION) if n in top)
    )
    for part in source.inside(top[_GRAPH]):
        if part.number == _NODE:
            node, constant = _node(source, part)
            if len(found.nodes) == MAX_NODES:
                raise source.fail(f"it has more than {MAX_NODES:,} operators")
            found.nodes.append(node)
            if constant is not None:
                _add(source, found, constant)
        elif part.number == _INITIALIZER:
            _add(source, found, _tensor(source, part))
        elif part.number == _SPARSE:
            raise source.fail("it has sparse tensors; dense ones are read")
    return found


def _add(source: Source, graph: Graph, tensor: Tensor) -> None:
    if tensor.name in graph.tensors:
        raise source.fail(f"two of its tensors are called {spans.shown(tensor.name)}")
    if len(graph.tensors) == MAX_NODES:
        raise source.fail(f"it has more than {MAX_NODES:,} tensors")
    graph.tensors[tensor.name] = tensor


def _node(source: Source, place: Field) -> tuple[Node, Tensor | None]:
    """An operator; and of a constant its tensor."""
    texts: dict[int, str] = {}
    inputs: list[str] = []
    outputs: list[str] = []
    attributes: list[Field] = []
    for part in source.inside(place):
        if part.number in (1, 2):
            (inputs if part.number == 1 else outputs).append(source.text(part, MAX_NAME))
            if len(inputs) + len(outputs) > _MAX_INPUTS:
                raise source.fail(f"an operator has more than {_MAX_INPUTS} inputs and outputs")
        elif part.number in (3, 4):
            texts[part.number] = source.text(part, MAX_NAME)
        elif part.number == 5:
            attributes.append(part)
    kind = texts.get(4, "")
    transposed, epsilon, constant = False, None, None
    if kind in ("Gemm", "BatchNormalization", "Constant"):
        for name, attribute in _attributes(source, attributes):
            if name == "transB" and 3 in attribute:
                transposed = source.number(attribute[3]) == 1
            elif name == "epsilon" and 2 in attribute:
                epsilon = attribute[2].single_precision
            elif kind == "Constant" and name == "value" and 5 in attribute and outputs:
                constant = _tensor(source, attribute[5], outputs[0])
    node = Node(kind, texts.get(3, ""), tuple(inputs), tuple(outputs), transposed, epsilon)
    return node, constant


def _attributes(source: Source, places: list[Field]) -> Iterator[tuple[str, dict[int, Field]]]:
    for place in places:
        source.size_of(place)
        parts = source.single(place.start, place.end, many=(7, 8, 9, 10, 11, 23, 15))
        if 1 in parts:
            yield source.text(parts[1], MAX_NAME), parts


def _tensor(source: Source, place: Field, name: str | None = None) -> Tensor:
    sizes: list[int] = []
    values: dict[int, Field] = {}
    external: dict[str, str] = {}
    code = location = 0
    called = ""
    for part in source.inside(place):
        if part.number == 1:
            sizes += _numbers(source, part)
            if len(sizes) > 64:
                raise source.fail("a tensor has more than 64 dimensions")
        elif part.number == 2:
            code = source.number(part)
        elif part.number == 8:
            called = source.text(part, MAX_NAME)
        elif part.number == 13:
            key, value = _pair(source, part)
            if key in external or len(external) > 8:
                raise source.fail(f"a tensor has {spans.shown(key)} of its place twice")
            external[key] = value
        elif part.number == 14:
            location = source.number(part)
        elif part.number in (4, 5, 7, 9, 10, 11):
            if part.number in values:
                raise source.fail(f"the values of {spans.shown(called)} are there in pieces")
            values[part.number] = part
    called = called if name is None else name
    if not called or not called.isprintable():
        raise source.fail(f"a tensor is called {spans.shown(called)}")
    shape = spans.checked_shape(called, sizes, source.fail)
    return Tensor(called, code, shape, values, external if location == _EXTERNAL else None)


def _numbers(source: Source, part: Field) -> list[int]:
    """Of a repeated number, which may be packed."""
    if part.kind != BYTES:
        return [part.signed]
    found: list[int] = []
    position = part.start
    while position < part.end:
        value, position = source.varint(position, part.end)
        found.append(value - (1 << 64) if value >> 63 else value)
        if len(found) > 64:
            raise source.fail("a tensor has more than 64 dimensions")
    return found


def _pair(source: Source, part: Field) -> tuple[str, str]:
    source.size_of(part)
    pair = source.single(part.start, part.end)
    texts = [source.text(pair[n], MAX_NAME) if n in pair else "" for n in (1, 2)]
    return texts[0], texts[1]
