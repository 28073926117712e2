"""What every primitive computes, in NumPy and float64: constants are folded by it, and glue is
recognised by what it does, not by how it is spelt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from shared.graphs.primitives import Array, Raw, RawGraph, is_float

_erf = np.vectorize(math.erf, otypes=[float])


def _logistic(x: Array) -> Array:
    return (1 + np.tanh(np.asarray(x) / 2)) / 2


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "add": np.add,
    "and": np.logical_and,
    "ceil": np.ceil,
    "clip": np.clip,
    "div": np.divide,
    "eq": np.equal,
    "erf": _erf,
    "exp": np.exp,
    "expm1": np.expm1,
    "floor": np.floor,
    "floordiv": np.floor_divide,
    "ge": np.greater_equal,
    "gt": np.greater,
    "identity": lambda x: x,
    "le": np.less_equal,
    "log": np.log,
    "log1p": np.log1p,
    "logistic": _logistic,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mod": np.mod,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "not": np.logical_not,
    "or": np.logical_or,
    "pow": np.power,
    "reciprocal": lambda x: 1 / x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "round": np.round,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "select": np.where,  # (condition, where it is true, where it is not)
    "sign": np.sign,
    "silu": lambda x: x * _logistic(x),
    "softplus": lambda x: np.logaddexp(x, 0),
    "sqrt": np.sqrt,
    "square": np.square,
    "stop_gradient": lambda x: x,
    "sub": np.subtract,
    "tanh": np.tanh,
}
_REDUCE: dict[str, Callable[..., Any]] = {
    "max": np.max,
    "mean": np.mean,
    "min": np.min,
    "prod": np.prod,
    "sum": np.sum,
}


class NoMeaning(Exception):
    """An opaque operator: NumPy does not know what it computes."""


def evaluate(node: Raw, args: Sequence[Array]) -> Array:
    """The value of one node. Raises `NoMeaning` for an opaque one."""
    try:
        rule = _RULES[node.prim]
    except KeyError:
        raise NoMeaning(node.attrs.get("what", node.prim)) from None
    return rule(node, *args)


def evaluate_graph(graph: RawGraph, images: Array) -> Array:
    """The first output for physical `images`, in float64. Raises `NoMeaning`."""
    return values_of(graph, images)[graph.outputs[0]]


def values_of(graph: RawGraph, images: Array, wanted: Container[int] = ()) -> dict[int, Array]:
    """The first output for physical `images`, in float64, and the values `wanted`, by their ids.

    Others are dropped when nothing reads them any more. Raises `NoMeaning`.
    """
    live = graph.live()
    last = {i: node.id for node in graph.nodes if node.id in live for i in node.ins}
    values: dict[int, Array] = {graph.inputs[0]: images}
    for node in graph.nodes:
        if node.id not in live:
            continue
        if node.id not in values:
            values[node.id] = evaluate(node, [values[i] for i in node.ins])
        for i in node.ins:
            if last[i] == node.id and i not in wanted and i != graph.outputs[0]:
                values.pop(i, None)
    return values


def exact(array: Any) -> Array:
    """Floats as float64; all else as it is."""
    array = np.asarray(array)
    return array.astype(np.float64) if is_float(array) else array


def spread(x: Array, rank: int, axis: int) -> Array:
    """A vector along one axis of `rank`."""
    shape = [1] * rank
    shape[axis] = -1
    return np.asarray(x).reshape(shape)


def _optional(args: Sequence[Array], slots: Sequence[bool]) -> list[Array | None]:
    given = iter(args)
    return [next(given) if slot else None for slot in slots]


def _const(node: Raw) -> Array:
    return exact(node.value)


def _elementwise(node: Raw, *args: Array) -> Array:
    return ELEMENTWISE[node.attrs["op"]](*args)


def _conv(node: Raw, x: Array, w: Array, b: Array | None = None) -> Array:
    attrs = node.attrs
    x = np.transpose(x, [attrs["x"].index(axis) for axis in "NHWC"])
    w = np.transpose(w, [attrs["w"].index(axis) for axis in "OIHW"])
    x = crop_or_pad(x, ((0, 0), *attrs["pads"], (0, 0)))
    (dy, dx), (sy, sx) = attrs["dilation"], attrs["strides"]
    reach = (dy * (w.shape[2] - 1) + 1, dx * (w.shape[3] - 1) + 1)
    seen = sliding_window_view(x, reach, axis=(1, 2))[:, ::sy, ::sx, :, ::dy, ::dx]
    y = np.concatenate(
        [
            np.tensordot(part, kernel, ((3, 4, 5), (1, 2, 3)))
            for part, kernel in zip(
                np.split(seen, attrs["groups"], axis=3), np.split(w, attrs["groups"]), strict=True
            )
        ],
        axis=-1,
    )
    y = y if b is None else y + np.reshape(b, -1)
    return np.transpose(y, ["NHWC".index(axis) for axis in attrs["y"]])


def _all_axes(node: Raw, x: Array) -> dict[str, Any]:
    """Window, strides, pads and dilation for every axis, of a pool over height and width."""
    attrs, layout = node.attrs, node.attrs["layout"]
    full: dict[str, list[Any]] = {
        "window": [1] * x.ndim,
        "strides": [1] * x.ndim,
        "dilation": [1] * x.ndim,
        "pads": [(0, 0)] * x.ndim,
    }
    for key, values in full.items():
        for k, axis in enumerate("HW"):
            if key in attrs:
                values[layout.index(axis)] = attrs[key][k]
    return full


def sliding(x: Array, how: Mapping[str, Any], value: float) -> Array:
    """Every window as further axes at the end; `x` is padded with `value`."""
    dilation = how.get("dilation") or (1,) * x.ndim
    padded = crop_or_pad(np.asarray(x, np.float64), how["pads"], value)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, how["window"], strict=True)]
    seen = sliding_window_view(padded, reach)
    steps = (slice(None, None, s) for s in how["strides"])
    return seen[(*steps, *(slice(None, None, d) for d in dilation))]


def _over_windows(f: Callable[..., Array], x: Array, how: Mapping[str, Any], value: float) -> Array:
    return f(sliding(x, how, value), axis=tuple(range(x.ndim, 2 * x.ndim)))


def _maxpool(node: Raw, x: Array) -> Array:
    return _over_windows(np.max, x, _all_axes(node, x), -np.inf)


def _avgpool(node: Raw, x: Array) -> Array:
    how = _all_axes(node, x)
    total = _over_windows(np.sum, x, how, 0.0)
    if node.attrs.get("divisor"):
        return total / node.attrs["divisor"]
    ones = np.ones_like(x, dtype=np.float64)
    if node.attrs["count_pad"]:
        counted = [(0, 0)] * x.ndim
        for k, axis in enumerate("HW"):
            pads = node.attrs.get("counted", node.attrs["pads"])
            counted[node.attrs["layout"].index(axis)] = pads[k]
        ones = np.pad(ones, counted, constant_values=1.0)
        left = [(p[0] - c[0], p[1] - c[1]) for p, c in zip(how["pads"], counted, strict=True)]
        how = how | {"pads": left}
    return total / _over_windows(np.sum, ones, how, 0.0)


def _window_max(node: Raw, x: Array) -> Array:
    return _over_windows(np.max, x, node.attrs, -np.inf)


def _window_sum(node: Raw, x: Array) -> Array:
    return _over_windows(np.sum, x, node.attrs, 0.0)


def _dot(node: Raw, a: Array, b: Array) -> Array:
    attrs = node.attrs
    batch, other = attrs.get("lhs_batch", ()), attrs.get("rhs_batch", ())
    if not batch:
        return np.tensordot(a, b, (attrs["lhs"], attrs["rhs"]))
    letters = iter(range(a.ndim + b.ndim))
    left = [next(letters) for _ in range(a.ndim)]
    right: list[int] = [next(letters) for _ in range(b.ndim)]
    for mine, its in zip((*batch, *attrs["lhs"]), (*other, *attrs["rhs"]), strict=True):
        right[its] = left[mine]
    gone = {left[d] for d in (*attrs["lhs"], *batch)}
    out = [left[d] for d in batch] + [k for k in (*left, *right) if k not in gone]
    return np.einsum(a, left, b, right, out)


def _bn(node: Raw, x: Array, *args: Array) -> Array:
    attrs = node.attrs
    axis = attrs["axis"] % x.ndim
    gamma, beta, mean, variance = _optional(args, attrs["slots"])
    if attrs.get("training") or mean is None or variance is None:
        others = tuple(d for d in range(x.ndim) if d != axis)
        mean, variance = x.mean(axis=others), x.var(axis=others)
    y = (x - spread(mean, x.ndim, axis)) / np.sqrt(spread(variance, x.ndim, axis) + attrs["eps"])
    return _scaled(y, gamma, beta, axis)


def _gn(node: Raw, x: Array, *args: Array) -> Array:
    attrs = node.attrs
    axis = attrs["axis"] % x.ndim
    gamma, beta = _optional(args, attrs["slots"])
    last = np.moveaxis(x, axis, -1)
    grouped = last.reshape(*last.shape[:-1], attrs["groups"], -1)
    axes = (*range(1, last.ndim - 1), last.ndim)
    mean, variance = grouped.mean(axis=axes, keepdims=True), grouped.var(axis=axes, keepdims=True)
    y = ((grouped - mean) / np.sqrt(variance + attrs["eps"])).reshape(last.shape)
    return _scaled(np.moveaxis(y, -1, axis), gamma, beta, axis)


def _scaled(y: Array, gamma: Array | None, beta: Array | None, axis: int) -> Array:
    y = y if gamma is None else y * spread(gamma, y.ndim, axis)
    return y if beta is None else y + spread(beta, y.ndim, axis)


def _reduce(node: Raw, x: Array) -> Array:
    attrs = node.attrs
    how = {"axis": tuple(attrs["axes"]), "keepdims": attrs["keepdims"]}
    if attrs["op"] == "var":
        return np.var(x, ddof=attrs.get("correction") or 0, **how)
    return _REDUCE[attrs["op"]](x, **how)


def _broadcast(node: Raw, x: Array) -> Array:
    shape, dims = tuple(node.attrs["shape"]), node.attrs.get("dims")
    if dims is not None:
        own = [1] * len(shape)
        for k, d in enumerate(dims):
            own[d] = x.shape[k]
        x = np.reshape(x, own)
    return np.broadcast_to(x, shape)


def crop_or_pad(x: Array, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Array:
    """Pads of both signs: a negative one crops."""
    kept = tuple(
        slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(x.shape, pads, strict=True)
    )
    added = [(max(lo, 0), max(hi, 0)) for lo, hi in pads]
    return np.pad(x[kept], added, constant_values=value) if np.any(added) else x[kept]


def _pad(node: Raw, x: Array) -> Array:
    attrs = node.attrs
    if attrs.get("mode", "constant") != "constant":
        return np.pad(x, attrs["pads"], mode=attrs["mode"])
    return crop_or_pad(x, attrs["pads"], attrs.get("value", 0.0))


def _slice(node: Raw, x: Array) -> Array:
    return x[tuple(slice(*index) for index in node.attrs["index"])]


def _softmax(node: Raw, x: Array) -> Array:
    axis = node.attrs["axis"]
    shifted = x - x.max(axis=axis, keepdims=True)
    total = np.exp(shifted).sum(axis=axis, keepdims=True)
    return shifted - np.log(total) if node.attrs.get("log") else np.exp(shifted) / total


def _cast(node: Raw, x: Array) -> Array:
    dtype = node.attrs["dtype"]
    whole = str(dtype).startswith(("int", "uint", "bool"))
    return np.asarray(x).astype(dtype) if whole else np.asarray(x, np.float64)


_RULES: dict[str, Callable[..., Array]] = {
    "const": _const,
    "ew": _elementwise,
    "conv": _conv,
    "maxpool": _maxpool,
    "avgpool": _avgpool,
    "window_max": _window_max,
    "window_sum": _window_sum,
    "dot": _dot,
    "bn": _bn,
    "gn": _gn,
    "reduce": _reduce,
    "broadcast": _broadcast,
    "pad": _pad,
    "slice": _slice,
    "softmax": _softmax,
    "cast": _cast,
    "transpose": lambda node, x: np.transpose(x, node.attrs["perm"]),
    "reshape": lambda node, x: np.reshape(x, node.attrs["shape"]),
    "reverse": lambda node, x: np.flip(x, node.attrs["axes"]),
    "concat": lambda node, *args: np.concatenate(args, axis=node.attrs["axis"]),
    "gather": lambda node, x, i: np.take(x, np.asarray(i).astype(int), axis=node.attrs["axis"]),
    "dropout": lambda node, x: x,
}
