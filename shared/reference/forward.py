"""The plan executed by plain NumPy: every operator, and the graph from images to output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from shared.architecture.graph import INPUT, Node
from shared.architecture.ops import (
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    GlobalPool,
    GroupNorm,
    Linear,
    MaxPool,
    Merge,
    Op,
    Pads,
    ReLU,
    Subsample,
)
from shared.architecture.plan import Plan

if TYPE_CHECKING:
    pass


Array = np.ndarray


IMAGE = (0, 1, 2)  # the axes that a channel's values spread over


def padded(x: Array, pads: Pads, value: float = 0.0) -> Array:
    return np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=value)


def window(x: Array, i: int, j: int, size: tuple[int, int], stride: int) -> Array:
    """The pixels under tap (i, j) of a sliding window, one for each of the `size`
    outputs; a view.
    """
    return x[
        :, i : i + stride * (size[0] - 1) + 1 : stride, j : j + stride * (size[1] - 1) + 1 : stride
    ]


def windows(op: Conv, x: Array) -> Array:
    """The pixels under every window of the padded image, [N, H, W, C, kernel, kernel]; a view."""
    reach = op.dilation * (op.kernel_size - 1) + 1
    found = sliding_window_view(
        padded(x, op.pads((x.shape[1], x.shape[2]))), (reach, reach), axis=(1, 2)
    )
    return found[:, :: op.stride, :: op.stride, :, :: op.dilation, :: op.dilation]


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
    """The kernel that the images meet: as it is, or every filter standardised."""
    kernel = weights["weight"]
    return (
        kernel if op.weight_std_eps is None else normalised(kernel, op.weight_std_eps, (1, 2, 3))[0]
    )


def conv(op: Conv, weights: Mapping[str, Array], x: Array) -> Array:
    """Every window of the padded image times the kernel, summed over taps and channels, group by
    group.
    """
    seen, kernel = windows(op, x), kernel_of(op, weights)
    y = [
        np.tensordot(seen[:, :, :, i], kernel[o], ((3, 4, 5), (1, 2, 3)))
        for i, o in group_slices(op)
    ]
    return np.concatenate(y, axis=-1) + (weights["bias"] if op.bias else 0)


def batch_norm(op: BatchNorm, weights: Mapping[str, Array], x: Array) -> Array:
    """In training, `weights` have the batch's statistics in the place of the running ones."""
    scale = weights["weight"] / np.sqrt(weights["running_var"] + op.eps)
    return (x - weights["running_mean"]) * scale + weights["bias"]


def group_norm(op: GroupNorm, weights: Mapping[str, Array], x: Array) -> Array:
    grouped = x.reshape(*x.shape[:3], op.groups, -1)
    return (
        normalised(grouped, op.eps, (1, 2, 4))[0].reshape(x.shape) * weights["weight"]
        + weights["bias"]
    )


def max_pool(op: MaxPool, weights: Mapping[str, Array], x: Array) -> Array:
    height, width, _ = op.output(x.shape[1:])
    edged = padded(x, op.pads((x.shape[1], x.shape[2])), op.pad_value)
    return np.maximum.reduce([window(edged, i, j, (height, width), op.stride) for i, j in taps(op)])


def taps(op: MaxPool | AvgPool) -> list[tuple[int, int]]:
    """The places in a window, row by row."""
    return [(i, j) for i in range(op.kernel_size) for j in range(op.kernel_size)]


def avg_pool(op: AvgPool, weights: Mapping[str, Array], x: Array) -> Array:
    """Sum over the window divided by the pixels in it."""
    height, width, _ = op.output(x.shape[1:])
    edged = padded(x, op.pads((x.shape[1], x.shape[2])))
    return np.sum(
        [window(edged, i, j, (height, width), op.stride) for i, j in taps(op)], axis=0
    ) / pixels(op, x)


def pixels(op: AvgPool, x: Array) -> Array:
    """In each window, [1, height, width, 1]; padding is a pixel only if `count_pad`."""
    height, width, _ = op.output(x.shape[1:])
    ones = np.ones((1, *x.shape[1:3], 1), x.dtype)
    edged = padded(ones, op.pads((x.shape[1], x.shape[2])), 1.0 if op.count_pad else 0.0)
    return np.sum([window(edged, i, j, (height, width), op.stride) for i, j in taps(op)], axis=0)


def subsample(op: Subsample, weights: Mapping[str, Array], x: Array) -> Array:
    strided = x[:, :: op.stride, :: op.stride, :]
    return np.pad(strided, ((0, 0), (0, 0), (0, 0), (op.channels_before, op.channels_after)))


def relu(op: ReLU, weights: Mapping[str, Array], x: Array) -> Array:
    return np.maximum(x, 0)


def dropout(op: Dropout, weights: Mapping[str, Array], x: Array) -> Array:
    """Identity, but in training, where `weights` have the mask of what is kept."""
    return x * weights["mask"] / (1 - op.rate) if "mask" in weights else x


def join(
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
    GroupNorm: group_norm,
    MaxPool: max_pool,
    AvgPool: avg_pool,
    Subsample: subsample,
    ReLU: relu,
    Dropout: dropout,
    Merge: join,
    GlobalPool: global_pool,
    Linear: linear,
}


class Computed(NamedTuple):
    """A node of the graph and what it computed."""

    node: Node
    tensors: Mapping[
        str, Array
    ]  # by leaf, as the operator used them: in training, the batch's statistics
    inputs: tuple[Array, ...]
    output: Array
    statistics: Mapping[
        str, Array
    ]  # canonical name -> running statistic after this step, where it moved


def forward(
    plan: Plan,
    weights: Mapping[str, Array],
    images: Array,
    *,
    train: bool = False,
    frozen_norms: bool = False,
    masks: Mapping[str, Array] | None = None,
) -> Iterator[Computed]:
    """Run the graph on images [batch, height, width, channels], at inference or in training mode.

    A value is let go after its last use; who needs it longer keeps the step. Running statistics are
    not changed: `Step.statistics` are the new ones. `masks` say what each dropout keeps, in
    training.
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
    """What normalises the batch, in the place of the running statistics; and where those move."""
    mean, variance = (moment.reshape(-1) for moment in moments(x, IMAGE))
    batch = {"running_mean": mean, "running_var": variance}
    stored = {"running_mean": mean, "running_var": variance * op.stored_variance(x[..., 0].size)}
    moved = {
        leaf: op.momentum * weights[leaf] + (1 - op.momentum) * stored[leaf] for leaf in stored
    }
    return batch, moved
