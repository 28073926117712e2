"""Fresh weights: `build` has those of `initial_weights` in every framework, and they come from the
distributions that the spec names, which are those of the frameworks' own initialisers.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from scipy import stats

from shared import get_spec, make_plan, miniature
from shared.frameworks import reference
from shared.weights.initial import CONV, fan_of, initial_weights
from tests.parity.rendering import FRAMEWORKS, package
from tests.probes import same_weights
from tests.zoo import rest_in_zoo

DOUBT = 1e-6  # the chance that a right distribution is refused
KERNEL = "stages.2.blocks.1.conv1.weight"  # not square: its fans differ
SPEC = get_spec("torchvision/resnet50").replace(
    depths=(1, 1, 2, 1), widths=(8, 8, 128, 8), block_base_width=32, num_classes=50
)

# Between them every kind of tensor: gates, group norms, biases of PyTorch's default, zero gammas.
STARTS = {
    "torchvision/resnet18": {},
    "d2l/resnet18": {},
    "bit/r50x1": {},
    "keras/resnet50v2": {"init.zero_residual": True},
    "ablation/resnet110_exclusive_gate_b6": {},
}


@functools.cache
def fresh(conv: str, head: str = "torch_default", seed: int = 0) -> dict[str, np.ndarray]:
    spec = SPEC.replace(**{"init.conv": conv, "init.head": head, "block.bias": True})
    return initial_weights(spec, seed)


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


SIDES = (*FRAMEWORKS, "reference")
DTYPES = ("float32", "float64", "bfloat16")


@pytest.mark.parametrize(
    ("side", "preset", "dtype"),
    rest_in_zoo(
        itertools.product(SIDES, STARTS, DTYPES),
        [
            (side, preset, DTYPES[(i + k) % len(DTYPES)])
            for i, side in enumerate(SIDES)
            for k, preset in enumerate(STARTS)
        ],
    ),
)
def test_build_has_the_initial_weights(side: str, preset: str, dtype: str) -> None:
    """Bit for bit, for the same seed."""
    spec = miniature(get_spec(preset)).replace(depths=(1, 1), **STARTS[preset])
    rendering = reference if side == "reference" else package(side)
    model = rendering.build(spec, seed=3, dtype=dtype)
    assert same_weights(rendering.export_weights(model), initial_weights(spec, 3, dtype))


def test_the_seed_draws_the_weights() -> None:
    spec = miniature(get_spec("torchvision/resnet18"))
    first, again, other = (initial_weights(spec, seed) for seed in (3, 3, 4))
    assert list(first) == list(make_plan(spec).tensors)
    assert {array.dtype for array in first.values()} == {np.dtype("float32")}
    assert same_weights(first, again)
    kernels = [name for name, array in first.items() if array.ndim > 1]
    assert not any(np.array_equal(first[name], other[name]) for name in kernels)
    alike = "stages.0.blocks.0.conv1.weight", "stages.0.blocks.0.conv2.weight"
    assert not np.array_equal(first[alike[0]], first[alike[1]])


@pytest.mark.parametrize("conv", CONV)
def test_kernels_are_drawn_as_the_spec_says(conv: str) -> None:
    kernel, scaling = fresh(conv)[KERNEL], CONV[conv]
    expected = distribution(
        scaling.distribution, (scaling.gain / fan_of(kernel.shape, scaling.fan)) ** 0.5
    )
    assert kernel.size > 30_000
    assert doubt(kernel, expected) > DOUBT


@pytest.mark.parametrize(
    "head", ["glorot_uniform", "lecun_normal", "kaiming_normal_fan_in", "torch_default"]
)
def test_the_classifier_is_drawn_as_the_spec_says(head: str) -> None:
    kernel, scaling = fresh("kaiming_normal_fan_out", head)["head.weight"], CONV[head]
    expected = distribution(
        scaling.distribution, (scaling.gain / fan_of(kernel.shape, scaling.fan)) ** 0.5
    )
    assert doubt(kernel, expected) > DOUBT


def test_small_and_zero_classifiers() -> None:
    small, zero = (fresh("lecun_normal", head) for head in ("normal_0.01", "zeros"))
    assert doubt(small["head.weight"], stats.norm(scale=0.01)) > DOUBT
    assert not any(weights["head.bias"].any() for weights in (small, zero))
    assert not zero["head.weight"].any()


@pytest.mark.parametrize("wrong", ["uniform", "truncated", "normal"])
def test_another_distribution_of_the_same_deviation_is_noticed(wrong: str) -> None:
    """Else the tests above could not fail."""
    for conv, scaling in CONV.items():
        kernel = fresh(conv)[KERNEL]
        deviation = (scaling.gain / fan_of(kernel.shape, scaling.fan)) ** 0.5
        same = scaling.distribution == wrong
        assert (doubt(kernel, distribution(wrong, deviation)) > DOUBT) == same
        assert doubt(kernel, distribution(scaling.distribution, deviation * 1.1)) < DOUBT


def own_torch(kind: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A kernel [out, in, height, width] of PyTorch's own initialiser."""
    import torch
    from torch.nn import init

    draw = {
        "kaiming_normal_fan_out": functools.partial(init.kaiming_normal_, mode="fan_out"),
        "kaiming_normal_fan_in": functools.partial(init.kaiming_normal_, mode="fan_in"),
        "glorot_uniform": init.xavier_uniform_,
        "he_uniform": init.kaiming_uniform_,
        "torch_default": functools.partial(init.kaiming_uniform_, a=5**0.5),
    }[kind]
    return draw(torch.empty(shape), generator=torch.Generator().manual_seed(seed)).numpy()


def own_keras(kind: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Of Keras' own, which sees the kernel as [height, width, in, out]."""
    import keras

    scaled = functools.partial(keras.initializers.VarianceScaling, seed=seed)
    draw = {
        "kaiming_normal_fan_out": scaled(2.0, "fan_out", "untruncated_normal"),
        "kaiming_normal_fan_in": scaled(2.0, "fan_in", "untruncated_normal"),
        "he_normal_truncated": keras.initializers.HeNormal(seed=seed),
        "glorot_uniform": keras.initializers.GlorotUniform(seed=seed),
        "he_uniform": keras.initializers.HeUniform(seed=seed),
        "lecun_normal": keras.initializers.LecunNormal(seed=seed),
        "torch_default": scaled(1 / 3, "fan_in", "uniform"),
    }[kind]
    return keras.ops.convert_to_numpy(draw((*shape[2:], shape[1], shape[0])))


def own_flax(kind: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Of Flax's own, which sees the kernel as [height, width, in, out]."""
    import jax
    from flax import nnx

    draw = {
        "kaiming_normal_fan_out": nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
        "kaiming_normal_fan_in": nnx.initializers.variance_scaling(2.0, "fan_in", "normal"),
        "he_normal_truncated": nnx.initializers.he_normal(),
        "glorot_uniform": nnx.initializers.glorot_uniform(),
        "he_uniform": nnx.initializers.he_uniform(),
        "lecun_normal": nnx.initializers.lecun_normal(),
        "torch_default": nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    }[kind]
    shape = (*shape[2:], shape[1], shape[0])
    return np.asarray(draw(jax.random.key(seed), shape, "float32"))  # whatever x64 says


OWN = {"torch": own_torch, "keras": own_keras, "flax": own_flax}
# PyTorch has no initialiser that cuts at two standard deviations and makes up for the cut.
CUT = ("he_normal_truncated", "lecun_normal")


KINDS = [(side, kind) for side in OWN for kind in CONV if side != "torch" or kind not in CUT]


@functools.cache
def own_values(side: str, kind: str) -> np.ndarray:
    """Of eight kernels: with fewer, a cut at two deviations could pass unseen."""
    shape = fresh(kind)[KERNEL].shape
    return np.concatenate([OWN[side](kind, shape, seed).reshape(-1) for seed in range(8)])


# Each kind of one framework, and in the zoo of all that have it.
KINDS_SHORT = [
    having[i % len(having)]
    for i, kind in enumerate(CONV)
    for having in [[pair for pair in KINDS if pair[1] == kind]]
]


@pytest.mark.parametrize(("side", "kind"), rest_in_zoo(KINDS, KINDS_SHORT))
def test_kernels_are_those_of_the_frameworks_own_initialisers(side: str, kind: str) -> None:
    """And of no other of its initialisers: their deviations or their shapes differ."""
    values = np.concatenate([fresh(kind, seed=seed)[KERNEL].reshape(-1) for seed in range(8)])
    for other in (other for framework, other in KINDS if framework == side):
        likely = stats.ks_2samp(values, own_values(side, other), method="asymp").pvalue > DOUBT
        assert likely == (other == kind), other


def test_biases_of_pytorchs_default_are_uniform() -> None:
    """As a fresh `nn.Conv2d` has them."""
    import torch

    weights = fresh("torch_default")
    names = [name for name in weights if name.endswith(("conv1.bias", "conv2.bias"))]
    scaled = [
        weights[n] * fan_of(weights[n.replace("bias", "weight")].shape, "in") ** 0.5 for n in names
    ]
    assert doubt(np.concatenate(scaled), stats.uniform(-1, 2)) > DOUBT
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        own = torch.nn.Conv2d(9, 2000, 1).bias.detach().numpy() * 3
    assert doubt(own, stats.uniform(-1, 2)) > DOUBT
    assert not fresh("lecun_normal")["stages.0.blocks.0.conv1.bias"].any()


def test_norms_start_as_the_identity_and_gates_where_the_spec_says() -> None:
    spec = miniature(get_spec("ablation/resnet110_exclusive_gate_b0")).replace(
        **{"init.zero_residual": True, "init.gate_bias": -3.0}
    )
    weights = initial_weights(spec)
    gammas = {name: a for name, a in weights.items() if ".norm" in name and "weight" in name}
    assert all((a == (0 if ".norm2." in name else 1)).all() for name, a in gammas.items())
    assert all((a == 1).all() for name, a in weights.items() if name.endswith("running_var"))
    assert not any(a.any() for name, a in weights.items() if name.endswith("running_mean"))
    gates = [a for name, a in weights.items() if name.endswith("gate.bias")]
    assert gates
    assert all((a == -3).all() for a in gates)
