"""The normaliser's rules for what moves values about: layouts, slices, padding, concatenation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from shared.graphs.axes import axes_in, reshaped, size_of, whole
from shared.graphs.net import Node, effective, module_of
from shared.graphs.primitives import Raw
from shared.graphs.state import Act, Foreign, State
from shared.graphs.windows import absorbed, added, is_plain_subsample, pads_of

Index = tuple[int, int, int]


def images(state: State, raw: Raw) -> Act:
    shape = state.shape(raw.id)
    axes = state.layout if len(shape) == 4 else "N" + "?" * (len(shape) - 1)
    dims = tuple(whole(axis, n) for axis, n in zip(axes, shape, strict=True))
    size = dict(zip(axes, shape, strict=True))
    return Act(state.new("Input", [], raw, size).id, dims)


def transpose(state: State, raw: Raw) -> Act:
    act = state.acts(raw)[0]
    return replace(act, dims=tuple(act.dims[d] for d in raw.attrs["perm"]), made=None)


def reshape(state: State, raw: Raw) -> Act:
    act = state.acts(raw)[0]
    dims = reshaped(act.dims, raw.attrs["shape"])
    if dims is None:
        raise Foreign(f"a reshape to {list(raw.attrs['shape'])}")
    return replace(act, dims=dims, made=None)


def broadcast(state: State, raw: Raw) -> Act:
    act, shape, places = state.acts(raw)[0], raw.attrs["shape"], raw.attrs.get("dims")
    if places is None:
        places = range(len(shape) - len(act.dims), len(shape))
    dims: list[Any] = [()] * len(shape)
    for k, d in enumerate(places):
        dims[d] = act.dims[k]
    return replace(act, dims=tuple(dims), made=None)


def pad(state: State, raw: Raw) -> Act:
    act, attrs = state.acts(raw)[0], raw.attrs
    i = state.settle(act)
    pads: dict[str, tuple[int, int]] = {}
    for d, each in enumerate(attrs["pads"]):
        if tuple(each) != (0, 0):
            pads[_axis(act, d)] = tuple(each)
    if not pads:
        return Act(i, act.dims)
    mode, value = attrs.get("mode", "constant"), float(attrs.get("value") or 0.0)
    size = {axis: n + sum(pads.get(axis, (0, 0))) for axis, n in state.nodes[i].size.items()}
    dims = tuple(whole(dim[0][0], size[dim[0][0]]) if dim else dim for dim in act.dims)
    if set(pads) == {"C"} and mode == "constant" and not value and min(pads["C"]) >= 0:
        return Act(_widened(state, raw, i, *pads["C"]).id, dims)
    how = {"pads": pads, "mode": mode, "value": value}
    return Act(state.new("Pad", [i], raw, size, how).id, dims)


def _axis(act: Act, d: int) -> str:
    """The one axis of a dimension."""
    if len(act.dims[d]) != 1 or act.dims[d][0][2] != 1:
        raise Foreign("an axis that is no single one")
    return act.dims[d][0][0]


def _widened(state: State, raw: Raw, i: int, before: int, after: int) -> Node:
    """Zero channels around a node's."""
    node = state.nodes[i]
    size = {**node.size, "C": node.channels + before + after}
    stride = (1, 1)
    if is_plain_subsample(node):
        i, stride = node.ins[0], node.attrs["stride"]
    how = {"stride": stride, "before": before, "after": after}
    return state.new("Subsample", [i], raw, size, how)


def cut(state: State, raw: Raw) -> Act:
    """A slice."""
    return _cut(state, raw, raw.attrs["index"])


def _cut(state: State, raw: Raw, index: Sequence[Index]) -> Act:
    act = state.acts(raw)[0]
    i = state.settle(act)
    node = state.nodes[i]
    size, dims, taken = dict(node.size), list(act.dims), {}
    for d, (start, stop, step) in enumerate(index):
        if (start, step) == (0, 1) and stop >= size_of(act.dims[d]):
            continue
        axis = _axis(act, d)
        taken[axis] = (start, stop, step)
        size[axis] = len(range(start, stop, step))
        dims[d] = whole(axis, size[axis])
    if not taken:
        return Act(i, act.dims)
    if all(axis in "HW" for axis in taken) and _strides(node, taken):
        stride = tuple(taken.get(axis, (0, 0, 1))[2] for axis in "HW")
        if is_plain_subsample(node):
            old = node.attrs["stride"]
            i, stride = node.ins[0], (old[0] * stride[0], old[1] * stride[1])
        how = {"stride": stride, "before": 0, "after": 0}
        return Act(state.new("Subsample", [i], raw, size, how).id, tuple(dims))
    return Act(state.new("Slice", [i], raw, size, {"index": taken}).id, tuple(dims))


def _strides(node: Node, taken: Mapping[str, Index]) -> bool:
    """Every step-th pixel from the first to the end."""
    return all(
        start == 0 and step > 0 and stop > node.size[axis] - step
        for axis, (start, stop, step) in taken.items()
    )


def reverse(state: State, raw: Raw) -> Act:
    act = state.acts(raw)[0]
    axes = tuple(_axis(act, d) for d in raw.attrs["axes"] if act.dims[d])
    return state.unary("Reverse", act, raw, {"axes": axes}) if axes else act


def gather(state: State, raw: Raw) -> Act:
    if state.is_data(raw.ins[1]):
        raise Foreign("a gather by what depends on the images")
    act, d = state.acts(raw)[0], raw.attrs["axis"]
    axis = _axis(act, d)
    indices = np.asarray(state.constants.value(raw.ins[1])).astype(int)
    if indices.ndim != 1:
        raise Foreign("a gather by more than a row of indices")
    size = size_of(act.dims[d])
    if np.array_equal(indices, np.arange(size)[::-1]):
        return state.unary("Reverse", act, raw, {"axes": (axis,)})
    steps = set(np.diff(indices).tolist())
    if len(steps) != 1 or min(steps) < 1:
        raise Foreign(f"a gather over {axis}")
    index = [(0, n, 1) for n in state.shape(raw.ins[0])]
    index[d] = (int(indices[0]), int(indices[-1]) + 1, steps.pop())
    return _cut(state, raw, index)


def concatenation(state: State, raw: Raw) -> Act:
    zero = [_is_zero(state, i) for i in raw.ins]
    real = [k for k, is_zero in enumerate(zero) if not is_zero]
    d = raw.attrs["axis"]
    if len(real) == 1 and state.is_data(raw.ins[real[0]]):
        act = state.values[raw.ins[real[0]]]
        if axes_in(act.dims[d]) in (("C",), ()):
            widths = [state.shape(i)[d] for i in raw.ins]
            before, after = sum(widths[: real[0]]), sum(widths[real[0] + 1 :])
            node = _widened(state, raw, state.settle(act), before, after)
            dims = tuple(whole("C", sum(widths)) if k == d else x for k, x in enumerate(act.dims))
            return Act(node.id, dims)
    if all(state.is_data(i) for i in raw.ins):
        acts = state.acts(raw)
        found = _channels_again(state, raw, acts, d) or _grouped(state, raw, acts, d)
        if found is not None:
            return found
    raise Foreign("a concatenation")


def _is_zero(state: State, i: int) -> bool:
    """Zeros, or `x * 0`."""
    if not state.is_data(i):
        return not np.any(state.constants.value(i))
    act = state.values[i]
    if act.how.scale is None:
        return False
    return not any(np.any(value) for value in act.how.values(state.constants))


def _slices(state: State, sources: Sequence[Node]) -> tuple[Node, list[int]] | None:
    """What all of them are slices of along the channels, and the channels that they take."""
    first = sources[0]
    for node in sources:
        if node.op != "Slice" or set(node.attrs["index"]) != {"C"} or node.ins != first.ins:
            return None
    channels = [c for node in sources for c in range(*node.attrs["index"]["C"])]
    return state.nodes[first.ins[0]], channels


def _channels_again(state: State, raw: Raw, acts: Sequence[Act], d: int) -> Act | None:
    """Single channels, put together again in their order or in the opposite one (RGB to BGR)."""
    found = _slices(state, [state.nodes[state.settle(act)] for act in acts])
    if found is None:
        return None
    source, channels = found
    dims = tuple(whole("C", len(channels)) if k == d else x for k, x in enumerate(acts[0].dims))
    if channels == list(range(source.channels)):
        return Act(source.id, dims)
    if channels == list(range(source.channels))[::-1]:
        made = state.new("Reverse", [source.id], raw, source.size, {"axes": ("C",)})
        return Act(made.id, dims)
    return None


SAME_IN_GROUPS = ("kernel", "stride", "dilation", "groups", "pads", "weight_std_eps")


def _grouped(state: State, raw: Raw, acts: Sequence[Act], d: int) -> Act | None:
    """Slices of one tensor, convolved apart and put together: a grouped convolution by hand."""
    convs = [state.nodes[act.node] for act in acts]
    if not all(act.is_plain and node.op == "Conv" for act, node in zip(acts, convs, strict=True)):
        return None
    if axes_in(acts[0].dims[d]) != ("C",) or len({act.dims for act in acts}) != 1:
        return None
    kinds = {tuple(node.attrs[key] for key in SAME_IN_GROUPS) for node in convs}
    biased = {"bias" in node.tensors for node in convs}
    found = _slices(state, [state.nodes[node.ins[0]] for node in convs])
    if found is None or len(kinds) != 1 or len(biased) != 1 or convs[0].attrs["groups"] != 1:
        return None
    source, channels = found
    if channels != list(range(source.channels)):
        return None
    attrs, pads = convs[0].attrs, convs[0].attrs["pads"]
    inner = absorbed(state, source.id, ("constant",), (0.0,))
    if inner is not None:
        source = state.nodes[inner.ins[0]]
        out, kernel = convs[0].image, attrs["kernel"]
        pads = effective(
            source.image,
            out,
            kernel,
            attrs["stride"],
            attrs["dilation"],
            added(pads, pads_of(inner)),
        )
    width = sum(node.channels for node in convs)
    how = {**attrs, "groups": len(convs), "pads": pads, "computed": None}
    made = state.new("Conv", [source.id], raw, {**convs[0].size, "C": width}, how)
    for leaf in ("weight", "bias") if biased == {True} else ("weight",):
        made.tensors[leaf] = np.concatenate([node.tensors[leaf] for node in convs])
        made.names[leaf] = convs[0].names.get(leaf)
    made.where = module_of(made.names["weight"]) or raw.where
    made.notes.append(f"{len(convs)} convolutions of slices stand for one in groups")
    dims = tuple(whole("C", width) if k == d else x for k, x in enumerate(acts[0].dims))
    return Act(made.id, dims)


RULES: dict[str, Callable[[State, Raw], Act]] = {
    "broadcast": broadcast,
    "concat": concatenation,
    "gather": gather,
    "input": images,
    "pad": pad,
    "reshape": reshape,
    "reverse": reverse,
    "slice": cut,
    "transpose": transpose,
}
