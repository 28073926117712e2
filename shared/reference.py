"""The plan executed by plain NumPy: slow, short and obviously right.

When two frameworks disagree, this says which of them is wrong. It follows the plan's graph and
shares no code with the three renderings. Arrays are NHWC, in the dtype of the images (float64 to
mean anything).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from shared.checks import EVAL, OUTPUT, require_known
from shared.graph import INPUT
from shared.ops import (
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    GlobalPool,
    GroupNorm,
    Join,
    Linear,
    MaxPool,
    Op,
    Pads,
    ReLU,
    Subsample,
)
from shared.plan import make_plan
from shared.spec import ResNetSpec
from shared.trace import Trace, provenance
from shared.weights import Weights, cast_exactly, check_weights, probe_weights

Array = np.ndarray


def _padded(x: Array, pads: Pads, value: float = 0.0) -> Array:
    return np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=value)


def _window(x: Array, i: int, j: int, size: tuple[int, int], stride: int) -> Array:
    """The pixels under tap (i, j) of a sliding window, one for each of the `size` outputs."""
    return x[:, i : i + stride * (size[0] - 1) + 1 : stride, j : j + stride * (size[1] - 1) + 1 : stride]


def conv(op: Conv, weights: Mapping[str, Array], x: Array) -> Array:
    """Every window of the padded image times the kernel, summed over taps and channels, group by group."""
    kernel = weights["weight"]
    if op.weight_std_eps is not None:
        mean = kernel.mean(axis=(1, 2, 3), keepdims=True)
        variance = ((kernel - mean) ** 2).mean(axis=(1, 2, 3), keepdims=True)
        kernel = (kernel - mean) / np.sqrt(variance + op.weight_std_eps)
    padded = _padded(x, op.pads((x.shape[1], x.shape[2])))
    reach = op.dilation * (op.kernel_size - 1) + 1
    windows = sliding_window_view(padded, (reach, reach), axis=(1, 2))  # [N, H, W, C, reach, reach]
    windows = windows[:, :: op.stride, :: op.stride, :, :: op.dilation, :: op.dilation]
    fan_in, fan_out = op.in_channels // op.groups, op.out_channels // op.groups
    y = [
        np.tensordot(
            windows[:, :, :, g * fan_in : (g + 1) * fan_in],
            kernel[g * fan_out : (g + 1) * fan_out],
            ((3, 4, 5), (1, 2, 3)),
        )
        for g in range(op.groups)
    ]
    return np.concatenate(y, axis=-1) + (weights["bias"] if op.bias else 0)


def batch_norm(op: BatchNorm, weights: Mapping[str, Array], x: Array) -> Array:
    scale = weights["weight"] / np.sqrt(weights["running_var"] + op.eps)
    return (x - weights["running_mean"]) * scale + weights["bias"]


def group_norm(op: GroupNorm, weights: Mapping[str, Array], x: Array) -> Array:
    grouped = x.reshape(*x.shape[:3], op.groups, -1)
    mean = grouped.mean(axis=(1, 2, 4), keepdims=True)
    variance = ((grouped - mean) ** 2).mean(axis=(1, 2, 4), keepdims=True)
    normal = ((grouped - mean) / np.sqrt(variance + op.eps)).reshape(x.shape)
    return normal * weights["weight"] + weights["bias"]


def max_pool(op: MaxPool, weights: Mapping[str, Array], x: Array) -> Array:
    height, width, _ = op.output(x.shape[1:])
    padded = _padded(x, op.pads((x.shape[1], x.shape[2])), op.pad_value)
    taps = [
        _window(padded, i, j, (height, width), op.stride)
        for i in range(op.kernel_size)
        for j in range(op.kernel_size)
    ]  # fmt: skip
    return np.maximum.reduce(taps)


def avg_pool(op: AvgPool, weights: Mapping[str, Array], x: Array) -> Array:
    """Sum over the window divided by the pixels in it; padding is a pixel only if `count_pad`."""
    height, width, _ = op.output(x.shape[1:])
    pads = op.pads((x.shape[1], x.shape[2]))
    ones = np.ones((1, *x.shape[1:3], 1), x.dtype)
    padded, counted = _padded(x, pads), _padded(ones, pads, 1.0 if op.count_pad else 0.0)
    taps = [(i, j) for i in range(op.kernel_size) for j in range(op.kernel_size)]
    total = np.sum([_window(padded, i, j, (height, width), op.stride) for i, j in taps], axis=0)
    return total / np.sum([_window(counted, i, j, (height, width), op.stride) for i, j in taps], axis=0)


def subsample(op: Subsample, weights: Mapping[str, Array], x: Array) -> Array:
    strided = x[:, :: op.stride, :: op.stride, :]
    return np.pad(strided, ((0, 0), (0, 0), (0, 0), (op.channels_before, op.channels_after)))


def relu(op: ReLU, weights: Mapping[str, Array], x: Array) -> Array:
    return np.maximum(x, 0)


def dropout(op: Dropout, weights: Mapping[str, Array], x: Array) -> Array:
    return x  # inverted dropout: nothing to do at inference


def join(op: Join, weights: Mapping[str, Array], shortcut: Array, branch: Array, *gate_logits: Array) -> Array:
    if op.how == "scale":
        return op.scales[0] * shortcut + op.scales[1] * branch
    if op.how == "add":
        return shortcut + branch
    gate = (1 + np.tanh(gate_logits[0] / 2)) / 2  # the logistic function, without overflow
    return (1 - gate) * shortcut + (gate * branch if op.how == "exclusive_gate" else branch)


def global_pool(op: GlobalPool, weights: Mapping[str, Array], x: Array) -> Array:
    return x.mean(axis=(1, 2)) if op.how == "avg" else x.max(axis=(1, 2))


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
    Join: join,
    GlobalPool: global_pool,
    Linear: linear,
}


class Reference:
    """A network of NumPy arrays: a spec and its canonical weights."""

    def __init__(self, spec: ResNetSpec, weights: Weights):
        self.spec = spec
        self.weights = weights


def build(spec: ResNetSpec, *, seed: int = 0, dtype: str = "float64") -> Reference:
    """The reference with probe weights, until others are loaded."""
    return Reference(spec, probe_weights(spec, seed, dtype))


def load_weights(model: Reference, weights: Mapping[str, Array]) -> None:
    """Replace all weights. Raises `CheckpointError`, and then leaves the model as it was."""
    plan = make_plan(model.spec)
    check_weights(plan, weights)
    dtype = next(iter(model.weights.values())).dtype
    model.weights = cast_exactly({name: weights[name] for name in plan.tensors}, dtype)


def export_weights(model: Reference) -> Weights:
    return {name: array.copy() for name, array in model.weights.items()}


def trace(model: Reference, images: Array, labels: Any = None, *, checks: tuple[str, ...] = ("eval",)) -> Trace:
    """Run the plan's graph on `images` [batch, height, width, channels] and keep every named layer."""
    require_known(checks)
    dtype = next(iter(model.weights.values())).dtype
    plan = make_plan(model.spec, (images.shape[1], images.shape[2]))
    values: dict[str, Array] = {INPUT: np.asarray(images, dtype)}
    kept: dict[str, Array] = {}
    nodes = list(plan.nodes())
    last_use = {name: k for k, node in enumerate(nodes) for name in node.inputs}
    for k, node in enumerate(nodes):
        weights = {leaf: model.weights[f"{node.name}.{leaf}"] for leaf in node.op.tensors()}
        values[node.name] = OPERATORS[type(node.op)](node.op, weights, *(values[i] for i in node.inputs))
        if node.row:
            kept[f"{EVAL}/{node.name}"] = values[node.name]
        for name in [n for n in values if last_use.get(n, k + 1) <= k]:
            del values[name]
    kept[f"{EVAL}/{OUTPUT}"] = values[nodes[-1].name]
    return Trace(model.spec, "reference", str(dtype), kept, provenance(model.weights.items(), images))
