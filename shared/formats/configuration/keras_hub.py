"""KerasHub's ResNets, which are configured by sizes instead of layers. Source: keras-hub 0.32,
models/resnet/{resnet_backbone,resnet_image_classifier}.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from shared.architecture.presets import get_spec
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError
from shared.formats.configuration.keras_layers import shown_value
from shared.formats.configuration.told import Told, all_fields

BACKBONE, CLASSIFIER = "ResNetBackbone", "ResNetImageClassifier"
# (kind of blocks, before activation) -> the preset of such networks, and their kind.
_PRESETS = {
    ("basic_block", False): "keras_hub/resnet_18",
    ("bottleneck_block", False): "keras_hub/resnet_50",
    ("basic_block_vd", False): "keras_hub/resnet_vd_18",
    ("bottleneck_block_vd", False): "keras_hub/resnet_vd_50",
    ("bottleneck_block", True): "keras_hub/resnet_v2_50",
}
_SIZES: Mapping[str, Callable[[ResNetSpec], Any]] = {
    "input_conv_filters": lambda spec: [width for _, _, width in spec.stem.convs],
    "input_conv_kernel_sizes": lambda spec: [kernel for kernel, _, _ in spec.stem.convs],
    "stackwise_num_filters": lambda spec: list(spec.widths),
    "stackwise_num_blocks": lambda spec: list(spec.depths),
}


def told(kind: str, config: Mapping[str, Any], source: str) -> Told:
    """What the configuration of a backbone or a classifier says. Raises `CheckpointError`, naming
    the key, for another network."""
    fields: dict[str, Any] = {"head.pool": "none"}
    surroundings = []
    backbone: Any = config
    if kind == CLASSIFIER:
        outer = config.get("backbone")
        backbone = outer.get("config") if isinstance(outer, Mapping) else None
        fields["head.pool"] = _one_of(source, "pooling", config.get("pooling"), ("avg", "max"))
        _one_of(source, "activation", config.get("activation"), (None, "linear", "softmax"))
        if config.get("activation") == "softmax":
            surroundings.append("softmax behind the classifier")
        if config.get("dropout"):
            surroundings.append(f"dropout {shown_value(config['dropout'])} before the classifier")
    if not isinstance(backbone, Mapping):
        raise CheckpointError(f"{source} has no {BACKBONE}")
    before = _one_of(
        source, "use_pre_activation", backbone.get("use_pre_activation"), (True, False)
    )
    kinds = [name for name, order in _PRESETS if order is before]
    block = _one_of(source, "block_type", backbone.get("block_type"), tuple(kinds))
    strides = backbone.get("stackwise_num_strides")
    if not isinstance(strides, list) or not all(type(n) is int and 0 < n < 5 for n in strides):
        raise _refused(source, "stackwise_num_strides", strides, "expected a stride for each stage")
    preset = get_spec(_PRESETS[block, before])
    stages = {"strides": tuple(strides), "dilate": (False,) * len(strides)}
    told_fields = all_fields(preset) | stages | fields
    del told_fields["stem.convs"]
    return Told(
        source=source,
        fields=told_fields,
        image_size=_image_size(backbone.get("image_shape")),
        surroundings=tuple(surroundings),
        check=lambda spec: _objection(backbone, spec),
    )


def _refused(source: str, key: str, value: Any, instead: str) -> CheckpointError:
    return CheckpointError(f"{source} says {key} = {shown_value(value)}; {instead}")


def _one_of(source: str, key: str, value: Any, known: tuple[Any, ...]) -> Any:
    if not any(value is one or (type(value) is str and value == one) for one in known):
        raise _refused(source, key, value, f"known are {', '.join(map(str, known))}")
    return value


def _image_size(shape: Any) -> int | None:
    sides = shape[:2] if isinstance(shape, list) and len(shape) == 3 else [0, 0]
    return sides[0] if type(sides[0]) is int and sides[0] == sides[1] and sides[0] > 0 else None


def _objection(config: Mapping[str, Any], spec: ResNetSpec) -> str | None:
    """The first size that is not that of the tensors."""
    for key, size in _SIZES.items():
        theirs, ours = config.get(key), size(spec)
        if theirs != ours:
            return f"{key} = {shown_value(theirs)}, and by the tensors it is {shown_value(ours)}"
    kind = "basic" if str(config.get("block_type")).startswith("basic") else "bottleneck"
    if kind != spec.block.kind:
        return (
            f"block_type = {shown_value(config['block_type'])}, and by the tensors its blocks "
            f"are {spec.block.kind}"
        )
    return None
