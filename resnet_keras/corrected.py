"""Keras' layers, corrected where they do not compute what a plan says or where a backend needs it.

The classes have the names of Keras' own: a `.weights.h5` file numbers layers by class, and has to
open whichever of the two `layer_class` chose.

On the JAX and PyTorch backends Keras promotes float64 to float32 (`keras.backend.result_type`), and
so do the layers and operators that ask it: `BatchNormalization`, `GroupNormalization`,
`GlobalAveragePooling2D`, `Dense`, `ops.mean`, `ops.var`. `ops.moments` and `ops.einsum` do not
call it, so they are used instead.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops as kops
from keras.saving import register_keras_serializable

from shared.architecture.ops import Shape


def layer_class(
    ours: type[keras.layers.Layer], dtype: str, *, corrects: bool = False
) -> type[keras.layers.Layer]:
    """Keras' own class, unless `ours` is needed for a layer of this dtype policy.

    It is where it `corrects` what the layer computes; in float64, which only TensorFlow's backend
    has in Keras' own layers; and on PyTorch's backend, whose variables may have no dots in their
    names.
    """
    backend = keras.backend.backend()
    narrowed = backend != "tensorflow" and keras.DTypePolicy(dtype).compute_dtype == "float64"
    stock: type[keras.layers.Layer] = getattr(keras.layers, ours.__name__)
    return ours if corrects or narrowed or backend == "torch" else stock


def strided(shape: Shape, stride: int) -> Shape:
    """The shape of x[:, ::stride, ::stride, :]; sizes may be unknown (None)."""
    return (shape[0], *(n and -(-n // stride) for n in shape[1:3]), shape[3])


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
class Conv2D(DottedName, keras.layers.Conv2D):
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
        return strided(shape, self.grid[0]) if self.grid else shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight_std_eps": self.weight_std_eps, "grid": self.grid}


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


@register_keras_serializable(package="resnet_rosetta")
class GlobalAveragePooling2D(keras.layers.GlobalAveragePooling2D):
    """`GlobalAveragePooling2D`, in float64 where the layer is float64.

    The stock layer computes in float32 on the JAX and PyTorch backends.
    """

    def call(self, inputs: Any) -> Any:
        if self.compute_dtype != "float64":
            return super().call(inputs)
        return kops.squeeze(average(inputs, (1, 2)), (1, 2))


@register_keras_serializable(package="resnet_rosetta")
class Dense(DottedName, keras.layers.Dense):
    """`Dense`, in float64 where the layer is float64.

    The stock layer computes in float32 on the PyTorch backend, where einsum does not.
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if self.compute_dtype != "float64":
            return super().call(inputs, training=training)
        return kops.einsum("ni,io->no", inputs, self.kernel) + self.bias
