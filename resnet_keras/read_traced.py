"""What Keras' backend traces of a model: a ConcreteFunction of TensorFlow, a jaxpr of JAX, an
exported program of PyTorch. TensorFlow's own functions and modules are read here as well.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from shared.errors import FrameworkError
from shared.graphs.files.messages import of_bytes
from shared.graphs.files.tensorflow_messages import GRAPH, functions
from shared.graphs.primitives import BATCH, Array, RawGraph
from shared.graphs.translate import choices
from shared.graphs.translate.tensorflow import GraphReader


def no_gradients() -> contextlib.AbstractContextManager[Any]:
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()


def read_layer(
    layer: Any,
    size: int,
    layout: str,
    channels: int,
    read_program: Callable[..., RawGraph] | None = None,
) -> RawGraph:
    """A Keras model or layer, traced by the backend."""
    backend = keras.backend.backend()
    shape = [{"N": BATCH, "C": channels}.get(axis, size) for axis in layout]
    if backend == "tensorflow":
        return _keras_tensorflow(layer, size, layout, shape)
    if backend == "jax":
        return _keras_jax(layer, size, layout, shape)
    if backend == "torch" and read_program is not None:
        return _keras_torch(layer, size, layout, shape, read_program)
    needed = "resnet_torch.read" if backend == "torch" else "another backend"
    raise FrameworkError(f"Keras' backend {backend} cannot trace a model here: it needs {needed}")


# TensorFlow.


def is_tensorflow(model: Any) -> bool:
    """A `tf.Module`, a `tf.function` or one of its concrete functions."""
    if "tensorflow" not in sys.modules:
        return False
    import tensorflow as tf

    return isinstance(model, tf.Module | tf.types.experimental.Callable)


def read_tensorflow(model: Any, image_size: int | None) -> RawGraph:
    """A module by its `__call__`, a function as it is; images are NHWC, or else NCHW."""
    import tensorflow as tf

    if isinstance(model, tf.types.experimental.ConcreteFunction):
        own = next((t.shape for t in model.inputs if t.dtype.is_floating), None)
        size = image_size or (own is not None and own.rank == 4 and own[2]) or choices.LARGE
        layout = "NCHW" if own is not None and own.rank == 4 and own[1] in (1, 3) else "NHWC"
        channels = (own[layout.index("C")] if own is not None and own.rank == 4 else None) or 3
        shape = [{"N": BATCH, "C": channels}.get(axis, size) for axis in layout]
        return _concrete(model, size, layout, shape)
    function = model if callable(model) else None
    if function is None:
        raise FrameworkError(f"{type(model).__name__} has no __call__ that images go through")
    first: Exception | None = None
    for channels in (3, 1):
        for layout in ("NHWC", "NCHW"):
            try:
                graph = _traced_call(function, image_size or choices.LARGE, layout, channels)
            except Exception as error:  # noqa: BLE001 - the user's own code may raise anything
                first = first or error
                continue
            if image_size is None and choices.is_for_small_images(graph):
                graph = _traced_call(function, choices.SMALL, layout, channels)
            return graph
    raise first or AssertionError("nothing was tried")


def _traced_call(function: Any, size: int, layout: str, channels: int) -> RawGraph:
    import inspect

    import tensorflow as tf

    plain = getattr(function, "python_function", None) or function.__call__
    said = choices.evaluation_arguments(list(inspect.signature(plain).parameters))
    shape = [{"N": BATCH, "C": channels}.get(axis, size) for axis in layout]
    traced = tf.function(lambda images: function(images, **said), autograph=False)
    return _concrete(
        traced.get_concrete_function(tf.TensorSpec(shape, "float32")), size, layout, shape
    )


def _keras_tensorflow(layer: Any, size: int, layout: str, shape: list[int]) -> RawGraph:
    import tensorflow as tf

    dtype = "float64" if layer.compute_dtype == "float64" else "float32"
    traced = tf.function(lambda images: layer(images, training=False), autograph=False)
    concrete = traced.get_concrete_function(tf.TensorSpec(shape, dtype))
    paths = {id(variable.value.handle): variable.path for variable in layer.variables}
    graph = _concrete(concrete, size, layout, shape, paths)
    graph.source = "keras"
    return graph


def _concrete(
    function: Any, size: int, layout: str, shape: list[int], paths: Mapping[int, str] | None = None
) -> RawGraph:
    """A ConcreteFunction: its graph, with the variables that it has captured.

    `paths` are Keras' names of variables, by the ids of their handles.
    """
    graph = RawGraph("tensorflow", size, layout)
    definition = of_bytes(function.graph.as_graph_def().SerializeToString(), GRAPH)
    held = {id(v.handle): v for v in function.graph.variables}
    names = {key: str(v.name).removesuffix(":0") for key, v in held.items()} | dict(paths or {})
    values: dict[str, list[int]] = {}
    for outer, inner in function.graph.captures:
        key = _node(inner)
        if id(outer) in held:
            name, value = names[id(outer)], held[id(outer)].numpy()
            values[key] = [graph.const(value, name, name.rpartition("/")[0])]
        elif hasattr(outer, "numpy") and outer.dtype.is_floating | outer.dtype.is_integer:
            values[key] = [graph.const(outer.numpy())]
    images = [t for t in function.inputs if _node(t) not in values and t.dtype.is_floating]
    if not images:
        raise FrameworkError("the function has no argument for images")
    values[_node(images[0])] = [graph.input(shape, _node(images[0]))]
    for tensor in function.inputs:
        if _node(tensor) not in values:
            values[_node(tensor)] = [graph.opaque("argument", [], None, where=_node(tensor))]
    reader = GraphReader(graph, functions(definition))
    outs = reader.run(definition.node, values, [tensor.name for tensor in function.outputs])
    outputs = _output_names(function)
    k = choices.choose_output(outputs, [reader.shape(id) for id in outs], graph)
    graph.outputs = [outs[k], *(out for j, out in enumerate(outs) if j != k)]
    wide = images[0].dtype.name == "float64"
    graph.dtype = choices.computed_in(graph, "float64" if wide else "float32")

    def run(found: Array) -> Array:
        import tensorflow as tf

        order = ["NHWC".index(axis) for axis in layout]
        given = tf.constant(np.transpose(found, order), images[0].dtype)
        return np.asarray(tf.nest.flatten(function(given))[k])

    graph.run = run
    return graph


def _node(tensor: Any) -> str:
    return str(tensor.name).partition(":")[0]


def _output_names(function: Any) -> list[str]:
    """By the keys of the structure that is returned."""
    paths = keras.tree.flatten_with_path(function.structured_outputs)
    names = ["/".join(map(str, path)) for path, _ in paths]
    count = len(function.outputs)
    return names if len(names) == count else [str(k) for k in range(count)]


# JAX.


def _keras_jax(layer: Any, size: int, layout: str, shape: list[int]) -> RawGraph:
    from shared.graphs.translate.jax_function import read_function

    channels = shape[layout.index("C")]
    if not layer.built:
        layer(np.zeros(shape, np.float32), training=False)
    variables = [*layer.trainable_variables, *layer.non_trainable_variables]
    split = len(layer.trainable_variables)
    paths = [variable.path for variable in variables]

    def call(values: Any, images: Any) -> Any:
        outputs, _ = layer.stateless_call(values[:split], values[split:], images, training=False)
        return outputs

    graph = read_function(
        call,
        [variable.value for variable in variables],
        size,
        layouts=(layout,),
        channels=(channels,),
        name=lambda path: paths[int(path)],
        x64=layer.compute_dtype == "float64",
    )
    graph.source = "keras"
    return graph


# PyTorch.


def _keras_torch(
    layer: Any, size: int, layout: str, shape: list[int], read_program: Callable[..., RawGraph]
) -> RawGraph:
    """The exported program of the layer, which PyTorch's own reader reads.

    That gives images channels first; a model that wants them last sees them transposed.
    """
    import torch

    last = layout == "NHWC"

    class Evaluated(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, images: Any) -> Any:
            return self.layer(images.permute(0, 2, 3, 1) if last else images, training=False)

    module = Evaluated()
    images = torch.zeros([shape[layout.index(axis)] for axis in "NCHW"])
    if not layer.built:
        module(images)
    with torch.no_grad():
        program = torch.export.export(module, (images,), strict=False)
    graph = read_program(program, size)
    graph.source = "keras"
    # PyTorch sees variables of Keras as parameters, or else as tensors that it lifts out.
    paths = {variable.value.data_ptr(): variable.path for variable in layer.variables}
    every = {**program.state_dict, **program.constants}
    names = {
        name: paths[tensor.data_ptr()]
        for name, tensor in every.items()
        if isinstance(tensor, torch.Tensor) and tensor.data_ptr() in paths
    }
    for node in graph.nodes:
        # The one module that PyTorch sees says nothing; a parameter's path says where it is.
        node.where = node.line = ""
        if node.name in names:
            node.name = names[node.name]
            node.where = node.name.rpartition("/")[0]
    return graph
