"""ATen operators as primitives: arithmetic, activations, reductions, slices and layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.fx import Node

from resnet_torch.aten import (
    Arguments,
    AtenReader,
    Rule,
    Value,
    base_name,
    concrete,
    operand,
    shape_of,
)


def _arithmetic(op: str, *, swapped: bool = False) -> Rule:
    def rule(r: AtenReader, node: Node, a: Arguments) -> Value | None:
        if a.get("rounding_mode"):
            return None
        left, right = operand(a["self"]), operand(a.get("other", a.get("exponent")))
        if a.get("alpha", 1) != 1:
            right = r.ew("mul", right, float(a["alpha"]))
        return r.ew(op, right, left) if swapped else r.ew(op, left, right)

    return rule


def _unary(op: str) -> Rule:
    return lambda r, node, a: r.ew(op, a["self"])


def _clamp(r: AtenReader, node: Node, a: Arguments) -> Value:
    x = r.id_of(a["self"])
    low, high = a.get("min", a.get("min_val")), a.get("max", a.get("max_val"))
    x = x if low is None else r.ew("max", x, operand(low))
    return x if high is None else r.ew("min", x, operand(high))


def _leaky_relu(r: AtenReader, node: Node, a: Arguments) -> Value:
    x = a["self"]
    scaled = r.ew("mul", x, float(a["negative_slope"]))
    return r.ew("select", r.ew("gt", x, 0.0), x, scaled)


def _threshold(r: AtenReader, node: Node, a: Arguments) -> Value:
    x = a["self"]
    return r.ew("select", r.ew("gt", x, float(a["threshold"])), x, float(a["value"]))


def _hard_sigmoid(r: AtenReader, node: Node, a: Arguments) -> int:
    x = r.ew("add", a["self"], 3.0)
    return r.ew("div", r.ew("min", r.ew("max", x, 0.0), 6.0), 6.0)


def _where(r: AtenReader, node: Node, a: Arguments) -> Value:
    return r.ew("select", a["condition"], operand(a["self"]), operand(a["other"]))


def _reshape(r: AtenReader, node: Node, a: Arguments) -> Value:
    return r.add("reshape", a["self"], shape=shape_of(node))


def _permute(r: AtenReader, node: Node, a: Arguments) -> Value:
    rank = len(shape_of(node))
    return r.add("transpose", a["self"], perm=tuple(d % rank for d in a["dims"]))


def _transpose(r: AtenReader, node: Node, a: Arguments) -> Value:
    rank = len(shape_of(node))
    perm = list(range(rank))
    i, j = a.get("dim0", 0) % rank, a.get("dim1", rank - 1) % rank
    perm[i], perm[j] = perm[j], perm[i]
    return r.add("transpose", a["self"], perm=tuple(perm))


def _axes(node: Node, dim: Any) -> tuple[int, ...]:
    rank = len(shape_of(node))
    dims = [dim] if isinstance(dim, int) else dim or range(rank)
    return tuple(d % rank for d in dims)


def _reduce(op: str) -> Rule:
    def rule(r: AtenReader, node: Node, a: Arguments) -> Value | None:
        if isinstance(node.meta["val"], (list, tuple)):
            return None
        extra: dict[str, Any] = {}
        if op == "var":
            unbiased = a.get("correction", 1 if a.get("unbiased", True) else 0)
            extra = {"correction": 1 if unbiased is None else unbiased}
        axes = _axes(a["self"], a.get("dim"))
        return r.add(
            "reduce", a["self"], op=op, axes=axes, keepdims=a.get("keepdim", False), **extra
        )

    return rule


def _var_mean(r: AtenReader, node: Node, a: Arguments) -> Value:
    how = {"axes": _axes(a["self"], a.get("dim")), "keepdims": bool(a.get("keepdim"))}
    correction = a.get("correction", 1 if a.get("unbiased", True) else 0)
    correction = 1 if correction is None else correction
    variance = r.add("reduce", a["self"], op="var", correction=correction, **how)
    return [variance, r.add("reduce", a["self"], op="mean", **how)]


def _pad(r: AtenReader, node: Node, a: Arguments) -> Value:
    rank, given = len(shape_of(node)), a["pad"]
    pads = [(0, 0)] * rank
    for k in range(len(given) // 2):
        pads[rank - 1 - k] = (concrete(given[2 * k]), concrete(given[2 * k + 1]))
    mode = {"replicate": "edge", "circular": "wrap"}.get(a.get("mode", ""), a.get("mode"))
    value = float(a.get("value") or 0.0)
    return r.add("pad", a["self"], pads=tuple(pads), value=value, mode=mode or "constant")


def _reflected(mode: str) -> Rule:
    return lambda r, node, a: _pad(r, node, {"self": a["self"], "pad": a["padding"], "mode": mode})


def _index(node: Node, dim: int, index: tuple[int, int, int]) -> tuple[tuple[int, int, int], ...]:
    """A slice along one dimension, within its bounds."""
    whole = [(0, n, 1) for n in shape_of(node)]
    n = whole[dim % len(whole)][1]
    start, stop, step = index
    start = start + n if start < 0 else min(start, n)
    stop = stop + n if stop < 0 else min(stop, n)
    whole[dim % len(whole)] = (start, stop, step)
    return tuple(whole)


def _slice(r: AtenReader, node: Node, a: Arguments) -> Value:
    start = 0 if a["start"] is None else concrete(a["start"])
    stop = 1 << 62 if a["end"] is None else concrete(a["end"])
    return r.add("slice", a["self"], index=_index(a["self"], a["dim"], (start, stop, a["step"])))


def _split(r: AtenReader, node: Node, a: Arguments) -> Value:
    source, dim = a["self"], a["dim"]
    at, found = 0, []
    for value in node.meta["val"]:
        width = concrete(value.shape[dim])
        found.append(r.add("slice", source, index=_index(source, dim, (at, at + width, 1))))
        at += width
    return found


def _select(r: AtenReader, node: Node, a: Arguments) -> Value:
    source, n = a["self"], shape_of(a["self"])[a["dim"]]
    at = a["index"] % n
    one = r.add("slice", source, index=_index(source, a["dim"], (at, at + 1, 1)))
    return r.add("reshape", one, shape=shape_of(node))


def _stack(r: AtenReader, node: Node, a: Arguments) -> Value:
    dim = a["dim"] % len(shape_of(node))
    parts = []
    for part in a["tensors"]:
        shape = shape_of(part)
        parts.append(r.add("reshape", part, shape=(*shape[:dim], 1, *shape[dim:])))
    return r.add("concat", *parts, axis=dim)


def _cat(r: AtenReader, node: Node, a: Arguments) -> Value:
    return r.add("concat", *a["tensors"], axis=a["dim"] % len(shape_of(node)))


def _gather(r: AtenReader, node: Node, a: Arguments) -> Value:
    return r.add("gather", a["self"], a["index"], axis=a["dim"] % len(shape_of(node)))


def _filled(value: float | None) -> Rule:
    def rule(r: AtenReader, node: Node, a: Arguments) -> Value:
        own = a.get("fill_value", a.get("s", 0.0)) if value is None else value
        return r.graph.const(np.full(shape_of(node), own, np.float64))

    return rule


def _softmax(r: AtenReader, node: Node, a: Arguments) -> Value:
    axis = a["dim"] % len(shape_of(node))
    return r.add("softmax", a["self"], axis=axis, log="log" in base_name(node))


def _dropout(r: AtenReader, node: Node, a: Arguments) -> Value | None:
    if a.get("train"):
        return None
    return r.add("dropout", a["input"] if "input" in a else a["self"], rate=a["p"])


def _cast(r: AtenReader, node: Node, a: Arguments) -> Value:
    return r.add("cast", a["self"], dtype=str(node.meta["val"].dtype).removeprefix("torch."))


def _expand(r: AtenReader, node: Node, a: Arguments) -> Value:
    return r.add("broadcast", a["self"], shape=shape_of(node))


def _repeat(r: AtenReader, node: Node, a: Arguments) -> Value | None:
    old, new = shape_of(a["self"]), shape_of(node)
    if len(old) == len(new) and all(m in (1, n) for m, n in zip(old, new, strict=True)):
        return _expand(r, node, a)  # of axes of size 1
    return None


def _same(r: AtenReader, node: Node, a: Arguments) -> Value:
    return r.id_of(a["self"])


def _flip(r: AtenReader, node: Node, a: Arguments) -> Value:
    return r.add("reverse", a["self"], axes=_axes(node, a["dims"]))


RULES: dict[str, Rule] = {
    "add": _arithmetic("add"),
    "sub": _arithmetic("sub"),
    "rsub": _arithmetic("sub", swapped=True),
    "mul": _arithmetic("mul"),
    "div": _arithmetic("div"),
    "maximum": _arithmetic("max"),
    "minimum": _arithmetic("min"),
    "pow": _arithmetic("pow"),
    **{op: _arithmetic(op) for op in ("gt", "ge", "lt", "le", "eq", "ne")},
    **{
        op: _unary(op)
        for op in (
            *("abs", "erf", "exp", "log", "neg", "reciprocal", "relu", "relu6", "rsqrt"),
            *("silu", "sqrt", "square", "tanh"),
        )
    },
    "sigmoid": _unary("logistic"),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max", "hardtanh"), _clamp),
    "leaky_relu": _leaky_relu,
    "threshold": _threshold,
    "hardsigmoid": _hard_sigmoid,
    "hardswish": lambda r, node, a: r.ew("mul", a["self"], _hard_sigmoid(r, node, a)),
    "where": _where,
    **dict.fromkeys(
        ("flatten", "view", "reshape", "_unsafe_view", "squeeze", "unsqueeze"), _reshape
    ),
    **dict.fromkeys(("reshape_as", "view_as", "unflatten"), _reshape),
    "permute": _permute,
    **dict.fromkeys(("transpose", "t", "numpy_T", "swapaxes"), _transpose),
    "var_mean": _var_mean,
    "mean": _reduce("mean"),
    "sum": _reduce("sum"),
    "var": _reduce("var"),
    "amax": _reduce("max"),
    "amin": _reduce("min"),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    "reflection_pad2d": _reflected("reflect"),
    "replication_pad2d": _reflected("edge"),
    "slice": _slice,
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), _split),
    "select": _select,
    "stack": _stack,
    "cat": _cat,
    "index_select": _gather,
    **dict.fromkeys(("zeros", "zeros_like", "new_zeros"), _filled(0.0)),
    **dict.fromkeys(("ones", "ones_like", "new_ones"), _filled(1.0)),
    **dict.fromkeys(("full", "full_like", "new_full", "scalar_tensor"), _filled(None)),
    **dict.fromkeys(("expand", "broadcast_to", "expand_as"), _expand),
    "repeat": _repeat,
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), _softmax),
    **dict.fromkeys(("dropout", "feature_dropout", "native_dropout"), _dropout),
    **dict.fromkeys(("to", "_to_copy", "type_as"), _cast),
    **dict.fromkeys(
        ("clone", "contiguous", "alias", "detach", "lift_fresh_copy", "lift_fresh"), _same
    ),
}
