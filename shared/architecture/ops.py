"""The operators that a plan is made of: concrete numbers, output shapes, tensors and cost.

Shapes are (height, width, channels) of one image, or (channels,) after pooling. Tensors are named
by their PyTorch leaf (`weight`, `bias`, `running_mean`, `running_var`) and have PyTorch's layouts:
convolution [out, in / groups, kernel, kernel], linear [out, in].
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

Shape = tuple[int, ...]
Pads = tuple[tuple[int, int], tuple[int, int]]

TRAINABLE = ("weight", "bias")  # the leaves that an optimizer changes; running statistics are not


def window_pads(
    size: tuple[int, int], kernel: int, stride: int, dilation: int, padding: str
) -> Pads:
    """((top, bottom), (left, right)) that a window operator adds to an image of `size`.

    `same` is TensorFlow's rule: as little as makes ceil(size / stride) outputs, the odd pixel at
    the end. It is symmetric at stride 1, and differs from `symmetric` at stride 2 on even sizes.
    """
    reach = dilation * (kernel - 1)
    if padding != "same":
        return ((reach // 2, reach - reach // 2),) * 2
    totals = [max((-(-n // stride) - 1) * stride + reach + 1 - n, 0) for n in size]
    return (
        (totals[0] // 2, totals[0] - totals[0] // 2),
        (totals[1] // 2, totals[1] - totals[1] // 2),
    )


def _window_output(
    shape: Shape, kernel: int, stride: int, dilation: int, pads: Pads
) -> tuple[int, int]:
    reach = dilation * (kernel - 1)
    height, width = (
        (n + sum(p) - reach - 1) // stride + 1 for n, p in zip(shape, pads, strict=False)
    )
    return height, width


@dataclass(frozen=True)
class Op:
    """An operator without weights that keeps its input's shape."""

    @property
    def kind(self) -> str:
        return type(self).__name__.lower()

    def output(self, *shapes: Shape) -> Shape:
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
        size = (shapes[0][0], shapes[0][1])
        window = _window_output(
            shapes[0], self.kernel_size, self.stride, self.dilation, self.pads(size)
        )
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

    def stored_variance(self, count: int) -> float:
        """What the biased variance of `count` values is multiplied by before it is stored."""
        return count / max(count - 1, 1) if self.unbiased else 1.0

    @property
    def kind(self) -> str:
        return "batch_norm"

    def describe(self) -> str:
        return f"eps {self.eps:g}, momentum {self.momentum:g}"

    def tensors(self) -> dict[str, Shape]:
        return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (self.channels,))


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


Norm = BatchNorm | GroupNorm


@dataclass(frozen=True)
class MaxPool(Op):
    """Max pool. `padding`: `symmetric` and `same` pad with -inf, `zero` pads
    symmetrically with 0.
    """

    kernel_size: int = 3
    stride: int = 2
    padding: Literal["symmetric", "zero", "same"] = "symmetric"

    @property
    def kind(self) -> str:
        return "max_pool"

    def describe(self) -> str:
        pad = {"symmetric": "pad 1 with -inf", "zero": "pad 1 with 0", "same": "same"}[self.padding]
        return f"{self.kernel_size}x{self.kernel_size}, stride {self.stride}, {pad}"

    @property
    def pad_value(self) -> float:
        return 0.0 if self.padding == "zero" else float("-inf")

    def pads(self, size: tuple[int, int]) -> Pads:
        return window_pads(size, self.kernel_size, self.stride, 1, self.padding)

    def output(self, *shapes: Shape) -> Shape:
        size = (shapes[0][0], shapes[0][1])
        return (
            *_window_output(shapes[0], self.kernel_size, self.stride, 1, self.pads(size)),
            shapes[0][2],
        )


@dataclass(frozen=True)
class AvgPool(Op):
    """2 x 2 average pool of ResNet-D's shortcut, on the `same` grid (as PyTorch's ceil_mode).

    `count_pad=False` averages over the pixels inside the image. timm's dilated stages pool at
    stride 1 with the zeros of the padding counted in: `count_pad=True`.
    """

    kernel_size: int = 2
    stride: int = 2
    count_pad: bool = False

    @property
    def kind(self) -> str:
        return "avg_pool"

    def describe(self) -> str:
        return f"{self.kernel_size}x{self.kernel_size}, stride {self.stride}" + (
            ", zeros count" * self.count_pad
        )

    def pads(self, size: tuple[int, int]) -> Pads:
        return window_pads(size, self.kernel_size, self.stride, 1, "same")

    def output(self, *shapes: Shape) -> Shape:
        size = (shapes[0][0], shapes[0][1])
        return (
            *_window_output(shapes[0], self.kernel_size, self.stride, 1, self.pads(size)),
            shapes[0][2],
        )


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
