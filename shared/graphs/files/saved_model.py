"""SavedModels and frozen graphs of TensorFlow, without TensorFlow.

Loading a SavedModel in TensorFlow runs what its author put there. Here its messages are read: the
graph of the function that serves, and the variables that it captures, from the checkpoint beside
it. Source: tensorflow/python/saved_model/{load,save}.py (2.21).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from shared.errors import CheckpointError, shown
from shared.formats.containers import spans
from shared.formats.containers.archive import Entry
from shared.formats.containers.protobuf import Source
from shared.formats.containers.tensorflow.checkpoint import read_by_key
from shared.graphs.files import in_numpy
from shared.graphs.files.messages import Record, numbers, of_bytes, parse
from shared.graphs.files.tensorflow_messages import (
    GRAPH,
    SAVED_MODEL,
    TRACKABLE_GRAPH,
    array,
    functions,
)
from shared.graphs.primitives import BATCH, RawGraph
from shared.graphs.translate import choices
from shared.graphs.translate.tensorflow import GraphReader, placeholder, read_frozen

PROGRAM = "saved_model.pb"
_INDEX = Path("variables", "variables.index")
_FIRST = ("serving_default", "serve", "__call__", "call")  # functions, in the order of preference
_VARIABLES = ("VarHandleOp", "VariableV2", "Variable")
_CHANNELS = (1, 3, 4)

Sizes = list[int]  # of the images, -1: any; empty: unknown


def read_graph(path: Path | str, image_size: int | None = None) -> RawGraph:
    """The graph of a SavedModel's folder (or its `saved_model.pb`) or of a frozen graph (`.pb`).

    Of a SavedModel it is the function that serves by default. Without an `image_size` it is the
    file's own; 224 where it has none, or 32 where the first convolution has stride 1. Raises
    `CheckpointError`.
    """
    path = Path(path)
    program = path / PROGRAM if path.is_dir() else path
    spans.file_size(program)
    saved = program.name == PROGRAM
    fail = spans.failing(program, "a SavedModel" if saved else "a graph of TensorFlow")
    try:
        with program.open("rb") as file:
            source = Source(file, fail)
            model = _SavedModel(source, program.parent) if saved else _Frozen(source)
            graph = _sized(model, image_size)
    except OSError as error:
        raise spans.cannot_read(program, error) from None
    except CheckpointError as error:
        text = str(error)
        raise error if text.startswith(str(program.parent)) else fail(text) from None
    return in_numpy.computed(graph, partial(read_graph, path))


def _sized(model: _SavedModel | _Frozen, image_size: int | None) -> RawGraph:
    sizes = model.sizes
    first = len(sizes) == 4 and sizes[1] in _CHANNELS and sizes[3] not in _CHANNELS
    layout = "NCHW" if first else "NHWC"
    announced = dict(zip(layout, sizes, strict=False)) if len(sizes) == 4 else {}
    channels = max(announced.get("C", 3), 0) or 3

    def read(size: int) -> RawGraph:
        shape = [{"N": BATCH, "C": channels}.get(axis, size) for axis in layout]
        graph = RawGraph("tensorflow", size, layout)
        model.read(graph, shape)
        return graph

    own = max(announced.get("H", 0), 0)
    graph = read(image_size or own or choices.LARGE)
    if not image_size and not own and choices.is_for_small_images(graph):
        graph = read(choices.SMALL)
    return graph


class _Frozen:
    """A GraphDef whose weights are constants."""

    def __init__(self, source: Source):
        self._definition = parse(source, GRAPH)
        self._images, self.sizes = placeholder(self._definition)

    def read(self, graph: RawGraph, shape: list[int]) -> None:
        read_frozen(self._definition, graph, self._images, shape)


class _SavedModel:
    """The function of a SavedModel that serves, and the variables that it captures."""

    def __init__(self, source: Source, folder: Path):
        graphs = parse(source, SAVED_MODEL).meta_graphs
        served = [graph for graph in graphs if graph.signature_def] or graphs
        if not served or served[0].graph_def is None:
            raise CheckpointError("it has no graph")
        self._graph = served[0]
        self._library = functions(self._graph.graph_def)
        self._entries, self._owners = _variables(folder)
        signatures = self._graph.signature_def
        name = "serving_default" if "serving_default" in signatures else next(iter(signatures), "")
        self._signature = signatures.get(name)
        self.sizes = _sizes(self._signature)
        self._function = next(self._candidates(), "")
        objects = self._graph.object_graph
        nodes = objects.nodes if objects else []
        self._paths = _paths(nodes) if nodes else {}
        bound = [_node(nodes, k) for k in self._bound()]
        self._names = Counter(node.variable.name for node in bound if node.variable)

    def read(self, graph: RawGraph, shape: list[int]) -> None:
        reader = GraphReader(graph, self._library)
        if self._function:
            self._by_function(reader, graph, shape)
        elif self._signature is not None:
            self._by_signature(reader, graph, shape)
        else:
            raise CheckpointError("it has no function and no signature that images go through")

    # Since TensorFlow 2: objects, some of which are functions.

    def _candidates(self) -> Iterator[str]:
        """The concrete functions of the outermost objects, the one that serves first."""
        objects = self._graph.object_graph
        if objects is None or not objects.nodes:
            return
        nodes = objects.nodes
        found: dict[str, list[str]] = {}
        for child in nodes[0].children:
            inner = _node(nodes, child.node_id)
            for name, node in (
                [(c.local_name, _node(nodes, c.node_id)) for c in inner.children]
                if child.local_name == "signatures"
                else [(child.local_name, inner)]
            ):
                bare = node.bare_concrete_function
                names = [bare.concrete_function_name] if bare else []
                names += node.function.concrete_functions if node.function else []
                found.setdefault(name, []).extend(names)
        for name in [*_FIRST, *(name for name in found if name not in _FIRST)]:
            yield from (f for f in found.get(name, []) if f in self._library)

    def _by_function(self, reader: GraphReader, graph: RawGraph, shape: list[int]) -> None:
        arguments = reader.definition(self._function).signature.input_arg
        bound = self._bound()
        free = len(arguments) - len(bound)
        if free < 1:
            raise CheckpointError(f"its function {shown(self._function)} takes no images")
        args = [graph.input(shape, arguments[0].name)]
        args += [
            graph.opaque("argument", [], None, where=argument.name)
            for argument in arguments[1:free]
        ]
        args += [self._captured(graph, k) for k in bound]
        _finish(reader, graph, reader.function(self._function, args))

    def _bound(self) -> list[int]:
        """The objects that the function captures, as its last arguments."""
        objects = self._graph.object_graph
        concrete = objects.functions.get(self._function) if objects else None
        return numbers(concrete.bound_inputs, np.int64).tolist() if concrete else []

    def _captured(self, graph: RawGraph, k: int) -> int:
        """What a function has captured: a variable by its name, or a constant."""
        node = _node(self._graph.object_graph.nodes, k)
        if node.variable is not None:
            name, path = node.variable.name.removesuffix(":0"), self._paths.get(k, "")
            key = self._owners.get(path, name)
            if self._names[node.variable.name] > 1:  # layers of a subclassed Keras model
                name = path.removeprefix("/").replace("/_", "/")
            return self._variable(graph, name, key)
        if node.constant is not None:
            for constant in self._graph.graph_def.node:
                if constant.name == node.constant.operation and "value" in constant.attr:
                    value = array(constant.attr["value"].tensor)
                    if value is not None:
                        return graph.const(value)
        return graph.opaque("captured object", [], None)

    def _variable(self, graph: RawGraph, name: str, key: str) -> int:
        if key not in self._entries:
            raise CheckpointError(f"its variable {shown(name)} is not in the checkpoint beside it")
        return graph.const(self._entries[key].load(), name, name.rpartition("/")[0])

    # Before TensorFlow 2: one graph, whose variables are nodes.

    def _by_signature(self, reader: GraphReader, graph: RawGraph, shape: list[int]) -> None:
        nodes = self._graph.graph_def.node
        inputs = [info.name.partition(":")[0] for info in self._signature.inputs.values()]
        if not inputs:
            raise CheckpointError("its signature takes no images")
        values = {inputs[0]: [graph.input(shape, inputs[0])]}
        for node in nodes:
            if node.op in _VARIABLES and (node.name in self._entries):
                values[node.name] = [self._variable(graph, node.name, node.name)]
        outputs = self._signature.outputs
        outs = reader.run(nodes, values, [info.name for info in outputs.values()])
        _finish(reader, graph, dict(zip(outputs, outs, strict=True)))


def _finish(reader: GraphReader, graph: RawGraph, outputs: dict[str, int]) -> None:
    if not outputs:
        raise CheckpointError("its function returns nothing")
    ids = list(outputs.values())
    k = choices.choose_output(list(outputs), [reader.shape(id) for id in ids], graph)
    graph.outputs = [ids[k], *(id for j, id in enumerate(ids) if j != k)]


def _sizes(signature: Record | None) -> Sizes:
    for info in signature.inputs.values() if signature else ():
        if info.tensor_shape and len(info.tensor_shape.dim) == 4:
            return [dim.size for dim in info.tensor_shape.dim]
    return []


def _node(nodes: list[Record], k: int) -> Record:
    if not 0 <= k < len(nodes):
        raise CheckpointError(f"an object refers to the object {k}, of {len(nodes)}")
    return nodes[k]


def _paths(nodes: list[Record]) -> dict[int, str]:
    """The shortest way from the outermost object to each, by attributes' names."""
    found, waiting = {0: ""}, [0]
    for k in waiting:
        for child in _node(nodes, k).children:
            if child.node_id not in found:
                _node(nodes, child.node_id)
                found[child.node_id] = f"{found[k]}/{child.local_name}"
                waiting.append(child.node_id)
    return found


def _variables(folder: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """The checkpoint's tensors by key, and the key of each object by the way to it."""
    index = folder / _INDEX
    if not index.is_file():
        return {}, {}
    entries, text = read_by_key(index)
    if text is None:
        return entries, {}
    nodes = of_bytes(text, TRACKABLE_GRAPH).nodes
    keys = {
        k: attribute.checkpoint_key for k, node in enumerate(nodes) for attribute in node.attributes
    }
    return entries, {
        path: keys[k] for k, path in _paths(nodes).items() if k in keys
    } if nodes else {}
