"""The parts that a plan is made of: stem, shortcut and block, with their operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared.architecture.groups import Order
from shared.architecture.ops import (
    AvgPool,
    BatchNorm,
    BlurPool,
    Conv,
    Dropout,
    MaxPool,
    Merge,
    Norm,
    Subsample,
)

BlockKind = Literal[
    "BasicBlock", "Bottleneck", "PreActBasicBlock", "PreActBottleneck", "AblationBlock"
]
AntiAlias = AvgPool | BlurPool  # what halves an image in the place of a strided convolution


@dataclass(frozen=True)
class Stem:
    """The norm of the images; convolutions, a norm (and ReLU) after each that has one; the pool;
    the anti-aliasing.
    """

    input_norm: BatchNorm | None
    convs: tuple[Conv, ...]
    norms: tuple[Norm | None, ...]
    pool: MaxPool | AvgPool | None
    anti_alias: AntiAlias | None


@dataclass(frozen=True)
class Shortcut:
    """pool, then conv, then norm; or subsample; or, when all are None, the identity."""

    pool: AvgPool | None = None
    conv: Conv | None = None
    norm: Norm | None = None
    subsample: Subsample | None = None

    @property
    def is_identity(self) -> bool:
        return self.conv is None and self.subsample is None


@dataclass(frozen=True)
class Block:
    """One residual block: two convolutions (basic) or three (bottleneck), each with its norm.

    Norm k follows convolution k, or precedes it where `order` is full_pre; there the first one is
    None where the stem has activated the input already (`preact` is false). `conv1` to `norm3` are
    the layers by their names; to ask for one that the block does not have is a `LookupError`.
    """

    kind: BlockKind
    order: Order
    preact: bool  # the block activates its own input first
    convs: tuple[Conv, ...]
    norms: tuple[Norm | None, ...]
    dropout: Dropout | None  # in front of the last convolution
    anti_alias: AntiAlias | None  # in front of the last convolution
    shortcut: Shortcut
    shortcut_preact: bool  # the shortcut sees the activated input
    shortcut_dropout: Dropout | None
    gate: Conv | None
    join: Merge

    @property
    def conv1(self) -> Conv:
        return self.convs[0]

    @property
    def conv2(self) -> Conv:
        return self.convs[1]

    @property
    def conv3(self) -> Conv:
        return self.convs[2]

    @property
    def norm1(self) -> Norm:
        return self.norm(1)

    @property
    def norm2(self) -> Norm:
        return self.norm(2)

    @property
    def norm3(self) -> Norm:
        return self.norm(3)

    def norm(self, k: int) -> Norm:
        """The k-th norm, counted from 1."""
        norm = self.norms[k - 1]
        if norm is None:
            raise LookupError(f"a {self.kind} behind an activated stem has no norm{k}")
        return norm
