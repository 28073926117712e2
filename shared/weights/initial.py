"""`initial_weights`: the fresh weights that `build` gives a network, the same in every framework.

They are drawn as the spec's `init` says, from a random stream of each tensor's own: one seed, one
start, whoever draws it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from shared.architecture.ops import Conv, Linear, Shape
from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.weights.canonical import Weights
from shared.weights.dtypes import float_dtype
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
    "he_uniform": VarianceScaling(2.0, "in", "uniform"),
    "glorot_uniform": VarianceScaling(1.0, "avg", "uniform"),
    "lecun_normal": VarianceScaling(1.0, "in", "truncated"),
    # nn.Conv2d and nn.Linear: kaiming_uniform_(a=sqrt(5))
    "torch_default": VarianceScaling(1 / 3, "in", "uniform"),
}


class Distribution(NamedTuple):
    """What the values of one tensor are drawn from.

    `normal`, `truncated` (a normal, cut at two of its standard deviations) and `uniform` have mean
    0 and the standard deviation `scale`; `within` is uniform between -scale and scale; `constant`
    is `scale` itself.
    """

    kind: str
    scale: float

    def draw(self, tensor: str, shape: Shape, seed: int) -> np.ndarray:
        """Float64 values, made from the canonical tensor's name and the seed alone."""
        if self.kind == "constant":
            return np.full(shape, self.scale)
        rng = named_rng(f"{tensor}.initial", seed)
        if self.kind == "within":
            return rng.uniform(-self.scale, self.scale, shape)
        if self.kind == "uniform":
            return rng.uniform(-1, 1, shape) * self.scale * math.sqrt(3)
        values = rng.standard_normal(shape)
        if self.kind == "normal":
            return values * self.scale
        while (far := np.abs(values) > 2).any():
            values[far] = rng.standard_normal(np.count_nonzero(far))
        return values * (self.scale / TRUNCATED)


ZERO, ONE = Distribution("constant", 0.0), Distribution("constant", 1.0)


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
    return dict(iter_initial_weights(spec, seed, dtype))


def iter_initial_weights(
    spec: ResNetSpec, seed: int = 0, dtype: Any = "float32"
) -> Iterator[tuple[str, np.ndarray]]:
    """`initial_weights`, one tensor at a time, in the plan's order."""
    shapes, target = make_plan(spec).tensors, float_dtype(dtype)
    for name, distribution in initial_distributions(spec).items():
        yield name, distribution.draw(name, shapes[name], seed).astype(target)


@functools.lru_cache(maxsize=4)
def initial_distributions(spec: ResNetSpec) -> Mapping[str, Distribution]:
    """What each canonical tensor is drawn from, in the plan's order."""
    return {
        f"{node.name}.{leaf}": _distribution(spec, node.name, node.op, leaf)
        for node in make_plan(spec).nodes()
        for leaf in node.op.tensors()
    }


def fan_of(shape: Shape, fan: str) -> float:
    """Of a canonical kernel: [out, in / groups, height, width] or [out, in]."""
    window = math.prod(shape[2:])
    fans = {"in": shape[1] * window, "out": shape[0] * window}
    return fans[fan] if fan in fans else sum(fans.values()) / 2


def _distribution(spec: ResNetSpec, layer: str, op: Any, leaf: str) -> Distribution:
    if not isinstance(op, Conv | Linear):
        return ONE if leaf == "running_var" or (leaf == "weight" and not op.zero_init) else ZERO
    kind = spec.init.head if isinstance(op, Linear) else spec.init.conv
    kernel = op.tensors()["weight"]
    if leaf == "bias":
        if layer.endswith(".gate"):
            return Distribution("constant", spec.init.gate_bias)
        if kind != "torch_default":
            return ZERO
        return Distribution("within", 1 / math.sqrt(fan_of(kernel, "in")))
    if kind == "zeros":
        return ZERO
    if kind == "normal_0.01":
        return Distribution("normal", 0.01)
    gain, fan, distribution = CONV[kind]
    return Distribution(distribution, math.sqrt(gain / fan_of(kernel, fan)))
