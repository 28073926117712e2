"""Keras layers as the plan specifies them, and the only place where a stock layer is corrected.

Each factory takes an operator of the plan and the `Scope` that names the layer. Channel order is
NHWC, stated wherever a layer could read it from the user's keras.json.

On the JAX and PyTorch backends Keras promotes float64 to float32 (`keras.backend.result_type`), and
so do the layers and operators that ask it: `BatchNormalization`, `GroupNormalization`,
`GlobalAveragePooling2D`, `Dense`, `ops.mean`, `ops.var`. `ops.moments` and `ops.einsum` do not
call it, so they are used instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops as kops
from keras.saving import register_keras_serializable

from resnet_keras.init import Scope
from shared.architecture import ops
from shared.architecture import plan as p
from shared.architecture.ops import Shape

Apply = Callable[[Any], Any]  # a layer, or several in a row: symbolic tensor to symbolic tensor

CHANNELS_LAST = "channels_last"


def average(x: Any, axes: tuple[int, ...]) -> Any:
    """The mean in x's own dtype, axes kept."""
    return kops.moments(x, axes, keepdims=True)[0]


def _mean_variance(x: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
    """Mean and biased variance in x's own dtype, axes kept.

    Two passes: the PyTorch backend's own variance is E[x²] - E[x]², which cancels.
    """
    mean = average(x, axes)
    return mean, average(kops.square(x - mean), axes)


class DottedName:
    """A layer with variables and dots in its name.

    Keras' PyTorch backend makes a variable's path the name of a `torch.nn.Parameter`, which may
    have no dots: paths have underscores instead.
    """

    name: str

    def add_weight(self, *args: Any, **kwargs: Any) -> keras.Variable:
        dotted, self.name = self.name, self.name.replace(".", "_")
        try:
            return super().add_weight(*args, **kwargs)  # type: ignore[misc]
        finally:
            self.name = dotted


@register_keras_serializable(package="resnet_rosetta")
class PlannedConv2D(DottedName, keras.layers.Conv2D):
    """`Conv2D` with two corrections: weight standardisation, and stride together with dilation.

    Weight standardisation (Big Transfer) normalises each filter by its own mean and biased
    variance. Keras refuses a dilated convolution that strides; `grid` = (stride, padding) picks the
    pixels of such a one from the unstrided convolution.
    """

    def __init__(
        self,
        *args: Any,
        weight_std_eps: float | None = None,
        grid: tuple[int, str] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.weight_std_eps = weight_std_eps
        self.grid = (grid[0], grid[1]) if grid else None  # a list, where it comes from JSON

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        if self.weight_std_eps is not None:
            mean, variance = _mean_variance(kops.convert_to_tensor(kernel), (0, 1, 2))
            kernel = (kernel - mean) / kops.sqrt(variance + self.weight_std_eps)
        outputs = super().convolution_op(inputs, kernel)
        if self.grid is None:
            return outputs
        stride, padding = self.grid
        # SAME pads ((n - 1) mod stride) pixels less than symmetric padding, and half of those in
        # front.
        top, left = (
            ((n - 1) % stride + 1) // 2 if padding == "same" else 0 for n in kops.shape(inputs)[1:3]
        )
        return outputs[:, top::stride, left::stride, :]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = super().compute_output_shape(input_shape)
        return _strided(shape, self.grid[0]) if self.grid else shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight_std_eps": self.weight_std_eps, "grid": self.grid}


def Conv2D(op: ops.Conv, scope: Scope) -> Apply:
    """SAME and symmetric padding are one at stride 1; symmetric padding at stride 2 is a layer in
    front.
    """
    dilated_stride = op.dilation > 1 and op.stride > 1
    stride = 1 if dilated_stride else op.stride
    symmetric = op.padding == "symmetric" and stride > 1
    conv = PlannedConv2D(
        op.out_channels,
        op.kernel_size,
        strides=stride,
        padding="valid" if symmetric else "same",
        data_format=CHANNELS_LAST,
        dilation_rate=op.dilation,
        groups=op.groups,
        use_bias=op.bias,
        weight_std_eps=op.weight_std_eps,
        grid=(op.stride, op.padding) if dilated_stride else None,
        name=scope.name,
        dtype=scope.dtype,
        **scope.initializers(),
    )
    if symmetric and op.symmetric_pad:
        return _chain(_zero_padding(op.symmetric_pad, scope), conv)
    return conv


@register_keras_serializable(package="resnet_rosetta")
class BatchNormalization(DottedName, keras.layers.BatchNormalization):
    """`BatchNormalization` over the last axis of images, with two corrections.

    The running variance moves towards the unbiased variance of the batch, where the plan has it so;
    the stock layer only knows the biased one. And in float64 the layer computes in float64; the
    stock layer does so in float32 on the JAX and PyTorch backends.
    """

    def __init__(self, *args: Any, unbiased: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.unbiased = unbiased

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        normalize = self._normalize if self.compute_dtype == "float64" else super().call
        if not (self.unbiased and training and self.trainable):
            return normalize(inputs, training=training, mask=mask)
        kept = kops.convert_to_tensor(self.moving_variance) * self.momentum
        outputs = normalize(inputs, training=training, mask=mask)
        # What the batch added is (1 - momentum) times the biased variance of n values: 1 / (n - 1)
        # of it is missing.
        moved = kops.convert_to_tensor(self.moving_variance)
        images, height, width, _ = kops.shape(inputs)
        others = kops.cast(kops.maximum(images * height * width - 1, 1), moved.dtype)
        self.moving_variance.assign(moved + (moved - kept) / others)
        return outputs

    def _normalize(self, inputs: Any, training: bool | None, mask: Any) -> Any:
        """The stock layer's `call`, in the dtype of its inputs."""
        mean, variance = (
            kops.convert_to_tensor(self.moving_mean),
            kops.convert_to_tensor(self.moving_variance),
        )
        if training and self.trainable:
            batch_mean, batch_variance = (
                kops.squeeze(m, (0, 1, 2)) for m in _mean_variance(inputs, (0, 1, 2))
            )
            self.moving_mean.assign(mean * self.momentum + batch_mean * (1 - self.momentum))
            self.moving_variance.assign(
                variance * self.momentum + batch_variance * (1 - self.momentum)
            )
            mean, variance = batch_mean, batch_variance
        scale = (self.gamma if self.scale else 1) / kops.sqrt(variance + self.epsilon)
        return (inputs - mean) * scale + self.beta

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "unbiased": self.unbiased}


@register_keras_serializable(package="resnet_rosetta")
class GroupNormalization(DottedName, keras.layers.GroupNormalization):
    """`GroupNormalization` over the last axis, in float64 where the layer is float64.

    The stock layer computes in float32 on the JAX and PyTorch backends.
    """

    def call(self, inputs: Any) -> Any:
        if self.compute_dtype != "float64":
            return super().call(inputs)
        shape = kops.shape(inputs)
        grouped = kops.reshape(inputs, (*shape[:-1], self.groups, inputs.shape[-1] // self.groups))
        mean, variance = _mean_variance(grouped, (1, 2, 4))
        normal = (grouped - mean) / kops.sqrt(variance + self.epsilon)
        return kops.reshape(normal, shape) * self.gamma + self.beta


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
        return GroupNormalization(groups=op.groups, **arguments)
    return BatchNormalization(
        momentum=op.momentum, unbiased=op.unbiased, scale=op.scale, **arguments
    )


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
        return _strided(input_shape, self.stride)

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
        return (*_strided(input_shape, self.stride)[:3], input_shape[3] + sum(self.channels))

    def get_config(self) -> dict[str, Any]:
        before, after = self.channels
        return {
            **super().get_config(),
            "stride": self.stride,
            "channels_before": before,
            "channels_after": after,
        }


@register_keras_serializable(package="resnet_rosetta")
class GlobalAveragePooling2D(keras.layers.GlobalAveragePooling2D):
    """`GlobalAveragePooling2D`, in float64 where the layer is float64.

    The stock layer computes in float32 on the JAX and PyTorch backends.
    """

    def call(self, inputs: Any) -> Any:
        if self.compute_dtype != "float64":
            return super().call(inputs)
        return kops.squeeze(average(inputs, (1, 2)), (1, 2))


def GlobalPool2D(op: ops.GlobalPool, scope: Scope) -> keras.layers.Layer:
    """[N, H, W, C] to [N, C]."""
    layer = GlobalAveragePooling2D if op.mode == "avg" else keras.layers.GlobalMaxPooling2D
    return layer(data_format=CHANNELS_LAST, name=scope.name, dtype=scope.dtype)


@register_keras_serializable(package="resnet_rosetta")
class Dense(DottedName, keras.layers.Dense):
    """`Dense`, in float64 where the layer is float64.

    The stock layer computes in float32 on the PyTorch backend, where einsum does not.
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if self.compute_dtype != "float64":
            return super().call(inputs, training=training)
        return kops.einsum("ni,io->no", inputs, self.kernel) + self.bias


def Linear(op: ops.Linear, scope: Scope) -> keras.layers.Layer:
    return Dense(op.out_features, name=scope.name, dtype=scope.dtype, **scope.initializers())


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


def _strided(shape: Shape, stride: int) -> Shape:
    """The shape of x[:, ::stride, ::stride, :]; sizes may be unknown (None)."""
    return (shape[0], *(n and -(-n // stride) for n in shape[1:3]), shape[3])
