"""Layers of a PyTorch file that are no stock layers: each only where the network needs it, with
its reason.
"""

from __future__ import annotations

from shared.architecture.ops import AvgPool, BatchNorm, BlurPool, MaxPool
from shared.source.facts import NEVER, Facts, norm_of
from shared.source.lines import number

SAME_CONV = '''class SameConv2d(nn.Conv2d):
    """Pads as TensorFlow's SAME does: the odd pixel behind, which PyTorch's padding cannot say."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride, dilation = self.kernel_size[0], self.stride[0], self.dilation[0]
        height, width = (
            max((-(-n // stride) - 1) * stride + dilation * (kernel - 1) + 1 - n, 0)
            for n in x.shape[2:]
        )
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)'''

SAME_POOL = '''class SameMaxPool2d(nn.MaxPool2d):
    """Pads as TensorFlow's SAME does: the odd pixel behind, which PyTorch's padding cannot say."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = (
            max((-(-n // self.stride) - 1) * self.stride + self.kernel_size - n, 0)
            for n in x.shape[2:]
        )
        pads = (width // 2, width - width // 2, height // 2, height - height // 2)
        return super().forward(F.pad(x, pads, value=float("-inf")))'''

BIASED_NORM = '''class BiasedBatchNorm2d(nn.BatchNorm2d):
    """Averages the variances by which it normalises, as the network's own framework does.

    PyTorch stores n / (n - 1) times a batch's variance, with n the values of a channel.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        n = x.numel() // x.shape[1]
        term = torch.zeros_like(self.running_var)
        norm = (x, self.running_mean, term, self.weight, self.bias, True, self.momentum, self.eps)
        y = F.batch_norm(*norm)
        self.running_var.mul_(1 - self.momentum).add_(term, alpha=(n - 1) / n)
        return y'''

STD_CONV = '''class StdConv2d(nn.Conv2d):
    """Standardises each filter by its own mean and variance before use (Big Transfer)."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        weight = (self.weight - mean) / torch.sqrt(variance + {eps})
        return self._conv_forward(x, weight, self.bias)'''

BLUR = '''class BlurPool2d(nn.Module):
    """A fixed binomial filter for every channel, on an image that is reflected at its borders."""

    def __init__(self, stride: int):
        super().__init__()
        taps = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("filter", torch.outer(taps, taps)[None, None], persistent=False)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.filter.expand(x.shape[1], -1, -1, -1)
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(x, kernel, stride=self.stride, groups=x.shape[1])'''

SUBSAMPLE = '''class Subsample(nn.Module):
    """Every `stride`-th pixel; a shortcut without weights."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride]'''

SUBSAMPLE_ZEROS = '''class Subsample(nn.Module):
    """Every `stride`-th pixel, and zero channels {where}: option A."""

    def __init__(self, {arguments}):
        super().__init__()
        self.stride = stride
        {zeros}

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, *self.zeros))'''


def corrections(facts: Facts) -> list[list[str]]:
    """The classes, in the order in which they stand in the file."""
    plan, spec, norm = facts.plan, facts.spec, norm_of(facts.plan)
    found = []
    if spec.weight_std_eps is not None:
        found.append(STD_CONV.replace("{eps}", number(spec.weight_std_eps)))
    stem_strides = any(conv.stride > 1 for conv in plan.stem.convs)
    if (spec.block.padding == "same" and facts.strides_in_3x3) or (
        spec.stem.padding == "same" and stem_strides
    ):
        found.append(SAME_CONV)
    if isinstance(norm, BatchNorm) and not norm.unbiased:
        found.append(BIASED_NORM)
    if isinstance(plan.stem.pool, MaxPool) and plan.stem.pool.padding == "same":
        found.append(SAME_POOL)
    if isinstance(facts.anti_alias, BlurPool) or plan.stem.anti_alias is not None:
        found.append(BLUR)
    if facts.subsamples != NEVER and not facts.plain:
        found.append(_subsample(facts))
    return [text.splitlines() for text in found]


def _subsample(facts: Facts) -> str:
    if not facts.zeros:
        return SUBSAMPLE
    split = facts.spec.shortcut.zero_pad == "split"
    return (
        SUBSAMPLE_ZEROS.replace("{where}", "on both sides" if split else "behind the others")
        .replace("{arguments}", "in_channels: int, out_channels: int, stride: int")
        .replace(
            "{zeros}",
            "zeros = out_channels - in_channels\n"
            "        self.zeros = "
            + ("(zeros // 2, zeros - zeros // 2)" if split else "(0, zeros)"),
        )
    )


def pool(op: MaxPool | AvgPool) -> str:
    """The stem's pool."""
    if isinstance(op, AvgPool):
        return f"nn.AvgPool2d({op.kernel_size}, {op.stride})"
    size = f"{op.kernel_size}, {op.stride}"
    return {
        "symmetric": f"nn.MaxPool2d({size}, padding={op.kernel_size // 2})",
        "ceil": f"nn.MaxPool2d({size}, ceil_mode=True)",
        "zero": f"nn.Sequential(nn.ZeroPad2d({op.kernel_size // 2}), nn.MaxPool2d({size}))",
        "same": f"SameMaxPool2d({size})",
    }[op.padding]
