"""The normaliser's rules for elementwise arithmetic, norms and softmax."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from shared.graphs.affine import Expr
from shared.graphs.axes import aligned, axes_in, by_channel, layout_of
from shared.graphs.constants import decimal
from shared.graphs.meaning import sliding
from shared.graphs.net import Node
from shared.graphs.primitives import Array, Raw
from shared.graphs.state import NEUTRAL, Act, Foreign, LayoutError, State

ACTIVATIONS = {
    "logistic": "Sigmoid",
    "relu": "ReLU",
    "relu6": "ReLU6",
    "silu": "SiLU",
    "softplus": "Softplus",
    "tanh": "Tanh",
}
AFFINE = ("add", "sub", "mul", "div")


def elementwise(state: State, raw: Raw) -> Act:
    op = raw.attrs["op"]
    acts = state.acts(raw)
    if op in ("identity", "stop_gradient"):
        return acts[0]
    if len(acts) == 1:
        return _with_constants(state, raw, op, acts[0])
    if len(acts) == 2 and len(raw.ins) == 2:
        return _of_two(state, raw, op, *acts)
    raise Foreign(f"elementwise {op}")


def _with_constants(state: State, raw: Raw, op: str, act: Act) -> Act:
    if op in ACTIVATIONS:
        return state.unary(ACTIVATIONS[op], act, raw)
    if op == "neg":
        return Act(act.node, act.dims, act.how.then("mul", Expr.literal(-1.0)), raw)
    if len(raw.ins) == 1:
        raise Foreign(f"elementwise {op}")
    k = next(k for k, i in enumerate(raw.ins) if state.is_data(i))
    if op in AFFINE and len(raw.ins) == 2:
        return _affine(state, raw, op, act, first=k == 0)
    if op in ("max", "min") and len(raw.ins) == 2:
        return _bounded(state, raw, op, act, state.constants.value(raw.ins[1 - k]))
    if op == "clip" and len(raw.ins) == 3 and k == 0:
        low, high = (state.constants.value(i) for i in raw.ins[1:])
        inner = _bounded(state, raw, "max", act, low)
        return _bounded(state, raw, "min", inner, high)
    raise Foreign(f"elementwise {op}")


def _affine(state: State, raw: Raw, op: str, act: Act, *, first: bool) -> Act:
    """`first`: the activation is the left operand."""
    constant = raw.ins[1] if first else raw.ins[0]
    rank = len(state.shape(raw.id))
    dims = aligned(act.dims, rank)
    value = state.constants.value(constant)
    node = state.nodes[act.node]
    if node.op == "SumPool" and act.is_plain and first and op in ("div", "mul"):
        with np.errstate(all="ignore"):
            return _average(state, act, value if op == "div" else 1 / np.asarray(value))
    if by_channel(value, dims, rank) is None:
        raise Foreign(f"{op} with a constant that varies over the image {list(np.shape(value))}")
    if op == "div" and not first:
        raise Foreign("a constant divided by an activation")
    how = act.how
    if op == "sub" and not first:
        how, op = how.then("mul", Expr.literal(-1.0)), "add"
    return Act(act.node, dims, how.then(op, Expr.constant(constant, dims, rank)), raw)


def _bounded(state: State, raw: Raw, op: str, act: Act, bound: Array) -> Act:
    bound = np.asarray(bound)
    if (bound == (-np.inf if op == "max" else np.inf)).all():
        return act
    if op == "max" and (bound == 0).all():
        return state.unary("ReLU", act, raw)
    if np.ptp(bound):
        raise Foreign(f"elementwise {op} with different bounds")
    value = float(bound.reshape(-1)[0])
    if op == "min" and value == 6 and act.is_plain and state.nodes[act.node].op == "ReLU":
        inner = state.nodes[act.node]
        if not any(u != raw.id for u in _readers_of(state, act.node)):
            return Act(state.new("ReLU6", inner.ins, raw, inner.size).id, act.dims)
    return state.unary(op.title(), act, raw, {"bound": value})


def _readers_of(state: State, node: int) -> list[int]:
    """The raw nodes that read a node's value, whatever their layout."""
    same = [i for i, act in state.values.items() if act.node == node]
    return [u for i in same for u in state.users[i]]


def _of_two(state: State, raw: Raw, op: str, a: Act, b: Act) -> Act:
    if op == "add" and raw.ins[0] == raw.ins[1]:
        return Act(a.node, a.dims, a.how.then("mul", Expr.literal(2.0)), raw)
    if op == "sub":
        b = Act(b.node, b.dims, b.how.then("mul", Expr.literal(-1.0)), raw)
        op = "add"
    if op not in ("add", "mul", "max"):
        raise Foreign(f"elementwise {op} of two activations")
    i, j = state.settle(a), state.settle(b)
    rank = len(state.shape(raw.id))
    for known in (layout_of(a.dims), layout_of(b.dims)):
        a, b = state.adopted(a, known), state.adopted(b, known)
    left, right = aligned(a.dims, rank), aligned(b.dims, rank)
    for x, y in zip(left, right, strict=True):
        if x and y and x != y:
            same = axes_in(x) == axes_in(y)
            raise Foreign(f"{op} of activations in different {'sizes' if same else 'layouts'}")
    dims = tuple(x or y for x, y in zip(left, right, strict=True))
    sizes = [state.nodes[k].size for k in (i, j)]
    size = max(sizes, key=lambda s: prod(s.values()))
    return Act(state.new(op.title(), [i, j], raw, size).id, dims)


def _average(state: State, act: Act, count: Array) -> Act:
    """A sum over windows, divided by the pixels in each."""
    node = state.nodes[act.node]
    window = prod(node.attrs["kernel"])
    count = np.asarray(count, np.float64)
    if (count == window).all():
        node.attrs["count_pad"] = True
    elif _counts_pixels(state, act, node, count):
        node.attrs["count_pad"] = False
    else:
        raise Foreign("a sum over windows divided by an unknown count")
    node.op = "AvgPool"
    return act


def _counts_pixels(state: State, act: Act, node: Node, count: Array) -> bool:
    source = state.nodes[node.ins[0]]
    how = {
        "window": node.attrs["kernel"],
        "strides": node.attrs["stride"],
        "pads": node.attrs["pads"],
    }
    pixels = sliding(np.ones(source.image), how, 0.0).sum((2, 3))
    count = count.reshape((1,) * (len(act.dims) - count.ndim) + count.shape)
    rows = [axes_in(dim) for dim in act.dims]
    if ("H",) not in rows or ("W",) not in rows:
        return False
    h, w = rows.index(("H",)), rows.index(("W",))
    moved = np.moveaxis(count, (h, w), (0, 1))
    flat = moved.reshape(*moved.shape[:2], -1)
    return bool(flat.shape[:2] == pixels.shape and np.allclose(flat, pixels[:, :, None], rtol=1e-6))


def batch_norm(state: State, raw: Raw) -> Act:
    (act, *others) = state.acts(raw)
    if others:
        raise Foreign("batch normalisation by what depends on the images")
    attrs = raw.attrs
    act = state.adopted(act, "NCHW" if attrs["axis"] == 1 else "NHWC")
    if axes_in(act.dims[attrs["axis"] % len(act.dims)]) not in (("C",), ()):
        raise LayoutError
    if attrs.get("training"):
        raise Foreign("batch normalisation by the batch's own statistics (training mode)")
    i = state.settle(act)
    momentum = attrs.get("momentum")
    if momentum is not None and state.graph.source == "torch":
        momentum = round(1 - momentum, 12)  # of the new value there
    found = {"eps": decimal(attrs["eps"]), "momentum": momentum}
    node = state.new("BatchNorm", [i], raw, state.nodes[i].size, found)
    leaves = ("weight", "bias", "running_mean", "running_var")
    _fill(state, node, raw, leaves)
    return Act(node.id, act.dims)


def _fill(state: State, node: Node, raw: Raw, leaves: tuple[str, ...]) -> None:
    given = iter(raw.ins[1:])
    for leaf, there in zip(leaves, raw.attrs["slots"], strict=True):
        if there and not _stands_for_none(state, i := next(given), NEUTRAL.get(leaf)):
            state.put(node, leaf, i)
    state.fill_norm(node)


def _stands_for_none(state: State, i: int, neutral: float | None) -> bool:
    """Whether ones or zeros are made of one number, where an operator wants a vector."""
    constants = state.constants
    if neutral is None or constants.size(i) == 1:
        return False
    single = all(constants.size(k) == 1 for k in constants.leaves([i]))
    return single and bool((constants.value(i) == neutral).all())


def group_norm(state: State, raw: Raw) -> Act:
    (act, *others) = state.acts(raw)
    if others:
        raise Foreign("group normalisation by what depends on the images")
    i = state.settle(act)
    size, axis = state.nodes[i].size, act.dims[raw.attrs["axis"] % len(act.dims)]
    attrs = {"groups": raw.attrs["groups"], "eps": decimal(raw.attrs["eps"])}
    if len(axis) == 1 and axis[0][0] == "C" and axis[0][2] > 1:  # over [N, groups, the rest]
        own = [np.asarray(state.constants.value(k)) for k in raw.ins[1:]]
        neutral = [1.0, 0.0] if raw.attrs["slots"][0] else [0.0]
        if any((array != value).any() for array, value in zip(own, neutral, strict=False)):
            raise Foreign("instance normalisation with weights of its own")
        attrs["groups"] = axis[0][1] // axis[0][2]
        return Act(state.new("GroupNorm", [i], raw, size, attrs).id, act.dims)
    if axes_in(axis) not in (("C",), ()):
        raise LayoutError
    node = state.new("GroupNorm", [i], raw, size, attrs)
    _fill(state, node, raw, ("weight", "bias"))
    return Act(node.id, act.dims)


def softmax(state: State, raw: Raw) -> Act:
    op = "LogSoftmax" if raw.attrs.get("log") else "Softmax"
    (act,) = state.acts(raw)
    if axes_in(act.dims[raw.attrs["axis"] % len(act.dims)]) != ("C",):
        raise Foreign(f"{op} over another axis than the channels")
    return state.unary(op, act, raw)


def dropout(state: State, raw: Raw) -> Act:
    return state.unary("Dropout", state.acts(raw)[0], raw, {"rate": raw.attrs["rate"]})


def opaque(state: State, raw: Raw) -> Act:
    raise Foreign(raw.attrs["what"])


RULES: dict[str, Callable[[State, Raw], Act]] = {
    "bn": batch_norm,
    "cast": lambda state, raw: state.acts(raw)[0],
    "dropout": dropout,
    "ew": elementwise,
    "gn": group_norm,
    "opaque": opaque,
    "softmax": softmax,
}
