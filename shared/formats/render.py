"""Canonical tensors as a format has them: by which of its schemes, in what order, and with what
beside them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from shared.architecture.presets import get_spec
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, SpecError
from shared.formats.containers.archive import Archive, Entry
from shared.naming.infer import differences, field_of, same_function
from shared.naming.keras_applications import model_config
from shared.naming.keras_order import layer_order
from shared.naming.names import COUNTER, foreign_names, plan_of
from shared.naming.schemes import Format, Scheme

# PyTorch modules count batches in their norms; these projects' files have the counts.
COUNTED = (
    "torchvision",
    "timm",
    "huggingface",
    "kuangliu",
    "torch",
    "article-000",
    "d2l",
    "article-003",
)

# Keras' own and keras.applications' weight files are in the order of a model's layers.
IN_LAYER_ORDER = ("keras", "keras-applications", "keras-caffe")


def choose_scheme(spec: ResNetSpec, target: Format) -> Scheme:
    """The variant of the format that can express the network.

    Raises `CheckpointError` with every field that stands in the way in the nearest variant.
    """
    found = expressing(spec, target)
    if found:
        return found
    reasons = [
        (get_spec(s.convention).block.kind != spec.block.kind, obstacles(spec, s))
        for s in target.schemes
    ]
    nearest_reasons = min(reasons, key=lambda reason: (reason[0], len(reason[1])))[1]
    raise CheckpointError(
        f"{target.title} cannot express {spec.name}: {'; '.join(nearest_reasons[:6])}",
        sorted(nearest_reasons),
    )


def expressing(spec: ResNetSpec, target: Format) -> Scheme | None:
    """The variant of the format that can express the network, if there is one."""
    return next((scheme for scheme in target.schemes if expresses(scheme, spec)), None)


def expresses(scheme: Scheme, spec: ResNetSpec) -> bool:
    """Whether the code behind a scheme can be this network: it has no `obstacles`, which take long
    to name.
    """
    if scheme.free is not None:
        try:
            possible = _possible(spec, scheme)
        except SpecError:
            return False
        if _strides_otherwise(spec, scheme) or not same_function(spec, possible):
            return False
    return not foreign_names(scheme, plan_of(spec))[1]


def obstacles(spec: ResNetSpec, scheme: Scheme) -> list[str]:
    """Why the code behind a scheme cannot be this network; empty when it can."""
    _, unmapped = foreign_names(scheme, plan_of(spec))
    lacking = [f"there is no name for {name}" for name in unmapped[:3]]
    if scheme.free is None:
        return lacking
    try:
        possible = _possible(spec, scheme)
    except SpecError as error:
        return [*lacking, str(error)]
    if _strides_otherwise(spec, scheme):
        usual = get_spec(scheme.convention, **scheme.changes).strides
        lacking.append(f"strides is {list(usual)} there, {list(spec.strides)} here")
    return lacking if same_function(spec, possible) else [*lacking, *differences(spec, possible)]


def _possible(spec: ResNetSpec, scheme: Scheme) -> ResNetSpec:
    """What the code behind the scheme makes of the network's sizes.

    Raises `SpecError` when there is no such thing.
    """
    convention, free = get_spec(scheme.convention, **scheme.changes), scheme.free or ()
    taken = {name: field_of(spec, name) for name in free if name != "stem.convs"}
    if "stem.convs" in free and len(spec.stem.convs) == len(convention.stem.convs):
        widths = [
            width for _, _, width in spec.stem.convs
        ]  # a free stem is free in its widths alone
        taken["stem.convs"] = [
            (k, s, w) for (k, s, _), w in zip(convention.stem.convs, widths, strict=True)
        ]
    if not spec.num_classes:
        taken["head.pool"] = spec.head.pool
    return convention.replace(**{**taken, **_implied(spec, convention)})


def _strides_otherwise(spec: ResNetSpec, scheme: Scheme) -> bool:
    """Free strides are so in the first stage alone, which halves or does not."""
    return "strides" in (scheme.free or ()) and (
        spec.strides[0] > 2 or bool(set(spec.strides[1:]) - {2})
    )


def _implied(spec: ResNetSpec, convention: ResNetSpec) -> dict[str, Any]:
    """What a stage count or a block kind brings along."""
    changes: dict[str, Any] = {}
    if len(spec.depths) != 4:
        changes |= {"widths": spec.widths, "strides": spec.strides, "dilate": spec.dilate}
    if spec.block.kind == "basic":
        changes["block.stride_conv"] = 1
    elif convention.block.kind == "basic":
        changes["block.stride_conv"] = 2
    return changes


def render(
    spec: ResNetSpec, entries: Mapping[str, Entry], target: Format, scheme: Scheme, container: str
) -> Archive:
    """The archive of a format: its names, its order, and what belongs beside the tensors.

    The entries are under canonical names, in the layout of the scheme (`names.from_canonical`).
    """
    names, unmapped = foreign_names(scheme, plan_of(spec))
    if unmapped:
        raise CheckpointError(f"{target.title} has no name for {', '.join(unmapped[:5])}", unmapped)
    found: dict[str, Entry] = {}
    for tensor in _ordered(spec, target, names):
        found[names[tensor]] = entries[tensor]
        if target.name in COUNTED and tensor.endswith(".running_var"):
            found[f"{names[tensor].rpartition('.')[0]}.{COUNTER}"] = Entry.of(
                np.zeros((), np.int64)
            )
    return Archive(container, found, _metadata(spec, target, container))


def _ordered(spec: ResNetSpec, target: Format, names: Iterable[str]) -> list[str]:
    """Canonical tensors in the format's own order."""
    if target.name not in IN_LAYER_ORDER:
        return list(names)
    order = {layer: i for i, layer in enumerate(layer_order(plan_of(spec)))}
    return sorted(
        names, key=lambda name: order[name.rpartition(".")[0]]
    )  # stable: leaves stay in theirs


def _metadata(spec: ResNetSpec, target: Format, container: str) -> dict[str, str]:
    metadata: dict[str, str] = {}
    if container == "huggingface":
        metadata["config"] = json.dumps(_huggingface_config(spec))
    if target.name == "keras-applications" and container == "keras":
        metadata["keras_config"] = model_config(spec)
    if target.name in ("canonical", "keras", "nnx", "torch"):
        metadata["spec"] = spec.to_json()
    return metadata


def _huggingface_config(spec: ResNetSpec) -> dict[str, Any]:
    """transformers' ResNetConfig (configuration_resnet.py)."""
    return {
        "architectures": ["ResNetForImageClassification" if spec.num_classes else "ResNetModel"],
        "model_type": "resnet",
        "num_channels": spec.in_channels,
        "embedding_size": spec.stem.convs[0][2],
        "hidden_sizes": [width * spec.expansion for width in spec.widths],
        "depths": list(spec.depths),
        "layer_type": spec.block.kind,
        "hidden_act": "relu",
        "downsample_in_first_stage": spec.strides[0] == 2,
        "downsample_in_bottleneck": spec.block.kind == "bottleneck" and spec.block.stride_conv == 1,
        "id2label": {str(i): f"LABEL_{i}" for i in range(spec.num_classes)},
        "label2id": {f"LABEL_{i}": i for i in range(spec.num_classes)},
    }
