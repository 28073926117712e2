"""Every planted change of a network is named at its module; what changes nothing is none."""

from __future__ import annotations

import pytest

from shared.graphs.verdict import SAME_FUNCTION, SAME_MODEL, Identified, identify_graph
from tests.zoo import rest_in_zoo

torch = pytest.importorskip("torch")

from resnet_torch.read import read_graph
from tests.graphs.planted import CHANGES, SAME, base
from tests.graphs.users_models import Cifar

# What is a spec, though no preset: the nearest preset says what is otherwise.
ANOTHER = {
    "kernel of 3 in the stem",
    "no stem pool",
    "no stride in one stage",
    "maximum for the mean",
    "a unit more in one stage",
}
FUNCTION = {"a bias of a convolution", "a head without bias", "a unit that is used twice"}
# One for each kind of departure, of a network that is a spec, and of one that is the same.
SHORT = {
    *("eps of a norm", "leaky ReLU", "no shortcut", "no stem pool", "two layers in the head"),
    *("SAME padding in one strided convolution", "the branch rectifies its input in place"),
    "the input normalised inside",
}


def identified(name: str) -> Identified:
    model = base()
    CHANGES[name].plant(model)
    return identify_graph(lambda size: read_graph(model, size), 64)


@pytest.mark.parametrize("name", rest_in_zoo(CHANGES, SHORT))
def test_a_change_is_named_at_its_module(name: str) -> None:
    change, found = CHANGES[name], identified(name)
    if name in ANOTHER:
        assert found.recognised
        assert found.preset is None
        first = found.from_nearest
    elif change.where == SAME:
        assert found.departures == []
        assert found.recognised, found.notes
        assert found.verdict == (SAME_FUNCTION if name in FUNCTION else SAME_MODEL)
        return
    else:
        assert not found.recognised
        first = found.departures
    if name != "a unit more in one stage":  # torchvision/resnet50 is nearer to that
        assert first[0].where.startswith(change.where), first
        assert change.what in [departure.what for departure in first]


def test_there_are_forty_changes() -> None:
    assert sum(change.where != SAME for change in CHANGES.values()) >= 40


def test_a_model_is_left_as_it_was() -> None:
    model = Cifar().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    objects = {name: id(p) for name, p in model.named_parameters()}
    identify_graph(lambda size: read_graph(model, size), 32)
    assert model.training
    assert model.bn1.training
    assert {name: id(p) for name, p in model.named_parameters()} == objects
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name]), name
