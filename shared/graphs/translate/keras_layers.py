"""Keras' stock layers as primitives, by their class, configuration and weights alone.

Exact where a trace is not: eps, momentum and factors are Python's own numbers. Nothing is traced
and Keras is not imported, so that it reads live layers on any backend and the layers of a file.
Source: the `call` of each class, keras 3.15 src/layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from shared.graphs.translate.emit import Emitter, Unknown, same_pads

EPSILON = 1e-7  # keras.config.epsilon(), the least deviation of a Normalization

Rule = Callable[["KerasLayers", "Layer", Sequence[int]], int]


class Layer(NamedTuple):
    """A layer: its class, where the user sees it, configuration and named weights."""

    kind: str
    where: str
    config: Mapping[str, Any]
    weights: Mapping[str, tuple[str, Any]]  # leaf -> (the user's name, array)


class KerasLayers(Emitter):
    """Appends layers to a graph."""

    def layer(self, layer: Layer, ins: Sequence[int]) -> int:
        """The id of a layer's output. Raises `Unknown` for one that is not in the table, or does
        what no primitive says.
        """
        rule = _RULES.get(layer.kind)
        if rule is None:
            raise Unknown(f"{layer.kind} {layer.where}")
        try:
            return rule(self, layer, ins)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise Unknown(f"{layer.kind} {layer.where}: {error}") from None

    def weight(self, layer: Layer, leaf: str) -> int:
        name, value = layer.weights[leaf]
        return self.graph.const(value, name=name, where=layer.where)

    def activation(self, layer: Layer, id: int) -> int:
        """By name; a function of the user's own is opaque."""
        function = layer.config.get("activation")
        if isinstance(function, Mapping):
            function = function.get("config")
        if function in (None, "linear"):
            return id
        if function in ("softmax", "log_softmax"):
            axis = len(self.sized(id)) - 1
            log = function == "log_softmax"
            return self.add("softmax", id, axis=axis, log=log, where=layer.where)
        if function in _ACTIVATIONS:
            return self.add("ew", id, op=_ACTIVATIONS[function], where=layer.where)
        return self.graph.opaque(str(function)[:80], [id], self.shape(id), where=layer.where)


_ACTIVATIONS = {
    **{name: name for name in ("relu", "relu6", "silu", "tanh", "softplus")},
    "sigmoid": "logistic",
    "swish": "silu",
}


def _layout(layer: Layer) -> str:
    first = layer.config.get("data_format") == "channels_first"
    return "NCHW" if first else "NHWC"


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)


def _pads(
    emit: KerasLayers,
    layer: Layer,
    id: int,
    window: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> Any:
    padding = layer.config.get("padding", "valid")
    if padding == "valid":
        return ((0, 0), (0, 0))
    if padding != "same":
        raise Unknown(f"padding {padding}")
    shape, layout = emit.sized(id), _layout(layer)
    sizes = [shape[layout.index(axis)] for axis in "HW"]
    return same_pads(sizes, window, strides, dilation)


def _conv(emit: KerasLayers, layer: Layer, ins: Sequence[int]) -> int:
    config, layout = layer.config, _layout(layer)
    window, strides = _pair(config["kernel_size"]), _pair(config["strides"])
    dilation = _pair(config.get("dilation_rate", 1))
    kernel, groups = emit.weight(layer, "kernel"), int(config.get("groups") or 1)
    if layer.kind == "DepthwiseConv2D":  # [h, w, channels, multiplier]
        height, width, groups, multiplier = emit.sized(kernel)
        shape = (height, width, 1, groups * multiplier)
        kernel = emit.reshape(kernel, shape, where=layer.where)
    bias = [emit.weight(layer, "bias")] if config.get("use_bias", True) else []
    y = emit.add(
        "conv",
        ins[0],
        kernel,
        *bias,
        strides=strides,
        pads=_pads(emit, layer, ins[0], window, strides, dilation),
        dilation=dilation,
        groups=groups,
        x=layout,
        w="HWIO",
        y=layout,
        where=layer.where,
    )
    return emit.activation(layer, y)


def _dense(emit: KerasLayers, layer: Layer, ins: Sequence[int]) -> int:
    last = len(emit.sized(ins[0])) - 1
    y = emit.add(
        "dot", ins[0], emit.weight(layer, "kernel"), lhs=(last,), rhs=(0,), where=layer.where
    )
    if layer.config.get("use_bias", True):
        y = emit.add("ew", y, emit.weight(layer, "bias"), op="add", where=layer.where)
    return emit.activation(layer, y)


def _batch_norm(emit: KerasLayers, layer: Layer, ins: Sequence[int]) -> int:
    config = layer.config
    leaves = {
        "gamma": bool(config.get("scale", True)),
        "beta": bool(config.get("center", True)),
        "moving_mean": True,
        "moving_variance": True,
    }
    return emit.add(
        "bn",
        ins[0],
        *(emit.weight(layer, leaf) for leaf, there in leaves.items() if there),
        slots=tuple(leaves.values()),
        eps=float(config.get("epsilon", 1e-3)),
        axis=_axis(emit, config, ins[0]),
        training=False,
        momentum=float(config.get("momentum", 0.99)),
        where=layer.where,
    )


def _axis(emit: KerasLayers, config: Mapping[str, Any], id: int) -> int:
    axis = config.get("axis", -1)
    if isinstance(axis, list | tuple):
        (axis,) = axis
    return int(axis) % len(emit.sized(id))


def _group_norm(emit: KerasLayers, layer: Layer, ins: Sequence[int]) -> int:
    config = layer.config
    axis = _axis(emit, config, ins[0])
    groups = int(config.get("groups", 32))
    leaves = {"gamma": config.get("scale", True), "beta": config.get("center", True)}
    return emit.add(
        "gn",
        ins[0],
        *(emit.weight(layer, leaf) for leaf, there in leaves.items() if there),
        slots=tuple(map(bool, leaves.values())),
        axis=axis,
        groups=emit.sized(ins[0])[axis] if groups == -1 else groups,
        eps=float(config.get("epsilon", 1e-3)),
        where=layer.where,
    )


def _pool(emit: KerasLayers, layer: Layer, ins: Sequence[int]) -> int:
    config = layer.config
    window = _pair(config.get("pool_size", 2))
    strides = _pair(config.get("strides") or window)
    common = {
        "layout": _layout(layer),
        "window": window,
        "strides": strides,
        "pads": _pads(emit, layer, ins[0], window, strides),
        "where": layer.where,
    }
    if layer.kind == "MaxPooling2D":
        return emit.add("maxpool", ins[0], dilation=(1, 1), **common)
    return emit.add("avgpool", ins[0], count_pad=False, divisor=None, **common)


def _global_pool(emit: KerasLayers, layer: Layer, ins: Sequence[int]) -> int:
    axes = (2, 3) if _layout(layer) == "NCHW" else (1, 2)
    op = "mean" if layer.kind == "GlobalAveragePooling2D" else "max"
    keepdims = bool(layer.config.get("keepdims", False))
    return emit.add("reduce", ins[0], op=op, axes=axes, keepdims=keepdims, where=layer.where)


def _border(emit: KerasLayers, layer: Layer, ins: Sequence[int]) -> int:
    """ZeroPadding2D and its opposite, Cropping2D."""
    given = layer.config["padding" if layer.kind == "ZeroPadding2D" else "cropping"]
    sign = 1 if layer.kind == "ZeroPadding2D" else -1
    rows, columns = (given, given) if isinstance(given, int) else given
    sides = [tuple(sign * n for n in _pair(side)) for side in (rows, columns)]
    front = [(0, 0), (0, 0)] if _layout(layer) == "NCHW" else [(0, 0)]
    pads = tuple((front + sides + [(0, 0)])[:4])
    return emit.add("pad", ins[0], pads=pads, value=0.0, mode="constant", where=layer.where)


def _merge(emit: KerasLayers, layer: Layer, ins: Sequence[int]) -> int:
    y = emit.fold_left(_MERGES[layer.kind], ins, where=layer.where)
    if layer.kind != "Average":
        return y
    return emit.add("ew", y, emit.graph.const(float(len(ins))), op="div", where=layer.where)


_MERGES = {
    "Add": "add",
    "Subtract": "sub",
    "Multiply": "mul",
    "Maximum": "max",
    "Minimum": "min",
    "Average": "add",
}


def _concat(emit: KerasLayers, layer: Layer, ins: Sequence[int]) -> int:
    return emit.add("concat", *ins, axis=_axis(emit, layer.config, ins[0]), where=layer.where)


def _relu(emit: KerasLayers, layer: Layer, ins: Sequence[int]) -> int:
    config = layer.config
    if config.get("threshold") or config.get("negative_slope"):
        slope = config.get("negative_slope")
        return emit.graph.opaque(
            f"ReLU(negative_slope={slope})", ins, emit.shape(ins[0]), where=layer.where
        )
    most = config.get("max_value")
    y = emit.add("ew", ins[0], op="relu", where=layer.where)
    if most is None:
        return y
    return emit.add("ew", y, emit.graph.const(float(most)), op="min", where=layer.where)


def _softmax(emit: KerasLayers, layer: Layer, ins: Sequence[int]) -> int:
    axis = _axis(emit, layer.config, ins[0])
    return emit.add("softmax", ins[0], axis=axis, log=False, where=layer.where)


def _rescaling(emit: KerasLayers, layer: Layer, ins: Sequence[int]) -> int:
    scale, offset = (np.asarray(layer.config.get(key, 0.0)) for key in ("scale", "offset"))
    y = emit.add("ew", ins[0], emit.graph.const(scale), op="mul", where=layer.where)
    return emit.add("ew", y, emit.graph.const(offset), op="add", where=layer.where)


def _normalization(emit: KerasLayers, layer: Layer, ins: Sequence[int]) -> int:
    """(x - mean) / max(deviation, epsilon), with statistics that were given or found."""
    if layer.config.get("invert"):
        raise Unknown("an inverted Normalization")
    axis, rank = _axis(emit, layer.config, ins[0]), len(emit.sized(ins[0]))
    found = []
    for leaf in ("mean", "variance"):
        if leaf in layer.weights:
            name, value = layer.weights[leaf]
        else:
            name, value = f"{layer.where}/{leaf}", layer.config[leaf]
        array = np.asarray(value)
        if array.size > 1:
            array = array.reshape([-1 if d == axis else 1 for d in range(rank)])
        found.append((name, array))
    (name, mean), (other, variance) = found
    deviation = np.maximum(np.sqrt(variance), EPSILON).astype(mean.dtype)
    place = {"where": layer.where}
    y = emit.add("ew", ins[0], emit.graph.const(mean, name, layer.where), op="sub", **place)
    return emit.add("ew", y, emit.graph.const(deviation, other, layer.where), op="div", **place)


def _flatten(emit: KerasLayers, layer: Layer, ins: Sequence[int]) -> int:
    if _layout(layer) == "NCHW" and len(emit.sized(ins[0])) == 4:
        raise Unknown("a channels-first Flatten, which transposes")
    count, *rest = emit.sized(ins[0])
    return emit.reshape(ins[0], (count, math.prod(rest)), where=layer.where)


def _reshape(emit: KerasLayers, layer: Layer, ins: Sequence[int]) -> int:
    target = layer.config["target_shape"]
    return emit.reshape(ins[0], (emit.sized(ins[0])[0], *target), where=layer.where)


def _permute(emit: KerasLayers, layer: Layer, ins: Sequence[int]) -> int:
    return emit.add("transpose", ins[0], perm=(0, *layer.config["dims"]), where=layer.where)


def _dropout(emit: KerasLayers, layer: Layer, ins: Sequence[int]) -> int:
    rate = float(layer.config.get("rate", 0.0))
    return emit.add("dropout", ins[0], rate=rate, where=layer.where)


def _nothing(emit: KerasLayers, layer: Layer, ins: Sequence[int]) -> int:
    """The identity, and what only training does."""
    return emit.add("ew", ins[0], op="identity", where=layer.where)


_RULES: dict[str, Rule] = {
    "Activation": lambda emit, layer, ins: emit.activation(layer, ins[0]),
    "AveragePooling2D": _pool,
    "BatchNormalization": _batch_norm,
    "Concatenate": _concat,
    "Conv2D": _conv,
    "Cropping2D": _border,
    "Dense": _dense,
    "DepthwiseConv2D": _conv,
    "Flatten": _flatten,
    "GlobalAveragePooling2D": _global_pool,
    "GlobalMaxPooling2D": _global_pool,
    "GroupNormalization": _group_norm,
    "MaxPooling2D": _pool,
    "Normalization": _normalization,
    "Permute": _permute,
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "Reshape": _reshape,
    "Softmax": _softmax,
    "ZeroPadding2D": _border,
    **dict.fromkeys(_MERGES, _merge),
    **dict.fromkeys(("Dropout", "SpatialDropout2D", "GaussianDropout", "AlphaDropout"), _dropout),
    **dict.fromkeys(("Identity", "GaussianNoise", "ActivityRegularization"), _nothing),
    **dict.fromkeys(
        (f"Random{what}" for what in ("Brightness", "Contrast", "Flip", "Rotation", "Zoom")),
        _nothing,
    ),
    "RandomTranslation": _nothing,
}
