"""How far presets are from a spec, by the fields that a graph can show."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from shared.architecture.papers import papers_presets
from shared.architecture.presets import get_spec, list_presets
from shared.architecture.spec import ResNetSpec

UNSEEN = ("init", "name", "image_size", "num_classes", "in_channels")
HEAVY = {
    "block.kind": 20.0,
    "depths": 10.0,
    "widths": 10.0,
    "block.order": 8.0,
    "block.groups": 8.0,
    "stem.convs": 4.0,
    "norm.kind": 4.0,
    "norm.momentum": 0.1,
    "norm.running_var": 0.0,
    "norm.groups": 0.0,
    "shortcut.dropout": 0.0,
    "block.dropout": 0.0,
}
# A preset that differs in one of these is another paper's network, or of another depth.
SAME = ("block.kind", "depths", "widths", "block.groups", "block.base_width", "norm.kind")


def fields_that_differ(a: ResNetSpec, b: ResNetSpec) -> dict[str, tuple[Any, Any]]:
    """Fields of two specs that an inference graph can show, by name."""
    left, right = _flat(a), _flat(b)
    return {name: (left[name], right[name]) for name in left if left[name] != right[name]}


@functools.lru_cache(maxsize=512)  # every preset is compared with each network that is read
def _flat(spec: ResNetSpec) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for name, value in spec.to_dict().items():
        if name in UNSEEN:
            continue
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": v for inner, v in value.items()}
        else:
            found[name] = value
    return found


def _distance(spec: ResNetSpec, name: str) -> float:
    return sum(HEAVY.get(field, 1.0) for field in fields_that_differ(spec, get_spec(name)))


def nearest_preset(spec: ResNetSpec) -> str:
    """The preset whose fields differ least."""
    return min(list_presets(), key=lambda name: _distance(spec, name))


def of_papers(spec: ResNetSpec) -> list[tuple[str, str]]:
    """Presets that are papers' own networks of the same depths, widths and units, each with its
    paper, those first whose fields differ least.
    """
    own = [
        (name, paper)
        for name, paper in papers_presets()
        if not fields_that_differ(spec, get_spec(name)).keys() & set(SAME)
    ]
    return sorted(own, key=lambda pair: _distance(spec, pair[0]))
