"""Every network of ours, rendered in PyTorch and read back: the plan, bit by bit the weights, and
by numbers the function.
"""

from __future__ import annotations

import pytest

from shared.architecture.presets import get_spec, miniature
from shared.graphs.verdict import identify_graph
from shared.weights.probe import probe_weights
from tests.graphs.presets import assert_read_back, different_miniatures, reading, side
from tests.zoo import rest_in_zoo

torch = pytest.importorskip("torch")

import resnet_torch
from resnet_torch.read import read_graph

# Beside those that Keras and Flax read back, almost every kind of layer, order and shortcut.
SHORT = {
    *("timm/resnetblur18", "bit/r50x1", "cifar/preresnet20", "image_classifiers/resnet18"),
    *("ablation/resnet110_exclusive_gate_b6", "ablation/resnet110_norm_after_add"),
    "wrn/wrn16_4_dropout",
}


@pytest.mark.parametrize("name", rest_in_zoo(different_miniatures(), SHORT))
def test_a_network_of_ours_is_read_back(name: str) -> None:
    spec = miniature(get_spec(name))
    model = resnet_torch.build(spec, dtype="float64")
    resnet_torch.load_weights(model, probe_weights(spec))
    found = identify_graph(lambda size: read_graph(model, size), side(spec))
    assert_read_back(found, *reading(spec, resnet_torch.export_weights(model)))
