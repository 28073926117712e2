"""A Keras configuration as a graph of values: what each layer computes, with equal values as one.

A padding layer is part of the convolution or the pool that reads it, and dropout, which does
nothing at inference, is none of the graph's. Layers and settings that no `ResNetSpec` has are
refused with the key, the layer and the value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from shared.errors import CheckpointError
from shared.formats.configuration.keras_layers import INPUT, Layer, Layers, prepares
from shared.formats.containers.spans import shown

Facts = Mapping[str, Any]

SYMMETRIC, SAME, ZERO = "symmetric", "same", "zero"
CHANNEL_AXES = {"channels_last": (-1, 3), "channels_first": (1, -3)}
_MAX_SIZE = 1 << 20  # of anything that is counted


class Step(NamedTuple):
    """What a layer does: `family(sources)`, with its settings under Keras' names."""

    family: str
    facts: Facts
    sources: tuple[int, ...]
    layer: Layer | None


class Network:
    """The values of a network, numbered; what is computed twice alike has one number."""

    def __init__(self, layers: Layers, *, part: bool = False):
        """`part`: of something bigger, whose other layers may be any."""
        self.part = part
        self.preparation: list[Layer] = []  # what stands between the file's images and the network
        self.steps: list[Step] = [Step("input", {}, (), None)]
        self.weighted: dict[str, int] = {}  # by the layer's name
        self.plain: dict[tuple[str, tuple[int, ...]], list[int]] = {}  # by family and sources
        self.dropout: list[str] = []  # names of layers
        self.head_activation: str | None = None
        self._formats: set[str] = set()
        self._axes: list[tuple[Layer, int]] = []
        numbers = {INPUT: 0}
        for key in _in_order(layers, [*layers.table] if part else []):
            layer = layers.table[key]
            sources = tuple(numbers[name] for name in layer.inputs)
            try:
                numbers[key] = self._read(layer, sources)
            except CheckpointError:
                if not part:
                    raise
                numbers[key] = self._other(layer, sources)
        self.output = numbers[layers.output]
        if self.steps[self.output].family == "softmax":
            self.head_activation, self.output = "softmax", self.steps[self.output].sources[0]
        self._check_axes()
        self.input_shape = self._image_shape(layers.input_shape)

    def title(self, number: int) -> str:
        """What messages call a value: the layer that computes it."""
        layer = self.steps[number].layer
        return layer.name if layer else "the images"

    def add(self, family: str, facts: Facts, sources: tuple[int, ...], layer: Layer) -> int:
        """The number of the value of a layer without weights."""
        sources = tuple(sorted(sources))
        known = self.plain.setdefault((family, sources), [])
        for number in known:
            if self.steps[number].facts == facts:
                return number
        self.steps.append(Step(family, facts, sources, layer))
        known.append(len(self.steps) - 1)
        return known[-1]

    def _other(self, layer: Layer, sources: tuple[int, ...]) -> int:
        """The number of the value of a layer that no network here has."""
        self.steps.append(Step("other", {"class_name": layer.kind}, sources, layer))
        return len(self.steps) - 1

    def _read(self, layer: Layer, sources: tuple[int, ...]) -> int:
        addition = layer.kind == "Add" and len(sources) == 2  # of the images to themselves
        if set(sources) == {0} and prepares(layer.kind) and not addition:
            self.preparation.append(layer)
            return 0
        reader = _READERS.get(layer.kind)
        if reader is None:
            instead = "no ResNet here has such a layer"
            if sources == (0,):
                instead += "; if it prepares the images, save the model that follows it"
            raise layer.refused("class_name", layer.kind, instead)
        if len(sources) != (2 if layer.kind == "Add" else 1):
            raise layer.refused("inputs", len(sources), "an addition has 2, any other layer 1")
        if "data_format" in layer.config:
            data_format = layer.config["data_format"]
            if data_format not in tuple(CHANNEL_AXES):  # which need not be hashable
                raise layer.refused("data_format", data_format, f"known are {_all(CHANNEL_AXES)}")
            self._formats.add(data_format)
        return reader(self, layer, sources)

    def _check_axes(self) -> None:
        if len(self._formats) > 1:
            raise CheckpointError("its layers have both data formats, channels_first and _last")
        allowed = CHANNEL_AXES[next(iter(self._formats), "channels_last")]
        for layer, axis in self._axes:
            if axis not in allowed:
                raise layer.refused("axis", axis, f"the channels are axis {allowed[0]}")

    def _image_shape(self, shape: tuple[int | None, ...] | None) -> tuple[int | None, ...] | None:
        """(height, width, channels), as far as they are fixed."""
        sized = ("Resizing", "CenterCrop", "RandomCrop")
        if any(layer.kind in sized for layer in self.preparation):
            return None
        if shape is None or len(shape) != 3:
            return None
        return (*shape[1:], shape[0]) if self._formats == {"channels_first"} else shape

    # What the layers are.

    def weights(self, family: str, facts: Facts, source: int, layer: Layer) -> int:
        """The number of the value of a layer with weights."""
        if layer.name in self.weighted:
            raise CheckpointError(
                f"it has two layers with weights that are called {shown(layer.name)}"
            )
        self.steps.append(Step(family, facts, (source,), layer))
        self.weighted[layer.name] = len(self.steps) - 1
        return len(self.steps) - 1

    def unpadded(self, layer: Layer, source: int) -> tuple[int, Any]:
        """The value that a convolution or a pool reads and its padding: `same`, or the pixels at
        the four sides."""
        padding = layer.config.get("padding", "valid")
        if padding not in ("valid", "same"):
            raise layer.refused("padding", padding, "known are valid and same")
        if padding == "same":
            return source, SAME
        step = self.steps[source]
        if step.family == "pad":
            return step.sources[0], step.facts["padding"]
        return source, ((0, 0), (0, 0))

    def see_axis(self, layer: Layer) -> None:
        axis = layer.config.get("axis", -1)
        if isinstance(axis, list) and len(axis) == 1:
            axis = axis[0]
        if type(axis) is not int:
            raise layer.refused("axis", axis, "expected a number")
        self._axes.append((layer, axis))

    def activated(self, layer: Layer, value: int, key: str = "activation") -> int:
        """The value behind a layer's activation function."""
        name = activation_name(layer, key)
        if name == "linear":
            return value
        if name not in ("relu", "softmax"):
            raise layer.refused(key, name, "networks with relu are read")
        return self.add(name, {}, (value,), layer)


def _in_order(layers: Layers, more: Sequence[str]) -> list[str]:
    """The keys of all layers that the output needs, and of more, sources first."""
    order: list[str] = []
    state: dict[str, bool] = {}  # whether it is done
    pending = [*more, layers.output]
    while pending:
        key = pending[-1]
        if key == INPUT or state.get(key):
            pending.pop()
        elif key in state:
            state[key] = True
            order.append(key)
        else:
            state[key] = False
            waiting = [name for name in layers.table[key].inputs if not state.get(name)]
            if any(state.get(name) is False for name in waiting):  # all of them wait for this one
                raise CheckpointError(f"the layer {shown(key)} reads its own output")
            pending.extend(waiting)
    return order


def activation_name(layer: Layer, key: str) -> str:
    """The name of an activation function, in any spelling."""
    value = layer.config.get(key, "linear")
    if isinstance(value, Mapping):
        inner = value.get("config")
        value = inner if isinstance(inner, str) else value.get("class_name")
        value = value.lower() if isinstance(value, str) else value
    if value is None:
        return "linear"
    if not isinstance(value, str):
        raise layer.refused(key, value, "expected the name of a function")
    return value


def grid(kernel: int, stride: int, dilation: int, padding: Any) -> Any:
    """A window's padding in the words of a plan, or Keras' where a plan has none.

    `same` pads symmetrically at stride 1, and a 1 x 1 window not at all.
    """
    reach = dilation * (kernel - 1)
    if padding == SAME:
        return SAME if stride > 1 and kernel > 1 else SYMMETRIC
    if padding == ((reach // 2, reach - reach // 2),) * 2:
        return SYMMETRIC
    return "valid" if padding == ((0, 0), (0, 0)) else [list(side) for side in padding]


def _square(layer: Layer, key: str, default: Any = None) -> int:
    """A size that is the same in both directions."""
    value = layer.config.get(key, default)
    sizes = value if isinstance(value, list | tuple) else [value, value]
    if len(sizes) != 2 or sizes[0] != sizes[1] or not _is_count(sizes[0]):
        raise layer.refused(key, value, "expected a number of pixels, or the same one twice")
    return sizes[0]


def _count(layer: Layer, key: str, default: Any = None) -> int:
    value = layer.config.get(key, default)
    if not _is_count(value):
        raise layer.refused(key, value, "expected a number")
    return value


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < _MAX_SIZE


def _number(layer: Layer, key: str, default: float) -> float:
    value = layer.config.get(key, default)
    if type(value) not in (int, float) or not math.isfinite(value):
        raise layer.refused(key, value, "expected a number")
    return float(value)


def _flag(layer: Layer, key: str, default: bool) -> bool:
    value = layer.config.get(key, default)
    if type(value) is not bool:
        raise layer.refused(key, value, "expected true or false")
    return value


def _all(names: Any) -> str:
    return " and ".join(names)


def _conv(net: Network, layer: Layer, sources: tuple[int, ...]) -> int:
    kernel, stride = _square(layer, "kernel_size"), _square(layer, "strides", 1)
    dilation = _square(layer, "dilation_rate", 1)
    source, padding = net.unpadded(layer, sources[0])
    facts = {
        "filters": _count(layer, "filters"),
        "kernel_size": kernel,
        "strides": stride,
        "padding": grid(kernel, stride, dilation, padding),
        "dilation_rate": dilation,
        "groups": _count(layer, "groups", 1),
        "use_bias": _flag(layer, "use_bias", True),
    }
    return net.activated(layer, net.weights("conv", facts, source, layer))


def _dense(net: Network, layer: Layer, sources: tuple[int, ...]) -> int:
    facts = {"units": _count(layer, "units"), "use_bias": _flag(layer, "use_bias", True)}
    return net.activated(layer, net.weights("dense", facts, sources[0], layer))


def _batch_norm(net: Network, layer: Layer, sources: tuple[int, ...]) -> int:
    net.see_axis(layer)
    for key, wanted in (("center", True), ("scale", True), ("renorm", False)):
        if layer.config.get(key, wanted) is not wanted:
            raise layer.refused(key, layer.config[key], f"only {str(wanted).lower()} can be built")
    facts = {
        "epsilon": _number(layer, "epsilon", 1e-3),
        "momentum": _number(layer, "momentum", 0.99),
    }
    return net.weights("batch_norm", facts, sources[0], layer)


def _group_norm(net: Network, layer: Layer, sources: tuple[int, ...]) -> int:
    net.see_axis(layer)
    facts = {"epsilon": _number(layer, "epsilon", 1e-3), "groups": _count(layer, "groups", 32)}
    return net.weights("group_norm", facts, sources[0], layer)


def _activation(net: Network, layer: Layer, sources: tuple[int, ...]) -> int:
    return net.activated(layer, sources[0])


def _relu(net: Network, layer: Layer, sources: tuple[int, ...]) -> int:
    for key, plain in (("max_value", None), ("negative_slope", 0), ("threshold", 0)):
        if layer.config.get(key, plain) != plain:
            raise layer.refused(key, layer.config[key], "networks with relu are read")
    return net.add("relu", {}, sources, layer)


def _softmax(net: Network, layer: Layer, sources: tuple[int, ...]) -> int:
    return net.add("softmax", {}, sources, layer)


def _padding(net: Network, layer: Layer, sources: tuple[int, ...]) -> int:
    value = layer.config.get("padding", 1)
    sides = value if isinstance(value, list) else [value, value]
    pairs = [side if isinstance(side, list) else [side, side] for side in sides]
    if len(pairs) != 2 or not all(
        len(pair) == 2 and all(n == 0 or _is_count(n) for n in pair) for pair in pairs
    ):
        raise layer.refused("padding", value, "expected pixels at the four sides")
    return net.add("pad", {"padding": tuple(tuple(pair) for pair in pairs)}, sources, layer)


def _pool(family: str) -> Callable[[Network, Layer, tuple[int, ...]], int]:
    def read(net: Network, layer: Layer, sources: tuple[int, ...]) -> int:
        size = _square(layer, "pool_size", 2)
        stride = size if layer.config.get("strides") is None else _square(layer, "strides")
        source, padding = net.unpadded(layer, sources[0])
        if size == 1 and padding in (SAME, ((0, 0), (0, 0))):
            return net.add("subsample", {"strides": stride}, (source,), layer)
        if padding != SAME:
            padding = grid(size, stride, 1, padding)
            padding = ZERO if padding == SYMMETRIC else padding
        facts = {"pool_size": size, "strides": stride, "padding": padding}
        return net.add(family, facts, (source,), layer)

    return read


def _global_pool(mode: str) -> Callable[[Network, Layer, tuple[int, ...]], int]:
    def read(net: Network, layer: Layer, sources: tuple[int, ...]) -> int:
        if layer.config.get("keepdims", False) is not False:
            raise layer.refused("keepdims", layer.config["keepdims"], "only false can be built")
        return net.add("global_pool", {"pooling": mode}, sources, layer)

    return read


def _flatten(net: Network, layer: Layer, sources: tuple[int, ...]) -> int:
    return (
        sources[0]
        if net.steps[sources[0]].family == "global_pool"
        else net.add("flatten", {}, sources, layer)
    )


def _add(net: Network, layer: Layer, sources: tuple[int, ...]) -> int:
    return net.add("add", {}, sources, layer)


def _dropout(net: Network, layer: Layer, sources: tuple[int, ...]) -> int:
    if _number(layer, "rate", 0.5):
        net.dropout.append(layer.name)
    return sources[0]


_READERS: dict[str, Callable[[Network, Layer, tuple[int, ...]], int]] = {
    "Conv2D": _conv,
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "Activation": _activation,
    "ReLU": _relu,
    "ZeroPadding2D": _padding,
    "MaxPooling2D": _pool("max_pool"),
    "AveragePooling2D": _pool("avg_pool"),
    "GlobalAveragePooling2D": _global_pool("avg"),
    "GlobalMaxPooling2D": _global_pool("max"),
    "Add": _add,
    "Dense": _dense,
    "Flatten": _flatten,
    "Softmax": _softmax,
    "Dropout": _dropout,
}
