"""The plan executed by plain NumPy: every operator, and the graph from images to output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from shared.architecture.graph import INPUT, Node
from shared.architecture.ops import (
    AvgPool,
    BatchNorm,
    BlurPool,
    Conv,
    Dropout,
    FoldedNorm,
    GlobalPool,
    GroupNorm,
    Linear,
    MaxPool,
    Merge,
    Op,
    ReLU,
    Subsample,
)
from shared.architecture.plan import Plan
from shared.reference.windows import Array, conv_windows, padded, pads_of, pool_windows, reflected

IMAGE = (0, 1, 2)  # the axes that a channel's values spread over


def group_slices(op: Conv) -> list[tuple[slice, slice]]:
    """The input and the output channels of each group."""
    fan_in, fan_out = op.in_channels // op.groups, op.out_channels // op.groups
    return [
        (slice(g * fan_in, (g + 1) * fan_in), slice(g * fan_out, (g + 1) * fan_out))
        for g in range(op.groups)
    ]


def moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and biased variance, with the axes kept."""
    mean = x.mean(axis=axes, keepdims=True)
    return mean, ((x - mean) ** 2).mean(axis=axes, keepdims=True)


def normalised(x: Array, eps: float, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """(x - mean) / deviation, and the deviation."""
    mean, variance = moments(x, axes)
    deviation = np.sqrt(variance + eps)
    return (x - mean) / deviation, deviation


def kernel_of(op: Conv, weights: Mapping[str, Array]) -> Array:
    """The kernel as the convolution uses it: every filter standardised, where the plan says so."""
    kernel = weights["weight"]
    if op.weight_std_eps is None:
        return kernel
    return normalised(kernel, op.weight_std_eps, (1, 2, 3))[0]


def conv(op: Conv, weights: Mapping[str, Array], x: Array) -> Array:
    """Every window of the padded image times the kernel, summed over pixels and channels, group by
    group.
    """
    seen, kernel = conv_windows(op, x), kernel_of(op, weights)
    y = [
        np.tensordot(seen[:, :, :, i], kernel[o], ((3, 4, 5), (1, 2, 3)))
        for i, o in group_slices(op)
    ]
    return np.concatenate(y, axis=-1) + (weights["bias"] if op.bias else 0)


def batch_norm(op: BatchNorm, weights: Mapping[str, Array], x: Array) -> Array:
    """In training, `weights` have the batch's statistics in the place of the running ones."""
    scale = gamma(weights) / np.sqrt(weights["running_var"] + op.eps)
    return (x - weights["running_mean"]) * scale + weights["bias"]


def gamma(weights: Mapping[str, Array]) -> Array | float:
    """Of a norm; 1 where it has none."""
    return weights.get("weight", 1.0)


def group_norm(op: GroupNorm, weights: Mapping[str, Array], x: Array) -> Array:
    grouped = x.reshape(*x.shape[:3], op.groups, -1)
    return (
        normalised(grouped, op.eps, (1, 2, 4))[0].reshape(x.shape) * weights["weight"]
        + weights["bias"]
    )


def max_pool(op: MaxPool, weights: Mapping[str, Array], x: Array) -> Array:
    return np.maximum.reduce(pool_windows(op, max_pool_edged(op, x)))


def max_pool_edged(op: MaxPool, x: Array) -> Array:
    """x in its border: zeros that compete with the image, or what no maximum sees."""
    return padded(x, pads_of(op, x), 0.0 if op.padding == "zero" else -np.inf)


def avg_pool(op: AvgPool, weights: Mapping[str, Array], x: Array) -> Array:
    """Sum over the window divided by the pixels in it."""
    return np.sum(pool_windows(op, padded(x, pads_of(op, x))), axis=0) / pixels(op, x)


def pixels(op: AvgPool, x: Array) -> Array:
    """In each window, [1, height, width, 1]; padding is a pixel only if `count_pad`."""
    ones = np.ones((1, *x.shape[1:3], 1), x.dtype)
    edged = padded(ones, pads_of(op, x), 1.0 if op.count_pad else 0.0)
    return np.sum(pool_windows(op, edged), axis=0)


def blur_pool(op: BlurPool, weights: Mapping[str, Array], x: Array) -> Array:
    """Every window of the mirrored image times the filter, summed over its pixels."""
    seen = pool_windows(op, reflected(op, x))
    return np.sum([share * pixel for share, pixel in zip(blur_filter(op), seen, strict=True)], 0)


def blur_filter(op: BlurPool) -> Array:
    """The share of each pixel in the window, row by row."""
    return np.outer(op.taps, op.taps).ravel()


def subsample(op: Subsample, weights: Mapping[str, Array], x: Array) -> Array:
    strided = x[:, :: op.stride, :: op.stride, :]
    return np.pad(strided, ((0, 0), (0, 0), (0, 0), (op.channels_before, op.channels_after)))


def relu(op: ReLU, weights: Mapping[str, Array], x: Array) -> Array:
    return np.maximum(x, 0)


def dropout(op: Dropout, weights: Mapping[str, Array], x: Array) -> Array:
    """Identity, but in training, where `weights` have the mask of what is kept."""
    return x * weights["mask"] / (1 - op.rate) if "mask" in weights else x


def merge(
    op: Merge, weights: Mapping[str, Array], shortcut: Array, branch: Array, *gate_logits: Array
) -> Array:
    if op.mode == "scale":
        return op.scales[0] * shortcut + op.scales[1] * branch
    if op.mode == "add":
        return shortcut + branch
    gate = logistic(gate_logits[0])
    return (1 - gate) * shortcut + (gate * branch if op.mode == "exclusive_gate" else branch)


def logistic(x: Array) -> Array:
    return (1 + np.tanh(x / 2)) / 2  # 1 / (1 + exp(-x)), without overflow


def global_pool(op: GlobalPool, weights: Mapping[str, Array], x: Array) -> Array:
    return x.mean(axis=(1, 2)) if op.mode == "avg" else x.max(axis=(1, 2))


def linear(op: Linear, weights: Mapping[str, Array], x: Array) -> Array:
    return x @ weights["weight"].T + weights["bias"]


OPERATORS: dict[type[Op], Callable[..., Array]] = {
    Conv: conv,
    BatchNorm: batch_norm,
    FoldedNorm: lambda op, weights, x: x,
    GroupNorm: group_norm,
    MaxPool: max_pool,
    AvgPool: avg_pool,
    BlurPool: blur_pool,
    Subsample: subsample,
    ReLU: relu,
    Dropout: dropout,
    Merge: merge,
    GlobalPool: global_pool,
    Linear: linear,
}


class Computed(NamedTuple):
    """A node of the graph and what it computed."""

    node: Node
    # By leaf, as the operator used them: in training, with the batch's statistics.
    tensors: Mapping[str, Array]
    inputs: tuple[Array, ...]
    output: Array
    # Canonical name -> running statistic after this pass, where it moved.
    statistics: Mapping[str, Array]


def forward(
    plan: Plan,
    weights: Mapping[str, Array],
    images: Array,
    *,
    train: bool = False,
    frozen_norms: bool = False,
    masks: Mapping[str, Array] | None = None,
) -> Iterator[Computed]:
    """Run the graph on images [batch, height, width, channels], in inference or in training mode.

    Yields every node with what it computed, and frees a value after the last node that reads it.
    Weights are not changed: `Computed.statistics` are the new running statistics. `masks` say what
    each dropout keeps in training.
    """
    nodes = list(plan.nodes())
    last_use = {name: k for k, node in enumerate(nodes) for name in node.inputs}
    values: dict[str, Array] = {INPUT: images}
    for k, node in enumerate(nodes):
        inputs = tuple(values[name] for name in node.inputs)
        tensors = {leaf: weights[f"{node.name}.{leaf}"] for leaf in node.op.tensors()}
        moved: dict[str, Array] = {}
        if train and isinstance(node.op, BatchNorm) and not frozen_norms:
            batch, moved = batch_statistics(node.op, tensors, *inputs)
            tensors |= batch
        if train and isinstance(node.op, Dropout):
            tensors["mask"] = (masks or {})[node.name]
        values[node.name] = OPERATORS[type(node.op)](node.op, tensors, *inputs)
        statistics = {f"{node.name}.{leaf}": array for leaf, array in moved.items()}
        yield Computed(node, tensors, inputs, values[node.name], statistics)
        for name in [n for n in values if last_use.get(n, k + 1) <= k]:
            del values[name]


def batch_statistics(
    op: BatchNorm, weights: Mapping[str, Array], x: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """What normalises the batch, instead of the running statistics; and the new values of those."""
    mean, variance = (moment.reshape(-1) for moment in moments(x, IMAGE))
    batch = {"running_mean": mean, "running_var": variance}
    n = x[..., 0].size
    factor = n / (n - 1) if op.unbiased and n > 1 else 1.0
    stored = {"running_mean": mean, "running_var": variance * factor}
    moved = {
        leaf: op.momentum * weights[leaf] + (1 - op.momentum) * stored[leaf] for leaf in stored
    }
    return batch, moved
