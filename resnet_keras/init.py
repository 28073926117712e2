"""Fresh weights, as the spec's `init` asks for.

Keras initialises a variable when its layer is built, so initialisers are arguments of layers.
`Scope` carries what every layer needs for that down the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import initializers
from keras.saving import register_keras_serializable

from shared.architecture import ops
from shared.architecture.spec import InitSpec
from shared.weights.canonical import float_dtype
from shared.weights.random import named_rng


class VarianceScaling(NamedTuple):
    """Values of variance gain / fan, as `keras.initializers.VarianceScaling` takes them."""

    gain: float
    fan: str
    distribution: str


CONV = {
    "kaiming_normal_fan_out": VarianceScaling(2.0, "out", "normal"),
    "kaiming_normal_fan_in": VarianceScaling(2.0, "in", "normal"),
    "he_normal_truncated": VarianceScaling(2.0, "in", "truncated_normal"),
    "glorot_uniform": VarianceScaling(1.0, "mean", "uniform"),
    "lecun_normal": VarianceScaling(1.0, "in", "truncated_normal"),
    "torch_default": VarianceScaling(1 / 3, "in", "uniform"),  # within sqrt(1 / fan in)
}


@dataclass(frozen=True)
class Scope:
    """Where a layer stands (its canonical name), and how its variables are made.

    `scope / "conv1"` is the scope of a layer below.
    """

    name: str
    dtype: str
    init: InitSpec
    seed: int

    def __truediv__(self, leaf: str) -> Scope:
        return replace(self, name=f"{self.name}.{leaf}" if self.name else leaf)


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal, cut at two standard deviations and rescaled for the cut."""
    values = rng.standard_normal(shape)
    while (outside := np.abs(values) > 2).any():
        values[outside] = rng.standard_normal(outside.sum())
    return values / 0.87962566103423978


# Samples of variance 1.
DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "truncated_normal": _truncated_normal,
    "uniform": lambda rng, shape: rng.uniform(-math.sqrt(3), math.sqrt(3), shape),
}


@register_keras_serializable(package="resnet_rosetta")
class Draw(initializers.Initializer):
    """Values of a given distribution and standard deviation, from a random stream named after the
    tensor.

    NumPy draws them, so they are the same on every backend. Keras' own initialisers draw with the
    backend, and JAX compiles its generator anew for each shape: 13 seconds for a ResNet-50.
    """

    def __init__(self, distribution: str, deviation: float, name: str, seed: int):
        self.distribution, self.deviation, self.name, self.seed = (
            distribution,
            deviation,
            name,
            seed,
        )

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        values = self.deviation * DISTRIBUTIONS[self.distribution](
            named_rng(self.name, self.seed), tuple(shape)
        )
        dtype = keras.backend.standardize_dtype(dtype)
        return keras.ops.convert_to_tensor(values.astype(float_dtype(dtype)), dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            "distribution": self.distribution,
            "deviation": self.deviation,
            "name": self.name,
            "seed": self.seed,
        }


def conv_initializers(op: ops.Conv, scope: Scope) -> dict[str, initializers.Initializer]:
    """The initialisers of a convolution, as its constructor takes them."""
    fan_in, fan_out = (
        op.kernel_size**2 * n for n in (op.in_channels // op.groups, op.out_channels)
    )
    return {
        "kernel_initializer": _scaled(CONV[scope.init.conv], fan_in, fan_out, scope),
        "bias_initializer": _bias(scope.init.conv, fan_in, scope),
    }


def linear_initializers(op: ops.Linear, scope: Scope) -> dict[str, initializers.Initializer]:
    """The initialisers of the classifier, as its constructor takes them."""
    how = scope.init.head
    kernel: initializers.Initializer
    if how == "zeros":
        kernel = initializers.Zeros()
    elif how == "normal_0.01":
        kernel = Draw("normal", 0.01, f"{scope.name}.weight", scope.seed)
    else:
        kernel = _scaled(CONV[how], op.in_features, op.out_features, scope)
    return {"kernel_initializer": kernel, "bias_initializer": _bias(how, op.in_features, scope)}


def dropout_seed(scope: Scope) -> int:
    """Without a seed of its own a dropout layer draws one from Python's global generator."""
    return int(named_rng(f"{scope.name}.seed", scope.seed).integers(2**31))


def _scaled(scaling: VarianceScaling, fan_in: int, fan_out: int, scope: Scope) -> Draw:
    fan = {"in": fan_in, "out": fan_out, "mean": (fan_in + fan_out) / 2}[scaling.fan]
    return Draw(
        scaling.distribution, math.sqrt(scaling.gain / fan), f"{scope.name}.weight", scope.seed
    )


def _bias(how: str, fan_in: int, scope: Scope) -> initializers.Initializer:
    """Zero, but for gates, and for PyTorch's default: uniform within 1 / sqrt(fan in)."""
    if scope.name.endswith(".gate"):
        return initializers.Constant(scope.init.gate_bias)
    if how == "torch_default":
        return Draw("uniform", math.sqrt(1 / 3 / fan_in), f"{scope.name}.bias", scope.seed)
    return initializers.Zeros()
