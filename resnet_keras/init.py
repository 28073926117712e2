"""Fresh weights, as the spec's `init` asks for, with Keras' own initialisers.

Keras initialises a variable when its layer is built, so initialisers are arguments of layers.
`Scope` carries what every layer needs for that down the network.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any

from keras import initializers

from shared import ops
from shared.spec import Init

# Arguments of VarianceScaling: the variance is scale / fan. Uniform within sqrt(1 / fan in), which
# is PyTorch's default, has a third of that as its variance.
CONV: dict[str, dict[str, Any]] = {
    "kaiming_normal_fan_out": {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"},
    "kaiming_normal_fan_in": {"scale": 2.0, "mode": "fan_in", "distribution": "untruncated_normal"},
    "he_normal_truncated": {"scale": 2.0, "mode": "fan_in", "distribution": "truncated_normal"},
    "glorot_uniform": {"scale": 1.0, "mode": "fan_avg", "distribution": "uniform"},
    "lecun_normal": {"scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal"},
    "torch_default": {"scale": 1 / 3, "mode": "fan_in", "distribution": "uniform"},
}


@dataclass(frozen=True)
class Scope:
    """Where a layer stands (its canonical name), and how its variables are made.

    `scope / "conv1"` is the scope of a layer below.
    """

    name: str
    dtype: str
    init: Init
    seed: int

    def __truediv__(self, leaf: str) -> Scope:
        return replace(self, name=f"{self.name}.{leaf}" if self.name else leaf)

    def seed_of(self, variable: str) -> int:
        """A seed of its own for every variable: equal integers would draw equal values."""
        digest = hashlib.sha256(f"{self.seed}/{self.name}.{variable}".encode()).digest()
        return int.from_bytes(digest[:4], "little") >> 1  # within int32, which seeds are in Keras


def conv_initializers(op: ops.Conv, scope: Scope) -> dict[str, initializers.Initializer]:
    """The initialisers of a convolution, as its constructor takes them."""
    how = scope.init.conv
    if scope.name.endswith(".gate"):
        bias = initializers.Constant(scope.init.gate_bias)
    else:
        bias = _bias_initializer(how, op.kernel_size**2 * op.in_channels // op.groups, scope)
    kernel = initializers.VarianceScaling(**CONV[how], seed=scope.seed_of("kernel"))
    return {"kernel_initializer": kernel, "bias_initializer": bias}


def linear_initializers(op: ops.Linear, scope: Scope) -> dict[str, initializers.Initializer]:
    """The initialisers of the classifier, as its constructor takes them."""
    how = scope.init.head
    if how == "zeros":
        kernel = initializers.Zeros()
    elif how == "normal_0.01":
        kernel = initializers.RandomNormal(stddev=0.01, seed=scope.seed_of("kernel"))
    else:
        kernel = initializers.VarianceScaling(**CONV[how], seed=scope.seed_of("kernel"))
    return {"kernel_initializer": kernel, "bias_initializer": _bias_initializer(how, op.in_features, scope)}


def _bias_initializer(how: str, fan_in: int, scope: Scope) -> initializers.Initializer:
    """Zero, but for PyTorch's default: uniform within 1 / sqrt(fan in)."""
    if how != "torch_default":
        return initializers.Zeros()
    bound = 1 / math.sqrt(fan_in)
    return initializers.RandomUniform(-bound, bound, seed=scope.seed_of("bias"))
