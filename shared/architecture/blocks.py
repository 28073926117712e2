"""The parts that a plan is made of: stem, shortcut and block, with their operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from shared.architecture.ops import AvgPool, Conv, Dropout, MaxPool, Merge, Norm, Subsample
from shared.architecture.spec import Order

BlockKind = Literal[
    "BasicBlock", "Bottleneck", "PreActBasicBlock", "PreActBottleneck", "AblationBlock"
]


# A layer that some units do not have (a basic block's third convolution, the first norm behind an
# activated stem) and whose presence follows from `Block.kind`; a type checker cannot know.
T = TypeVar("T")


Maybe: TypeAlias = T | Any


@dataclass(frozen=True)
class Stem:
    """Convolutions, a norm (and ReLU) after each that has one, and the pool."""

    convs: tuple[Conv, ...]
    norms: tuple[Norm | None, ...]
    pool: MaxPool | None


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
    """One residual unit. `norm{k}` follows `conv{k}`, or precedes it where `order` is full_pre."""

    kind: BlockKind
    order: Order
    preact: bool  # the unit activates its own input first
    conv1: Conv
    norm1: Maybe[Norm]
    conv2: Conv
    norm2: Maybe[Norm]
    conv3: Maybe[Conv]
    norm3: Maybe[Norm]
    shortcut: Shortcut
    shortcut_preact: bool  # the shortcut sees the activated input
    dropout: Dropout | None  # on the shortcut
    gate: Conv | None
    join: Merge

    @property
    def convs(self) -> tuple[Conv, ...]:
        return tuple(conv for conv in (self.conv1, self.conv2, self.conv3) if conv is not None)

    @property
    def norms(self) -> tuple[Norm | None, ...]:
        return (self.norm1, self.norm2, self.norm3)[: len(self.convs)]
