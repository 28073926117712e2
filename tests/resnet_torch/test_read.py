"""The reader translates and changes nothing: the raw graph, evaluated by NumPy, is the model."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import resnet_torch
from resnet_torch.read import read_graph, usual_size
from shared import get_spec, miniature
from shared.errors import FrameworkError
from shared.graphs.meaning import evaluate_graph

PRESETS = (
    "timm/resnet50d",
    "timm/resnetblur18",
    "bit/r50x1",
    "ablation/resnet110_exclusive_gate_b6",
)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_graph_computes_what_the_model_does(preset: str) -> None:
    spec = miniature(get_spec(preset))
    model = resnet_torch.build(spec)
    graph = read_graph(model, 33)
    images = np.random.default_rng(0).normal(size=(2, 33, 33, spec.in_channels))
    assert graph.run is not None
    assert graph.dtype == "float64"
    own = graph.run(images)
    found = evaluate_graph(graph, images.transpose(0, 3, 1, 2))
    assert np.abs(found - own).max() <= 1e-13 * np.abs(own).max()
    names = {node.name for node in graph.nodes if node.name}
    assert set(dict(model.named_parameters())) <= names
    floats = [node.value for node in graph.nodes if node.name and node.value.dtype.kind == "f"]
    assert {array.dtype for array in floats} == {np.dtype("float32")}  # as the model has them


def test_the_usual_size_is_what_the_first_convolution_says() -> None:
    assert usual_size(resnet_torch.build(miniature(get_spec("cifar/resnet20")))) == 32
    assert usual_size(resnet_torch.build(miniature(get_spec("torchvision/resnet18")))) == 224


def test_what_depends_on_values_is_refused_with_its_line() -> None:
    class Branching(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -x if x.sum() > 0 else x

    with pytest.raises(FrameworkError, match=r"cannot trace it: \w+ at test_read\.py:\d+"):
        read_graph(Branching())
