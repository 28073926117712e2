"""The networks that the page shows side by side, and the parts of a network that it shows."""

from __future__ import annotations

import re
from typing import NamedTuple


class Shown(NamedTuple):
    """A preset, and what it is an example of."""

    preset: str
    label: str
    what: str


NETWORKS = (
    Shown("torchvision/resnet50", "V1.5", "the 3 x 3 convolution strides: what most people load"),
    Shown("he/resnet50", "V1", "the paper's: the first 1 x 1 convolution strides"),
    Shown("fb/preresnet50", "V2", "norm and ReLU stand in front of the convolutions"),
    Shown("torchvision/resnet18", "basic", "two 3 x 3 convolutions a block"),
    Shown("fb/preresnet18", "basic V2", "two 3 x 3 convolutions a block, norm and ReLU in front"),
    Shown("timm/resnet50d", "ResNet-D", "a deep stem; a pool halves the shortcut"),
    Shown("bit/r50x1", "BiT", "standardised filters, group norm"),
    Shown("cifar/resnet20", "CIFAR, option A", "shortcuts without weights, for 32 x 32"),
    Shown("keras/resnet50v2", "Keras V2", "the last block of a stage strides; eps 1.001e-5"),
    Shown("flax/resnet50", "Flax, SAME", "strided convolutions and the pool pad SAME"),
)

# What each part of a listing is called on the page.
TITLES = {
    "about": "What the file says of the network",
    "load": "Loading canonical weights",
    "imports": "Imports",
    "norm": "Norms",
    "conv": "Convolutions that are no stock ones",
    "shortcut": "Shortcut",
    "block": "The block as a whole",
    "block.1": "First convolution of a block, its norm and ReLU",
    "block.2": "Second convolution of a block, its norm and ReLU",
    "block.3": "Third convolution of a block, its norm and ReLU",
    "add": "Addition at the end of a block",
    "stem": "Stem",
    "stages.0": "Stage 0",
    "stages.1": "Stage 1",
    "stages.2": "Stage 2",
    "stages.3": "Stage 3",
    "head": "Head",
}

_LAYER = re.compile(
    r"(?:^|/)(?P<layer>stem\b|final_norm|final_relu|pool|head|output"
    r"|stages\.(?P<stage>\d+)\.blocks\.\d+(?:\.(?P<inner>[\w.]+))?)"
)


def units_of(name: str) -> tuple[str, ...]:
    """The parts of the page that a layer, a tensor or a trace's key belongs to."""
    found = _LAYER.search(name)
    if found is None:
        return ()
    kind = re.search(r"(?:^|[./])(norm|final_norm|conv)\d*(?:\.\w+)?$", name)
    of_kind = (kind[1].removeprefix("final_"),) if kind else ()
    if found["stage"] is None:
        return ("stem" if found["layer"] == "stem" else "head", *of_kind)
    stage, inner = f"stages.{found['stage']}", found["inner"] or ""
    if numbered := re.match(r"(?:conv|norm|relu)(\d)\b", inner):
        return (f"block.{numbered[1]}", "block", stage, *of_kind)
    part = "add" if inner in ("", "relu", "add") else "shortcut"
    return (part, "block", stage, *of_kind)
