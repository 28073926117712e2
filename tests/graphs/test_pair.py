"""Two models against each other: the same, or where they part first."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from shared import compare_models, get_spec, miniature

torch = pytest.importorskip("torch")

import resnet_torch

SPEC = miniature(get_spec("torchvision/resnet18")).replace(depths=(1, 1))


@pytest.fixture(scope="module")
def model() -> Any:
    return resnet_torch.build(SPEC, seed=1)


def test_a_copy_is_the_same(model: Any) -> None:
    found = compare_models(copy.deepcopy(model), model, 32)
    assert found.same, found.departures
    assert found.image_sizes == [32, 33]
    assert found.evidence is not None
    assert found.evidence.error == 0


def test_one_value_is_named_where_it_is(model: Any) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.stages[1].blocks[0].conv2.weight[0, 0, 0, 0] += 0.5
    found = compare_models(other, model, 32)
    assert not found.same
    assert [(d.where, d.what) for d in found.departures] == [("stages.1.blocks.0.conv2", "weights")]
    assert found.evidence is not None
    assert not found.evidence.passed


def test_small_values_are_compared_as_large_ones_are(model: Any) -> None:
    """A kernel of 1e-11 and one three times as large are two, though a norm hides it."""
    small, other = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        small.stages[1].blocks[0].conv2.weight *= 1e-10
        other.stages[1].blocks[0].conv2.weight *= 3e-10
    found = compare_models(other, small, 32)
    assert [(d.where, d.what) for d in found.departures] == [("stages.1.blocks.0.conv2", "weights")]
    assert compare_models(small, copy.deepcopy(small), 32).same


def test_another_operator_is_where_they_part(model: Any) -> None:
    other = copy.deepcopy(model)
    other.stages[0].blocks[0].norm1.eps = 1e-2
    found = compare_models(other, model, 32)
    assert [(d.where, d.what, d.theirs, d.ours) for d in found.departures] == [
        ("stages.0.blocks.0.norm1", "eps", "0.01", "1e-05")
    ]


def test_a_model_that_is_no_resnet_is_compared_as_well() -> None:
    def chain(activation: Any) -> Any:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), activation, torch.nn.Conv2d(8, 4, 3))

    assert compare_models(chain(torch.nn.ReLU()), chain(torch.nn.ReLU()), 32).same
    found = compare_models(chain(torch.nn.SiLU()), chain(torch.nn.ReLU()), 32)
    assert [(d.where, d.theirs, d.ours) for d in found.departures] == [("1", "SiLU", "ReLU")]


def test_two_frameworks(model: Any) -> None:
    pytest.importorskip("flax.nnx")
    import resnet_flax

    other = resnet_flax.build(SPEC)
    resnet_flax.load_weights(other, resnet_torch.export_weights(model))
    found = compare_models(model, other, 32)
    assert found.same, found.departures
