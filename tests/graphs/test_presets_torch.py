"""Every network of ours, rendered in PyTorch and read back: the plan, bit by bit the weights, and
by numbers the function.
"""

from __future__ import annotations

import pytest

from shared.architecture.presets import get_spec, miniature
from shared.graphs.verdict import identify_graph
from shared.weights.probe import probe_weights
from tests.graphs.presets import SHORT, assert_read_back, different_miniatures, reading, side
from tests.zoo import rest_in_zoo

torch = pytest.importorskip("torch")

import resnet_torch
from resnet_torch.read import read_graph


@pytest.mark.parametrize("name", rest_in_zoo(different_miniatures(), SHORT))
def test_a_network_of_ours_is_read_back(name: str) -> None:
    spec = miniature(get_spec(name))
    model = resnet_torch.build(spec, dtype="float64")
    resnet_torch.load_weights(model, probe_weights(spec))
    found = identify_graph(lambda size: read_graph(model, size), side(spec))
    assert_read_back(found, *reading(spec, resnet_torch.export_weights(model)))
