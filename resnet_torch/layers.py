"""PyTorch layers as the plan specifies them, and the only place where a stock layer is corrected.

Each factory takes an operator of the plan. Channel order is NCHW.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from shared.architecture import ops
from shared.architecture import plan as p


@torch.fx.wrap  # one node of a traced graph: how much it pads depends on the image's size
def pad_window(
    x: Tensor, kernel: int, stride: int, dilation: int, padding: str, value: float = 0.0
) -> Tensor:
    """What a window operator of the plan adds around [N, C, H, W] (`ops.window_pads`)."""
    size = (x.shape[2], x.shape[3])
    (top, bottom), (left, right) = ops.window_pads(size, kernel, stride, dilation, padding)
    return F.pad(x, (left, right, top, bottom), value=value)


class PlannedConv2d(nn.Conv2d):
    """`nn.Conv2d` with two corrections: TensorFlow's SAME padding, and weight standardisation.

    PyTorch pads symmetrically; SAME at stride 2 does not, and depends on the image's size. Weight
    standardisation (Big Transfer) normalises each filter by its own mean and biased variance.
    """

    def __init__(self, op: ops.Conv):
        super().__init__(
            op.in_channels,
            op.out_channels,
            op.kernel_size,
            stride=op.stride,
            padding=op.symmetric_pad if op.padding == "symmetric" else 0,
            dilation=op.dilation,
            groups=op.groups,
            bias=op.bias,
        )
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if self.op.weight_std_eps is not None:
            variance, mean = torch.var_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
            weight = (weight - mean) / torch.sqrt(variance + self.op.weight_std_eps)
        if self.op.padding == "same":
            x = pad_window(x, self.op.kernel_size, self.op.stride, self.op.dilation, "same")
        return self._conv_forward(x, weight, self.bias)


def make_conv(op: ops.Conv) -> nn.Conv2d:
    """The stock layer wherever it says what the plan says."""
    # SAME and symmetric padding are one at stride 1.
    if op.weight_std_eps is not None or (
        op.padding == "same" and op.stride > 1 and op.kernel_size > 1
    ):
        return PlannedConv2d(op)
    return nn.Conv2d(
        op.in_channels,
        op.out_channels,
        op.kernel_size,
        stride=op.stride,
        padding=op.symmetric_pad,
        dilation=op.dilation,
        groups=op.groups,
        bias=op.bias,
    )


@torch.fx.wrap  # one node of a traced graph: it changes the statistics in place
def biased_batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    batches: Tensor,
    weight: Tensor | None,
    bias: Tensor,
    training: bool,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """`F.batch_norm` of [N, C, H, W] whose running variance averages biased variances."""
    if x.dim() != 4:
        raise ValueError(f"expected 4D input (got {x.dim()}D input)")
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, 0.0, eps)
    batches.add_(1)
    if momentum is None:  # the average of all batches, as `swa_utils.update_bn` wants it
        momentum = 1 / batches.item()
    # The kernel adds its new term, momentum * n / (n - 1) * variance, to zeros instead of the
    # running variance: alone, it is corrected without a second pass over the activations.
    term = torch.zeros_like(running_var)
    y = F.batch_norm(x, running_mean, term, weight, bias, True, momentum, eps)
    n = x.numel() // x.shape[1]
    running_var.mul_(1 - momentum).add_(term, alpha=(n - 1) / n)
    return y


class BiasedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose running variance is an average of biased variances (Keras 3, Flax).

    PyTorch stores n / (n - 1) times the variance that it normalises by, with n the values of a
    channel.
    """

    # Never None here, as they may be in other batch norms.
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return biased_batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.num_batches_tracked,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )


class BiasedSyncBatchNorm(nn.SyncBatchNorm):
    """`BiasedBatchNorm2d` over the batches of all processes, as `nn.SyncBatchNorm` is
    `nn.BatchNorm2d`.
    """

    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        kept, term = self.running_var, torch.zeros_like(self.running_var)
        self.running_var = term
        try:
            y = super().forward(x)
        finally:
            self.running_var = kept
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / self.num_batches_tracked.item()
        n = torch.tensor(x.numel() // x.shape[1], device=x.device)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(n, group=self.process_group)
        kept.mul_(1 - momentum).add_(term * ((n - 1).double() / n).to(term.dtype))
        return y


def keep_biased(module: nn.Module) -> nn.Module:
    """The module with `BiasedSyncBatchNorm` in the place of every `nn.SyncBatchNorm`."""
    for name, child in module.named_children():
        module.add_module(name, keep_biased(child))
    if type(module) is not nn.SyncBatchNorm:
        return module
    sync = BiasedSyncBatchNorm(module.num_features)
    sync.__dict__.update(module.__dict__)  # the same parameters, buffers and settings
    return sync


def make_norm(op: ops.Norm) -> nn.Module:
    """Batch or group norm.

    PyTorch's momentum is the weight of the new value, the plan's of the old.
    """
    if isinstance(op, ops.FoldedNorm):
        return nn.Identity()
    if isinstance(op, ops.GroupNorm):
        return nn.GroupNorm(op.groups, op.channels, eps=op.eps)
    layer = nn.BatchNorm2d if op.unbiased else BiasedBatchNorm2d
    # PyTorch does not train with an eps of 0. The smallest number, added to a variance, is none.
    eps = op.eps or math.ulp(0.0)
    norm = layer(op.channels, eps=eps, momentum=round(1 - op.momentum, 12))
    if not op.scale:
        norm.register_parameter("weight", None)  # PyTorch has both or neither
    return norm


class Dropout(nn.Dropout):
    """`nn.Dropout`, or x * mask / (1 - rate) in training where there is a mask: the same values in
    every framework.

    `mask` is a bool tensor [batch, height, width, channels]. It is a buffer, so that
    `torch.func.functional_call` sets it for the length of a call, and in no `state_dict`.
    """

    mask: Tensor | None

    def __init__(self, op: ops.Dropout):
        super().__init__(op.rate)
        self.register_buffer("mask", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.mask is None or not self.training:
            return super().forward(x)
        return x * self.mask.permute(0, 3, 1, 2) / (1 - self.p)


class PlannedMaxPool2d(nn.MaxPool2d):
    """Max pool over explicit padding: zeros that compete with negative values, or the SAME grid."""

    def __init__(self, op: ops.MaxPool):
        super().__init__(op.kernel_size, op.stride)
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        op = self.op
        x = pad_window(x, op.kernel_size, op.stride, 1, op.padding, op.pad_value)
        return super().forward(x)


def make_max_pool(op: ops.MaxPool) -> nn.MaxPool2d:
    """The stock layer pads symmetrically with -inf, or rounds sizes up as Caffe does."""
    if op.padding == "symmetric":
        return nn.MaxPool2d(op.kernel_size, op.stride, padding=op.kernel_size // 2)
    if op.padding == "ceil":
        return nn.MaxPool2d(op.kernel_size, op.stride, ceil_mode=True)
    return PlannedMaxPool2d(op)


class PlannedAvgPool2d(nn.AvgPool2d):
    """Average pool over explicit padding whose zeros count (timm's dilated ResNet-D)."""

    def __init__(self, op: ops.AvgPool):
        super().__init__(op.kernel_size, op.stride)
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad_window(x, self.op.kernel_size, self.op.stride, 1, "same"))


def make_avg_pool(op: ops.AvgPool) -> nn.AvgPool2d:
    """PyTorch's ceil_mode is the SAME grid of a 2 x 2 pool."""
    if op.padding == "valid":
        return nn.AvgPool2d(op.kernel_size, op.stride)
    if op.count_pad:
        return PlannedAvgPool2d(op)
    return nn.AvgPool2d(op.kernel_size, op.stride, ceil_mode=True, count_include_pad=False)


@torch.fx.wrap  # one node of a traced graph: the filter is repeated for each channel
def blur(x: Tensor, kernel: Tensor, pad: int, stride: int) -> Tensor:
    """Each channel of [N, C, H, W] by itself through the filter [1, 1, size, size]."""
    channels = x.shape[1]
    x = F.pad(x, (pad,) * 4, mode="reflect")
    return F.conv2d(x, kernel.expand(channels, -1, -1, -1), stride=stride, groups=channels)


class BlurPool2d(nn.Module):
    """A fixed binomial filter for every channel, on an image reflected at its borders."""

    filter: Tensor

    def __init__(self, op: ops.BlurPool):
        super().__init__()
        self.op = op
        taps = torch.tensor(op.taps)
        # No weight: it moves with the model to another dtype or device, and is not saved.
        self.register_buffer("filter", torch.outer(taps, taps)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return blur(x, self.filter, self.op.pad, self.op.stride)

    def extra_repr(self) -> str:
        return f"taps={self.op.taps}, stride={self.op.stride}"


def make_pool(op: ops.MaxPool | ops.AvgPool | ops.BlurPool | None) -> nn.Module:
    """The pool of a stem or the anti-aliasing of a block; where there is none, the identity."""
    if isinstance(op, ops.MaxPool):
        return make_max_pool(op)
    if isinstance(op, ops.AvgPool):
        return make_avg_pool(op)
    return BlurPool2d(op) if op is not None else nn.Identity()


class Subsample(nn.Module):
    """Every `stride`-th pixel, and zero channels before and after (option A)."""

    def __init__(self, op: ops.Subsample):
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.op.stride, :: self.op.stride]
        return F.pad(x, (0, 0, 0, 0, self.op.channels_before, self.op.channels_after))

    def extra_repr(self) -> str:
        return (
            f"stride={self.op.stride}, zeros=({self.op.channels_before}, {self.op.channels_after})"
        )


class GlobalPool2d(nn.Module):
    """[N, C, H, W] to [N, C]."""

    def __init__(self, op: ops.GlobalPool):
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        pool = F.adaptive_avg_pool2d if self.op.mode == "avg" else F.adaptive_max_pool2d
        return pool(x, 1).flatten(1)


def make_linear(op: ops.Linear) -> nn.Linear:
    return nn.Linear(op.in_features, op.out_features)


class Projection(nn.Sequential):
    """Average pool (ResNet-D), 1 x 1 convolution, norm: those that the plan has."""

    def __init__(self, plan: p.Shortcut):
        super().__init__()
        if plan.pool is not None:
            self.pool = make_avg_pool(plan.pool)
        if plan.conv is not None:
            self.conv = make_conv(plan.conv)
        if plan.norm is not None:
            self.norm = make_norm(plan.norm)


def make_shortcut(plan: p.Shortcut) -> nn.Module:
    """The path around a residual branch: a projection, a parameter-free subsampling, or the
    identity.
    """
    if plan.is_identity:
        return nn.Identity()
    return Subsample(plan.subsample) if plan.subsample else Projection(plan)
