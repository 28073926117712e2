"""Which convolution of a block is which, by shapes; by names where shapes leave a choice.

A residual block is two 3 x 3 convolutions (basic), or 1 x 1, 3 x 3 and 1 x 1 (bottleneck), with or
without a 1 x 1 on the shortcut and a gate.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.recognition.layers import BIAS, WEIGHT, Layer, Layout, fits, oriented
from shared.recognition.names import Words, common, pattern_of
from shared.recognition.tree import Node

# Words by which shortcuts are known.
SHORTCUT = re.compile(
    r"shortcut|short|downsample|down|skip|proj|projection|identity|id|branch1|sc|bypass|match|"
    r"adjust|residualproj|idconv|convid|dim|0"
)
_CERTAIN = re.compile(
    r"(conv)?(shortcut|downsample|skip|proj|projection|identity|sc|branch1)(conv)?"
)
_GATE = "gate"
BASIC, BOTTLENECK = "basic", "bottleneck"
MAX_CONVS = 5  # of a block
SIDE = "shortcut.conv"


class Conv(NamedTuple):
    """A convolution's channels and kernel, and its layer."""

    inputs: int
    outputs: int
    kernel: int
    layer: Layer

    @property
    def bias(self) -> bool:
        return BIAS in self.layer.shapes


Roles = Mapping[str, Conv]  # conv1, conv2, conv3, shortcut.conv, gate


@dataclass(eq=False)
class Block:
    """Convolutions that can be a residual block, in one or more ways."""

    path: Words  # of the highest word that they share and no other convolution has
    convs: Sequence[Conv]  # in natural order
    options: Sequence[Roles]
    chosen: Roles = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return BOTTLENECK if "conv3" in self.options[0] else BASIC

    @property
    def inputs(self) -> int:
        return self.options[0]["conv1"].inputs

    @property
    def outputs(self) -> int:
        return self.options[0][last_of(self.kind)].outputs


def last_of(kind: str) -> str:
    return "conv3" if kind == BOTTLENECK else "conv2"


def conv_of(layer: Layer, layout: Layout) -> Conv | None:
    """The convolution, if its kernel is square, odd and small."""
    shape = layer.shapes[WEIGHT]
    if not fits(shape, layout):
        return None
    outputs, inputs, kernel, _ = oriented(shape, layout.kernel_axes)
    return Conv(inputs, outputs, kernel, layer)


def items_of(node: Node, layout: Layout) -> Iterator[Block | Conv]:
    """The blocks and the convolutions in no block below a node, in natural order."""
    if not node.convs:
        return
    if 2 <= node.convs <= MAX_CONVS:
        convs = [conv_of(layer, layout) for layer in node.walk() if layer.kind == "conv"]
        whole = [conv for conv in convs if conv is not None]
        options = list(ways(whole)) if len(whole) == len(convs) else []
        if options:
            yield Block(node.path, whole, options)
            return
    for layer in node.layers:
        conv = conv_of(layer, layout) if layer.kind == "conv" else None
        if conv is not None:
            yield conv
    for child in node.children:
        yield from items_of(child, layout)


def ways(convs: Sequence[Conv]) -> Iterator[Roles]:
    """Every way in which the convolutions are one block, those in natural order first."""
    gates = [conv for conv in convs if any(_GATE in word for word in conv.layer.words)]
    rest = [conv for conv in convs if conv not in gates]
    wide = [conv for conv in rest if conv.kernel == 3]
    narrow = [conv for conv in rest if conv.kernel == 1]
    if len(gates) > 1 or len(wide) + len(narrow) < len(rest):
        return
    gate = {_GATE: gates[0]} if gates else {}
    if len(wide) == 2 and len(narrow) <= 1:
        orders = [(*pair, *narrow) for pair in itertools.permutations(wide)]
        names: tuple[str, ...] = ("conv1", "conv2", SIDE)
    elif len(wide) == 1 and 2 <= len(narrow) <= 3:
        orders = [(first, wide[0], *others) for first, *others in itertools.permutations(narrow)]
        names = ("conv1", "conv2", "conv3", SIDE)
    else:
        return
    for order in orders:
        roles = dict(zip(names, order, strict=False)) | gate
        if flows(roles):
            yield roles


def flows(roles: Roles) -> bool:
    """Whether channels pass from one convolution to the next, and the shortcut, if it has one,
    spans them.
    """
    first, second = roles["conv1"], roles["conv2"]
    last = roles.get("conv3", second)
    if "conv3" in roles:
        grouped = first.outputs == second.outputs and second.outputs % second.inputs == 0
        inner = grouped and last.inputs == second.outputs
    else:
        inner = first.outputs == second.inputs == second.outputs
    around = [roles[role] for role in (SIDE, _GATE) if role in roles]
    spans = all(
        (conv.inputs, conv.outputs, conv.kernel) == (first.inputs, last.outputs, 1)
        for conv in around
    )
    return inner and spans and (SIDE in roles or first.inputs <= last.outputs)


def choose(blocks: Sequence[Block]) -> list[str]:
    """Decide every block, and tell which tensors could be exchanged.

    What one block's shapes decide decides the others whose layers are called the same; where none
    does, a word for shortcuts, and then the order in which the layers stand.
    """
    called = local_names([[conv.layer for conv in block.convs] for block in blocks])
    known: dict[Words, str] = {}
    for block in blocks:
        for conv in block.convs:
            roles = {role for option in block.options for role, c in option.items() if c is conv}
            if len(roles) == 1:
                known.setdefault(called[conv.layer], roles.pop())
    doubts = []
    for block in blocks:
        ranked = [
            (sum(known.get(called[conv.layer]) == role for role, conv in option.items()), option)
            for option in block.options
        ]
        best = max(count for count, _ in ranked)
        left = [option for count, option in ranked if count == best]
        if len(left) > 1:
            named = [option for option in left if SIDE in option and _is_side(option, _CERTAIN)]
            left = named or left
        if len(left) > 1:
            named = [option for option in left if SIDE in option and _is_side(option, SHORTCUT)]
            left = named if len(named) == 1 else left
        if len(left) > 1:
            doubts.append((block, left))
        block.chosen = left[0]
    return [_told(block, left) for block, left in doubts if not _numbered(block, left)]


def _is_side(option: Roles, words: re.Pattern[str]) -> bool:
    """Whether the shortcut has a word for shortcuts, and no other convolution has."""

    def called(conv: Conv) -> bool:
        return any(
            words.fullmatch(word.rstrip("0123456789") or word) or words.fullmatch(word)
            for word in conv.layer.words[-3:]
        )

    others = [conv for role, conv in option.items() if role != SIDE]
    return called(option[SIDE]) and not any(called(conv) for conv in others)


def _numbered(block: Block, left: Sequence[Roles]) -> bool:
    """Whether the choice is between layers of one name and several numbers, which say the order:
    `conv1` and `conv2`.
    """
    differing = {
        conv.layer
        for role in left[0]
        for option in left
        if (conv := option[role]) is not left[0][role]
    } | {left[0][role].layer for role in left[0] if any(o[role] is not left[0][role] for o in left)}
    return len({pattern_of(layer.words) for layer in differing}) == 1 and not any(
        SIDE in option and option[SIDE].layer in differing for option in left
    )


def _told(block: Block, left: Sequence[Roles]) -> str:
    roles = [role for role in left[0] if any(option[role] is not left[0][role] for option in left)]
    names = [left[0][role].layer.names[WEIGHT] for role in roles]
    what = " and ".join("the shortcut" if role == SIDE else role for role in roles)
    return f"{' and '.join(names)} have one shape; their order alone says which is {what}"


def local_names(groups: Sequence[Sequence[Layer]]) -> dict[Layer, Words]:
    """What a layer is called inside its block: as many last words as it takes to tell it from the
    others in any of the blocks.
    """
    depth: dict[str, int] = {}
    for group in groups:
        inner = len(common([layer.words for layer in group]))
        for layer in group:
            last = layer.words[-1] if layer.words else ""
            depth[last] = max(depth.get(last, 0), len(layer.words) - inner)
    return {
        layer: layer.words[-depth[layer.words[-1]] :] if layer.words else ()
        for group in groups
        for layer in group
    }
