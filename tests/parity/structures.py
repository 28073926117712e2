"""The distinct structures among all presets: presets that differ only in depth, width or init are
one.
"""

from __future__ import annotations

import itertools

from shared import ResNetSpec, get_spec, list_presets, make_plan, miniature
from shared.architecture.spec import InitSpec

SIZES_OF_OPS = {
    "in_channels",
    "out_channels",
    "channels",
    "in_features",
    "out_features",
    "channels_before",
    "channels_after",
}


def structure(preset: str) -> ResNetSpec:
    """The miniature of a preset, without what does not change the function."""
    return miniature(get_spec(preset)).replace(name="structure", init=InitSpec())


def distinct() -> dict[str, ResNetSpec]:
    """The first preset of every structure -> its miniature, named after it."""
    found: dict[ResNetSpec, str] = {}
    for preset in list_presets():
        found.setdefault(structure(preset), preset)
    return {preset: miniature(get_spec(preset)) for preset in found.values()}


def kinds_of_layers(spec: ResNetSpec) -> frozenset[tuple]:
    """Every operator of a network without its channel counts, with the kind and order of the
    blocks.
    """
    plan = make_plan(spec)
    ops = {
        (
            type(node.op).__name__,
            *((k, v) for k, v in vars(node.op).items() if k not in SIZES_OF_OPS),
        )
        for node in plan.nodes()
    }
    return frozenset(ops) | {
        (block.kind, block.order, block.shortcut_preact, block.join.mode)
        for _, block in plan.blocks()
    }


def covering(structures: dict[str, ResNetSpec]) -> list[str]:
    """Structures that between them have every kind of layer, as they come."""
    kinds = {name: kinds_of_layers(spec) for name, spec in structures.items()}
    left = frozenset().union(*kinds.values())
    chosen = set()
    while left:
        best = max(kinds, key=lambda name: len(kinds[name] & left))
        chosen.add(best)
        left -= kinds[best]
    return [name for name in structures if name in chosen]


def with_blocks(spec: ResNetSpec, depths: tuple[int, ...]) -> ResNetSpec:
    """The network with so many blocks in its first stages, and no other stages."""
    n = len(depths)
    return spec.replace(
        depths=depths, widths=spec.widths[:n], strides=spec.strides[:n], dilate=spec.dilate[:n]
    )


def shallow(spec: ResNetSpec) -> ResNetSpec:
    """Every kind of layer of a miniature in as few blocks as have them: two stages at least, and a
    block behind another where there was one.
    """
    kinds = kinds_of_layers(spec)
    depths = [
        several
        for n in range(2, len(spec.depths) + 1)
        for several in itertools.product(*({1, depth} for depth in spec.depths[:n]))
        if max(several) == max(spec.depths)
    ]
    networks = (with_blocks(spec, several) for several in sorted(depths, key=sum))
    return next(network for network in networks if kinds_of_layers(network) == kinds)


STRUCTURES = distinct()
COVERING = covering(STRUCTURES)  # the others are in the zoo
SHALLOW = {preset: shallow(STRUCTURES[preset]) for preset in COVERING}  # what the short run builds


def network(preset: str, blocks: str) -> ResNetSpec:
    """The structure of a preset with `all` its blocks, or the `fewest`."""
    return STRUCTURES[preset] if blocks == "all" else SHALLOW[preset]


def sizes(spec: ResNetSpec) -> tuple[int, int]:
    """An even and an odd image size at which the last feature map is more than one pixel."""
    if spec.anti_alias == "average":
        return (64, 65)  # the stem's pool leaves out the last row of 33; later maps must be even
    return (64, 75) if spec.image_size > 64 else (32, 37)
