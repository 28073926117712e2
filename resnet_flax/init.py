"""Fresh weights, as the spec's `init` asks for. Norms start as the identity.

The tables hold the arguments of `nnx.initializers.variance_scaling`, but NumPy draws: XLA compiles
a program for every shape, which takes several times as long as all the rest of making a ResNet-50.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnet_flax.layers import get_layer
from resnet_flax.model import ResNet
from shared.architecture import ops
from shared.architecture.plan import make_plan

Shape = tuple[int, ...]
Initializer = Callable[[np.random.Generator, Shape], np.ndarray]


def variance_scaling(scale: float, mode: str, distribution: str) -> Initializer:
    """Values of variance `scale` over the fan; kernels are [*window, in / groups, out]."""

    def draw(rng: np.random.Generator, shape: Shape) -> np.ndarray:
        fans = {"fan_in": math.prod(shape[:-1]), "fan_out": math.prod(shape) // shape[-2]}
        fan = fans[mode] if mode in fans else sum(fans.values()) / 2
        if distribution == "uniform":
            bound = math.sqrt(3 * scale / fan)
            return rng.uniform(-bound, bound, shape)
        values = rng.standard_normal(shape)
        std = math.sqrt(scale / fan)
        if distribution == "truncated_normal":
            while (far := np.abs(values) > 2).any():
                values[far] = rng.standard_normal(np.count_nonzero(far))
            std /= 0.87962566103423978  # the standard deviation of a unit normal cut at 2
        return values * std

    return draw


CONV: dict[str, Initializer] = {
    "kaiming_normal_fan_out": variance_scaling(2.0, "fan_out", "normal"),
    "kaiming_normal_fan_in": variance_scaling(2.0, "fan_in", "normal"),
    "he_normal_truncated": variance_scaling(2.0, "fan_in", "truncated_normal"),
    "glorot_uniform": variance_scaling(1.0, "fan_avg", "uniform"),
    "lecun_normal": variance_scaling(1.0, "fan_in", "truncated_normal"),
    "torch_default": variance_scaling(1 / 3, "fan_in", "uniform"),
}
HEAD: dict[str, Initializer] = {
    "torch_default": CONV["torch_default"],
    "glorot_uniform": CONV["glorot_uniform"],
    "lecun_normal": CONV["lecun_normal"],
    "normal_0.01": lambda rng, shape: rng.normal(0.0, 0.01, shape),
    "kaiming_normal_fan_in": CONV["kaiming_normal_fan_in"],
    "zeros": lambda rng, shape: np.zeros(shape),
}


def initialize(model: ResNet, rngs: nnx.Rngs) -> None:
    """Draw all weights from the stream `params` of `rngs`, in the order of the plan."""
    init = model.spec.init
    for node in make_plan(model.spec).nodes():
        op = node.op
        if isinstance(op, ops.Conv | ops.Linear):
            layer = get_layer(model, node.name)
            how, table = (init.conv, CONV) if isinstance(op, ops.Conv) else (init.head, HEAD)
            rng = np.random.default_rng(np.asarray(jax.random.key_data(rngs.params())))
            _assign(layer.kernel, table[how](rng, layer.kernel.shape))
            if node.name.endswith(".gate"):
                _assign(layer.bias, np.full(layer.bias.shape, init.gate_bias))
            elif layer.bias is not None and how == "torch_default":
                bound = 1 / math.sqrt(math.prod(layer.kernel.shape[:-1]))
                _assign(layer.bias, rng.uniform(-bound, bound, layer.bias.shape))
        elif isinstance(op, ops.BatchNorm | ops.GroupNorm) and op.zero_init:
            scale = get_layer(model, node.name).scale
            _assign(scale, np.zeros(scale.shape))


def _assign(variable: nnx.Variable, values: np.ndarray) -> None:
    variable[...] = jnp.asarray(values.astype(variable.dtype))
