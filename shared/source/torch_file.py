"""A network as a file of PyTorch.

A layer that is no stock layer stands in the file only where the network needs it, with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from shared.architecture.ops import AvgPool, BatchNorm, BlurPool, Conv, MaxPool
from shared.source.classes import Dialect, average_condition, branches, classes
from shared.source.facts import NEVER, Facts, norm_of, symmetric_padding
from shared.source.lines import joined, number
from shared.source.peculiar import head_of

LOADING = """\
    model = ResNet()
    model.load_state_dict(safetensors.torch.load_file("weights.safetensors"))
    model.eval()"""

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

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        zeros = out_channels - in_channels
        self.zeros = {zeros}

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, *self.zeros))'''


STAGE = '''class Stage(nn.Module):
    """Blocks, one after the other."""

    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)'''


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
    sides, where = facts.zero_sides
    return SUBSAMPLE_ZEROS.replace("{where}", where).replace("{zeros}", sides)


def torch_file(facts: Facts) -> str:
    """The file's text."""
    norm, setting = _norm(facts)
    dialect = Dialect(
        module="nn.Module",
        method="forward(self, x: Tensor) -> Tensor",
        starts=["super().__init__()"],
        rngs=False,
        relu="F.relu",
        sigmoid="torch.sigmoid",
        identity="nn.Identity()",
        dropout="nn.Dropout",
        linear="nn.Linear",
        layout="[N, C, H, W]",
        conv=_conv,
        norm=norm,
        input_norm=_input_norm,
        anti_alias={BlurPool: "BlurPool2d(stride)", AvgPool: "nn.AvgPool2d(2, stride)"},
        stem_pool=_stem_pool,
        global_pool={
            "avg": ("nn.AdaptiveAvgPool2d(1)", "self.pool(x).flatten(1)"),
            "max": ("nn.AdaptiveMaxPool2d(1)", "self.pool(x).flatten(1)"),
        },
        projection=_projection,
        stage=STAGE,
        stages="nn.Sequential(",
        listed=False,
        over_stages=["x = self.stages(x)"],
    )
    body = [*corrections(facts), [setting], *classes(facts, dialect)]
    head = head_of(facts, "PyTorch", "NCHW", LOADING)
    return joined(head, _imports, body)


def _imports(body: str) -> Iterator[str]:
    yield "from functools import partial"
    yield ""
    if "torch." in body:
        yield "import torch"
    yield "import torch.nn.functional as F"
    yield "from torch import Tensor, nn"


def _norm(facts: Facts) -> tuple[str, str]:
    """The name of what makes norms, and the line that says what it is."""
    norm = norm_of(facts.plan)
    # PyTorch does not train with an eps of 0; the smallest number, added to a variance, is none.
    eps = number(norm.eps or math.ulp(0.0))
    if not isinstance(norm, BatchNorm):
        return "group_norm", f"group_norm = partial(nn.GroupNorm, {norm.groups}, eps={eps})"
    layer = "nn.BatchNorm2d" if norm.unbiased else "BiasedBatchNorm2d"
    # PyTorch's momentum is the weight of the new value, the plan's of the old.
    momentum = number(round(1 - norm.momentum, 12))
    return "batch_norm", f"batch_norm = partial({layer}, eps={eps}, momentum={momentum})"


def _input_norm(op: BatchNorm) -> list[str]:
    fixed = 'self.input_norm.register_parameter("weight", None)  # gamma is 1'
    return [f"self.input_norm = batch_norm({op.channels})", *([] if op.scale else [fixed])]


def _conv(op: Conv, channels: tuple[str, str], stride: str, dilation: str) -> tuple[str, list[str]]:
    given = [*channels, str(op.kernel_size)]
    given += [f"stride={stride}"] if stride != "1" else []
    same = op.padding == "same" and op.kernel_size > 1 and stride != "1"
    if op.kernel_size > 1 and not same:
        given.append(f"padding={symmetric_padding(op, dilation)}")
    given += [f"dilation={dilation}"] if dilation != "1" else []
    given += [f"groups={op.groups}"] if op.groups > 1 else []
    given += [] if op.bias else ["bias=False"]
    layer = "StdConv2d" if op.weight_std_eps is not None else "SameConv2d" if same else "nn.Conv2d"
    return layer, given


def _projection(facts: Facts) -> tuple[str, list[str], list[str]]:
    pool = "self.pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)"
    return "nn.Sequential", list(branches([(average_condition(facts), pool)])), []


def _stem_pool(op: MaxPool | AvgPool) -> tuple[str, str]:
    size = f"{op.kernel_size}, {op.stride}"
    if isinstance(op, AvgPool):
        return f"nn.AvgPool2d({size})", "self.pool(x)"
    layer = {
        "symmetric": f"nn.MaxPool2d({size}, padding={op.kernel_size // 2})",
        "ceil": f"nn.MaxPool2d({size}, ceil_mode=True)",
        "valid": f"nn.MaxPool2d({size})",
        "zero": f"nn.Sequential(nn.ZeroPad2d({op.kernel_size // 2}), nn.MaxPool2d({size}))",
        "same": f"SameMaxPool2d({size})",
    }[op.padding]
    return layer, "self.pool(x)"
