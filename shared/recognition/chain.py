"""Blocks and convolutions put in the order in which a network runs them: stem, then blocks.

Where names tell the blocks, channels tell in which order their groups follow. Where layers are only
counted (`conv2d_17`), the blocks are read off the sequence.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.recognition.blocks import BASIC, BOTTLENECK, SIDE, Block, Conv, choose, flows
from shared.recognition.layers import WEIGHT
from shared.recognition.names import pattern_of, shared

MAX_STEM = 4  # convolutions
MIN_BLOCKS = 2
_MAX_RUNS = 512
_MAX_SEQUENCE = 1 << 12
_MAX_STEMS = 16  # convolutions that could each be the stem's last


@dataclass(eq=False)
class Chain:
    """A stem and the blocks behind it; `ordered` are all convolutions as the file counts them."""

    stem: Sequence[Conv]
    blocks: Sequence[Block]
    counted: bool = False  # blocks were read off a sequence
    doubts: list[str] = field(default_factory=list)

    @property
    def features(self) -> int:
        return self.blocks[-1].outputs

    @property
    def convs(self) -> list[Conv]:
        return [*self.stem, *(conv for block in self.blocks for conv in block.convs)]

    @property
    def starts(self) -> list[int]:
        """The blocks that begin stages: where the channels change."""
        outputs = [block.outputs for block in self.blocks]
        return [i for i, out in enumerate(outputs) if i == 0 or out != outputs[i - 1]]


def make_chain(items: Sequence[Block | Conv]) -> Chain | None:
    """The longest network that the items make, or None."""
    blocks = [item for item in items if isinstance(item, Block)]
    chain = _of_blocks(blocks, [item for item in items if isinstance(item, Conv)])
    if chain is None or len(chain.blocks) < len(blocks):
        convs = [
            conv for item in items for conv in (item.convs if isinstance(item, Block) else [item])
        ]
        return _of_sequence(convs) or chain
    return chain


def _of_blocks(blocks: Sequence[Block], free: Sequence[Conv]) -> Chain | None:
    runs = _runs(blocks)
    if len(blocks) < MIN_BLOCKS or not free or len(runs) > _MAX_RUNS:
        return None
    best: tuple[list[Block], list[Conv], str | None] | None = None
    for start in runs:
        stem, doubt = _stem(start[0], free)
        chain = _follow(start, runs) if stem else []
        if len(chain) >= MIN_BLOCKS and (best is None or len(chain) > len(best[0])):
            best = (chain, stem, doubt)
    if best is None:
        return None
    chain, stem, doubt = best
    doubts = choose(chain)
    return Chain(stem, chain, doubts=[*([doubt] if doubt else []), *doubts])


def _runs(blocks: Sequence[Block]) -> list[list[Block]]:
    """Blocks of one parent that follow each other."""
    runs: list[list[Block]] = []
    for block in blocks:
        last = runs[-1][-1] if runs else None
        if (
            last is not None
            and last.path[:-1] == block.path[:-1]
            and last.outputs == block.inputs
            and last.kind == block.kind
        ):
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs


def _follow(start: list[Block], runs: Sequence[list[Block]]) -> list[Block]:
    """The run, and those behind it, each of which widens what the last one gives."""
    by_inputs: dict[int, list[list[Block]]] = {}
    for run in runs:
        if run[0].kind == start[0].kind and run[-1].outputs > run[0].inputs:
            by_inputs.setdefault(run[0].inputs, []).append(run)
    order = {id(run): i for i, run in enumerate(runs)}
    chain, last = list(start), start
    while following := by_inputs.get(chain[-1].outputs):
        nearest = max(shared(start[0].path, run[0].path) for run in following)
        near = [run for run in following if shared(start[0].path, run[0].path) == nearest]
        behind = [run for run in near if order[id(run)] > order[id(last)]]
        last = (behind or near)[0]
        chain += last
    return chain


def _stem(block: Block, free: Sequence[Conv]) -> tuple[list[Conv], str | None]:
    """The convolutions in front of a block, and the doubt where others could be."""
    ends = [conv for conv in free if conv.outputs == block.inputs and conv.kernel > 1]
    nearest = max((shared(conv.layer.words, block.path) for conv in ends), default=0)
    ends = [conv for conv in ends if shared(conv.layer.words, block.path) == nearest]
    if not 0 < len(ends) <= _MAX_STEMS:
        return [], None
    chains = [_backwards(end, free) for end in ends]
    left = [c for c in chains if not any(set(c) < set(other) for other in chains)]
    doubt = None
    if len(left) > 1:
        names = " or ".join(chain[0].layer.names[WEIGHT] for chain in left[:4])
        doubt = f"the first convolution could be {names}"
    return left[0], doubt


def _backwards(end: Conv, free: Sequence[Conv]) -> list[Conv]:
    """A convolution and those whose outputs it takes, as long as one is called like the next."""
    chain = [end]
    ahead = [conv for conv in free[: free.index(end)] if _alike(conv, end)]
    while ahead and len(chain) < MAX_STEM:
        conv = ahead.pop()
        if conv.outputs == chain[0].inputs:
            chain.insert(0, conv)
    return chain


def _alike(a: Conv, b: Conv) -> bool:
    return pattern_of(a.layer.words) == pattern_of(b.layer.words)


def _of_sequence(convs: Sequence[Conv]) -> Chain | None:
    """The network whose convolutions are counted in the order in which it runs them.

    Only with projections: a row of 3 x 3 convolutions without any could as well be VGG.
    """
    narrow = sum(conv.kernel == 1 for conv in convs)
    if not narrow or len(convs) > _MAX_SEQUENCE:
        return None
    kind = BOTTLENECK if 2 * narrow > len(convs) else BASIC
    for length in range(1, min(MAX_STEM, len(convs)) + 1):
        stem, rest = convs[:length], convs[length:]
        if any(a.outputs != b.inputs for a, b in itertools.pairwise(stem)):
            break
        if stem[-1].kernel == 1:
            break
        blocks = _cut(rest, stem[-1].outputs, kind)
        if len(blocks) >= MIN_BLOCKS and any(SIDE in block.chosen for block in blocks):
            twins = len(convs) - len({(c.inputs, c.outputs, c.kernel) for c in convs})
            doubt = (
                f"the layers are taken to be counted as they run, for nothing else tells "
                f"{twins} kernels from others of the same shape"
            )
            return Chain(stem, blocks, counted=True, doubts=[doubt])
    return None


def _cut(convs: Sequence[Conv], channels: int, kind: str) -> list[Block]:
    """The blocks of a sequence, all of it; empty if it is none.

    The shortcut's convolution stands in front of a block's others, or behind them, everywhere.
    """
    size = 3 if kind == BOTTLENECK else 2
    for side in (0, size, 1, 2):
        blocks: list[Block] = []
        untried = [(0, block) for block in _blocks_at(convs[: size + 1], channels, size, side)]
        ends: list[int] = []
        failed: set[int] = set()
        while untried:
            depth, block = untried.pop()
            del blocks[depth:], ends[depth:]
            end = (ends[-1] if ends else 0) + len(block.convs)
            if end in failed:
                continue
            failed.add(end)  # or reached: either way not once more
            blocks.append(block)
            ends.append(end)
            if end == len(convs):
                return blocks
            ahead = convs[end : end + size + 1]
            found = _blocks_at(ahead, block.outputs, size, side)
            untried += [(depth + 1, following) for following in found]
    return []


def _blocks_at(convs: Sequence[Conv], channels: int, size: int, side: int) -> list[Block]:
    """The blocks that may start here, with a shortcut's convolution at `side` or without one; the
    last is the likeliest.
    """
    kernels = (1, 3, 1) if size == 3 else (3, 3)
    found = []
    for count in (size + 1, size):
        members = convs[:count]
        main = [conv for i, conv in enumerate(members) if count == size or i != side]
        if len(members) < count or main[0].inputs != channels:
            continue
        if count == size and channels != main[-1].outputs:
            continue
        roles = {f"conv{k}": conv for k, conv in enumerate(main, 1)}
        if count > size:
            roles[SIDE] = members[side]
        if tuple(conv.kernel for conv in main) == kernels and flows(roles):
            found.append(Block((), members, [roles], roles))
    return found
