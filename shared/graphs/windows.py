"""The normaliser's rules for convolutions, pools, reductions and matrix products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from shared.graphs.axes import Dims, axes_in, layout_of, letters, whole
from shared.graphs.net import NO_PADS, Node, Pads, effective, module_of, touches
from shared.graphs.primitives import Array, Raw
from shared.graphs.state import Act, Foreign, LayoutError, State


def check_layout(act: Act, layout: str) -> None:
    """The activation has these axes, in this order."""
    found = letters(act.dims)
    if len(act.dims) != 4 or not found or set(found) - set("NHWC."):
        raise Foreign("windows over axes that are not those of an image")
    if any(own not in (".", axis) for own, axis in zip(found, layout, strict=True)):
        raise LayoutError


def by_axis(shape: Sequence[int], layout: str) -> dict[str, int]:
    return dict(zip(layout, shape, strict=True))


def in_layout(size: Mapping[str, int], layout: str) -> Dims:
    return tuple(whole(axis, size[axis]) for axis in layout)


def added(a: Sequence[tuple[int, int]], b: Pads) -> Pads:
    rows, columns = ((p[0] + q[0], p[1] + q[1]) for p, q in zip(a, b, strict=True))
    return rows, columns


def absorbed(state: State, i: int, modes: Sequence[str], values: Sequence[float]) -> Node | None:
    """The padding of the image that node i is, if it is one that a window may take over."""
    node = state.nodes[i]
    if node.op != "Pad" or set(node.attrs["pads"]) - set("HW"):
        return None
    mode = node.attrs["mode"]
    if mode not in modes or (mode == "constant" and node.attrs["value"] not in values):
        return None
    return node


def pads_of(pad: Node) -> Pads:
    return pad.attrs["pads"].get("H", (0, 0)), pad.attrs["pads"].get("W", (0, 0))


def is_plain_subsample(node: Node) -> bool:
    return node.op == "Subsample" and not node.attrs["before"] + node.attrs["after"]


def convolution(state: State, raw: Raw) -> Act:
    attrs = raw.attrs
    if any(state.is_data(i) for i in raw.ins[1:]):
        raise Foreign("a convolution whose kernel depends on the image")
    act = state.adopted(state.acts(raw)[0], attrs["x"])
    check_layout(act, attrs["x"])
    i = state.settle(act)
    source, pads, strides = state.nodes[i], attrs["pads"], tuple(attrs["strides"])
    pad = absorbed(state, i, ("constant",), (0.0,))
    if pad is not None:
        source, pads = state.nodes[pad.ins[0]], added(pads, pads_of(pad))
    kernel = state.constants.kernel(raw.ins[1], attrs["w"])
    window = tuple(int(n) for n in kernel.array.shape[2:])
    out = by_axis(state.shape(raw.id), attrs["y"])
    if window == (1, 1) and is_plain_subsample(source) and not np.any(pads):
        stride = source.attrs["stride"]
        strides = (strides[0] * stride[0], strides[1] * stride[1])
        source = state.nodes[source.ins[0]]
    if window == (1, 1) and attrs["groups"] == 1 and not np.any(pads) and pooled(source):
        matrix = kernel._replace(array=kernel.array[:, :, 0, 0])
        node = state.new("Linear", [source.id], raw, {"N": out["N"], "C": out["C"]})
        node.tensors["weight"] = matrix.array
        if kernel.weight_std_eps is not None:
            node.attrs["weight_std_eps"] = kernel.weight_std_eps
    else:
        touched = effective(
            source.image, (out["H"], out["W"]), window, strides, attrs["dilation"], pads
        )
        how = {
            "kernel": window,
            "stride": strides,
            "dilation": tuple(attrs["dilation"]),
            "groups": attrs["groups"],
            "pads": touched,
            "weight_std_eps": kernel.weight_std_eps,
            "computed": kernel.computed,
        }
        node = state.new("Conv", [source.id], raw, out, how)
        node.tensors["weight"] = kernel.array
    node.names["weight"] = kernel.name
    node.where = module_of(kernel.name) or raw.where
    node.notes += [kernel.note] if kernel.note else []
    if len(raw.ins) > 2:
        state.put(node, "bias", raw.ins[2])
    _as_blur(state, node, raw)
    return Act(node.id, in_layout(out, attrs["y"]))


def pooled(node: Node) -> bool:
    """Whether the image is gone."""
    return not set(node.size) & {"H", "W"}


def _as_blur(state: State, node: Node, raw: Raw) -> None:
    """One fixed filter for every channel is a blur pool: a depthwise convolution that no training
    changes alike for all channels.
    """
    if node.op != "Conv" or node.attrs["groups"] != node.channels or node.channels < 2:
        return
    weight = np.asarray(node.tensors["weight"], np.float64)
    if weight.shape[1] != 1 or prod(weight.shape[2:]) == 1 or "bias" in node.tensors:
        return
    if (weight != weight[:1]).any() or abs(weight[0].sum() - 1) > 1e-6:
        return
    attrs, (source,) = node.attrs, node.ins
    padded = attrs["pads"] if np.any(raw.attrs["pads"]) else None
    source, found = blur(state, source, node.image, attrs["kernel"], attrs["stride"], padded)
    taps = tuple(float(v) for v in weight[0].ravel())
    node.op, node.ins, node.attrs = "BlurPool", [source], found | {"filter": taps}
    node.tensors, node.where = {}, raw.where


def blur(
    state: State,
    source: int,
    out: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pads: Pads | None = None,
) -> tuple[int, dict[str, Any]]:
    """What a blur pool reads, with the padding in front of it absorbed unless it pads itself, and
    its attributes but the filter.
    """
    mode, pad = "zero", None
    if pads is None:
        pad = absorbed(state, source, ("reflect", "edge", "symmetric"), ())
        pads = pads_of(pad) if pad is not None else NO_PADS
        mode, source = (pad.attrs["mode"], pad.ins[0]) if pad is not None else (mode, source)
        pads = effective(state.nodes[source].image, out, kernel, stride, (1, 1), pads)
    return source, {"kernel": kernel, "stride": stride, "pads": pads, "mode": mode}


def _pool(
    state: State, raw: Raw, op: str, layout: str, shape: Sequence[int], how: Mapping[str, Any]
) -> Act:
    """A pool over height and width, of the one input."""
    act = state.adopted(state.acts(raw)[0], layout)
    check_layout(act, layout)
    source, pads = state.nodes[state.settle(act)], how["pads"]
    attrs: dict[str, Any] = {key: tuple(how[key]) for key in ("kernel", "stride", "dilation")}
    extra = dict(how.get("attrs", {}))
    if op == "MaxPool":
        pad = absorbed(state, source.id, ("constant", "reflect", "edge"), (0.0, -np.inf))
        extra["pad_value"] = -np.inf
        if pad is not None and _is_free(pad, attrs["kernel"], pads):
            # What is reflected, no further than half a window, is in the window already.
            source, pads = state.nodes[pad.ins[0]], added(pads, pads_of(pad))
            zeros = pad.attrs["mode"] == "constant" and pad.attrs["value"] == 0
            extra["pad_value"] = 0.0 if zeros else -np.inf
    elif op == "SumPool" or extra.get("count_pad"):
        pad = absorbed(state, source.id, ("constant",), (0.0,))
        if pad is not None:
            source, pads = state.nodes[pad.ins[0]], added(pads, pads_of(pad))
    elif op == "AvgPool":
        pad = absorbed(state, source.id, ("constant",), (0.0,))
        if pad is not None and not np.any(pads):
            source, pads, extra["count_pad"] = state.nodes[pad.ins[0]], pads_of(pad), True
    out = by_axis(shape, layout)
    image = (out["H"], out["W"])
    kernel, stride, dilation = attrs["kernel"], attrs["stride"], attrs["dilation"]
    attrs["pads"] = effective(source.image, image, kernel, stride, dilation, pads)
    if op == "AvgPool" and not touches(attrs["pads"]):
        extra.pop("count_pad", None)
    node = _special_pool(state, raw, op, source, out, attrs)
    if node is None:
        node = state.new(op, [source.id], raw, out, attrs | extra)
    return Act(node.id, in_layout(out, layout))


def _is_free(pad: Node, kernel: tuple[int, int], pads: Sequence[tuple[int, int]]) -> bool:
    """Whether a pool may take this padding over: no zeros beside padding of -inf, and nothing
    reflected that lies further away than the window reaches.
    """
    if np.any(pads) and pad.attrs["mode"] == "constant" and pad.attrs["value"] == 0:
        return False
    if pad.attrs["mode"] == "constant":
        return True
    reach = [(k - 1) // 2 for k in kernel]
    return all(max(side) <= r for side, r in zip(pads_of(pad), reach, strict=True))


def _special_pool(
    state: State, raw: Raw, op: str, source: Node, out: Mapping[str, int], attrs: Mapping[str, Any]
) -> Node | None:
    """A pool over the whole image, or over single pixels."""
    if op == "SumPool":
        return None
    if source.image == attrs["kernel"] and out["H"] == out["W"] == 1 and not np.any(attrs["pads"]):
        rest = {axis: n for axis, n in source.size.items() if axis not in "HW"}
        mode = "max" if op == "MaxPool" else "avg"
        node = state.new("GlobalPool", [source.id], raw, rest, {"mode": mode})
        height, width = attrs["kernel"]
        node.notes.append(f"a window of {height} x {width} pixels: global at this image size alone")
        return node
    if attrs["kernel"] == (1, 1):
        how = {"stride": attrs["stride"], "before": 0, "after": 0}
        return state.new("Subsample", [source.id], raw, out, how)
    return None


def max_pool(state: State, raw: Raw) -> Act:
    return _pool(state, raw, "MaxPool", raw.attrs["layout"], state.shape(raw.id), _how(raw))


def avg_pool(state: State, raw: Raw) -> Act:
    extra = {"count_pad": bool(raw.attrs["count_pad"])}
    if raw.attrs.get("divisor"):
        extra["divisor"] = raw.attrs["divisor"]
    how = _how(raw) | {"attrs": extra}
    return _pool(state, raw, "AvgPool", raw.attrs["layout"], state.shape(raw.id), how)


def _how(raw: Raw) -> dict[str, Any]:
    attrs = raw.attrs
    return {
        "kernel": attrs["window"],
        "stride": attrs["strides"],
        "dilation": attrs.get("dilation", (1, 1)),
        "pads": attrs["pads"],
    }


def window_max(state: State, raw: Raw) -> Act:
    return _over_all_axes(state, raw, "MaxPool")


def window_sum(state: State, raw: Raw) -> Act:
    return _over_all_axes(state, raw, "SumPool")


def _over_all_axes(state: State, raw: Raw, op: str) -> Act:
    act, attrs = state.acts(raw)[0], raw.attrs
    rank = len(act.dims)
    dilation = attrs.get("dilation") or (1,) * rank
    moves = [attrs["window"][d] > 1 or attrs["strides"][d] > 1 for d in range(rank)]
    # The unit axes that a vmap leaves go, and come back behind the pool.
    kept = [d for d in range(rank) if act.dims[d] or moves[d]]
    spare = [d for d in range(rank) if d not in kept and not moves[d]]
    while len(kept) < 4 and spare:
        kept = sorted([*kept, spare.pop(0)])
    inner = tuple(act.dims[d] for d in kept)
    layout = layout_of(inner)
    if not layout:
        raise Foreign("windows over axes that are not those of an image")
    if any(moves[d] for k, d in enumerate(kept) if layout[k] in "NC"):
        raise Foreign("windows over the channels")
    places = [kept[layout.index(axis)] for axis in "HW"]
    how = {
        key: tuple(values[d] for d in places)
        for key, values in {
            "kernel": attrs["window"],
            "stride": attrs["strides"],
            "dilation": dilation,
            "pads": attrs["pads"],
        }.items()
    }
    shape = state.shape(raw.id)
    i = next(k for k in raw.ins if state.is_data(k))
    state.values[i] = Act(act.node, inner, act.how, act.raw, act.made)
    try:
        found = _pool(state, raw, op, layout, [shape[d] for d in kept], how)
    finally:
        state.values[i] = act
    back = iter(found.dims)
    return Act(found.node, tuple(next(back) if d in kept else () for d in range(rank)))


def reduction(state: State, raw: Raw) -> Act:
    act, attrs = state.acts(raw)[0], raw.attrs
    axes = [d % len(act.dims) for d in attrs["axes"]]
    atoms = [atom for d in axes for atom in act.dims[d]]
    if attrs["keepdims"]:
        left = tuple(() if d in axes else dim for d, dim in enumerate(act.dims))
    else:
        left = tuple(dim for d, dim in enumerate(act.dims) if d not in axes)
    node = state.nodes[state.settle(act)]
    image = {axis for axis in "HW" if node.size.get(axis, 1) > 1}
    over = {axis for axis, _, _ in atoms}
    full = all(lo == 1 and hi == node.size.get(axis) for axis, hi, lo in atoms)
    rest = {axis: n for axis, n in node.size.items() if axis not in "HW"}
    op = attrs["op"]
    if full and over == image and op in ("mean", "max", "sum"):
        how: dict[str, Any] = {"mode": {"mean": "avg", "max": "max"}.get(op)}
        if op == "sum":
            how = {"count": prod(hi for _, hi, _ in atoms)}
        if op != "sum" and node.op == "PartMean":
            if op != "mean":
                raise Foreign("a maximum of means")
            node = state.nodes[node.ins[0]]
        made = state.new("GlobalSum" if op == "sum" else "GlobalPool", [node.id], raw, rest, how)
        return Act(made.id, left)
    if full and len(over) == 1 and over < image and op == "mean":
        size = {axis: n for axis, n in node.size.items() if axis not in over}
        return Act(state.new("PartMean", [node.id], raw, size).id, left)
    raise Foreign(f"{op} over {', '.join(sorted(over)) or 'nothing'}")


def dot(state: State, raw: Raw) -> Act:
    attrs = raw.attrs
    if all(state.is_data(i) for i in raw.ins):
        raise Foreign("a matrix product of two activations")
    swapped = state.is_data(raw.ins[1])
    act, constant = state.acts(raw)[0], raw.ins[0] if swapped else raw.ins[1]
    mine, other = (attrs["rhs"], attrs["lhs"]) if swapped else (attrs["lhs"], attrs["rhs"])
    if attrs.get("lhs_batch") or len(mine) != 1:
        raise Foreign("a matrix product over several axes")
    if axes_in(act.dims[mine[0]]) != ("C",) or act.dims[mine[0]][0][2] != 1:
        names = " x ".join(axes_in(act.dims[mine[0]])) or "an unknown axis"
        raise Foreign(f"a matrix product over {names}")
    if state.constants.value(constant).ndim != 2:
        raise Foreign("a product with a tensor that is no matrix")
    kernel = state.constants.kernel(constant, "IO" if other[0] == 0 else "OI")
    node = state.nodes[state.settle(act)]
    out = len(kernel.array)
    kept = tuple(dim for d, dim in enumerate(act.dims) if d != mine[0])
    dims = (whole("C", out), *kept) if swapped else (*kept, whole("C", out))
    made = _matrix(state, raw, node, kernel.array, kernel.weight_std_eps, kernel.computed)
    made.names["weight"] = kernel.name
    made.where = module_of(kernel.name) or raw.where
    made.notes += [kernel.note] if kernel.note else []
    return Act(made.id, dims)


def _matrix(
    state: State, raw: Raw, node: Node, weight: Array, eps: float | None, computed: Array | None
) -> Node:
    """A matrix over the channels: a linear layer, or of an image a 1 x 1 convolution."""
    size = {**node.size, "C": len(weight)}
    if pooled(node):
        made = state.new("Linear", [node.id], raw, size)
        made.tensors["weight"] = weight
        if eps is not None:
            made.attrs["weight_std_eps"] = eps
        return made
    stride = (1, 1)
    if is_plain_subsample(node):
        stride, node = tuple(node.attrs["stride"]), state.nodes[node.ins[0]]
    attrs = {
        "kernel": (1, 1),
        "stride": stride,
        "dilation": (1, 1),
        "groups": 1,
        "pads": effective(
            node.image, (size.get("H", 1), size.get("W", 1)), (1, 1), stride, (1, 1), NO_PADS
        ),
        "weight_std_eps": eps,
        "computed": None if computed is None else computed[:, :, None, None],
    }
    made = state.new("Conv", [node.id], raw, size, attrs)
    made.tensors["weight"] = weight[:, :, None, None]
    return made


RULES: dict[str, Callable[[State, Raw], Act]] = {
    "avgpool": avg_pool,
    "conv": convolution,
    "dot": dot,
    "maxpool": max_pool,
    "reduce": reduction,
    "window_max": window_max,
    "window_sum": window_sum,
}
