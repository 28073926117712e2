"""The spec of a network that was recognised by its structure: sizes from its tensors, and what no
tensor tells from the habits of whoever names layers like that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from shared.architecture.ops import Shape
from shared.architecture.plan import make_plan
from shared.architecture.presets import get_spec
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, SpecError
from shared.naming.infer import find_preset, infer_spec
from shared.naming.schemes import FORMATS

SAME: Mapping[str, Any] = {
    "stem.padding": "same",
    "stem.pool_padding": "same",
    "block.padding": "same",
}


@dataclass(frozen=True)
class Dialect:
    """Names by which a project's code is known, and what that code does that no tensor tells."""

    name: str
    mark: re.Pattern[str]
    says: str  # of what is assumed
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the conventions of its family
    conventions: tuple[str, ...] = ()  # presets that are its own, before all others
    # What its released weights want of an image; a key of architecture.preprocessing.PREPROCESSING.
    preprocessing: str | None = None


_SLIM: Mapping[str, Any] = {
    "strides": (2, 2, 2, 1),
    "block.stride_block": "last",
    "shortcut.projection": "channels",
    "stem.pool_padding": "same",
}
DIALECTS = (
    Dialect(
        "Haiku",
        re.compile(r"block_group_\d+/(~/)?block_\d+"),
        "Haiku pads SAME",
        SAME,
        preprocessing="imagenet",
    ),
    *(
        Dialect(
            f"TF-slim V{version}",
            re.compile(rf"block\d+/unit_\d+/bottleneck_v{version}"),
            "TF-slim strides in the last unit of a block, and pools SAME; its weights want "
            f"{wanted}",
            _SLIM,
            preprocessing=how,
        )
        for version, wanted, how in (
            (1, "pixels without the channels' means, not scaled", "tf_official"),
            (2, "pixels from -1 to 1", "half"),
        )
    ),
    Dialect(
        "TensorFlow official",
        re.compile(r"(^|/)resnet_model/(conv2d|batch_normalization)(_\d+)?/"),
        "TensorFlow's official ResNet strides in the 3x3, pads it symmetrically and pools SAME; it "
        "wants pixels without the channels' means, not scaled",
        {"stem.pool_padding": "same"},
        conventions=("tf/resnet50_v1", "tf/resnet50_v2", "tf/cifar_resnet20_v2"),
        preprocessing="tf_official",
    ),
    Dialect(
        "TensorFlow official, in Keras",
        re.compile(r"(^|/)(res|bn)\d[a-z]_branch2[abc]/"),
        "TensorFlow's official Keras ResNet-50 strides in the 3x3, and pads its blocks SAME; it "
        "wants pixels without the channels' means, not scaled",
        {"stem.pool_padding": "same", "block.padding": "same"},
        conventions=("tf/resnet50_v1.5",),
        preprocessing="tf_official",
    ),
    Dialect(
        "SimCLR",
        re.compile(r"(^|/)base_model/(conv2d|batch_normalization)(_\d+)?/"),
        "SimCLR strides in the 3x3, pads it symmetrically, and pools SAME; it wants pixels from 0 "
        "to 1",
        {"stem.pool_padding": "same"},
        conventions=("tf/resnet50_v1",),
        preprocessing="unit",
    ),
    Dialect(
        "detectron2",
        re.compile(r"res\d+\.\d+\.conv\d\.norm\."),
        "as torchvision's weights have it; detectron2's own have the stride in the first 1x1 "
        "(--set block.stride_conv=1) and take BGR",
    ),
    Dialect(
        "Caffe2",
        re.compile(r"res\d+_\d+_branch\d"),
        "Caffe2 strides in the first 1x1, and takes BGR",
        {"block.stride_conv": 1},
        preprocessing="caffe",
    ),
    Dialect(
        "Hugging Face Flax",
        re.compile(r"encoder/stages/\d+/layers/\d+/layer/\d+/convolution"),
        "as transformers has it in PyTorch",
    ),
    Dialect(
        "a framework with HWIO kernels",
        re.compile(r".*(kernel|weights)(:0)?", re.DOTALL),
        "frameworks with HWIO kernels pad SAME, unless the code pads by itself",
        SAME,
    ),
)
_SMALL_STEM = ("kuangliu/resnet18", "kuangliu/preact_resnet18", "cifar/resnet20")


@dataclass(frozen=True)
class Resolved:
    """A spec whose plan has just these tensors, the preset that it is, and where what no tensor
    tells comes from.
    """

    spec: ResNetSpec
    preset: str | None
    convention: str
    changes: Mapping[str, Any]  # of it


class Mismatch(NamedTuple):
    """Why no plan has just these tensors: the first in which the nearest one differs."""

    why: str
    tensor: str | None = None  # canonical
    found: Shape | None = None
    expected: Shape | None = None


def dialect_of(names: Iterable[str], *, last: bool) -> Dialect | None:
    """Whose names these are; `last`: kernels have their channels last."""
    for name in names:
        for dialect in DIALECTS[:-1]:
            if dialect.mark.search(name):
                return dialect
    return DIALECTS[-1] if last else None


def resolve(
    shapes: Mapping[str, Shape],
    changes: Mapping[str, Any],
    *,
    pre: bool,
    dialect: Dialect | None = None,
) -> Resolved | Mismatch:
    """The spec of canonical tensors, or why there is none.

    `changes` of the conventions; `pre`: its units are pre-activation ones.
    """
    whole: list[Resolved] = []
    why = Mismatch("no plan has just these tensors")
    for name, spec, made in _specs(shapes, changes, pre, dialect):
        try:
            inferred = infer_spec(shapes, spec)
            expected = make_plan(inferred).tensors
        except (CheckpointError, SpecError) as error:
            why = Mismatch(str(error))
            continue
        if expected != dict(shapes):
            why = _difference(expected, shapes)
            continue
        family = name.partition("/")[0]
        preset = find_preset(inferred, (family,))
        found = Resolved(_called(inferred, preset), preset, name, made)
        if preset and preset.startswith(f"{family}/"):
            return found
        whole.append(found)
    return next((found for found in whole if found.preset), whole[0]) if whole else why


def _called(spec: ResNetSpec, preset: str | None) -> ResNetSpec:
    if preset is None:
        return spec
    known = get_spec(preset)
    return spec.replace(name=preset, image_size=known.image_size, init=known.init)


def _specs(
    shapes: Mapping[str, Shape], changes: Mapping[str, Any], pre: bool, dialect: Dialect | None
) -> Iterator[tuple[str, ResNetSpec, Mapping[str, Any]]]:
    """Names of conventions, their specs, and how these differ from them."""
    names = list(dict.fromkeys(scheme.convention for scheme in FORMATS["canonical"].schemes))
    if "stem.conv2.weight" not in shapes and shapes["stem.conv1.weight"][2] == 3:
        names = list(dict.fromkeys((*_SMALL_STEM, *names)))
    names = [*(dialect.conventions if dialect else ()), *names]
    for name in names:
        spec = get_spec(name)
        if (spec.block.order == "full_pre") != pre:
            continue
        own = dict(dialect.changes) if dialect else {}
        if spec.block.kind == "basic":
            own.pop("block.stride_conv", None)
        if len(spec.depths) != len(own.get("strides", spec.depths)):
            own.pop("strides", None)
        try:
            yield name, spec.replace(**{**own, **changes}), {**own, **changes}
        except SpecError:
            continue


def _difference(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> Mismatch:
    """The first tensor in which a plan and a file differ."""
    name = next(name for name in (*expected, *found) if expected.get(name) != found.get(name))
    return Mismatch("another tensor", name, found.get(name), expected.get(name))
