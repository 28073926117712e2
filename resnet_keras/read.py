"""Anybody's Keras 3 or TensorFlow model as a graph.

A Keras model that is a graph of stock layers (functional, sequential, nested) is read layer by
layer, on any backend and without tracing: its numbers are Python's own. Every other one is traced
by its backend (`resnet_keras.read_traced`). Nothing of the user's model is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from resnet_keras import read_traced
from shared.errors import FrameworkError
from shared.graphs.primitives import BATCH, Array, RawGraph
from shared.graphs.translate import choices
from shared.graphs.translate.emit import Unknown
from shared.graphs.translate.keras_layers import KerasLayers, Layer

_LEAVES = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
# Operations of `keras.ops`, as `x + y` makes them in a functional model.
_OPERATIONS = {
    **{"Add": "add", "Subtract": "sub", "Multiply": "mul", "TrueDivide": "div", "Divide": "div"},
    **{"Maximum": "max", "Minimum": "min", "Relu": "relu", "Relu6": "relu6", "Silu": "silu"},
    **{"Sigmoid": "logistic", "Tanh": "tanh", "Sqrt": "sqrt", "Square": "square"},
}

_REDUCTIONS = {"Max": "max", "Mean": "mean", "Min": "min", "Sum": "sum"}


def read_graph(
    model: Any,
    image_size: int | None = None,
    *,
    traced: bool = False,
    read_program: Callable[..., RawGraph] | None = None,
) -> RawGraph:
    """The graph of a `keras.Model` or layer, a `tf.Module`, a `tf.function` or a ConcreteFunction,
    in evaluation mode.

    `read_program` is `resnet_torch.read.read_graph`, which the PyTorch backend needs to trace: one
    framework's package does not import another's.
    `traced`: by the backend, whatever the layers are. Without an `image_size` it is the model's
    own; 224 where it has none, or 32 where the first convolution has stride 1. Raises
    `FrameworkError` for what is none of these, and whatever the model raises when it is traced.
    """
    if not isinstance(model, keras.Layer):
        if read_traced.is_tensorflow(model):
            return read_traced.read_tensorflow(model, image_size)
        raise FrameworkError(
            f"expected a keras.Model, a tf.Module or a tf.function, found {type(model).__name__}"
        )
    if not traced and _is_graph(model):
        try:
            return _sized(model, image_size, _by_layers)
        except Unknown:
            pass  # a layer of another kind: the backend knows what it computes
    return _sized(model, image_size, partial(read_traced.read_layer, read_program=read_program))


def _sized(model: Any, image_size: int | None, read: Any) -> RawGraph:
    first: Exception | None = None
    for layout, channels, own in _inputs(model):
        try:
            graph = read(model, image_size or own or choices.LARGE, layout, channels)
        except Unknown:
            raise
        except Exception as error:  # noqa: BLE001 - the user's own code may raise anything
            first = first or error
            continue
        if not image_size and not own and choices.is_for_small_images(graph):
            graph = read(model, choices.SMALL, layout, channels)
        return graph
    raise first or FrameworkError("a model without inputs")


def _inputs(model: Any) -> list[tuple[str, int, int | None]]:
    """Layout, channels and size of the images, as far as the model says; else what to try."""
    shape = None
    if isinstance(model, keras.Model) and getattr(model, "inputs", None):
        shape = tuple(model.inputs[0].shape)
    if shape is None or len(shape) != 4:
        known = "NHWC" if keras.config.image_data_format() == "channels_last" else "NCHW"
        return [(known, channels, None) for channels in (3, 1)]
    first = shape[1] in (1, 3, 4) and shape[3] not in (1, 3, 4)
    layout = "NCHW" if first else "NHWC"
    return [(layout, shape[layout.index("C")] or 3, shape[layout.index("H")])]


def _is_graph(model: Any) -> bool:
    """Whether calling the model is running its layers, in the order that Keras knows."""
    from keras.src.models.functional import Functional

    known = (Functional.call, keras.Sequential.call)
    return isinstance(model, Functional | keras.Sequential) and type(model).call in known


def _by_layers(model: Any, size: int, layout: str, channels: int) -> RawGraph:
    graph = RawGraph("keras", size, layout)
    shape = [{"N": BATCH, "C": channels}.get(axis, size) for axis in layout]
    walk = _Walk(graph)
    outs = walk.model(model, [graph.input(shape)], "")
    names = list(getattr(model, "output_names", ())) or [str(k) for k in range(len(outs))]
    shapes = [walk.shape(id) for id in outs]
    k = choices.choose_output(names, shapes, graph)
    graph.outputs = [outs[k], *(out for j, out in enumerate(outs) if j != k)]
    graph.dtype = _dtype(model)
    graph.run = _runner(model, layout, k)
    return graph


def _dtype(model: Any) -> str:
    """The narrowest that a layer computes in."""
    found = {layer.compute_dtype for layer in model._flatten_layers()}
    order = ("bfloat16", "float16", "float32", "float64")
    return next((dtype for dtype in order if dtype in found), "float32")


def _runner(model: Any, layout: str, output: int) -> Any:
    def run(images: Array) -> Array:
        order = ["NHWC".index(axis) for axis in layout]
        dtype = "float64" if model.compute_dtype == "float64" else "float32"
        with read_traced.no_gradients():
            result = model(np.transpose(images, order).astype(dtype), training=False)
        return np.asarray(keras.ops.convert_to_numpy(keras.tree.flatten(result)[output]))

    return run


class _Walk(KerasLayers):
    """The layers of live models, in the order in which they run."""

    def model(self, model: Any, ins: Sequence[int], prefix: str) -> list[int]:
        if isinstance(model, keras.Sequential):
            if model._functional is None:
                raise Unknown(f"{model.name}, which is not built yet")
            model = model._functional
        values = {id(tensor): i for tensor, i in zip(model.inputs, ins, strict=True)}
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if node.operation and not node.is_input:
                    outs = self._node(node, values, prefix)
                    pairs = zip(node.outputs, outs, strict=True)
                    values.update({id(tensor): out for tensor, out in pairs})
        return [values[id(tensor)] for tensor in model.outputs]

    def _node(self, node: Any, values: Mapping[int, int], prefix: str) -> list[int]:
        layer, arguments = node.operation, node.arguments
        # `training=True` in the graph itself is overruled by the call's own `training=False`.
        where = prefix + layer.name
        if not isinstance(layer, keras.Layer):
            return [self._operation(layer, arguments, values, where)]
        ins = [values[id(tensor)] for tensor in arguments.keras_tensors]
        if _is_graph(layer):
            return self.model(layer, ins, f"{where}/")
        if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
            raise Unknown(f"{layer.name}, whose weights are not all that it computes with")
        if not type(layer).__module__.startswith("keras.src.layers."):
            raise Unknown(f"{type(layer).__name__} {layer.name}")  # it may do anything
        kind, config = type(layer).__name__, layer.get_config()
        return [self.layer(Layer(kind, where, config, _weights(layer, where)), ins)]

    def _operation(
        self, operation: Any, arguments: Any, values: Mapping[int, int], where: str
    ) -> int:
        """A function of `keras.ops` of tensors and numbers."""
        kind, module = type(operation).__name__, type(operation).__module__
        said = {name: value for name, value in arguments.kwargs.items() if value is not None}
        fill = float(said.pop("constant_values", 0.0)) if kind == "Pad" else 0.0
        if not module.startswith("keras.src.ops.") or said:
            raise Unknown(f"{kind} {where}")
        if kind == "Pad" or kind in _REDUCTIONS:
            (given,) = arguments.args[:1]
            if id(given) not in values or any(value is not None for value in arguments.args[1:]):
                raise Unknown(f"{kind} {where}")
            return self._of_axes(operation, values[id(given)], fill, where)
        if kind not in _OPERATIONS:
            raise Unknown(f"{kind} {where}")
        ins = [
            values[id(given)] if id(given) in values else self.graph.const(_number(given))
            for given in arguments.args
        ]
        return self.add("ew", *ins, op=_OPERATIONS[kind], where=where)

    def _of_axes(self, operation: Any, id: int, fill: float, where: str) -> int:
        """What has its axes as attributes."""
        rank, kind = len(self.sized(id)), type(operation).__name__
        if kind in _REDUCTIONS:
            axes = range(rank) if operation.axis is None else operation.axis
            found = tuple(int(d) % rank for d in ([axes] if isinstance(axes, int) else axes))
            keep = bool(operation.keepdims)
            return self.add(
                "reduce", id, op=_REDUCTIONS[kind], axes=found, keepdims=keep, where=where
            )
        pads = [tuple(map(int, sides)) for sides in operation.pad_width]
        pads = pads * rank if len(pads) == 1 else pads
        return self.add("pad", id, pads=tuple(pads), value=fill, mode=operation.mode, where=where)


def _number(value: Any) -> Array:
    if isinstance(value, int | float):
        return np.asarray(value)
    if keras.ops.is_tensor(value) or isinstance(value, np.ndarray | np.generic):
        return np.asarray(keras.ops.convert_to_numpy(value))
    raise Unknown(f"an argument of the type {type(value).__name__}")


def _weights(layer: Any, where: str) -> dict[str, tuple[str, Array]]:
    """The weights of a stock layer, by what Keras calls them."""
    found = {}
    for leaf in _LEAVES:
        variable = getattr(layer, leaf, None)
        if variable is not None:
            name = getattr(variable, "path", f"{where}/{leaf}")
            found[leaf] = (name, _array(variable))
    if type(layer).__name__ == "Normalization":
        for leaf in ("mean", "variance"):
            found[leaf] = (f"{where}/{leaf}", _array(getattr(layer, leaf)))
    return found


def _array(variable: Any) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(variable))
