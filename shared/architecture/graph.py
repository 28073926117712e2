"""The plan's graph: the parts of a network as nodes in execution order.

`Plan.nodes()` concatenates them. Shapes, costs and the NumPy reference all follow from it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from shared.architecture.blocks import Block, Stem
from shared.architecture.ops import GlobalPool, Linear, Norm, Op, ReLU, Shape

INPUT = "input"  # what a part reads, and the name of the images


class Node(NamedTuple):
    """One operation: `name = op(*inputs)`.

    `row` is what tables call it, and None for operations that are no layer of their own
    (activations).
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    row: str | None


def stem_nodes(stem: Stem) -> list[Node]:
    """The nodes in front of the first stage."""
    nodes, last = [], INPUT

    def add(name: str, op: Op, row: str | None) -> None:
        nonlocal last
        nodes.append(Node(name, op, (last,), row))
        last = name

    if stem.input_norm is not None:
        add("stem.input_norm", stem.input_norm, stem.input_norm.kind)
    for k, (conv, norm) in enumerate(zip(stem.convs, stem.norms, strict=True), start=1):
        add(f"stem.conv{k}", conv, conv.kind)
        if norm is not None:
            add(f"stem.norm{k}", norm, norm.kind)
            add(f"stem.relu{k}", ReLU(), None)
    if stem.pool is not None:
        add("stem.pool", stem.pool, stem.pool.kind)
    if stem.anti_alias is not None:
        add("stem.anti_alias", stem.anti_alias, stem.anti_alias.kind)
    return nodes


@functools.lru_cache(maxsize=4096)
def block_nodes(block: Block) -> tuple[Node, ...]:
    """A block's nodes, named relative to it; its own output is named ''."""
    nodes: list[Node] = []

    def add(name: str, op: Op, *inputs: str, row: str | None = None) -> str:
        nodes.append(Node(name, op, inputs, row))
        return name

    def named(name: str, op: Op, *inputs: str) -> str:
        return add(name, op, *inputs, row=op.kind)

    order, convs, norms = block.order, block.convs, block.norms
    x = INPUT
    if block.preact and norms[0] is not None and order == "full_pre":
        x = named("norm1", norms[0], x)
    if block.preact:
        x = add("relu1", ReLU(), x)

    source = x if block.shortcut_preact else INPUT
    skip, path = source, block.shortcut
    if path.pool is not None:
        skip = named("shortcut.pool", path.pool, skip)
    if path.conv is not None:
        skip = named("shortcut.conv", path.conv, skip)
    if path.norm is not None:
        skip = named("shortcut.norm", path.norm, skip)
    if path.subsample is not None:
        skip = named("shortcut", path.subsample, skip)
    if block.shortcut_dropout is not None:
        skip = add("dropout", block.shortcut_dropout, skip)
    gate = (named("gate", block.gate, source),) if block.gate is not None else ()

    for k, (conv, norm) in enumerate(zip(convs, norms, strict=True), start=1):
        last = k == len(convs)
        if order == "full_pre":
            if k > 1 and norm is not None:
                x = named(f"norm{k}", norm, x)
                x = add(f"relu{k}", ReLU(), x)
            if last and block.dropout is not None:
                x = add("inner_dropout", block.dropout, x)
            x = named(f"conv{k}", conv, x)
            continue
        if last and block.dropout is not None:
            x = add("inner_dropout", block.dropout, x)
        if last and block.anti_alias is not None:
            x = named("anti_alias", block.anti_alias, x)
        x = named(f"conv{k}", conv, x)
        if norm is not None and not (last and order == "norm_after_add"):
            x = named(f"norm{k}", norm, x)
        if not last or order == "act_before_add":
            x = add(f"relu_{k}", ReLU(), x)

    if order in ("post", "norm_after_add"):
        x = add("join", block.join, skip, x, *gate)
        if order == "norm_after_add" and norms[-1] is not None:
            x = named(f"norm{len(convs)}", norms[-1], x)
        add("", ReLU(), x, row=block.kind)
    else:
        add("", block.join, skip, x, *gate, row=block.kind)
    return tuple(nodes)


def head_nodes(
    final_norm: Norm | None, final_relu: ReLU | None, pool: GlobalPool | None, head: Linear | None
) -> list[Node]:
    """The nodes behind the last stage."""
    steps: list[tuple[str, Op | None, bool]] = [
        ("final_norm", final_norm, True),
        ("final_relu", final_relu, False),
        ("pool", pool, True),
        ("head", head, True),
    ]
    nodes, last = [], INPUT
    for name, op, named in steps:
        if op is not None:
            nodes.append(Node(name, op, (last,), op.kind if named else None))
            last = name
    return nodes


def cost_of(nodes: Sequence[Node], shape: Shape) -> tuple[Shape, int, int]:
    """(output shape, parameters, multiply-adds) of a part whose input has `shape`."""
    shapes, params, macs = {INPUT: shape}, 0, 0
    for node in nodes:
        shape = shapes[node.name] = node.op.output(*(shapes[i] for i in node.inputs))
        params, macs = params + node.op.params(), macs + node.op.macs(shape)
    return shape, params, macs


@functools.lru_cache(maxsize=4096)
def cost_of_block(block: Block, shape: Shape) -> tuple[Shape, int, int]:
    """`cost_of` a block; the presets have many in common."""
    return cost_of(block_nodes(block), shape)
