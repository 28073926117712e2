"""No model is called the same that is not, or that nothing has judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shared import compare_models, identify
from shared.graphs.evidence import NOTHING
from shared.graphs.verdict import DEPARTS, OPERATORS, SAME_FUNCTION, SAME_MODEL

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from torch import Tensor, nn

from tests.graphs.planted import randomise
from tests.graphs.users_models import Cifar, Lambda


def made(change: Callable[[Any], None] = lambda model: None) -> Any:
    torch.manual_seed(0)
    model = Cifar()
    randomise(model)
    change(model)
    return model


def zero_head(model: Any) -> None:
    nn.init.zeros_(model.linear.weight)


def capped(x: Tensor) -> Tensor:
    return torch.where(x > 1000, torch.full_like(x, 1000.0), torch.where(x > 0, x, x * 0))


def capped_inside(x: Tensor) -> Tensor:
    return torch.where(x > 0, x.clamp(max=1000.0), torch.zeros_like(x))


class Noisy(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        noise = 0.1 * torch.randn_like(self.weight)
        return F.conv2d(x, self.weight + noise, None, self.stride, self.padding)


class Absolute(nn.BatchNorm2d):
    """Of |gamma|, which training tells from gamma."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.abs() * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class Groups(nn.Module):
    """Group normalisation by hand, with a bound for the variance."""

    def __init__(self, width: int, bound: float):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.bound = bound

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = x.reshape(n, 4, c // 4, h, w)
        mean = y.mean((2, 3, 4), keepdim=True)
        variance = ((y - mean) ** 2).mean((2, 3, 4), keepdim=True).clamp(min=self.bound)
        y = ((y - mean) / (variance + 1e-5).sqrt()).reshape(n, c, h, w)
        return y * self.weight[:, None, None] + self.bias[:, None, None]


def grouped(bound: float) -> Any:
    model = made()
    model.bn1 = Groups(16, bound)
    for unit, width in zip(model.layers, (16, 32, 64), strict=True):
        unit.bn1, unit.bn2 = Groups(width, bound), Groups(width, bound)
    randomise(model)
    return model


@pytest.mark.parametrize("function", [capped, capped_inside])
def test_a_bend_far_out_is_no_relu(function: Callable[[Tensor], Tensor]) -> None:
    model = made()
    model.layers[0].activate = function
    found = identify(model, 32)
    assert (found.recognised, found.verdict, found.preset) == (False, DEPARTS, None)


def test_a_head_of_zeros_proves_nothing() -> None:
    found = identify(made(zero_head), 32)
    assert (found.recognised, found.verdict) == (False, OPERATORS)
    assert NOTHING in found.notes
    assert found.to_dict()["evidence"]["shows"] is False


def test_probabilities_that_vanish_are_not_compared() -> None:
    def one_vanishes(model: Any) -> None:
        model.head = "window"
        model.linear.bias.data[0] = -2000.0

    found = identify(nn.Sequential(made(one_vanishes), nn.Softmax(-1)), 32)
    assert found.recognised, found.evidence

    def all_vanish(model: Any) -> None:
        model.head = "window"
        model.linear.bias.data[0] = 2000.0

    found = identify(nn.Sequential(made(all_vanish), nn.Softmax(-1)), 32)
    assert (found.recognised, found.verdict) == (False, OPERATORS)
    assert NOTHING in found.notes


def test_a_branch_by_the_number_of_images() -> None:
    model = made()
    forward = model.forward
    model.forward = lambda x: forward(x if len(x) == 2 else -x)
    found = identify(model, 32)
    assert (found.recognised, found.verdict) == (False, OPERATORS)


def test_chance_is_no_constant() -> None:
    def noisy(model: Any) -> None:
        old = model.layers[0].conv1
        model.layers[0].conv1 = Noisy(16, 16, 3, 1, 1, bias=False)
        model.layers[0].conv1.load_state_dict(old.state_dict())

    found = identify(made(noisy), 32)
    assert (found.recognised, found.verdict) == (False, DEPARTS)


def test_a_number_of_the_images_is_no_zero() -> None:
    model = made(zero_head)
    model.bn1 = nn.Sequential(model.bn1, Lambda(lambda x: x + x.mean().item()))
    found = identify(model, 32)
    assert (found.recognised, found.verdict) == (False, DEPARTS)


def test_a_magnitude_is_no_parameter() -> None:
    model = made()
    norm = Absolute(16)
    norm.load_state_dict(model.bn1.state_dict())
    model.bn1 = norm
    found = identify(model, 32)
    assert (found.recognised, found.verdict) == (True, SAME_FUNCTION)


def test_a_bound_of_the_variance_is_seen() -> None:
    found = identify(grouped(0.0), 32)
    assert found.verdict == SAME_MODEL
    assert not identify(grouped(1e-3), 32, found.spec).recognised


def test_two_models_with_heads_of_zeros() -> None:
    found = compare_models(made(zero_head), made(zero_head), 32)
    assert (found.same, found.departures) == (False, [])
    assert NOTHING in found.notes


def test_a_bias_that_one_model_lacks() -> None:
    def biased(model: Any) -> None:
        model.conv1.bias = nn.Parameter(torch.ones(16))

    for models in [(made(), made(biased)), (made(biased), made())]:
        found = compare_models(*models, 32)
        assert not found.same
        assert [(d.where, d.what) for d in found.departures] == [("conv1", "bias")]
