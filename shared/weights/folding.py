"""Batch norms folded into the convolutions in front of them: the weights of
`shared.architecture.folded`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shared.architecture.ops import BatchNorm, Conv, FoldedNorm
from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.weights.canonical import Weights, check_weights


def fold_norms(spec: ResNetSpec, weights: Mapping[str, np.ndarray]) -> tuple[ResNetSpec, Weights]:
    """The network as it is deployed, and its weights: the same function in evaluation mode.

    A convolution W with a bias b, and behind it a batch norm of scale g = gamma / sqrt(variance +
    eps), become the convolution g W with the bias g (b - mean) + beta (Jacob et al. 2018,
    arXiv:1712.05877, section 3.2). Standardised kernels are standardised once and for all. Computed
    in float64, and rounded once to the dtype of `weights`.

    A norm that reads a sum stays: `norm1` of pre-activation blocks, `final_norm`, and what follows
    an addition; group norms stay, too.

    >>> from shared import get_spec, make_plan, probe_weights
    >>> spec = get_spec("cifar/resnet20")
    >>> folded, weights = fold_norms(spec, probe_weights(spec))
    >>> weights["stem.conv1.bias"].shape, "stem.norm1.weight" in weights
    ((16,), False)
    >>> weights.keys() == make_plan(folded).tensors.keys()
    True

    Args:
        spec: the network that the weights are of; one that is folded is given back as it is.
        weights: canonical weights [out, in / groups, height, width].

    Raises `CheckpointError` for weights that do not fit the spec.
    """
    plan = make_plan(spec)
    check_weights(plan, weights)
    folded = folded_spec(spec)
    norms = {
        node.inputs[0]: (node.name, before.op)
        for node, before in zip(make_plan(folded).nodes(), plan.nodes(), strict=True)
        if isinstance(node.op, FoldedNorm) and isinstance(before.op, BatchNorm)
    }
    gone = {name for name, _ in norms.values()}
    found: Weights = {}
    for node in plan.nodes():
        if node.name in gone:
            continue
        tensors = {leaf: weights[f"{node.name}.{leaf}"] for leaf in node.op.tensors()}
        if isinstance(node.op, Conv):
            tensors = _fold(node.op, tensors, weights, *norms.get(node.name, (None, None)))
        found |= {f"{node.name}.{leaf}": array for leaf, array in tensors.items()}
    return folded, found


def folded_spec(spec: ResNetSpec) -> ResNetSpec:
    """The spec of `fold_norms`."""
    changes = {"norm.folded": True} if spec.norm.kind == "batch" else {}
    return spec.replace(**changes, weight_std_eps=None)


def _fold(
    op: Conv,
    tensors: Weights,
    weights: Mapping[str, np.ndarray],
    norm: str | None,
    norm_op: BatchNorm | None,
) -> Weights:
    """The tensors of a convolution that has taken in what `norm` does, where there is one."""
    dtype = tensors["weight"].dtype
    kernel = tensors["weight"].astype(np.float64)
    if op.weight_std_eps is not None:
        mean, variance = (f(kernel, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.var))
        kernel = (kernel - mean) / np.sqrt(variance + op.weight_std_eps)
    elif norm is None:
        return tensors
    bias = tensors["bias"].astype(np.float64) if op.bias else np.zeros(op.out_channels)
    if norm is not None and norm_op is not None:
        gamma, beta, mean, variance = (
            weights[f"{norm}.{leaf}"].astype(np.float64) for leaf in norm_op.tensors()
        )
        scale = gamma / np.sqrt(variance + norm_op.eps)
        kernel, bias = kernel * scale[:, None, None, None], (bias - mean) * scale + beta
    folded = {"weight": kernel.astype(dtype)}
    return {**folded, "bias": bias.astype(dtype)} if op.bias or norm is not None else folded
