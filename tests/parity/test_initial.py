"""Fresh weights of every framework, and `initial_weights`, come from the distributions that the
spec names.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import stats

from shared import get_spec, make_plan, miniature
from shared.weights.initial import CONV, fan_of, initial_weights
from tests.parity.rendering import FRAMEWORKS, package

SIDES = (*FRAMEWORKS, "initial_weights")
DOUBT = 1e-6  # the chance that a right distribution is refused
KERNEL = "stages.2.blocks.1.conv1.weight"  # not square: its fans differ
SPEC = get_spec("torchvision/resnet50").replace(
    depths=(1, 1, 2, 1), widths=(8, 8, 128, 8), block_base_width=32, num_classes=50
)


@functools.cache
def fresh(
    side: str, conv: str, head: str = "torch_default", seed: int = 0
) -> dict[str, np.ndarray]:
    spec = SPEC.replace(**{"init.conv": conv, "init.head": head, "block.bias": True})
    if side == "initial_weights":
        return initial_weights(spec, seed)
    rendering = package(side)
    return rendering.export_weights(rendering.build(spec, seed=seed))


def distribution(kind: str, deviation: float):
    """The distribution of standard deviation `deviation`."""
    if kind == "uniform":
        return stats.uniform(-deviation * 3**0.5, 2 * deviation * 3**0.5)
    if kind == "truncated":
        return stats.truncnorm(-2, 2, scale=deviation / stats.truncnorm(-2, 2).std())
    return stats.norm(scale=deviation)


def doubt(values: np.ndarray, expected) -> float:
    """Kolmogorov and Smirnov's probability of a sample as far off as this one."""
    return stats.kstest(values.reshape(-1), expected.cdf).pvalue


@pytest.mark.parametrize("conv", CONV)
@pytest.mark.parametrize("side", SIDES)
def test_kernels_are_drawn_as_the_spec_says(side: str, conv: str) -> None:
    kernel, scaling = fresh(side, conv)[KERNEL], CONV[conv]
    expected = distribution(
        scaling.distribution, (scaling.gain / fan_of(kernel.shape, scaling.fan)) ** 0.5
    )
    assert kernel.size > 30_000
    assert doubt(kernel, expected) > DOUBT


@pytest.mark.parametrize(
    "head", ["glorot_uniform", "lecun_normal", "kaiming_normal_fan_in", "torch_default"]
)
@pytest.mark.parametrize("side", SIDES)
def test_the_classifier_is_drawn_as_the_spec_says(side: str, head: str) -> None:
    kernel, scaling = fresh(side, "kaiming_normal_fan_out", head)["head.weight"], CONV[head]
    expected = distribution(
        scaling.distribution, (scaling.gain / fan_of(kernel.shape, scaling.fan)) ** 0.5
    )
    assert doubt(kernel, expected) > DOUBT


@pytest.mark.parametrize("wrong", ["uniform", "truncated", "normal"])
def test_another_distribution_of_the_same_deviation_is_noticed(wrong: str) -> None:
    """Else the tests above could not fail."""
    for conv, scaling in CONV.items():
        kernel = fresh("initial_weights", conv)[KERNEL]
        deviation = (scaling.gain / fan_of(kernel.shape, scaling.fan)) ** 0.5
        same = scaling.distribution == wrong
        assert (doubt(kernel, distribution(wrong, deviation)) > DOUBT) == same
        assert doubt(kernel, distribution(scaling.distribution, deviation * 1.1)) < DOUBT


@pytest.mark.parametrize("side", SIDES)
def test_biases_of_pytorchs_default_are_uniform(side: str) -> None:
    weights = fresh(side, "torch_default")
    names = [name for name in weights if name.endswith(("conv1.bias", "conv2.bias"))]
    scaled = [
        weights[n] * fan_of(weights[n.replace("bias", "weight")].shape, "in") ** 0.5 for n in names
    ]
    assert doubt(np.concatenate(scaled), stats.uniform(-1, 2)) > DOUBT


def test_one_start_for_all() -> None:
    spec = miniature(get_spec("torchvision/resnet18"))
    weights = initial_weights(spec, 3)
    assert list(weights) == list(make_plan(spec).tensors)
    assert {array.dtype for array in weights.values()} == {np.dtype("float32")}
    for side in FRAMEWORKS:
        rendering = package(side)
        model = rendering.build(spec)
        rendering.load_weights(model, weights)
        found = rendering.export_weights(model)
        assert all(np.array_equal(found[name], weights[name]) for name in weights)
    again, other = initial_weights(spec, 3), initial_weights(spec, 4)
    assert all(np.array_equal(weights[name], again[name]) for name in weights)
    assert not np.array_equal(weights["head.weight"], other["head.weight"])


def test_norms_start_as_the_identity_and_gates_where_the_spec_says() -> None:
    spec = miniature(get_spec("ablation/resnet110_exclusive_gate_b0")).replace(
        **{"init.zero_residual": True, "init.gate_bias": -3.0}
    )
    weights = initial_weights(spec)
    assert (weights["stem.norm1.weight"] == 1).all()
    assert (weights["stem.norm1.running_var"] == 1).all()
    assert not weights["stem.norm1.running_mean"].any()
    assert not weights["stages.0.blocks.0.norm2.weight"].any()
    assert (weights["stages.0.blocks.1.gate.bias"] == -3).all()
