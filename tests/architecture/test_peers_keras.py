"""The definitions are keras.applications' and KerasHub's: the same weights give the same features.

Their batch norms compute in float32 whatever the policy is, so the float64 reference is compared
with float32. Mistakes of definition (a stride, a pad, an eps) change features by percents.
"""

from __future__ import annotations

import numpy as np
import pytest

from shared import ResNetSpec, get_spec, make_plan, probe_weights
from shared.frameworks import reference
from shared.weights.canonical import Weights, cast_exactly, to_channels_last
from tests.probes import images_for, relative_error
from tests.zoo import in_zoo

# Float32 logits and features against the float64 reference. Measured over this file: at most 6e-7.
FLOAT32_LIMIT = 1e-5

SIZE = (64, 65)  # padding conventions differ on even sides

# Canonical leaves in the order of a Keras layer's weights.
LEAVES = ("weight", "bias", "running_mean", "running_var")


def block_name(pattern: str, layer: str) -> str:
    """`stages.0.blocks.1.conv2` under `pattern`, in which {s} and {b} stand for stage and block."""
    _, stage, _, block, leaf = layer.split(".", 4)
    return (
        f"{pattern.format(s=int(stage), b=int(block), c=int(stage) + 2, n=int(block) + 1)}_{leaf}"
    )


def applications_name(spec: ResNetSpec, layer: str) -> str:
    """keras.applications' name of a canonical layer (keras/src/applications/resnet.py)."""
    fixed = {
        "stem.conv1": "conv1_conv",
        "stem.norm1": "conv1_bn",
        "final_norm": "post_bn",
        "head": "predictions",
    }
    return fixed.get(layer) or in_block(spec, block_name("conv{c}_block{n}", layer), "preact_bn")


def keras_hub_name(spec: ResNetSpec, layer: str) -> str:
    """KerasHub's name of a canonical layer (keras_hub/src/models/resnet/resnet_backbone.py)."""
    if layer.startswith("stem."):
        return layer.removeprefix("stem.").replace("norm", "conv")[:5] + (
            "_bn" if "norm" in layer else "_conv"
        )
    if layer == "final_norm":
        return "post_bn"
    return in_block(spec, block_name("stack{s}_block{b}", layer), "pre_activation_bn")


def in_block(spec: ResNetSpec, name: str, first_norm: str) -> str:
    """Layers inside a unit: `1_conv`, `1_bn`; the shortcut's are numbered 0, V2's norms from the
    preactivation.
    """
    block, _, leaf = name.rpartition("_")
    if leaf.startswith("shortcut."):
        return f"{block}_0_{'conv' if leaf.endswith('conv') else 'bn'}"
    kind, number = leaf[:-1], int(leaf[-1])
    if kind == "conv":
        return f"{block}_{number}_conv"
    if spec.block.order != "full_pre":
        return f"{block}_{number}_bn"
    return f"{block}_{first_norm}" if number == 1 else f"{block}_{number - 1}_bn"


def load(model, spec: ResNetSpec, names, weights: Weights) -> None:
    """Copy canonical weights into `model` layer by layer; every weight of the model must be
    covered.
    """
    covered = 0
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in weights):
        values = [
            to_channels_last("", weights[f"{layer}.{leaf}"])
            for leaf in LEAVES
            if f"{layer}.{leaf}" in weights
        ]
        model.get_layer(names(spec, layer)).set_weights(values)
        covered += len(values)
    assert covered == len(model.weights)


def assert_same_function(model, spec: ResNetSpec, names) -> None:
    """`model` gives what the float64 reference gives for `spec`, under the same weights."""
    weights, images = probe_weights(spec), images_for(spec, SIZE, "float32")
    load(model, spec, names, weights)
    expected = reference.trace(reference.Reference(spec, cast_exactly(weights, "float64")), images)[
        "eval/output"
    ]
    assert relative_error(np.asarray(model(images, training=False)), expected) <= FLOAT32_LIMIT


@pytest.mark.parametrize(
    ("preset", "name"), [("keras/resnet50", "ResNet50"), in_zoo(("keras/resnet50v2", "ResNet50V2"))]
)
def test_keras_applications(preset: str, name: str) -> None:
    spec = get_spec(preset, num_classes=10)
    constructor = getattr(pytest.importorskip("keras").applications, name)
    model = constructor(
        weights=None, input_shape=(*SIZE, 3), classes=10, classifier_activation=None
    )
    assert_same_function(model, spec, applications_name)


@pytest.mark.parametrize(
    ("preset", "block"),
    [
        ("keras_hub/resnet_18", "basic_block"),
        ("keras_hub/resnet_50", "bottleneck_block"),
        ("keras_hub/resnet_vd_18", "basic_block_vd"),
        ("keras_hub/resnet_vd_50", "bottleneck_block_vd"),
        ("keras_hub/resnet_v2_50", "bottleneck_block"),
    ],
)
def test_keras_hub_backbones(preset: str, block: str) -> None:
    """Two blocks a stage and narrow stages; KerasHub wants 64 channels in the first."""
    hub = pytest.importorskip("keras_hub")
    spec = get_spec(preset, depths=(2, 2, 2), widths=(64, 72, 80), num_classes=0, head_pool="none")
    model = hub.models.ResNetBackbone(
        input_conv_filters=[width for _, _, width in spec.stem.convs],
        input_conv_kernel_sizes=[kernel for kernel, _, _ in spec.stem.convs],
        stackwise_num_filters=list(spec.widths),
        stackwise_num_blocks=list(spec.depths),
        stackwise_num_strides=list(spec.strides),
        block_type=block,
        use_pre_activation=spec.block.order == "full_pre",
        image_shape=(*SIZE, 3),
    )
    assert len(model.weights) == len(make_plan(spec).tensors)
    assert_same_function(model, spec, keras_hub_name)
