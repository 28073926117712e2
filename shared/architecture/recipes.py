"""What the presets of several families are made of: depths, kinds of blocks, V2's order, CIFAR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Changes = Mapping[str, Any]  # of the default spec


class Family(NamedTuple):
    """What a family's presets share."""

    title: str
    source: str
    preprocessing: str


DEPTHS: dict[int, tuple[int, ...]] = {
    18: (2, 2, 2, 2),
    26: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
BASIC: Changes = {"block.kind": "basic", "block.stride_conv": 1}
BASIC_DEPTHS = (18, 34)


def imagenet(depth: int) -> dict[str, Any]:
    return {"depths": DEPTHS[depth], **(BASIC if depth in BASIC_DEPTHS else {})}


PREACT: Changes = {
    "block.order": "full_pre",
    "stem.norm_act": False,
    "shortcut.norm": False,
    "head.final": "norm_act",
}


def grouped(groups: int, base_width: int, depth: int) -> dict[str, Any]:
    return {**imagenet(depth), "block.groups": groups, "block.base_width": base_width}


def cifar(stage_depth: int) -> dict[str, Any]:
    """Three stages on 32 x 32 images, no stem pool."""
    return {
        "image_size": 32,
        "num_classes": 10,
        "stem.convs": ((3, 1, 16),),
        "stem.pool": "none",
        "depths": (stage_depth,) * 3,
        "widths": (16, 32, 64),
        "strides": (1, 2, 2),
        "dilate": (False,) * 3,
    }
