"""NNX layers as the plan specifies them, and the only place where a stock layer is corrected.

Each layer takes an operator of the plan. Channel order is NHWC, kernels are HWIO. `dtype` is that
of the parameters, of the running statistics and of the computation. Kernels start as zeros: `build`
draws them for the whole network.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from shared.architecture import ops
from shared.architecture import plan as p

Dtype = Any  # what NNX takes for one: "float32", jnp.float32, ...


def get_layer(model: nnx.Module, name: str) -> Any:
    """The module at a canonical name, which is its attribute path: `stages.0.blocks.1.conv2`."""
    layer: Any = model
    for part in name.split("."):
        layer = layer[int(part)] if part.isdigit() else getattr(layer, part)
    return layer


def set_layer(model: nnx.Module, name: str, layer: nnx.Module) -> None:
    """Put another module in the place of `get_layer(model, name)`."""
    path, _, last = name.rpartition(".")
    parent = get_layer(model, path) if path else model
    if isinstance(parent, nnx.List):
        parent[int(last)] = layer
    else:
        setattr(parent, last, layer)


def blank(key: jax.Array, shape: tuple[int, ...], dtype: Dtype) -> jax.Array:
    """An initialiser: zeros, made by NumPy because XLA would compile a program for every shape."""
    return jnp.asarray(np.zeros(shape, dtype))


def on_cpu() -> bool:
    """Whether XLA compiles for a CPU, where it is slow at convolutions of 1 x 1 and at the gradient
    of `lax.reduce_window`; on GPUs and TPUs these are the fast way.
    """
    return jax.default_backend() == "cpu"


@dataclass(frozen=True)
class Convolve:
    """What `Conv` calls in the place of `lax.conv_general_dilated`, with two changes.

    On a CPU, a 1 x 1 convolution is a matrix product over the channels: XLA is faster at those,
    most of all in the gradient of a strided one. The images are made a matrix first: the gradient
    of an einsum over them sums over three dimensions at once, for which XLA copies them into
    another order.

    Weight standardisation (Big Transfer) normalises each filter by its own mean and biased
    variance.
    """

    op: ops.Conv

    def __call__(
        self,
        x: jax.Array,
        kernel: jax.Array,
        strides: tuple[int, int],
        padding: Any,
        *,
        precision: Any = None,
        out_sharding: Any = None,
        **options: Any,
    ) -> jax.Array:
        if self.op.weight_std_eps is not None:
            mean = kernel.mean((0, 1, 2))
            variance = kernel.var((0, 1, 2))
            kernel = (kernel - mean) / jnp.sqrt(variance + self.op.weight_std_eps)
        shared_options = {"precision": precision, "out_sharding": out_sharding}
        if self.op.kernel_size == 1 and self.op.groups == 1 and on_cpu():
            x = x[:, :: strides[0], :: strides[1]]
            y = jnp.matmul(x.reshape(-1, x.shape[-1]), kernel[0, 0], **shared_options)
            return y.reshape(*x.shape[:3], -1)
        return lax.conv_general_dilated(x, kernel, strides, padding, **shared_options, **options)


class Conv(nnx.Conv):
    """`nnx.Conv` with the plan's padding: the stock layer pads SAME, which is not symmetric at
    stride 2.
    """

    def __init__(self, op: ops.Conv, *, rngs: nnx.Rngs, dtype: Dtype):
        super().__init__(
            op.in_channels,
            op.out_channels,
            (op.kernel_size, op.kernel_size),
            strides=op.stride,
            padding="SAME" if op.padding == "same" else op.symmetric_pad,
            kernel_dilation=op.dilation,
            feature_group_count=op.groups,
            use_bias=op.bias,
            conv_general_dilated=Convolve(op),
            kernel_init=blank,
            dtype=dtype,
            param_dtype=dtype,
            rngs=rngs,
        )


class RunningStatistic(nnx.BatchStat):
    """A `BatchStat` that keeps its dtype: in half precision the stock layer assigns
    float32 to it.
    """

    def __setitem__(self, key: Any, value: jax.Array) -> None:
        super().__setitem__(key, value.astype(self.dtype))


class BatchNorm(nnx.BatchNorm):
    """`nnx.BatchNorm` with three corrections.

    The stock layer's variance is E[x^2] - E[x]^2, which cancels where the mean is large, its
    running statistics start as float32 in a model of any dtype, and its running variance is always
    an average of the biased ones, which is not what PyTorch stores.
    """

    def __init__(self, op: ops.BatchNorm, *, rngs: nnx.Rngs, dtype: Dtype):
        super().__init__(
            op.channels,
            use_running_average=False,
            momentum=op.momentum,
            epsilon=op.eps,
            use_fast_variance=False,
            use_scale=op.scale,
            dtype=dtype,
            param_dtype=dtype,
            rngs=rngs,
        )
        self.op = op
        self.mean = RunningStatistic(jnp.zeros(op.channels, dtype))
        self.var = RunningStatistic(jnp.ones(op.channels, dtype))

    # Without the stock layer's `mask`, which would change the number of values.
    def __call__(self, x: jax.Array, use_running_average: bool | None = None) -> jax.Array:  # type: ignore[override]
        before = self.var[...]
        y = super().__call__(x, use_running_average)
        frozen = self.use_running_average if use_running_average is None else use_running_average
        if self.op.unbiased and not frozen:
            # What the layer added to the part that it kept is (1 - momentum) times the biased
            # variance.
            n = x.size // x.shape[-1]
            if self.axis_name is not None:  # the layer's mean is that of all devices
                n *= lax.psum(1, self.axis_name, axis_index_groups=self.axis_index_groups)
            kept = self.momentum * before
            self.var[...] = kept + self.op.stored_variance(n) * (self.var[...] - kept)
        return y


def Norm(op: ops.Norm, *, rngs: nnx.Rngs, dtype: Dtype) -> nnx.Module:
    """Batch or group norm. NNX's momentum is the weight of the old value, as is the plan's."""
    if isinstance(op, ops.FoldedNorm):
        return Identity()
    if isinstance(op, ops.GroupNorm):
        return nnx.GroupNorm(
            op.channels,
            op.groups,
            epsilon=op.eps,
            use_fast_variance=False,  # as in `BatchNorm`
            dtype=dtype,
            param_dtype=dtype,
            rngs=rngs,
        )
    return BatchNorm(op, rngs=rngs, dtype=dtype)


class Dropout(nnx.Dropout):
    """`nnx.Dropout`, which can be told what to keep.

    `mask` is None, and the layer Flax's own, or a bool array [batch, height, width, channels]: in
    training the layer then returns x * mask / (1 - rate), the same values in every framework. It is
    no `Variable`, and so in no checkpoint.
    """

    def __init__(self, op: ops.Dropout, *, rngs: nnx.Rngs):
        super().__init__(op.rate, rngs=rngs)
        self.mask: jax.Array | None = nnx.data(None)

    def __call__(
        self, x: jax.Array, *, deterministic: bool | None = None, rngs: Any = None
    ) -> jax.Array:
        idle = self.deterministic if deterministic is None else deterministic
        if self.mask is None or idle:
            return super().__call__(x, deterministic=deterministic, rngs=rngs)
        return x * self.mask / (1 - self.rate)


class MaxPool(nnx.Module):
    """Max pool over padding of -inf, or of zeros that compete with negative values.

    On a CPU, the maximum is taken tap by tap: the gradient of `nnx.max_pool` takes ten times as
    long there. Equal values and NaN are PyTorch's: the first maximum gets the gradient, NaN wins.
    """

    def __init__(self, op: ops.MaxPool):
        self.op = op

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, stride = self.op.kernel_size, self.op.stride
        pads = self.op.pads((x.shape[1], x.shape[2]))
        height, width, _ = self.op.output(x.shape[1:])
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=self.op.pad_value)
        if not on_cpu():
            return nnx.max_pool(x, (kernel, kernel), (stride, stride))
        taps = [
            x[
                :,
                i : i + stride * (height - 1) + 1 : stride,
                j : j + stride * (width - 1) + 1 : stride,
            ]
            for i in range(kernel)
            for j in range(kernel)
        ]
        return functools.reduce(lambda a, b: jnp.where((b > a) | jnp.isnan(b), b, a), taps)


class AvgPool(nnx.Module):
    """2 x 2 average pool, on the SAME grid over the pixels inside the image or over all
    (`count_pad`).
    """

    def __init__(self, op: ops.AvgPool):
        self.op = op

    def __call__(self, x: jax.Array) -> jax.Array:
        window, strides = (self.op.kernel_size,) * 2, (self.op.stride,) * 2
        padding = self.op.padding.upper()
        y = nnx.avg_pool(x, window, strides, padding, count_include_pad=self.op.count_pad)
        return y.astype(
            x.dtype
        )  # Flax counts the pixels in JAX's default dtype, and float64 would win


class BlurPool(nnx.Module):
    """A fixed binomial filter for every channel, on an image reflected at its borders.

    The rows are summed tap by tap, then the columns: on a CPU XLA has no fast convolution of each
    channel by itself.
    """

    def __init__(self, op: ops.BlurPool):
        self.op = op

    def __call__(self, x: jax.Array) -> jax.Array:
        border = (self.op.pad, self.op.pad)
        x = jnp.pad(x, ((0, 0), border, border, (0, 0)), mode="reflect")
        return self._filter(self._filter(x, axis=1), axis=2)

    def _filter(self, x: jax.Array, axis: int) -> jax.Array:
        end = x.shape[axis] - self.op.kernel_size + 1
        shares = [
            share * lax.slice_in_dim(x, k, k + end, self.op.stride, axis)
            for k, share in enumerate(self.op.taps)
        ]
        return functools.reduce(jnp.add, shares)


def Pool(op: ops.MaxPool | ops.AvgPool | ops.BlurPool | None) -> nnx.Module:
    """The pool of a stem or the anti-aliasing of a block; where there is none, the identity."""
    if isinstance(op, ops.MaxPool):
        return MaxPool(op)
    if isinstance(op, ops.AvgPool):
        return AvgPool(op)
    return BlurPool(op) if op is not None else Identity()


class Subsample(nnx.Module):
    """Every `stride`-th pixel, and zero channels before and after (option A)."""

    def __init__(self, op: ops.Subsample):
        self.op = op

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x[:, :: self.op.stride, :: self.op.stride]
        return jnp.pad(
            x, ((0, 0), (0, 0), (0, 0), (self.op.channels_before, self.op.channels_after))
        )


class GlobalPool(nnx.Module):
    """[N, H, W, C] to [N, C]."""

    def __init__(self, op: ops.GlobalPool):
        self.op = op

    def __call__(self, x: jax.Array) -> jax.Array:
        return x.mean((1, 2)) if self.op.mode == "avg" else x.max((1, 2))


def Linear(op: ops.Linear, *, rngs: nnx.Rngs, dtype: Dtype) -> nnx.Linear:
    return nnx.Linear(
        op.in_features,
        op.out_features,
        kernel_init=blank,
        dtype=dtype,
        param_dtype=dtype,
        rngs=rngs,
    )


class Identity(nnx.Module):
    """x."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


class Projection(nnx.Module):
    """Average pool (ResNet-D), 1 x 1 convolution, norm: those that the plan has."""

    def __init__(self, plan: p.Shortcut, *, rngs: nnx.Rngs, dtype: Dtype):
        self.pool = AvgPool(plan.pool) if plan.pool else None
        self.conv = Conv(plan.conv, rngs=rngs, dtype=dtype) if plan.conv else None
        self.norm = Norm(plan.norm, rngs=rngs, dtype=dtype) if plan.norm else None

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in (self.pool, self.conv, self.norm):
            x = layer(x) if layer is not None else x
        return x


def Shortcut(plan: p.Shortcut, *, rngs: nnx.Rngs, dtype: Dtype) -> nnx.Module:
    """The path around a residual branch: a projection, a parameter-free subsampling, or the
    identity.
    """
    if plan.is_identity:
        return Identity()
    return Subsample(plan.subsample) if plan.subsample else Projection(plan, rngs=rngs, dtype=dtype)
