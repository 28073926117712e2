"""The backward pass of every operator of the reference: slow, short and obviously right.

Each function here is the counterpart of the one of the same name in `shared.reference.forward`.
From the gradient `dy` by the operator's output, it makes those by its inputs and by its tensors;
every other argument is what the forward pass was given. Finite differences check them, in the
tests.

Where a function has no derivative, the frameworks' convention counts: ReLU's is 0 at 0, and of
several maxima of a pool, the first one in row-major order takes all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from shared.reference.forward import (
    IMAGE,
    Computed,
    blur_filter,
    gamma,
    group_slices,
    kernel_of,
    logistic,
    max_pool_edged,
    normalised,
    pixels,
)
from shared.reference.windows import (
    Array,
    conv_windows,
    cropped,
    folded_back,
    padded,
    pads_of,
    pool_windows,
    reflected,
    window,
)

# Gradients by the inputs, in their order, and by the tensors, by leaf.
Backward = tuple[tuple[Array, ...], dict[str, Array]]


def _through_moments(
    dnormal: Array, normal: Array, deviation: Array, axes: tuple[int, ...]
) -> Array:
    """The gradient by x, from that by `normal` = (x - mean) / deviation, whose moments depend on x
    as well.

    A change of x along a constant or along `normal` itself changes nothing, but for eps; that part
    is taken out.
    """
    along_constant = dnormal.mean(axis=axes, keepdims=True)
    along_normal = (dnormal * normal).mean(axis=axes, keepdims=True)
    return (dnormal - along_constant - normal * along_normal) / deviation


def conv(op: Conv, weights: Mapping[str, Array], dy: Array, x: Array) -> Backward:
    """By the kernel: dy times the windows. By the image: dy times the kernel, each tap to where it
    was read.
    """
    seen, kernel = conv_windows(op, x), kernel_of(op, weights)
    pads = pads_of(op, x)
    dkernel, dx = np.empty_like(kernel), padded(np.zeros_like(x), pads)
    for i, o in group_slices(op):
        dkernel[o] = np.tensordot(dy[..., o], seen[:, :, :, i], (IMAGE, IMAGE))
        dseen = np.tensordot(
            dy[..., o], kernel[o].transpose(0, 2, 3, 1), 1
        )  # [N, H, W, kernel, kernel, C]
        for row in range(op.kernel_size):
            for column in range(op.kernel_size):
                read = window(
                    dx[..., i], row * op.dilation, column * op.dilation, dy.shape[1:3], op.stride
                )
                read += dseen[:, :, :, row, column]
    if op.weight_std_eps is not None:
        normal, deviation = normalised(weights["weight"], op.weight_std_eps, (1, 2, 3))
        dkernel = _through_moments(dkernel, normal, deviation, (1, 2, 3))
    return (cropped(dx, pads),), {
        "weight": dkernel,
        **({"bias": dy.sum(axis=IMAGE)} if op.bias else {}),
    }


def batch_norm(op: BatchNorm, weights: Mapping[str, Array], dy: Array, x: Array) -> Backward:
    """With the batch's statistics, which are in the place of the running ones and depend on x."""
    deviation = np.sqrt(weights["running_var"] + op.eps)
    normal = (x - weights["running_mean"]) / deviation
    dx = _through_moments(dy * gamma(weights), normal, deviation, IMAGE)
    by_leaf = {"weight": (dy * normal).sum(axis=IMAGE), "bias": dy.sum(axis=IMAGE)}
    return (dx,), {leaf: gradient for leaf, gradient in by_leaf.items() if leaf in weights}


def frozen_batch_norm(op: BatchNorm, weights: Mapping[str, Array], dy: Array, x: Array) -> Backward:
    """With the running statistics, which are constants; as gamma and beta are."""
    return (dy * (gamma(weights) / np.sqrt(weights["running_var"] + op.eps)),), {}


def group_norm(op: GroupNorm, weights: Mapping[str, Array], dy: Array, x: Array) -> Backward:
    shape = (*x.shape[:3], op.groups, -1)
    normal, deviation = normalised(x.reshape(shape), op.eps, (1, 2, 4))
    dx = _through_moments(
        (dy * weights["weight"]).reshape(shape), normal, deviation, (1, 2, 4)
    ).reshape(x.shape)
    return (dx,), {
        "weight": (dy * normal.reshape(x.shape)).sum(axis=IMAGE),
        "bias": dy.sum(axis=IMAGE),
    }


def max_pool(op: MaxPool, weights: Mapping[str, Array], dy: Array, x: Array) -> Backward:
    """To the first maximum of each window, row by row.

    A zero of the border that wins takes it out of the image.
    """
    edged = max_pool_edged(op, x)
    seen, dx, left = pool_windows(op, edged), np.zeros_like(edged), np.ones(dy.shape, bool)
    maximum = np.maximum.reduce(seen)
    for values, by_values in zip(seen, pool_windows(op, dx), strict=True):
        first = left & (values == maximum)
        by_values += dy * first
        left &= ~first
    return (cropped(dx, pads_of(op, x)),), {}


def avg_pool(op: AvgPool, weights: Mapping[str, Array], dy: Array, x: Array) -> Backward:
    pads = pads_of(op, x)
    dx, share = padded(np.zeros_like(x), pads), dy / pixels(op, x)
    for by_values in pool_windows(op, dx):
        by_values += share
    return (cropped(dx, pads),), {}


def blur_pool(op: BlurPool, weights: Mapping[str, Array], dy: Array, x: Array) -> Backward:
    dx = reflected(op, np.zeros_like(x))
    for share, by_values in zip(blur_filter(op), pool_windows(op, dx), strict=True):
        by_values += share * dy
    return (folded_back(op, dx),), {}


def subsample(op: Subsample, weights: Mapping[str, Array], dy: Array, x: Array) -> Backward:
    dx = np.zeros_like(x)
    dx[:, :: op.stride, :: op.stride] = dy[
        ..., op.channels_before : op.channels_before + x.shape[3]
    ]
    return (dx,), {}


def relu(op: ReLU, weights: Mapping[str, Array], dy: Array, x: Array) -> Backward:
    """`x` may be the input or the output: they are positive at the same places."""
    return (dy * (x > 0),), {}


def dropout(op: Dropout, weights: Mapping[str, Array], dy: Array, x: Array) -> Backward:
    return (dy * weights["mask"] / (1 - op.rate),), {}


def merge(op: Merge, weights: Mapping[str, Array], dy: Array, *inputs: Array) -> Backward:
    if op.mode == "add":
        return (dy, dy), {}
    if op.mode == "scale":
        return (op.scales[0] * dy, op.scales[1] * dy), {}
    shortcut, branch, logits = inputs
    gate = logistic(logits)
    by_logits = gate * (1 - gate) * dy  # the logistic function's derivative
    if op.mode == "exclusive_gate":
        return ((1 - gate) * dy, gate * dy, by_logits * (branch - shortcut)), {}
    return ((1 - gate) * dy, dy, -by_logits * shortcut), {}


def global_pool(op: GlobalPool, weights: Mapping[str, Array], dy: Array, x: Array) -> Backward:
    """The average's to all pixels alike, the maximum's to the first maximum."""
    dy = dy[:, np.newaxis, np.newaxis]
    if op.mode == "avg":
        return (np.broadcast_to(dy, x.shape) / (x.shape[1] * x.shape[2]),), {}
    flat = x.reshape(len(x), -1, x.shape[3])
    first = np.arange(flat.shape[1])[:, np.newaxis] == flat.argmax(axis=1)[:, np.newaxis]
    return (dy * first.reshape(x.shape),), {}


def linear(op: Linear, weights: Mapping[str, Array], dy: Array, x: Array) -> Backward:
    return (dy @ weights["weight"],), {"weight": dy.T @ x, "bias": dy.sum(axis=0)}


BACKWARD: dict[type[Op], Callable[..., Backward]] = {
    Conv: conv,
    BatchNorm: batch_norm,
    FoldedNorm: lambda op, weights, dy, x: ((dy,), {}),
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


class Saved(NamedTuple):
    """What the backward pass needs of a node's forward pass."""

    node: Node
    tensors: Mapping[str, Array]
    inputs: tuple[Array, ...]


def saved(computed: Computed) -> Saved:
    """Without the values that no gradient depends on, which are half of all."""
    inputs = computed.inputs
    if isinstance(computed.node.op, ReLU):
        inputs = (computed.output,)  # which the next convolution keeps as well
    elif isinstance(computed.node.op, Merge) and len(inputs) == 2:
        inputs = ()
    return Saved(computed.node, computed.tensors, inputs)


def backward(
    tape: list[Saved], dy: Array, *, frozen_norms: bool = False
) -> tuple[dict[str, Array], Array]:
    """Gradients by all canonical tensors and by the images, from `dy` by the network's output.

    `tape` are the saved nodes of a forward pass in training. It is emptied on the way, which frees
    memory.
    """
    operators = BACKWARD | {BatchNorm: frozen_batch_norm} if frozen_norms else BACKWARD
    by_value = {tape[-1].node.name: dy}
    by_tensor: dict[str, Array] = {}
    while tape:
        node, tensors, inputs = tape.pop()
        by_inputs, by_leaf = operators[type(node.op)](
            node.op, tensors, by_value.pop(node.name), *inputs
        )
        by_tensor |= {f"{node.name}.{leaf}": gradient for leaf, gradient in by_leaf.items()}
        for name, gradient in zip(node.inputs, by_inputs, strict=True):
            by_value[name] = by_value[name] + gradient if name in by_value else gradient
    return by_tensor, by_value[INPUT]
