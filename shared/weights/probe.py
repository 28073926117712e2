"""Probe weights and images: values on which no mistake can hide."""

from __future__ import annotations

from typing import Any

import numpy as np

from shared.architecture.blocks import Block
from shared.architecture.ops import Shape
from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.weights.canonical import Weights
from shared.weights.dtypes import float_dtype
from shared.weights.folding import fold_norms
from shared.weights.random import named_rng


def probe_weights(spec: ResNetSpec, seed: int = 0, dtype: Any = "float32") -> Weights:
    """Weights on which no mistake can hide, made from each tensor's name and the seed alone.

    Gamma and running variance are in [0.5, 1.5], beta, bias and running mean are normal, kernels
    are normal with He's fan-in variance. What ends a residual branch, its last convolution or the
    norm behind it, is scaled so that activations neither grow nor fade with the depth of the
    network; gates are mostly closed, and where no shortcut keeps the image, ReLUs are mostly open.

    Values are drawn in float64 and rounded to `dtype`. A folded network has those of the network
    that it was folded from.

    >>> from shared import get_spec
    >>> probe_weights(get_spec("resnet18"), seed=0)["head.weight"].shape
    (1000, 512)
    """
    if spec.norm.folded:
        whole = spec.replace(**{"norm.folded": False})
        folded = fold_norms(whole, probe_weights(whole, seed, "float64"))[1]
        return {name: array.astype(float_dtype(dtype)) for name, array in folded.items()}
    plan = make_plan(spec)
    branch = _branch_variance(spec)
    centres = {name: _GATE_BIAS for name in plan.tensors if name.endswith(".gate.bias")}
    if _forgets(spec):
        centres |= {
            name: _OPEN for name in plan.tensors if ".norm" in name and name.endswith(".bias")
        }
    gains = {name: branch for path, block in plan.blocks() for name in _end_of_branch(path, block)}
    gains |= {name: _GATE_VARIANCE for name in plan.tensors if name.endswith(".gate.weight")}
    return {
        name: _probe_tensor(name, shape, seed, centres.get(name, 0.0), gains.get(name, 1.0)).astype(
            float_dtype(dtype)
        )
        for name, shape in plan.tensors.items()
    }


# Gates that mostly keep the shortcut, as those do with which the V2 paper's networks train (-6 and
# -7, table 1). Half-open ones forget it in a few blocks, and what remains is a plain network of 108
# layers whose norms, by the batch's own statistics, multiply every difference: 1e-16 grew to 1e-8.
_GATE_BIAS = -4.0


# Of a gate's kernel, times He's. A gate that answers strongly to its input multiplies differences
# too.
_GATE_VARIANCE = 0.02


# The mean beta of a plain network. A norm by the batch's statistics behind ReLUs that are closed
# half the time multiplies differences by 1.21, 108 of them by 1e8; behind ReLUs that are open nine
# times in ten, by 1.04.
_OPEN = 1.2


def _forgets(spec: ResNetSpec) -> bool:
    """Whether every block passes its input through a scale or a convolution: such a network is a
    plain one.
    """
    return spec.shortcut.projection == "always" or (
        spec.shortcut.join == "scale" and abs(spec.shortcut.scales[0]) < 1
    )


def _end_of_branch(path: str, block: Block) -> tuple[str, ...]:
    """The tensors that a branch's strength hangs on, whatever its statistics.

    A norm by the batch's statistics undoes every scale of the convolution in front of it. With the
    scale there, each branch was as strong as the whole stream in training mode, and 50 of them
    (ResNet-152) made 1e-11 of rounding.
    """
    last = len(block.convs)
    if block.order in ("full_pre", "norm_after_add"):
        return (f"{path}.conv{last}.weight",)
    return (f"{path}.norm{last}.weight", f"{path}.norm{last}.bias")


def _branch_variance(spec: ResNetSpec) -> float:
    """What a branch adds to the variance, times that of a branch left alone: all blocks together as
    much as the stem.

    A shortcut that is scaled down lets the image fade by the same factor in every block, until
    rounding is all that is left of it; there the branch makes up for what the shortcut loses.
    Closed exclusive gates scale the branch down.
    """
    join, (keep, take) = spec.shortcut.join, spec.shortcut.scales
    if join == "scale" and keep == 0:
        return 1.2 / take**2 if take else 1.0
    if join == "scale" and abs(keep) < 1 and take:
        return 0.8 * (1 - keep**2) / take**2
    return 1.5 if join == "exclusive_gate" else 1 / sum(spec.depths)


def _probe_tensor(name: str, shape: Shape, seed: int, centre: float, gain: float) -> np.ndarray:
    """Values around `centre` (scales and kernels have their own), all times the root of `gain`."""
    rng = named_rng(name, seed)
    leaf = name.rpartition(".")[2]
    if leaf == "running_var" or (leaf == "weight" and len(shape) == 1):
        return rng.uniform(0.5, 1.5, shape) * np.sqrt(gain)
    if len(shape) == 1:
        return rng.normal(centre, 0.3, shape) * np.sqrt(gain)
    fan_in = int(np.prod(shape[1:]))
    return rng.standard_normal(shape) * np.sqrt(2.0 / fan_in * gain)


def probe_images(
    shape: tuple[int, int, int, int], seed: int = 0, dtype: Any = "float32"
) -> np.ndarray:
    """Standard normal images [batch, height, width, channels].

    >>> probe_images((2, 33, 40, 3), dtype="float64").dtype
    dtype('float64')
    """
    return named_rng("images", seed).standard_normal(shape).astype(float_dtype(dtype))
