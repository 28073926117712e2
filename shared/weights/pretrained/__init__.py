"""Bundled weights: trained here, by the recipe of the same name (docs/reproduction.md), no
network needed.

Canonical files, with the recipe, its seed, the preprocessing and the measured accuracy in their
metadata.
"""

from __future__ import annotations

from pathlib import Path

from shared.errors import SpecError, nearest

PRETRAINED = ("fashion-mnist/resnet20", "fashion-mnist/resnet20-v2")


def pretrained_file(name: str) -> Path:
    """The file of the weights of that name. Raises `SpecError` for a name that there is not."""
    if name not in PRETRAINED:
        raise SpecError(
            f"no bundled weights {name!r}{nearest(name, PRETRAINED)}; there are "
            f"{', '.join(PRETRAINED)}"
        )
    return Path(__file__).parent / f"{name.replace('/', '-')}.safetensors"
