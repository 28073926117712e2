"""Keras layers as the plan specifies them: Keras' own wherever they compute what it says.

Each factory takes an operator of the plan and the `Scope` that names the layer. Channel order is
NHWC, stated wherever a layer could read it from the user's keras.json. What is not Keras' own is
here, where Keras has no such layer, or in `resnet_keras.corrected`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops as kops
from keras.saving import register_keras_serializable

from resnet_keras import corrected
from resnet_keras.corrected import layer_class, strided
from resnet_keras.init import Scope
from shared.architecture import ops
from shared.architecture import plan as p
from shared.architecture.ops import Shape

Apply = Callable[[Any], Any]  # a layer, or several in a row: symbolic tensor to symbolic tensor

CHANNELS_LAST = "channels_last"


def Conv2D(op: ops.Conv, scope: Scope) -> Apply:
    """SAME and symmetric padding are one at stride 1; symmetric padding at stride 2 is a layer in
    front.
    """
    dilated_stride = op.dilation > 1 and op.stride > 1
    stride = 1 if dilated_stride else op.stride
    symmetric = op.padding == "symmetric" and stride > 1
    corrections: dict[str, Any] = {}
    if op.weight_std_eps is not None:
        corrections["weight_std_eps"] = op.weight_std_eps
    if dilated_stride:
        corrections["grid"] = (op.stride, op.padding)
    conv = layer_class(corrected.Conv2D, scope.dtype, corrects=bool(corrections))(
        op.out_channels,
        op.kernel_size,
        strides=stride,
        padding="valid" if symmetric else "same",
        data_format=CHANNELS_LAST,
        dilation_rate=op.dilation,
        groups=op.groups,
        use_bias=op.bias,
        name=scope.name,
        dtype=scope.dtype,
        **scope.initializers(),
        **corrections,
    )
    if symmetric and op.symmetric_pad:
        return _chain(_zero_padding(op.symmetric_pad, scope), conv)
    return conv


def Norm2D(op: ops.Norm, scope: Scope) -> keras.layers.Layer:
    """Batch or group norm. Keras' momentum is the plan's: the weight of the old value."""
    if isinstance(op, ops.FoldedNorm):
        return keras.layers.Identity(name=scope.name, dtype=scope.dtype)
    arguments: dict[str, Any] = {
        "axis": -1,
        "epsilon": op.eps,
        "gamma_initializer": "zeros" if op.zero_init else "ones",
        "name": scope.name,
        "dtype": scope.dtype,
    }
    if isinstance(op, ops.GroupNorm):
        kind = layer_class(corrected.GroupNormalization, scope.dtype)
        return kind(groups=op.groups, **arguments)
    corrections = {"unbiased": True} if op.unbiased else {}
    kind = layer_class(corrected.BatchNormalization, scope.dtype, corrects=op.unbiased)
    return kind(momentum=op.momentum, scale=op.scale, **arguments, **corrections)


@register_keras_serializable(package="resnet_rosetta")
class InfinityPadding2D(keras.layers.ZeroPadding2D):
    """`ZeroPadding2D` with -inf, which no maximum sees.

    Keras' max pool pads with -inf too, but on the SAME grid only.
    """

    def call(self, inputs: Any) -> Any:
        return kops.pad(inputs, ((0, 0), *self.padding, (0, 0)), constant_values=float("-inf"))


def MaxPool2D(op: ops.MaxPool, scope: Scope) -> Apply:
    """The stock layer, with its padding in front where that is neither SAME nor none."""
    own = op.padding in ("same", "valid")
    pool = keras.layers.MaxPooling2D(
        op.kernel_size,
        op.stride,
        padding=op.padding if own else "valid",
        data_format=CHANNELS_LAST,
        name=scope.name,
        dtype=scope.dtype,
    )
    if own:
        return pool
    layer = keras.layers.ZeroPadding2D if op.padding == "zero" else InfinityPadding2D
    # None of these borders depends on the size of the image.
    return _chain(_zero_padding(op.pads((op.stride, op.stride)), scope, layer), pool)


def AvgPool2D(op: ops.AvgPool, scope: Scope) -> Apply:
    """On the SAME grid the stock layer leaves padding out of the mean; zeros that count are put in
    front.
    """
    pool = keras.layers.AveragePooling2D(
        op.kernel_size,
        op.stride,
        padding="valid" if op.count_pad else op.padding,
        data_format=CHANNELS_LAST,
        name=scope.name,
        dtype=scope.dtype,
    )
    if not op.count_pad:
        return pool
    pads = op.pads((op.stride, op.stride))  # at stride 1, as here, the same for every size
    return _chain(_zero_padding(pads, scope), pool)


@register_keras_serializable(package="resnet_rosetta")
class BlurPool2D(keras.layers.Layer):
    """A fixed binomial filter for every channel, on an image reflected at its borders.

    The rows are summed tap by tap, then the columns, in the dtype of the images.
    """

    def __init__(self, taps: tuple[float, ...], stride: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.taps = tuple(taps)  # a list, where it comes from JSON
        self.stride = stride

    def call(self, inputs: Any) -> Any:
        border = (len(self.taps) // 2,) * 2
        x = kops.pad(inputs, ((0, 0), border, border, (0, 0)), mode="reflect")
        height, width = kops.shape(inputs)[1:3]
        taps, stride = list(enumerate(self.taps)), self.stride
        x = functools.reduce(kops.add, [share * x[:, k : k + height : stride] for k, share in taps])
        columns = [share * x[:, :, k : k + width : stride] for k, share in taps]
        return functools.reduce(kops.add, columns)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return strided(input_shape, self.stride)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "taps": self.taps, "stride": self.stride}


def Pool2D(op: ops.MaxPool | ops.AvgPool | ops.BlurPool | None, scope: Scope) -> Apply:
    """The pool of a stem or the anti-aliasing of a block; where there is none, the identity."""
    if isinstance(op, ops.MaxPool):
        return MaxPool2D(op, scope)
    if isinstance(op, ops.AvgPool):
        return AvgPool2D(op, scope)
    if op is None:
        return _chain()
    return BlurPool2D(op.taps, op.stride, name=scope.name, dtype=scope.dtype)


@register_keras_serializable(package="resnet_rosetta")
class Subsample(keras.layers.Layer):
    """Every `stride`-th pixel, and zero channels before and after (option A)."""

    def __init__(
        self, stride: int, channels_before: int = 0, channels_after: int = 0, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.stride = stride
        self.channels = (channels_before, channels_after)

    def call(self, inputs: Any) -> Any:
        x = inputs[:, :: self.stride, :: self.stride, :]
        return kops.pad(x, ((0, 0), (0, 0), (0, 0), self.channels)) if any(self.channels) else x

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*strided(input_shape, self.stride)[:3], input_shape[3] + sum(self.channels))

    def get_config(self) -> dict[str, Any]:
        before, after = self.channels
        return {
            **super().get_config(),
            "stride": self.stride,
            "channels_before": before,
            "channels_after": after,
        }


def GlobalPool2D(op: ops.GlobalPool, scope: Scope) -> keras.layers.Layer:
    """[N, H, W, C] to [N, C]."""
    kind = (
        layer_class(corrected.GlobalAveragePooling2D, scope.dtype)
        if op.mode == "avg"
        else keras.layers.GlobalMaxPooling2D
    )
    return kind(data_format=CHANNELS_LAST, name=scope.name, dtype=scope.dtype)


def Linear(op: ops.Linear, scope: Scope) -> keras.layers.Layer:
    kind = layer_class(corrected.Dense, scope.dtype)
    return kind(op.out_features, name=scope.name, dtype=scope.dtype, **scope.initializers())


def ReLU(scope: Scope) -> keras.layers.Layer:
    return keras.layers.ReLU(name=scope.name, dtype=scope.dtype)


def Add(scope: Scope) -> keras.layers.Layer:
    return keras.layers.Add(name=scope.name, dtype=scope.dtype)


def Projection(plan: p.Shortcut, scope: Scope) -> Apply:
    """Average pool (ResNet-D), 1 x 1 convolution, norm: those that the plan has."""
    layers: list[Apply] = []
    if plan.pool is not None:
        layers.append(AvgPool2D(plan.pool, scope / "pool"))
    if plan.conv is not None:
        layers.append(Conv2D(plan.conv, scope / "conv"))
    if plan.norm is not None:
        layers.append(Norm2D(plan.norm, scope / "norm"))
    return _chain(*layers)


def Shortcut(plan: p.Shortcut, scope: Scope) -> Apply:
    """The path around a residual branch: a projection, a parameter-free subsampling, or the
    identity.
    """
    if plan.is_identity:
        return _chain()
    if plan.subsample is None:
        return Projection(plan, scope)
    op = plan.subsample
    return Subsample(
        op.stride, op.channels_before, op.channels_after, name=scope.name, dtype=scope.dtype
    )


def _chain(*layers: Apply) -> Apply:
    """Layers one after the other; none of them is the identity."""

    def apply(x: Any) -> Any:
        for layer in layers:
            x = layer(x)
        return x

    return apply


def _zero_padding(
    pads: Any, scope: Scope, layer: Any = keras.layers.ZeroPadding2D
) -> keras.layers.Layer:
    """The padding in front of the layer at `scope`: pixels a side, or ((top, bottom), (left,
    right)).
    """
    return layer(pads, data_format=CHANNELS_LAST, name=f"{scope.name}.pad", dtype=scope.dtype)
