"""However a network is written, it is the network; and where it is another one, it is not."""

from __future__ import annotations

from typing import Any

import pytest

from shared import get_spec, identify
from shared.graphs.planned import planned
from shared.graphs.verdict import SAME_FUNCTION, SAME_MODEL

torch = pytest.importorskip("torch")

from tests.graphs import users_models as users
from tests.graphs.planted import randomise

SPEC = get_spec("cifar/resnet20", depths=[1, 1, 1])
ACTIVATIONS = ("in place", "clamp", "where", "maximum", "a view in place", "half of both")
HEADS = ("window", "twice", "sum", "1 x 1")


def of(model: Any) -> Any:
    randomise(model)
    return identify(model, 32)


def check_is_the_network(found: Any, **changes: Any) -> None:
    assert found.departures == []
    assert found.recognised, (found.verdict, found.notes, found.evidence)
    plans = [planned(spec, (32, 32)) for spec in (found.spec, SPEC.replace(**changes))]
    ours, theirs = ([plan.ops.get(i) for i in plan.order] for plan in plans)
    momentum = found.spec.norm.momentum
    assert momentum == SPEC.norm.momentum
    assert ours == theirs


@pytest.mark.parametrize("how", ACTIVATIONS)
def test_a_relu_is_a_relu(how: str) -> None:
    found = of(users.Cifar(how=how))
    check_is_the_network(found)
    assert found.verdict == SAME_MODEL


@pytest.mark.parametrize("head", HEADS)
def test_a_mean_over_the_image_is_one(head: str) -> None:
    check_is_the_network(of(users.Cifar(head=head)))


def test_zero_channels_behind_are_others_than_on_both_sides() -> None:
    check_is_the_network(of(users.Cifar(users.zeros_by_cat)), **{"shortcut.zero_pad": "tail"})


def test_standardised_kernels_by_hand() -> None:
    check_is_the_network(of(users.standardised()), weight_std_eps=1e-8)


def test_a_kernel_that_is_computed_is_the_same_function() -> None:
    found = of(users.weight_normed())
    check_is_the_network(found)
    assert found.verdict == SAME_FUNCTION


def test_folded_norms_are_the_same_function() -> None:
    model = users.Cifar()
    randomise(model)
    found = identify(users.folded(), 32)
    assert found.departures == []
    assert found.recognised, found.notes
    assert found.verdict == SAME_FUNCTION
    assert "norms are folded" in " ".join(found.notes)


def test_what_is_written_in_place_is_read_where_it_is_read() -> None:
    # Every shortcut begins behind norm and ReLU: no pre-activation, but figure 4 (b) of the paper.
    found = of(users.InPlace())
    assert found.recognised, found.departures
    assert found.spec is not None
    assert found.spec.block.order == "norm_after_add"


def test_an_operator_that_nobody_knows_is_named() -> None:
    model = users.Cifar()
    model.layers[1].bn2 = users.Lambda(lambda x: torch.cumsum(x, 1))
    found = of(model)
    assert not found.recognised
    assert any("cumsum" in d.theirs and d.where == "layers.1.bn2" for d in found.departures)
