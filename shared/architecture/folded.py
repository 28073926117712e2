"""A network whose batch norms are folded into the convolutions in front of them, for inference.

In evaluation mode a batch norm is a scale and a shift of each channel. Where it is the only reader
of a convolution, the two are one convolution with a bias: every norm of a post-activation block and
of a stem, and in a pre-activation block all but the first, which reads the sum of the block before.
`shared.weights.folding` folds the weights.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

from shared.architecture.blocks import Block, Stem
from shared.architecture.graph import Node, block_nodes, stem_nodes
from shared.architecture.ops import BatchNorm, Conv, FoldedNorm, Norm


def folded_into(nodes: Sequence[Node]) -> dict[str, str]:
    """Norm -> convolution, for each batch norm that is the only reader of a convolution."""
    convs = {node.name for node in nodes if isinstance(node.op, Conv)}
    readers: dict[str, int] = {}
    for node in nodes:
        for name in node.inputs:
            readers[name] = readers.get(name, 0) + 1
    return {
        node.name: node.inputs[0]
        for node in nodes
        if isinstance(node.op, BatchNorm)
        and node.inputs[0] in convs
        and readers[node.inputs[0]] == 1
    }


def fold_stem(stem: Stem) -> Stem:
    """The stem without the norms that its convolutions take in."""
    pairs = folded_into(stem_nodes(stem))
    prefix = "stem."
    return replace(
        stem,
        convs=_folded_convs(stem.convs, pairs, prefix),
        norms=_folded_norms(stem.norms, pairs, prefix),
    )


@functools.lru_cache(maxsize=4096)
def fold_block(block: Block) -> Block:
    """The block without the norms that its convolutions take in; equal blocks stay one object."""
    pairs = folded_into(block_nodes(block))
    shortcut = block.shortcut
    if shortcut.conv is not None and shortcut.norm is not None and "shortcut.norm" in pairs:
        conv = replace(shortcut.conv, bias=True)
        shortcut = replace(shortcut, conv=conv, norm=FoldedNorm(shortcut.norm.channels))
    return replace(
        block,
        convs=_folded_convs(block.convs, pairs),
        norms=_folded_norms(block.norms, pairs),
        shortcut=shortcut,
    )


def _folded_convs(
    convs: tuple[Conv, ...], pairs: dict[str, str], prefix: str = ""
) -> tuple[Conv, ...]:
    taken = set(pairs.values())
    return tuple(
        replace(conv, bias=True) if f"{prefix}conv{k}" in taken else conv
        for k, conv in enumerate(convs, start=1)
    )


def _folded_norms(
    norms: tuple[Norm | None, ...], pairs: dict[str, str], prefix: str = ""
) -> tuple[Norm | None, ...]:
    return tuple(
        FoldedNorm(norm.channels) if norm is not None and f"{prefix}norm{k}" in pairs else norm
        for k, norm in enumerate(norms, start=1)
    )
