"""What the blocks of a network share, and what tells them apart, read off its plan.

A file has one class of blocks. Numbers that all blocks share are written into it; whether a block
has a projection, say, is the shortest condition on `stride`, `in_channels` and the width that is
true of every block, or an argument of its own where no such condition is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from shared.architecture.blocks import AntiAlias, Block, Shortcut
from shared.architecture.ops import BatchNorm, Conv, GroupNorm
from shared.architecture.plan import Plan, make_plan
from shared.architecture.spec import ResNetSpec
from shared.errors import SpecError
from shared.source.lines import WIDTH, number

NEVER, ALWAYS, STRIDES = "False", "True", "stride != 1"


@dataclass(frozen=True)
class Argument:
    """One that the blocks of this network need beside their channels."""

    name: str
    kind: str  # int or bool
    default: str
    value: Callable[[Block], int | bool]


@dataclass(frozen=True)
class Facts:
    """Everything that a file says of a network."""

    plan: Plan
    blocks: tuple[Block, ...]

    @property
    def spec(self) -> ResNetSpec:
        return self.plan.spec

    @property
    def one(self) -> Block:
        """A block, for what all of them share."""
        return self.blocks[-1]

    @property
    def kind(self) -> str:
        """The name of the class of blocks."""
        bottleneck = len(self.one.convs) == 3
        preact = self.one.order in ("full_pre", "act_only_pre")
        return f"{'PreAct' if preact else ''}{'Bottleneck' if bottleneck else 'BasicBlock'}"

    @cached_property
    def out(self) -> str:
        """The output channels of a block, by its `width`."""
        ratios = {
            block.convs[-1].out_channels / block.convs[0].out_channels for block in self.blocks
        }
        (ratio,) = ratios if len(ratios) == 1 else (0.0,)
        if ratio < 1 or ratio != int(ratio):
            return "out_channels"
        return "width" if ratio == 1 else f"{int(ratio)} * width"

    @cached_property
    def strides(self) -> bool:
        return any(stride_of(block) != 1 for block in self.blocks)

    @cached_property
    def striding(self) -> int | None:
        """Which convolution strides, from 1; None where a pool in front does, or none."""
        carriers = {
            k for block in self.blocks for k, c in enumerate(block.convs, 1) if c.stride != 1
        }
        return min(carriers) if carriers else None

    @property
    def strides_in(self) -> int:
        """How many of a block's convolutions stride, in one block or another."""
        every = range(len(self.one.convs))
        return sum(any(block.convs[k].stride != 1 for block in self.blocks) for k in every)

    @cached_property
    def projects(self) -> str:
        return self._condition("project", lambda b: b.shortcut.conv is not None)

    @cached_property
    def subsamples(self) -> str:
        """Of the blocks that have no projection."""
        rest = [block for block in self.blocks if block.shortcut.conv is None]
        return self._condition("subsample", lambda b: b.shortcut.subsample is not None, rest)

    @cached_property
    def averages(self) -> str:
        """Of the blocks that have a projection: an average pool in front of it."""
        rest = [block for block in self.blocks if block.shortcut.conv is not None]
        return self._condition("average", lambda b: b.shortcut.pool is not None, rest)

    @property
    def asks_for_average(self) -> bool:
        """Whether a projection has a pool is an argument of its own."""
        return self.averages not in (ALWAYS, NEVER, STRIDES)

    @cached_property
    def anti_aliases(self) -> str:
        return self._condition("anti_alias", lambda b: b.anti_alias is not None)

    @cached_property
    def preact(self) -> str:
        """The block activates its own input first."""
        return self._condition("preact", lambda b: b.preact)

    @cached_property
    def shares(self) -> str:
        """The shortcut sees the activated input."""
        if any(b.preact for b in self.blocks) and all(
            b.shortcut_preact or not b.preact for b in self.blocks
        ):
            return ALWAYS  # what the stem has activated is the activated input, too
        if all(b.shortcut_preact == (b.shortcut.conv is not None) for b in self.blocks):
            return self.projects
        return self._condition("shortcut_preact", lambda b: b.shortcut_preact)

    def _condition(
        self, name: str, fact: Callable[[Block], bool], blocks: Sequence[Block] | None = None
    ) -> str:
        blocks = self.blocks if blocks is None else blocks
        conditions: dict[str, Callable[[Block], bool]] = {
            NEVER: lambda b: False,
            ALWAYS: lambda b: True,
            STRIDES: lambda b: stride_of(b) != 1,
            f"in_channels != {self.out}": widens,
            f"{STRIDES} or in_channels != {self.out}": lambda b: stride_of(b) != 1 or widens(b),
        }
        for text, condition in conditions.items():
            if all(condition(block) == fact(block) for block in blocks):
                return text
        return name

    @cached_property
    def arguments(self) -> tuple[Argument, ...]:
        """Beside `in_channels` and `width`, in the order of the signature."""
        return tuple(self._arguments())

    def _arguments(self) -> Iterator[Argument]:
        if self.out == "out_channels":
            yield Argument("out_channels", "int", "", lambda b: b.convs[-1].out_channels)
        if self.strides:
            yield Argument("stride", "int", "1", stride_of)
        for k in range(len(self.one.convs)):
            if any(block.convs[k].dilation != 1 for block in self.blocks):
                yield Argument(f"dilation{k + 1}", "int", "1", partial(dilation_of, k))
        facts: dict[str, tuple[str, Callable[[Block], bool]]] = {
            "project": (self.projects, lambda b: b.shortcut.conv is not None),
            "subsample": (self.subsamples, lambda b: b.shortcut.subsample is not None),
            "average": (self.averages, lambda b: b.shortcut.pool is not None),
            "anti_alias": (self.anti_aliases, lambda b: b.anti_alias is not None),
        }
        for name, (condition, fact) in facts.items():
            if condition == name:
                yield Argument(name, "bool", "False", fact)
        if self.preact == "preact":
            yield Argument("preact", "bool", "True", lambda b: b.preact)
        if self.shares == "shortcut_preact":
            yield Argument("shortcut_preact", "bool", "False", lambda b: b.shortcut_preact)

    def signature(self) -> list[str]:
        """`in_channels: int, width: int, stride: int = 1`, …"""
        return [
            "in_channels: int",
            "width: int",
            *(
                f"{a.name}: {a.kind}" + (f" = {a.default}" if a.default else "")
                for a in self.arguments
            ),
        ]

    def values(self, block: Block) -> list[str]:
        """What a block is called with, after its input channels."""
        given = [str(block.convs[0].out_channels)]
        for argument in self.arguments:
            value = str(argument.value(block))
            if value != argument.default:
                given.append(f"{argument.name}={value}")
        return given

    def conv(self, k: int) -> Conv:
        """Convolution k of a block, from 1, for what all blocks share."""
        return self.one.convs[k - 1]

    def dilation(self, k: int) -> str:
        name = f"dilation{k}"
        return name if any(argument.name == name for argument in self.arguments) else "1"

    def channels(self, k: int) -> tuple[str, str]:
        """Input and output channels of convolution k."""
        last = len(self.one.convs)
        return ("in_channels" if k == 1 else "width", self.out if k == last else "width")

    @property
    def anti_alias(self) -> AntiAlias | None:
        return next((b.anti_alias for b in self.blocks if b.anti_alias is not None), None)

    @property
    def projection(self) -> Shortcut:
        return next(block.shortcut for block in self.blocks if block.shortcut.conv is not None)

    @property
    def projection_conv(self) -> Conv:
        return next(b.shortcut.conv for b in self.blocks if b.shortcut.conv is not None)

    @property
    def plain(self) -> bool:
        """The shortcut is multiplied by 0 and has no weights: there is none."""
        return self.one.join.scales[0] == 0 and self.projects == NEVER

    @property
    def zeros(self) -> bool:
        """Some shortcut adds zero channels."""
        return any(widens(block) and block.shortcut.subsample for block in self.blocks)

    @property
    def zero_sides(self) -> tuple[str, str]:
        """Where `zeros` new channels stand: how many in front and behind, and in words."""
        if self.spec.shortcut.zero_pad == "split":
            return "(zeros // 2, zeros - zeros // 2)", "on both sides"
        return "(0, zeros)", "behind the others"

    @property
    def subsample_arguments(self) -> str:
        stride = "stride" if self.strides else "1"
        return f"in_channels, {self.out}, {stride}" if self.zeros else stride

    @property
    def strides_in_3x3(self) -> bool:
        return self.striding is not None and self.conv(self.striding).kernel_size > 1

    @property
    def joined(self) -> str:
        """Shortcut and branch made one, as an expression of `shortcut`, `x` and `gate`."""
        join = self.one.join
        if self.plain:
            return "x" if join.scales[1] == 1 else f"{number(join.scales[1])} * x"
        if join.mode == "scale":
            a, b = (("" if s == 1 else f"{number(s)} * ") for s in join.scales)
            return f"{a}shortcut + {b}x"
        return {
            "add": "shortcut + x",
            "exclusive_gate": "(1 - gate) * shortcut + gate * x",
            "shortcut_gate": "(1 - gate) * shortcut + x",
        }[join.mode]

    @property
    def about_block(self) -> str:
        convs = ["1 x 1 down", "3 x 3", "1 x 1 up"] if len(self.one.convs) == 3 else ["3 x 3"] * 2
        said = {
            "post": "{}, add, ReLU.",
            "full_pre": "Norm, ReLU and convolution, {} times; nothing after the addition.",
            "norm_after_add": "{}, add, norm, ReLU.",
            "act_before_add": "{}, ReLU, add.",
            "act_only_pre": "ReLU, convolution and norm, {} times; nothing after the addition.",
        }[self.one.order]
        how_often = {2: "two", 3: "three"}[len(convs)]
        if self.plain:
            said = said.replace("add, ", "")
        elif self.joined != "shortcut + x":
            said = said.replace("add", "join")
        return said.format(how_often if "times" in said else ", ".join(convs))

    @property
    def about_projection(self) -> str:
        path = self.projection
        parts = ["average pool"] if self.averages != NEVER else []
        parts += ["1 x 1 convolution"] + (["norm"] if path.norm is not None else [])
        return (
            f"The shortcut where the shape changes: {', '.join(parts)}."
            if (self.projects != ALWAYS)
            else f"The shortcut: {', '.join(parts)}."
        )

    @property
    def about_stem(self) -> str:
        stem = self.plan.stem
        convs = ", ".join(f"{conv.kernel_size} x {conv.kernel_size}" for conv in stem.convs)
        bare = "" if stem.norms[-1] is not None else ", bare"
        norm = "norm of the images, " if stem.input_norm is not None else ""
        said = f"{norm}{convs}{bare}{', pool' if stem.pool is not None else ''}."
        return said[0].upper() + said[1:]

    def about_net(self, layout: str) -> str:
        if self.plan.head is not None:
            what = f"logits [N, {self.plan.head.out_features}]"
        elif self.plan.pool is not None:
            what = f"features [N, {self.plan.output[-1]}]"
        else:
            what = "a feature map"
        return f"Images {layout} to {what}."

    def shown_shape(self, name: str, *, first: bool) -> str:
        """`(N, 64, 56, 56)`; channels first, or last."""
        *size, channels = self.shape(name)
        sides = [channels, *size] if first else [*size, channels]
        return f"(N, {', '.join(map(str, sides))})"

    def with_shape(self, lines: list[str], name: str, *, first: bool, margin: int = 0) -> list[str]:
        """The shape at the end of the line, where there is room."""
        comment = f"  # {self.shown_shape(name, first=first)}"
        if len(lines) == 1 and len(lines[0]) + len(comment) + margin <= WIDTH:
            return [lines[0] + comment]
        return lines

    def runs(self, stage: Sequence[Block]) -> Iterator[tuple[Block, int]]:
        """Blocks of a stage, and how many like it stand in a row."""
        for _, group in itertools.groupby(
            stage, key=lambda b: (b.convs[0].in_channels, self.values(b))
        ):
            blocks = list(group)
            yield blocks[0], len(blocks)

    def shape(self, name: str) -> tuple[int, ...]:
        """Height, width and channels (or channels) of a layer's output."""
        return next(row.output for row in self.plan.layers if row.name == name)


def _shared(block: Block) -> tuple[object, ...]:
    """What a file takes for the same in every block of its class."""
    convs = tuple((c.kernel_size, c.groups, c.padding, c.bias) for c in block.convs)
    dropouts = (block.dropout, block.shortcut_dropout)
    return convs, block.order, block.join, dropouts, block.gate is None


def stride_of(block: Block) -> int:
    """Of the whole block, wherever it sits."""
    path = block.shortcut
    layers = [*block.convs, path.conv, path.pool, path.subsample, block.anti_alias]
    return max(layer.stride for layer in layers if layer is not None)


def symmetric_padding(op: Conv, dilation: str) -> str:
    """The pixels on each side of the image, by the dilation as an expression."""
    reach = op.kernel_size // 2
    return str(reach) if dilation == "1" else dilation if reach == 1 else f"{reach} * {dilation}"


def dilation_of(k: int, block: Block) -> int:
    return block.convs[k].dilation


def widens(block: Block) -> bool:
    return block.convs[0].in_channels != block.convs[-1].out_channels


def norm_of(plan: Plan) -> BatchNorm | GroupNorm:
    """Any norm of the network; all have the same settings."""
    found = [*plan.stem.norms, *(n for _, block in plan.blocks() for n in block.norms)]
    return next(norm for norm in found if isinstance(norm, BatchNorm | GroupNorm))


def facts_of(spec: ResNetSpec) -> Facts:
    """Read the plan.

    Raises `SpecError` naming the field for a network that no file can be written of: it would need
    a correction that none of the published ones does.
    """
    if spec.norm.folded:
        raise _cannot("norm.folded", "set")
    plan = make_plan(spec)
    _ = plan.output  # an image size that the network cannot take is refused here
    facts = Facts(plan, tuple(block for _, block in plan.blocks()))
    if len({_shared(block) for block in facts.blocks}) > 1 or facts.strides_in > 1:
        raise SpecError(f"no source can be written for {spec.name}: its blocks differ in kind")
    if any(spec.dilate):
        if spec.anti_alias != "none":
            raise _cannot("dilate", "together with anti_alias")
        if spec.shortcut.pool == "avg":
            raise _cannot("dilate", "together with shortcut.pool=avg")
    if spec.weight_std_eps is not None and "same" in (spec.block.padding, spec.stem.padding):
        raise _cannot("weight_std_eps", "together with SAME padding")
    return facts


def _cannot(field: str, how: str) -> SpecError:
    return SpecError(f"no source can be written with {field} {how}; leave it as the preset has it")
