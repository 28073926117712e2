"""The networks of ours that every reader reads back."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from shared.architecture.presets import get_spec, list_presets, miniature
from shared.architecture.spec import ResNetSpec
from shared.graphs.planned import planned
from shared.graphs.verdict import SAME_MODEL, Identified
from shared.weights.canonical import Weights

# Almost every kind of layer, order and shortcut; the zoo has all.
SHORT = {
    *("timm/resnet50d", "timm/resnetblur18", "timm/resnetaa50", "he/resnet18_a"),
    *("keras/resnet50v2", "bit/r50x1", "flax/resnet50", "cifar/preresnet20"),
    *("ablation/resnet110_exclusive_gate_b6", "ablation/resnet110_norm_after_add"),
    *("image_classifiers/resnet18", "wrn/wrn16_4_dropout"),
}


@functools.cache
def different_miniatures() -> list[str]:
    """Presets whose miniatures are networks of their own."""
    found: dict[str, str] = {}
    for name in list_presets():
        found.setdefault(miniature(get_spec(name)).replace(name="x").to_json(), name)
    firsts = set(found.values())
    return [name for name in list_presets() if name in firsts | SHORT]


def same_plan(a: ResNetSpec, b: ResNetSpec) -> bool:
    """Whether two specs make the same layers; what training alone shows is left out."""
    invisible = {
        "init": a.init,
        "norm.momentum": a.norm.momentum,
        "norm.running_var": a.norm.running_var,
        "name": a.name,
        "image_size": a.image_size,
    }
    own = b.replace(**invisible)
    plans = [planned(spec, (64, 64)) for spec in (a, own)]
    # What a shortcut of factor 0 would have is in no network.
    left, right = ([(plan.net.nodes[i].op, plan.ops.get(i)) for i in plan.order] for plan in plans)
    return left == right


def reading(spec: ResNetSpec, own: Weights) -> tuple[ResNetSpec, Weights]:
    """The network and its weights as they are found: in one, the same layers have two names."""
    if spec.name != "ablation/resnet164_full_pre":
        return spec, own
    names = {name: name.replace("stem.norm1", "stages.0.blocks.0.norm1") for name in own}
    return miniature(get_spec("cifar/preresnet164")), {names[n]: a for n, a in own.items()}


def side(spec: ResNetSpec) -> int:
    """Pixels at which a miniature is read."""
    return 32 if spec.image_size == 32 else 64


def assert_read_back(found: Identified, spec: ResNetSpec, own: Weights) -> None:
    """The plan, bit by bit the weights, and by numbers the function."""
    size: Any = side(spec)
    assert found.departures == []
    assert (found.verdict, found.image_sizes) == (SAME_MODEL, [size, size + 1])
    assert found.recognised, found.evidence
    assert found.spec is not None
    assert same_plan(found.spec, spec)
    assert set(found.weights) == set(own)
    for tensor, array in own.items():
        np.testing.assert_array_equal(found.weights[tensor], array, err_msg=tensor)
