"""Every network of ours, rendered in Keras and read back: the plan, bit by bit the weights, and by
numbers the function.
"""

from __future__ import annotations

from typing import Any

import pytest

from shared.architecture.presets import get_spec, miniature
from shared.graphs.verdict import identify_graph
from shared.weights.probe import probe_weights
from tests.graphs.presets import assert_read_back, different_miniatures, reading, side
from tests.zoo import rest_in_zoo

pytest.importorskip("keras")

import resnet_keras
from resnet_keras.read import read_graph

SHORT = {"timm/resnet50d"}  # Flax has one in pre-activation


def cases() -> list[Any]:
    """Every second in the zoo, the others Flax' there; PyTorch has all."""
    every = different_miniatures()
    return rest_in_zoo(every, SHORT, every[1::2])


@pytest.mark.parametrize("name", cases())
def test_a_network_of_ours_is_read_back(name: str) -> None:
    spec = miniature(get_spec(name))
    model = resnet_keras.build(spec, dtype="float64")
    resnet_keras.load_weights(model, probe_weights(spec))
    found = identify_graph(lambda size: read_graph(model, size), side(spec))
    assert_read_back(found, *reading(spec, resnet_keras.export_weights(model)))
