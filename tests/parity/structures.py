"""The distinct structures among all presets: presets that differ only in depth, width or init are
one.
"""

from __future__ import annotations

from shared import ResNetSpec, get_spec, list_presets, miniature
from shared.architecture.spec import InitSpec


def structure(preset: str) -> ResNetSpec:
    """The miniature of a preset, without what does not change the function."""
    return miniature(get_spec(preset)).replace(name="structure", init=InitSpec())


def distinct() -> dict[str, ResNetSpec]:
    """The first preset of every structure -> its miniature, named after it."""
    found: dict[ResNetSpec, str] = {}
    for preset in list_presets():
        found.setdefault(structure(preset), preset)
    return {preset: miniature(get_spec(preset)) for preset in found.values()}


STRUCTURES = distinct()


def sizes(spec: ResNetSpec) -> tuple[int, int]:
    """An even and an odd image size at which the last feature map is more than one pixel."""
    return (64, 75) if spec.image_size > 64 else (32, 37)
