"""The config.json of transformers' ResNets. Source: transformers 5.24, models/resnet/
{configuration,modeling}_resnet.py.

A key that is not there has transformers' default, unless tensors tell it. Keys that these models
do not read say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError
from shared.formats.configuration.keras_layers import shown_value
from shared.formats.configuration.told import Told

# Classes of `architectures`, and what they pool.
_CLASSES = {"ResNetForImageClassification": "avg", "ResNetModel": "avg", "ResNetBackbone": "none"}

# Keys whose values the tensors tell as well.
_SIZES: Mapping[str, Callable[[ResNetSpec], Any]] = {
    "depths": lambda spec: list(spec.depths),
    "hidden_sizes": lambda spec: [spec.expansion * width for width in spec.widths],
    "embedding_size": lambda spec: spec.stem.convs[-1][2],
    "num_channels": lambda spec: spec.in_channels,
    "layer_type": lambda spec: spec.block.kind,
}
_LABELS = ("num_labels", "id2label")  # label2id has fewer where two classes share a name
_FLAGS = ("downsample_in_first_stage", "downsample_in_bottleneck")


def told(config: Mapping[str, Any]) -> Told:
    """What the configuration says. Raises `CheckpointError`, naming the key, for another network
    than a ResNet of transformers with ReLU."""
    model_type = config.get("model_type")
    if model_type != "resnet" and (model_type is not None or not config.keys() & _SIZES.keys()):
        raise _refused("model_type", model_type, "ResNets of transformers have 'resnet'")
    if config.get("hidden_act", "relu") != "relu":
        raise _refused("hidden_act", config["hidden_act"], "networks with relu are read")
    if "quantization_config" in config:
        raise _refused("quantization_config", "...", "weights that are not quantized are read")
    for key in _FLAGS:
        if type(config.get(key, False)) is not bool:
            raise _refused(key, config[key], "expected true or false")
    first, bottleneck = (config.get(key, False) for key in _FLAGS)
    fields: dict[str, Any] = {}
    words: dict[str, str] = {}
    depths = config.get("depths")
    stages = len(depths) if isinstance(depths, list) else 4
    fields["strides"] = (2 if first else 1, *(2,) * (stages - 1))
    words["strides"] = f"{_FLAGS[0]} = {str(first).lower()}"
    if config.get("layer_type", "bottleneck" if bottleneck else None) == "bottleneck":
        fields["block.stride_conv"] = 1 if bottleneck else 2
        words["block.stride_conv"] = f"{_FLAGS[1]} = {str(bottleneck).lower()}"
    pooling = _pooling(config)
    if pooling:
        fields["head.pool"] = pooling
        words["head.pool"] = f"architectures = {shown_value(config['architectures'])}"
    return Told(
        source="its config.json",
        fields=fields,
        words=words,
        check=lambda spec: _objection(config, spec),
    )


def _refused(key: str, value: Any, instead: str) -> CheckpointError:
    return CheckpointError(f"its config.json says {key} = {shown_value(value)}; {instead}")


def _pooling(config: Mapping[str, Any]) -> str | None:
    """What the model class pools; None where no class is named."""
    classes = config.get("architectures")
    if classes is None:
        return None
    pooled = [pool for name, pool in _CLASSES.items() if classes == [name]]
    if not pooled:
        raise _refused("architectures", classes, f"known are {', '.join(_CLASSES)}")
    if classes == ["ResNetBackbone"]:
        depths = config.get("depths")
        stages = len(depths) if isinstance(depths, list) else 4
        for key, last in (("out_features", [f"stage{stages}"]), ("out_indices", [stages])):
            if config.get(key) not in (None, last):
                raise _refused(key, config[key], f"the last stage alone, {last}, can be built")
    return pooled[0]


def _objection(config: Mapping[str, Any], spec: ResNetSpec) -> str | None:
    """The first size that is not that of the tensors."""
    counts = {
        key: len(config[key]) if isinstance(config[key], Mapping) else config[key]
        for key in _LABELS
        if config.get(key) is not None
    }
    classes = config.get("architectures")
    classifies = classes == ["ResNetForImageClassification"] and 0 not in counts.values()
    if classes is not None and classifies != bool(spec.num_classes):
        found = f"by the tensors it has {'a' if spec.num_classes else 'no'} classifier"
        return f"architectures = {shown_value(classes)}, and {found}"
    sizes = [(key, config[key], size(spec)) for key, size in _SIZES.items() if key in config]
    if spec.num_classes:
        sizes += [(key, count, spec.num_classes) for key, count in counts.items()]
    for key, theirs, ours in sizes:
        if theirs != ours or type(theirs) is not type(ours):
            return f"{key} = {shown_value(theirs)}, and by the tensors it is {shown_value(ours)}"
    return None
