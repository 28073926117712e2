"""`initial_weights`: one start for every framework, drawn as the spec's `init` says.

Each framework also draws its own fresh weights, from the same distributions (`resnet_*/init.py`).
Whoever wants the same curve from all of them needs the same numbers.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from shared.architecture.ops import Conv, Linear, Shape
from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.weights.canonical import Weights, float_dtype
from shared.weights.random import named_rng

# Standard deviation of a unit normal that is cut at two of them.
TRUNCATED = 0.87962566103423978


class VarianceScaling(NamedTuple):
    """Variance `gain` over the fan of a kernel: He et al. 2015 (arXiv:1502.01852), Glorot & Bengio
    2010, LeCun 1998.
    """

    gain: float
    fan: str  # in, out or avg
    distribution: str  # normal, truncated (at two standard deviations) or uniform


CONV = {
    "kaiming_normal_fan_out": VarianceScaling(2.0, "out", "normal"),
    "kaiming_normal_fan_in": VarianceScaling(2.0, "in", "normal"),
    "he_normal_truncated": VarianceScaling(2.0, "in", "truncated"),
    "glorot_uniform": VarianceScaling(1.0, "avg", "uniform"),
    "lecun_normal": VarianceScaling(1.0, "in", "truncated"),
    "torch_default": VarianceScaling(
        1 / 3, "in", "uniform"
    ),  # nn.Conv2d and nn.Linear: kaiming_uniform_(a=sqrt(5))
}


def initial_weights(spec: ResNetSpec, seed: int = 0, dtype: Any = "float32") -> Weights:
    """Fresh canonical weights, made from each tensor's name and the seed alone.

    Norms start as the identity, with running mean 0 and variance 1; the last gamma of a residual
    branch at 0 where `init.zero_residual` says so. Biases start at 0, or uniformly in 1 / sqrt(fan
    in) where the layer follows PyTorch's default; the gates' at `init.gate_bias`. Values are drawn
    in float64 and rounded to `dtype`.

    >>> from shared import get_spec
    >>> initial_weights(get_spec("resnet18"), seed=0)["stem.norm1.running_var"].max()
    np.float32(1.0)
    """
    plan = make_plan(spec)
    target = float_dtype(dtype)
    return {
        f"{node.name}.{leaf}": _draw(spec, node.name, node.op, leaf, shape, seed).astype(target)
        for node in plan.nodes()
        for leaf, shape in node.op.tensors().items()
    }


def fan_of(shape: Shape, fan: str) -> float:
    """Of a canonical kernel: [out, in / groups, height, width] or [out, in]."""
    window = math.prod(shape[2:])
    fans = {"in": shape[1] * window, "out": shape[0] * window}
    return fans[fan] if fan in fans else sum(fans.values()) / 2


def _draw(spec: ResNetSpec, layer: str, op: Any, leaf: str, shape: Shape, seed: int) -> np.ndarray:
    rng = named_rng(f"{layer}.{leaf}.initial", seed)
    if not isinstance(op, Conv | Linear):
        ones = leaf == "running_var" or (leaf == "weight" and not op.zero_init)
        return np.ones(shape) if ones else np.zeros(shape)
    kind = spec.init.head if isinstance(op, Linear) else spec.init.conv
    if leaf == "bias":
        if layer.endswith(".gate"):
            return np.full(shape, spec.init.gate_bias)
        if kind != "torch_default":
            return np.zeros(shape)
        bound = 1 / math.sqrt(fan_of(op.tensors()["weight"], "in"))
        return rng.uniform(-bound, bound, shape)
    if kind == "zeros":
        return np.zeros(shape)
    if kind == "normal_0.01":
        return rng.normal(0.0, 0.01, shape)
    scaling = CONV[kind]
    deviation = math.sqrt(scaling.gain / fan_of(shape, scaling.fan))
    if scaling.distribution == "uniform":
        return rng.uniform(-1, 1, shape) * deviation * math.sqrt(3)
    values = rng.standard_normal(shape)
    if scaling.distribution == "truncated":
        while (far := np.abs(values) > 2).any():
            values[far] = rng.standard_normal(np.count_nonzero(far))
        deviation /= TRUNCATED
    return values * deviation
