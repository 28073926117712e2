"""KerasHub's configurations: sizes instead of layers, believed or contradicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared import CheckpointError, get_spec, make_plan
from shared.formats.attempt import Wanted
from shared.formats.checkpoint import Checkpoint, identify
from shared.formats.containers.archive import Archive, Configuration, Entry
from shared.formats.render import choose_scheme
from shared.naming.names import foreign_names
from shared.naming.schemes import FORMATS
from shared.weights.canonical import OIHW_TO_HWIO

SPECS = {"bottleneck_block": "keras_hub/resnet_50", "bottleneck_block_vd": "keras_hub/resnet_vd_50"}


def config_of(block: str, **changes: Any) -> dict[str, Any]:
    """As KerasHub 0.32 writes it."""
    spec = get_spec(SPECS[block])
    backbone = {
        "input_conv_filters": [width for _, _, width in spec.stem.convs],
        "input_conv_kernel_sizes": [kernel for kernel, _, _ in spec.stem.convs],
        "stackwise_num_filters": list(spec.widths),
        "stackwise_num_blocks": list(spec.depths),
        "stackwise_num_strides": [1, 2, 2, 2],
        "block_type": block,
        "use_pre_activation": False,
        "image_shape": [96, 96, 3],
    }
    return {"class_name": "ResNetBackbone", "config": backbone | changes}


def read(config: dict[str, Any], block: str, classes: int = 0) -> Checkpoint:
    spec, target = get_spec(SPECS[block], num_classes=classes), FORMATS["keras-hub"]
    plan = make_plan(spec)
    names, _ = foreign_names(choose_scheme(spec, target), plan)
    axes = {4: OIHW_TO_HWIO, 2: (1, 0), 1: (0,)}
    entries = {
        names[name]: Entry(tuple(shape[i] for i in axes[len(shape)]), np.dtype("f4"), np.empty)
        for name, shape in plan.tensors.items()
    }
    archive = Archive("keras", entries, configuration=Configuration("keras", "config.json", config))
    return identify(Path("hub.keras"), archive, Wanted())


@pytest.mark.parametrize("block", SPECS)
def test_a_backbone_is_believed(block: str) -> None:
    found = read(config_of(block, stackwise_num_strides=[2, 2, 2, 1]), block)
    assert (found.spec.strides, found.spec.head.pool) == ((2, 2, 2, 1), "none")
    assert (found.spec.image_size, found.assumed) == (96, {})
    assert read(config_of(block), block).spec.strides == (1, 2, 2, 2)


def test_a_classifier_is_believed() -> None:
    block = "bottleneck_block"
    outer = {"backbone": config_of(block), "num_classes": 5, "pooling": "max", "dropout": 0.1}
    config = {"class_name": "ResNetImageClassifier", "config": outer | {"activation": "softmax"}}
    found = read(config, block, classes=5)
    assert found.spec.head.pool == "max"
    assert len(found.told[0].surroundings) == 2
    config["config"]["activation"] = "sigmoid"
    with pytest.raises(CheckpointError, match="activation = 'sigmoid'"):
        read(config, block, classes=5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stackwise_num_blocks", [3, 4, 6, 4]),
        ("stackwise_num_filters", [64, 128, 256, 500]),
        ("input_conv_filters", [32]),
        ("stackwise_num_strides", [1, 2, 2, 9]),
        ("stackwise_num_strides", {}),
        ("block_type", "basic_block"),
        ("block_type", "other"),
        ("use_pre_activation", 0),
    ],
    ids=str,
)
def test_another_network_is_refused(key: str, value: Any) -> None:
    block = "bottleneck_block"
    with pytest.raises(CheckpointError, match=key) as caught:
        read(config_of(block, **{key: value}), block)
    assert str(caught.value).startswith("hub.keras: its config.json says ")
