"""Pairs of models from packages that pip installs, each read from its own code.

`python -m benchmarks identified` runs every model by its package, reads which network it is, and
proves that by its outputs; benchmarks/identified.json has the answers, with versions. Two models
that are known like this are compared here without the packages: both networks get the same weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import ResNetSpec, get_spec

IDENTIFIED = Path(__file__).parent.parent / "identified.json"
# "same model: PRESET with `key=value`, `key=value`"
ANSWER = re.compile(r"(?:same model|at this size only): (?P<preset>\S+)(?: with (?P<changes>.*))?")
CHANGE = re.compile(r"`([a-z_.]+)=([^`]*)`")
# (package/model, package/model)
PAIRS = (
    ("torchvision/resnet50", "timm/resnet50"),
    ("torchvision/resnet50", "transformers/ResNet, as published"),
    ("torchvision/resnet18", "segmentation-models-pytorch/resnet18"),
    ("torchvision/resnet18", "jax-resnet/ResNet18"),
    ("torchvision/resnet18", "flaxmodels/ResNet18"),
    ("torchvision/resnet18", "keras-hub/resnet_18"),
    ("torchvision/resnet18", "pytorchcv/resnet18"),
    ("torchvision/resnet50", "pytorchcv/resnet50"),
    ("torchvision/resnet50", "pytorchcv/resnet50b"),
    ("torchvision/resnet18", "dm-haiku/ResNet18"),
    ("torchvision/resnet18", "keras-resnet/ResNet2D18"),
    ("timm/resnet50d", "keras-hub/resnet_vd_50"),
    ("timm/resnet200", "pytorchcv/resnet200"),
    ("keras-hub/resnet_v2_34", "dm-haiku/ResNet34, resnet_v2"),
    ("pytorchcv/resnet101", "tf2cv/resnet101"),
    ("pytorchcv/resnet101b", "tf2cv/resnet101b"),
    ("pytorchcv/resnet10", "tf2cv/resnet10"),
    ("pytorchcv/preresnet10", "tf2cv/preresnet10"),
    ("pytorchcv/resnet20", "tf2cv/resnet20"),
    ("pytorchcv/resnet18", "kerascv/resnet18"),
    ("pytorchcv/preresnet18", "kerascv/preresnet18"),
    ("tf2cv/preresnet50", "kerascv/preresnet50"),
    ("keras.applications/ResNet50", "keras-applications/ResNet50"),
    ("keras.applications/ResNet50", "keras-applications/resnet50"),
    ("keras.applications/ResNet50V2", "keras-applications/ResNet50V2"),
    ("keras.applications/ResNet50V2", "tf-slim/resnet_v2_50"),
    ("timm/resnet50d", "jax-resnet/ResNetD50"),
    ("torchvision/wide_resnet50_2", "jax-resnet/WideResNet50"),
    ("torchvision/resnext50_32x4d", "jax-resnet/ResNeXt50"),
)
# Package and model -> the preset of the network that it is said to be, and where that is said.
NAMED = {
    "image-classifiers/resnet18": ("he/resnet18_b", "its README: ResNet, arXiv:1512.03385"),
    "image-classifiers/resnet50": ("he/resnet50_no_bias", "its README: ResNet, arXiv:1512.03385"),
    "pytorchcv/preresnet18": ("fb/preresnet18", "its docstring: PreResNet, arXiv:1603.05027"),
}


@dataclass(frozen=True)
class Side:
    """A model of a package, and the network that it is."""

    key: str
    version: str
    spec: ResNetSpec
    error: str  # of that network's outputs from the model's own
    at_one_size: bool  # its window at the end is fixed, so at others it is another network

    @property
    def called(self) -> str:
        package, _, name = self.key.partition("/")
        return f"{package} {self.version}, {name}"


def sides(wanted: Container[str]) -> dict[str, Side]:
    """Of the models of packages that are wanted, those that were identified."""
    rows = json.loads(IDENTIFIED.read_text(encoding="utf-8"))["rows"]
    found = {}
    for row in rows:
        key = f"{row['package']}/{row['name']}"
        spec = spec_of(row["answer"]) if row["recognised"] and key in wanted else None
        if spec is not None:
            one_size = row["answer"].startswith("at this size only")
            found[key] = Side(key, row["version"], spec, row["error"], one_size)
    return found


def spec_of(answer: str) -> ResNetSpec | None:
    """The network that an answer names; None for one that is cut short or no network's."""
    told = ANSWER.fullmatch(answer)
    if told is None:
        return None
    changes: dict[str, Any] = {}
    rest = told["changes"] or ""
    for field, value in CHANGE.findall(rest):
        changes[field] = json.loads(value)
    if CHANGE.sub("", rest).strip(", "):
        return None  # "and 2 more"
    return get_spec(told["preset"]).replace(**changes)


def pairs() -> list[tuple[Side, Side]]:
    """The pairs of which both sides were identified."""
    known = sides({key for pair in PAIRS for key in pair})
    return [(known[a], known[b]) for a, b in PAIRS if a in known and b in known]


def named() -> list[tuple[Side, str, str]]:
    """The models that are said to be another network, with its preset and where that is said."""
    return [(side, *NAMED[key]) for key, side in sides(NAMED).items()]
