"""A ResNet recognised by its structure: layers into blocks, blocks into a network, without knowing
what anything is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from shared.architecture.ops import Shape
from shared.recognition.blocks import SIDE, Block, Conv, items_of
from shared.recognition.chain import Chain, make_chain
from shared.recognition.layers import WEIGHT, Layer, Layout, oriented
from shared.recognition.names import Words, common
from shared.recognition.norms import find_norms
from shared.recognition.tree import Node

MIN_STAGES = 2
MIN_CONVS = 5  # of a stem and two blocks
LEAF = {WEIGHT: "weight", "scale": "weight"}


@dataclass(eq=False)
class Structure:
    """A network by structure: canonical layer -> layer of the file."""

    layers: Mapping[str, Layer]
    layout: Layout
    scope: Words  # parts that the names of all of its convolutions begin with
    features: int
    pre: bool
    doubts: list[str] = field(default_factory=list)
    blocks: Sequence[Words] = ()  # where names tell them

    def names(self) -> dict[str, str]:
        """Canonical tensor -> the file's name."""
        return {
            f"{canonical}.{LEAF.get(role, role)}": name
            for canonical, layer in self.layers.items()
            for role, name in layer.names.items()
        }

    def shapes(self) -> dict[str, Shape]:
        """Canonical tensor -> canonical shape."""
        return {
            f"{canonical}.{LEAF.get(role, role)}": oriented(shape, self.axes(shape))
            for canonical, layer in self.layers.items()
            for role, shape in layer.shapes.items()
        }

    def axes(self, shape: Shape) -> tuple[int, ...]:
        """Which axes of the file's tensor are canonical ones."""
        if len(shape) == 4:
            return self.layout.kernel_axes
        return tuple(range(len(shape)))


@dataclass(frozen=True)
class Misfit:
    """Convolutions that make a network whose other layers do not fit."""

    scope: Words
    why: str


def find_structures(tree: Node, layout: Layout) -> list[Structure | Misfit]:
    """Every network below a node: one of all its blocks, or those of its branches, or one of what
    these leave.
    """
    found, _ = _search(tree, layout)
    return found


def _search(node: Node, layout: Layout) -> tuple[list[Structure | Misfit], set[Layer]]:
    """What is found, and its layers."""
    if node.convs < MIN_CONVS:
        return [], set()
    items = list(items_of(node, layout))
    chain = make_chain(items)
    blocks = sum(isinstance(item, Block) for item in items)
    found: list[Structure | Misfit] = []
    used: set[Layer] = set()
    if chain is None or not (chain.counted or len(chain.blocks) == blocks):
        for child in _branches(node):
            inner, taken = _search(child, layout)
            found += inner
            used |= taken
        if used:
            left = [item for item in items if not any(conv.layer in used for conv in _convs(item))]
            chain = make_chain(left)
    if chain is not None and len(chain.starts) >= MIN_STAGES:
        found.append(structure := _structure(node, chain, layout, used))
        used |= {conv.layer for conv in chain.convs}
        used |= set(structure.layers.values()) if isinstance(structure, Structure) else set()
    return found, used


def _branches(node: Node) -> list[Node]:
    """The children of the lowest node with all of these convolutions."""
    while only := next((child for child in node.children if child.convs == node.convs), None):
        node = only
    return node.children


def _convs(item: Block | Conv) -> Sequence[Conv]:
    return item.convs if isinstance(item, Block) else [item]


def _structure(node: Node, chain: Chain, layout: Layout, used: set[Layer]) -> Structure | Misfit:
    scope = common([conv.layer.parts for conv in chain.convs])
    inside = [
        layer
        for layer in node.walk()
        if layer.kind == "norm" and layer not in used and layer.parts[: len(scope)] == scope
    ]
    norms = find_norms(chain, inside)
    if isinstance(norms, str):
        return Misfit(scope, norms)
    if not norms.side and _gated(chain):
        name = chain.blocks[-1].chosen[SIDE].layer.names[WEIGHT]
        return Misfit(
            scope, f"1 x 1 convolutions with a bias beside every block, perhaps gates, as {name}"
        )
    found: dict[str, Layer] = {f"stem.conv{k}": conv.layer for k, conv in enumerate(chain.stem, 1)}
    for i, canonical in enumerate(_places(chain)):
        found |= {
            f"{canonical}.{role}": conv.layer for role, conv in chain.blocks[i].chosen.items()
        }
    places = list(_places(chain))
    for key, norm in norms.layers.items():
        index, _, role = key.partition(".")
        found[f"{places[int(index)]}.{role}" if index.isdecimal() else key] = norm
    return Structure(
        found,
        layout,
        scope,
        chain.features,
        norms.pre,
        [*chain.doubts, *norms.doubts],
        [] if chain.counted else [block.path for block in chain.blocks],
    )


def _gated(chain: Chain) -> bool:
    """Whether every block has a 1 x 1 beside it, and these alone have biases."""
    sides = [block.chosen.get(SIDE) for block in chain.blocks]
    mains = [block.chosen["conv1"] for block in chain.blocks]
    return all(conv is not None and conv.bias for conv in sides) and not any(
        conv.bias for conv in mains
    )


def _places(chain: Chain) -> Iterator[str]:
    """The canonical name of each block."""
    stage, start, starts = -1, 0, set(chain.starts)
    for i in range(len(chain.blocks)):
        if i in starts:
            stage, start = stage + 1, i
        yield f"stages.{stage}.blocks.{i - start}"
