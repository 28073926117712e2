"""The operators that a plan is made of: concrete numbers, output shapes, tensors and cost.

Shapes are (height, width, channels) of one image, or (channels,) after pooling. Tensors are named
by their PyTorch leaf (`weight`, `bias`, `running_mean`, `running_var`) and have PyTorch's layouts:
convolution [out, in / groups, kernel, kernel], linear [out, in].
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from shared.errors import SpecError

Shape = tuple[int, ...]
Pads = tuple[tuple[int, int], tuple[int, int]]

TRAINABLE = ("weight", "bias")  # the leaves that an optimizer changes; running statistics are not


def window_pads(
    size: tuple[int, int], kernel: int, stride: int, dilation: int, padding: str
) -> Pads:
    """((top, bottom), (left, right)) that a window operator adds to an image of `size`.

    valid      nothing, and what is left over at the end is not seen;
    symmetric  half of what the window reaches beyond its centre, on each side, as does `zero`;
    same       TensorFlow's rule: as little as makes ceil(size / stride) windows, the odd pixel at
               the end; `symmetric` at stride 1, and another grid at stride 2 on even sizes;
    ceil       Caffe's rule (pooling_layer.cpp): (size - kernel) / stride + 1 windows, rounded up,
               of which the last is cut at the border.
    """
    reach = dilation * (kernel - 1)
    if padding == "same":
        return (_same_pads(size[0], reach, stride), _same_pads(size[1], reach, stride))
    pads = {
        "valid": (0, 0),
        "symmetric": (reach // 2, reach - reach // 2),
        "zero": (reach // 2, reach - reach // 2),
        "ceil": (0, stride - 1),  # floor((n + stride - 1) / stride) is ceil(n / stride)
    }[padding]
    return (pads, pads)


def _same_pads(n: int, reach: int, stride: int) -> tuple[int, int]:
    total = max((-(-n // stride) - 1) * stride + reach + 1 - n, 0)
    return (total // 2, total - total // 2)


def _window_output(
    shape: Shape, kernel: int, stride: int, dilation: int, pads: Pads
) -> tuple[int, int]:
    """Height and width of the output. Raises `SpecError` where not one window fits."""
    reach = dilation * (kernel - 1)
    height, width = (
        (n + sum(p) - reach - 1) // stride + 1 for n, p in zip(shape[:2], pads, strict=True)
    )
    if height < 1 or width < 1:
        raise SpecError(f"{kernel} x {kernel} windows do not fit {shape[0]} x {shape[1]} pixels")
    return height, width


@dataclass(frozen=True)
class Op:
    """An operator without weights that keeps its input's shape."""

    @property
    def kind(self) -> str:
        return type(self).__name__.lower()

    def output(self, *shapes: Shape) -> Shape:
        """Of inputs of these shapes. Raises `SpecError` for those that it cannot take."""
        return shapes[0]

    def tensors(self) -> dict[str, Shape]:
        return {}

    def params(self) -> int:
        """Trainable parameters."""
        return sum(prod(shape) for leaf, shape in self.tensors().items() if leaf in TRAINABLE)

    def macs(self, output: Shape) -> int:
        """Multiply-adds for one image."""
        return 0

    def describe(self) -> str:
        """The numbers that matter, for a table; empty when the shapes say it all."""
        return ""


@dataclass(frozen=True)
class Conv(Op):
    """2-D convolution. `weight_std_eps` standardises each output filter before use (BiT)."""

    in_channels: int
    out_channels: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    padding: Literal["symmetric", "same"] = "symmetric"
    bias: bool = False
    weight_std_eps: float | None = None

    def pads(self, size: tuple[int, int]) -> Pads:
        return window_pads(size, self.kernel_size, self.stride, self.dilation, self.padding)

    @property
    def symmetric_pad(self) -> int:
        """Pixels on each side under symmetric padding."""
        return self.dilation * (self.kernel_size - 1) // 2

    def output(self, *shapes: Shape) -> Shape:
        pads = self.pads((shapes[0][0], shapes[0][1]))
        window = _window_output(shapes[0], self.kernel_size, self.stride, self.dilation, pads)
        return (*window, self.out_channels)

    def tensors(self) -> dict[str, Shape]:
        weight = (
            self.out_channels,
            self.in_channels // self.groups,
            self.kernel_size,
            self.kernel_size,
        )
        return {"weight": weight, **({"bias": (self.out_channels,)} if self.bias else {})}

    def macs(self, output: Shape) -> int:
        return prod(output[:2]) * prod(self.tensors()["weight"])

    def describe(self) -> str:
        parts = [
            f"{self.kernel_size}x{self.kernel_size}, {self.in_channels} -> {self.out_channels}"
        ]
        parts += [f"stride {self.stride}"] if self.stride > 1 else []
        parts += [f"dilation {self.dilation}"] if self.dilation > 1 else []
        parts += [f"{self.groups} groups"] if self.groups > 1 else []
        parts += ["same"] if self.padding == "same" and self.kernel_size > 1 else []
        parts += ["bias"] if self.bias else []
        parts += (
            [f"weight std eps {self.weight_std_eps:g}"] if self.weight_std_eps is not None else []
        )
        return ", ".join(parts)


@dataclass(frozen=True)
class BatchNorm(Op):
    """Batch normalisation over the channels; `momentum` is the weight of the old running value.

    In training the batch is normalised by its biased variance; the running variance moves towards n
    / (n - 1) of it if `unbiased`, with n the values of a channel in the batch, else towards itself.
    """

    channels: int
    eps: float = 1e-5
    momentum: float = 0.9
    zero_init: bool = False  # gamma starts at 0
    unbiased: bool = True
    scale: bool = True  # False: gamma is 1, and no tensor

    def stored_variance(self, count: int) -> float:
        """What the biased variance of `count` values is multiplied by before it is stored."""
        return count / max(count - 1, 1) if self.unbiased else 1.0

    @property
    def kind(self) -> str:
        return "batch_norm"

    def describe(self) -> str:
        fixed = "" if self.scale else ", no scale"
        return f"eps {self.eps:g}, momentum {self.momentum:g}{fixed}"

    def tensors(self) -> dict[str, Shape]:
        leaves = ("weight",) if self.scale else ()
        return dict.fromkeys((*leaves, "bias", "running_mean", "running_var"), (self.channels,))


@dataclass(frozen=True)
class GroupNorm(Op):
    """Group normalisation; no running statistics."""

    channels: int
    groups: int = 32
    eps: float = 1e-5
    zero_init: bool = False

    @property
    def kind(self) -> str:
        return "group_norm"

    def describe(self) -> str:
        return f"{self.groups} groups, eps {self.eps:g}"

    def tensors(self) -> dict[str, Shape]:
        return dict.fromkeys(("weight", "bias"), (self.channels,))


@dataclass(frozen=True)
class FoldedNorm(Op):
    """The identity: what is left of a batch norm that the convolution in front has taken in."""

    channels: int

    @property
    def kind(self) -> str:
        return "folded_norm"


Norm = BatchNorm | GroupNorm | FoldedNorm


@dataclass(frozen=True)
class MaxPool(Op):
    """Max pool. `padding`: `zero` pads with 0, `valid` not at all; the others pad with -inf."""

    kernel_size: int = 3
    stride: int = 2
    padding: Literal["symmetric", "zero", "same", "ceil", "valid"] = "symmetric"

    @property
    def kind(self) -> str:
        return "max_pool"

    def describe(self) -> str:
        pad = {"symmetric": "pad 1 with -inf", "zero": "pad 1 with 0"}
        return (
            f"{self.kernel_size}x{self.kernel_size}, stride {self.stride}, "
            f"{pad.get(self.padding, self.padding)}"
        )

    @property
    def pad_value(self) -> float:
        return 0.0 if self.padding == "zero" else float("-inf")

    def pads(self, size: tuple[int, int]) -> Pads:
        return window_pads(size, self.kernel_size, self.stride, 1, self.padding)

    def output(self, *shapes: Shape) -> Shape:
        height, width, channels = shapes[0]
        pads = self.pads((height, width))
        return (*_window_output(shapes[0], self.kernel_size, self.stride, 1, pads), channels)


@dataclass(frozen=True)
class AvgPool(Op):
    """2 x 2 average pool: of ResNet-D's shortcut on the `same` grid (as PyTorch's ceil_mode), of
    anti-aliasing on the `valid` one, which leaves out the last row of an odd image.

    `count_pad=False` averages over the pixels inside the image. timm's dilated stages pool at
    stride 1 with the zeros of the padding counted in: `count_pad=True`.
    """

    kernel_size: int = 2
    stride: int = 2
    count_pad: bool = False
    padding: Literal["same", "valid"] = "same"

    @property
    def kind(self) -> str:
        return "avg_pool"

    def describe(self) -> str:
        parts = [f"{self.kernel_size}x{self.kernel_size}, stride {self.stride}"]
        parts += ["valid"] if self.padding == "valid" else []
        parts += ["zeros count"] if self.count_pad else []
        return ", ".join(parts)

    def pads(self, size: tuple[int, int]) -> Pads:
        return window_pads(size, self.kernel_size, self.stride, 1, self.padding)

    def output(self, *shapes: Shape) -> Shape:
        height, width, channels = shapes[0]
        pads = self.pads((height, width))
        return (*_window_output(shapes[0], self.kernel_size, self.stride, 1, pads), channels)


@dataclass(frozen=True)
class BlurPool(Op):
    """Binomial filter of anti-aliasing, on an image that is reflected at its borders, not repeating
    the outermost pixels (Zhang 2019, arXiv:1904.11486; timm's BlurPool2d).

    The filter is the outer product of `taps` with themselves, the same for every channel.
    """

    stride: int = 2
    taps: tuple[float, ...] = (0.25, 0.5, 0.25)

    @property
    def kernel_size(self) -> int:
        return len(self.taps)

    @property
    def pad(self) -> int:
        """Reflected pixels on each side."""
        return self.kernel_size // 2

    @property
    def kind(self) -> str:
        return "blur_pool"

    def describe(self) -> str:
        return f"{self.kernel_size}x{self.kernel_size}, stride {self.stride}, reflect"

    def output(self, *shapes: Shape) -> Shape:
        height, width, channels = shapes[0]
        if min(height, width) <= self.pad:
            raise SpecError(f"{height} x {width} pixels are too few to be reflected at the borders")
        pads = ((self.pad, self.pad),) * 2
        return (*_window_output(shapes[0], self.kernel_size, self.stride, 1, pads), channels)


@dataclass(frozen=True)
class Subsample(Op):
    """The parameter-free shortcut: every `stride`-th pixel, and zero channels before and after.

    Option A of the V1 paper; without new channels, the 1 x 1 strided pool of keras.applications V2.
    """

    stride: int
    channels_before: int = 0
    channels_after: int = 0

    def describe(self) -> str:
        zeros = f", {self.channels_before} + {self.channels_after} zero channels"
        return f"stride {self.stride}" + (
            zeros if self.channels_before or self.channels_after else ""
        )

    def output(self, *shapes: Shape) -> Shape:
        height, width, channels = shapes[0]
        return (
            -(-height // self.stride),
            -(-width // self.stride),
            channels + self.channels_before + self.channels_after,
        )


@dataclass(frozen=True)
class ReLU(Op):
    """max(x, 0)."""


@dataclass(frozen=True)
class Dropout(Op):
    """Inverted dropout: identity at inference."""

    rate: float


@dataclass(frozen=True)
class Merge(Op):
    """Shortcut + branch, inputs (shortcut, branch) or (shortcut, branch, gate logits)."""

    mode: Literal["add", "scale", "exclusive_gate", "shortcut_gate"] = "add"
    scales: tuple[float, float] = (1.0, 1.0)

    def output(self, *shapes: Shape) -> Shape:
        if len(set(shapes)) > 1:
            (height, width, _), (other_height, other_width, _) = shapes[:2]
            raise SpecError(
                f"its shortcut has {height} x {width} pixels and its branch {other_height} x "
                f"{other_width}: an average pool leaves out the last row and column of odd sizes"
            )
        return shapes[0]

    def describe(self) -> str:
        return {
            "add": "x + F",
            "scale": "{:g} x + {:g} F".format(*self.scales),
            "exclusive_gate": "(1 - g) x + g F",
            "shortcut_gate": "(1 - g) x + F",
        }[self.mode]


@dataclass(frozen=True)
class GlobalPool(Op):
    """Average or maximum over the whole image."""

    mode: Literal["avg", "max"] = "avg"

    @property
    def kind(self) -> str:
        return f"global_{self.mode}_pool"

    def output(self, *shapes: Shape) -> Shape:
        return shapes[0][2:]


@dataclass(frozen=True)
class Linear(Op):
    """Fully connected layer with a bias."""

    in_features: int
    out_features: int

    def output(self, *shapes: Shape) -> Shape:
        return (self.out_features,)

    def tensors(self) -> dict[str, Shape]:
        return {"weight": (self.out_features, self.in_features), "bias": (self.out_features,)}

    def macs(self, output: Shape) -> int:
        return self.in_features * self.out_features

    def describe(self) -> str:
        return f"{self.in_features} -> {self.out_features}"
