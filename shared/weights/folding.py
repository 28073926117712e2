"""Batch norms folded into the convolutions in front of them: the weights of
`shared.architecture.folded`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from shared.architecture.ops import BatchNorm, Conv, FoldedNorm
from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.weights.canonical import Weights, check_weights

# How far what is folded in float32 may be from what is folded in float64, by the largest element of
# each tensor: a few roundings of float32, 6e-8 each, and what a variance near zero makes of them.
# tests/graphs/test_litert_networks.py holds a tenth of it for every kind of layer.
APART = 1e-5
_TINY = 1e-30


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


def effects(spec: ResNetSpec, weights: Mapping[str, np.ndarray]) -> Weights:
    """What a network's tensors do, in float64: norms folded into the convolutions that they alone
    read, and elsewhere as a scale and a shift; standardised kernels. Of two networks that compute
    the same, one of which has been folded, these are the same, and the tensors are not.

    Raises `CheckpointError` for weights that do not fit the spec.
    """
    exact = {name: array.astype(np.float64) for name, array in weights.items()}
    folded, found = fold_norms(spec, exact)
    nodes = {node.name: node for node in make_plan(folded).nodes()}
    readers = Counter(name for node in nodes.values() for name in node.inputs)
    for node in nodes.values():
        if not isinstance(node.op, BatchNorm):
            continue
        leaves = {leaf: found.pop(f"{node.name}.{leaf}") for leaf in node.op.tensors()}
        scale = leaves.get("weight", 1.0) / np.sqrt(leaves["running_var"] + node.op.eps)
        shift = leaves["bias"] - leaves["running_mean"] * scale
        (source,) = node.inputs
        if source in nodes and isinstance(nodes[source].op, Conv) and readers[source] == 1:
            found[f"{source}.weight"] = found[f"{source}.weight"] * scale[:, None, None, None]
            shift = shift + scale * found.pop(f"{source}.bias", 0.0)
        else:
            found[f"{node.name}.scale"] = scale
        found[f"{node.name}.shift"] = shift
    return found


def has_identities(weights: Weights, *, fresh: bool = False) -> bool:
    """Whether a norm stands for one that is folded: of mean 0 and of a variance that is 1 - eps;
    `fresh`: or 1, of which nothing but the verdict tells a norm that nobody has trained.
    """
    for name, array in weights.items():
        if name.endswith(".running_mean") and not array.any():
            variance = weights[f"{name.removesuffix('mean')}var"]
            if fresh or (not np.ptp(variance) and variance.flat[0] != 1):
                return True
    return False


def apart_by(found: Weights, expected: Weights) -> dict[str, float]:
    """The largest difference of each tensor, by its largest element."""
    return {
        name: float(np.abs(found[name] - array).max() / max(np.abs(array).max(), _TINY))
        for name, array in expected.items()
    }


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
