"""The config.json of timm's repositories, and the name of an architecture that PyTorch's training
scripts keep beside the weights. Source: timm 1.0.31, models/_hub.py and _builder.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.architecture.plan import make_plan
from shared.architecture.preprocessing import PREPROCESSING
from shared.architecture.presets import get_spec, presets
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, nearest
from shared.formats.configuration.keras_layers import shown_value
from shared.formats.configuration.told import Told, all_fields
from shared.naming.names import plan_of

# Architectures of other sizes by the code of a preset, which says what no tensor tells.
LIKE = {"resnext101_32x16d": "timm/resnext101_32x8d", "resnext101_32x32d": "timm/resnext101_32x8d"}
_POOLS = {"avg": "avg", "max": "max", "": "none"}
# Of a model's constructor: what tensors tell, and what training alone depends on.
_HARMLESS = ("num_classes", "in_chans", "drop_rate", "drop_path_rate", "drop_block_rate")


def told(config: Mapping[str, Any]) -> Told:
    """What the configuration says. Raises `CheckpointError`, naming the key, for a network that is
    no preset of timm's."""
    full = config["architecture"]
    if not isinstance(full, str):
        raise _refused("architecture", full, "expected a name")
    name = full.partition(".")[0]  # behind the point, whose weights they are
    preset = LIKE.get(name, f"timm/{name}")
    if preset not in presets():
        names = [known.partition("/")[2] for known in presets() if known.startswith("timm/")]
        hint = nearest(name, names)
        raise _refused("architecture", full, f"none of timm's networks that are known{hint}")
    pretrained = config.get("pretrained_cfg")
    pretrained = pretrained if isinstance(pretrained, Mapping) else {}
    fields, words = all_fields(get_spec(preset)), {}
    del fields["stem.convs"]  # `LIKE` has other widths
    for field in fields:
        words[field] = f"architecture = {shown_value(full)} ({field} = {fields[field]})"
    pooling = _pooling(config)
    if pooling:
        fields["head.pool"] = pooling
        words["head.pool"] = f"global_pool = {shown_value(config['global_pool'])}"
    preprocessing, remarks = _preprocessing(pretrained)
    return Told(
        source="its config.json",
        fields=fields,
        words=words,
        preset=None if name in LIKE else preset,
        image_size=_image_size(pretrained),
        preprocessing=preprocessing,
        surroundings=remarks,
        check=lambda spec: _objection(config, None if name in LIKE else preset, spec),
    )


def _refused(key: str, value: Any, instead: str) -> CheckpointError:
    return CheckpointError(f"its config.json says {key} = {shown_value(value)}; {instead}")


def _pooling(config: Mapping[str, Any]) -> str | None:
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, Mapping):
        raise _refused("model_args", arguments, "expected an object")
    for key in arguments:
        if key not in (*_HARMLESS, "global_pool"):
            raise _refused(f"model_args.{key}", arguments[key], f"known are {', '.join(_HARMLESS)}")
    value = arguments.get("global_pool", config.get("global_pool"))
    if value is None:
        return None
    if not isinstance(value, str) or value not in _POOLS:
        raise _refused("global_pool", value, "known are avg, max and ''")
    return _POOLS[value]


def _image_size(pretrained: Mapping[str, Any]) -> int | None:
    size = pretrained.get("input_size")
    if isinstance(size, list) and len(size) == 3 and all(type(n) is int and n > 0 for n in size):
        return size[1] if size[1] == size[2] else None
    return None


def _preprocessing(pretrained: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """The preprocessing of these means and deviations, or a remark that there is none."""
    mean, std = pretrained.get("mean"), pretrained.get("std")
    if not isinstance(mean, list) or not isinstance(std, list):
        return None, ()
    for name, known in PREPROCESSING.items():
        if (list(known.mean), list(known.std), known.divisor) == (mean, std, 255):
            return name, ()
    return None, (
        f"images with mean {shown_value(mean)} and std {shown_value(std)}, which is no "
        "preprocessing here",
    )


def _objection(config: Mapping[str, Any], preset: str | None, spec: ResNetSpec) -> str | None:
    """Where the tensors are not those of the architecture."""
    if preset is not None:
        sizes = {"num_classes": spec.num_classes, "in_channels": spec.in_channels}
        if make_plan(get_spec(preset, **sizes)).tensors != plan_of(spec).tensors:
            return (
                f"architecture = {shown_value(config['architecture'])}, and by the tensors it "
                "is another"
            )
    classes = config.get("num_classes")
    if classes is not None and (type(classes) is not int or classes != spec.num_classes):
        return f"num_classes = {shown_value(classes)}, and by the tensors it is {spec.num_classes}"
    return None


def told_by_label(label: str, spec: ResNetSpec) -> Told | None:
    """What the architecture's name beside PyTorch's weights says: a label, which scripts write as
    they like. None for a name that is no preset's, or another network's.
    """
    preset = next(
        (f"{f}/{label}" for f in ("torchvision", "timm") if f"{f}/{label}" in presets()), None
    )
    if preset is None:
        return None
    sizes = {"num_classes": spec.num_classes, "in_channels": spec.in_channels}
    known = get_spec(preset, **sizes)
    if make_plan(known).tensors != plan_of(spec).tensors:
        return None
    return Told(source="its key 'arch'", fields=all_fields(known), preset=preset, binding=False)
