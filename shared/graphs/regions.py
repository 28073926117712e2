"""Glue that fans out of one value and closes again, recognised by evaluating it on random numbers:
activations, softmax, group norms and pools that are written out.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from shared.graphs.affine import MAX_EPS, Expr, Map
from shared.graphs.axes import axes_in, layout_of, letters, reshaped, whole
from shared.graphs.constants import Env, decimal
from shared.graphs.meaning import NoMeaning, evaluate, sliding
from shared.graphs.moves import RULES as MOVING
from shared.graphs.primitives import Array, Raw
from shared.graphs.state import Act, Foreign, State
from shared.graphs.windows import RULES as WINDOWS
from shared.graphs.windows import blur, by_axis, in_layout

GLUE = ("ew", "cast", "reshape", "transpose", "broadcast", "reduce", "slice")
MOVES = ("slice", "concat", "reverse")
BORDER = (*MOVES, "broadcast", "reshape")
MOST = 80  # nodes of one region
SOME_ROWS = 4096  # pixels that a filter is solved for
MOST_BEND = 1e30  # a constant beyond is no number that an activation has
SAMPLES = np.concatenate([np.linspace(-9, 9, 181), [-1e-3, 1e-3, 30.0, -30.0, 300.0, -300.0]])


def recognise(state: State, raw: Raw) -> None:
    """Take the region behind a value as one operator, if it is one. The value may have readers
    outside, such as a shortcut.
    """
    if len(state.users[raw.id]) < 2:
        return
    inside, leaking = {raw.id}, set()
    order: list[int] = []
    waiting = list(state.users[raw.id])
    heapq.heapify(waiting)
    while waiting and len(order) < MOST:
        i = heapq.heappop(waiting)
        if i in inside:
            continue
        node = state.graph.nodes[i]
        data = [k for k in node.ins if state.is_data(k)]
        if node.prim not in (*GLUE, *MOVES) or not all(k in inside for k in data):
            leaking |= {k for k in data if k in inside and k != raw.id}
            continue
        inside.add(i)
        order.append(i)
        for user in state.users[i]:
            heapq.heappush(waiting, user)
        if leaking - {i}:
            return
        if all(u in inside for k in order[:-1] for u in state.users[k]) and _as_one(
            state, raw, order
        ):
            return


def _as_one(state: State, start: Raw, order: Sequence[int]) -> bool:
    """Whether the region is an operator; its exit then has that operator's value."""
    raws = [state.graph.nodes[i] for i in order]
    if len(raws) < 2:
        return False
    try:
        if any(raw.prim in ("concat", "reverse") for raw in raws):
            act = _reflection(state, start, raws)
        elif any(raw.prim == "slice" for raw in raws):
            act = _max_pool(state, start, raws) or _blur(state, start, raws)
        elif all(raw.prim in ("ew", "cast") for raw in raws):
            act = _activation(state, start, raws)
        else:
            act = _softmax(state, start, raws) or _norm(state, start, raws)
    except (NoMeaning, Foreign):
        return False
    if act is None:
        return False
    state.values[order[-1]] = act
    state.done |= set(order)
    return True


def _run(state: State, start: Raw, raws: Sequence[Raw], x: Array, env: Env | None = None) -> Array:
    """What the region makes of x."""
    values = {start.id: x}
    with np.errstate(all="ignore"):
        for raw in raws:
            args = [
                values[i] if state.is_data(i) else state.constants.value(i, env) for i in raw.ins
            ]
            values[raw.id] = evaluate(raw, args)
    return np.asarray(values[raws[-1].id])


# Activations.


def _gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def _gelu_tanh(x: Array) -> Array:
    return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


CURVES = {
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "SiLU": lambda x: x / (1 + np.exp(-x)),
    "HardSwish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "HardSigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Softplus": lambda x: np.logaddexp(x, 0),
    "Mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "GELU": _gelu,
    "GELU (tanh)": _gelu_tanh,
}


def _activation(state: State, start: Raw, raws: Sequence[Raw]) -> Act | None:
    constants = {i for raw in raws for i in raw.ins if not state.is_data(i)}
    if any(state.constants.size(i) > 1 and _varies(state, i) for i in constants):
        return None
    single: Env = {i: np.asarray(state.constants.scalar(i)) for i in constants}
    samples = _samples(value for value in single.values() if value.dtype.kind == "f")
    y = np.asarray(_run(state, start, raws, samples, single), np.float64)
    if y.shape != samples.shape:
        return None
    act, last = state.values[start.id], raws[-1]
    low, high = samples < 0, samples > 0
    if np.array_equal(y, samples):
        return act
    if np.allclose(y[high], samples[high], rtol=1e-9):
        slope = float(y[low][0] / samples[low][0])
        if np.allclose(y[low], slope * samples[low], rtol=1e-9, atol=1e-12):
            if slope == 0:
                return state.unary("ReLU", act, last)
            return state.unary("LeakyReLU", act, last, {"slope": decimal(slope)})
    with np.errstate(over="ignore"):  # in an exponential, whose reciprocal is 0
        for op, curve in CURVES.items():
            if np.allclose(y, curve(samples), rtol=1e-7, atol=1e-9):
                return state.unary(op, act, last)
    return None


def _samples(constants: Iterable[Array]) -> Array:
    """Numbers of every size, and beside each constant, where a function may have a bend."""
    bends = np.unique([float(value) for value in constants if 0 < abs(float(value)) < MOST_BEND])
    beside = np.concatenate([bends * by for by in (0.5, 0.99, 1.01, 2.0)])
    return np.concatenate([SAMPLES, beside, -beside])


def _varies(state: State, i: int) -> bool:
    return bool(np.ptp(np.asarray(state.constants.value(i), np.float64)))


def _softmax(state: State, start: Raw, raws: Sequence[Raw]) -> Act | None:
    act, shape = state.values[start.id], state.shape(start.id)
    places = [d for d, dim in enumerate(act.dims) if axes_in(dim) == ("C",)]
    if len(places) != 1 or state.shapes[raws[-1].id] != shape or math.prod(shape) > 1 << 20:
        return None
    x = state.rng.normal(0, 2, shape)
    y = _run(state, start, raws, x)
    shifted = x - x.max(axis=places[0], keepdims=True)
    total = np.exp(shifted).sum(axis=places[0], keepdims=True)
    if y.shape != x.shape:
        return None
    if np.allclose(y, np.exp(shifted) / total, rtol=1e-9, atol=1e-12):
        return state.unary("Softmax", act, raws[-1])
    if np.allclose(y, shifted - np.log(total), rtol=1e-9, atol=1e-12):
        return state.unary("LogSoftmax", act, raws[-1])
    return None


# Norms by the image's own statistics.


def _norm(state: State, start: Raw, raws: Sequence[Raw]) -> Act | None:
    act, shape = state.values[start.id], state.shape(start.id)
    if state.shapes[raws[-1].id] != shape or not any(raw.prim == "reduce" for raw in raws):
        return None
    places = [d for d, dim in enumerate(act.dims) if "C" in axes_in(dim)]
    if not places or any(len(act.dims[d]) > 1 for d in range(len(shape))):
        return None
    constants = sorted({i for raw in raws for i in raw.ins if not state.is_data(i)})
    leaves = state.constants.leaves(constants)
    channels = state.nodes[act.node].channels
    vectors = [
        i for i in leaves if state.constants.size(i) == channels and state.constants.is_number(i)
    ]
    vectors = [i for i in vectors if channels > 1]
    env: Env = {i: state.rng.uniform(0.5, 2, np.shape(state.constants.value(i))) for i in vectors}
    drawn = {i: env[i].reshape(-1) for i in vectors}
    literals = sorted({state.constants.scalar(i) for i in leaves if state.constants.size(i) == 1})
    x = state.rng.normal(0.3, 2, shape)
    known: dict[float, Array] = {}

    def fitted(size: float, eps: float, axes: tuple[int, ...], split: Any) -> Any:
        z = _standard(x * size, eps, axes, split).reshape(shape)
        if size not in known:
            known[size] = np.asarray(_run(state, start, raws, x * size, {**env}), np.float64)
        return _fit(z, known[size], act, channels)

    for groups, axes, split in _statistics(act, places, shape, raws, state):
        for eps in (e for e in literals if 0 < e < MAX_EPS):
            found = fitted(1.0, eps, axes, split)
            if found is None:
                continue
            # Small and large: a bound of the variance, or of the values, shows there.
            others = [fitted(size, eps, axes, split) for size in (1e-3, 1e3)]
            if all(o is not None and np.allclose(o, found, rtol=1e-5, atol=1e-6) for o in others):
                return _made_norm(state, act, raws[-1], groups, eps, found, drawn)
    return None


def _standard(x: Array, eps: float, axes: tuple[int, ...], split: Sequence[int] | None) -> Array:
    own = x if split is None else x.reshape(split)
    mean, variance = own.mean(axis=axes, keepdims=True), own.var(axis=axes, keepdims=True)
    return np.asarray((own - mean) / np.sqrt(variance + eps))


def _statistics(
    act: Act, places: Sequence[int], shape: Sequence[int], raws: Sequence[Raw], state: State
) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...] | None]]:
    """(groups, axes that are averaged over, another shape first); 0 groups: over the batch."""
    image = [d for d, dim in enumerate(act.dims) if axes_in(dim) in (("H",), ("W",))]
    batch = [d for d, dim in enumerate(act.dims) if axes_in(dim) == ("N",)]
    channels = state.nodes[act.node].channels
    if len(places) == 2:  # split into groups already
        yield shape[places[0]], tuple(sorted([*image, places[1]])), None
        return
    (c,) = places
    yield 0, tuple(sorted([*batch, *image])), None
    seen = {n for raw in raws for n in state.shapes[raw.id] or () if n and channels % n == 0}
    for groups in sorted(seen | {1, channels}, reverse=True):
        split = (*shape[:c], groups, channels // groups, *shape[c + 1 :])
        axes = [d + (d > c) for d in image] + [c + 1]
        yield groups, tuple(sorted(axes)), split


def _fit(z: Array, y: Array, act: Act, channels: int) -> tuple[Array, Array] | None:
    """gamma and beta of y = gamma z + beta for each channel, if that is what y is."""
    c = [d for d, dim in enumerate(act.dims) if "C" in axes_in(dim)]
    rows = np.moveaxis(z, c, range(len(c))).reshape(channels, -1)
    want = np.moveaxis(y, c, range(len(c))).reshape(channels, -1)
    z_mean, y_mean = rows.mean(1, keepdims=True), want.mean(1, keepdims=True)
    spread = ((rows - z_mean) ** 2).sum(1)
    if not spread.all():
        return None
    gamma = ((rows - z_mean) * (want - y_mean)).sum(1) / spread
    beta = y_mean[:, 0] - gamma * z_mean[:, 0]
    same = np.allclose(gamma[:, None] * rows + beta[:, None], want, rtol=1e-6, atol=1e-7)
    return (gamma, beta) if same else None


def _made_norm(
    state: State,
    act: Act,
    last: Raw,
    groups: int,
    eps: float,
    fitted: tuple[Array, Array],
    drawn: Mapping[int, Array],
) -> Act | None:
    roles: list[int | None] = []
    for value, neutral in zip(fitted, (1.0, 0.0), strict=True):
        hit = [i for i, v in drawn.items() if np.allclose(v, value, rtol=1e-5, atol=1e-6)]
        if not hit and not np.allclose(value, neutral, rtol=1e-5, atol=1e-6):
            return None
        roles.append(hit[0] if hit else None)
    if groups == 0:
        what = "batch normalisation by the batch's own statistics (training mode)"
        return Act(state.new("Other", [state.settle(act)], last, {}, {"what": what}).id, act.dims)
    i = state.settle(act)
    how = {"groups": groups, "eps": decimal(eps), "decomposed": True}
    node = state.new("GroupNorm", [i], last, state.nodes[i].size, how)
    steps = Map()
    for op, leaf in zip(("mul", "add"), roles, strict=True):
        if leaf is not None:
            steps = steps.then(op, _channel_vector(state, leaf, node.channels))
    return Act(node.id, act.dims, steps, last)


def _channel_vector(state: State, i: int, channels: int) -> Expr:
    """A constant of one value a channel, wherever its channels are, in groups or not."""
    shape = np.shape(state.constants.value(i))
    dims = reshaped((whole("C", channels),), shape)
    if dims is None:
        raise Foreign(f"{channels} channels as {list(shape)}")
    return Expr.constant(i, dims, len(shape))


# Borders.


def _reflection(state: State, start: Raw, raws: Sequence[Raw]) -> Act | None:
    """Slices of an image that are put around it, along both axes."""
    act, shape, given = state.values[start.id], state.shape(start.id), state.shapes[raws[-1].id]
    layout = layout_of(act.dims) if letters(act.dims) else ""
    if not layout or given is None or len(given) != 4 or any(r.prim not in BORDER for r in raws):
        return None
    more = [after - before for before, after in zip(shape, given, strict=True)]
    places = [layout.index(axis) for axis in "HW"]
    if any(n != 0 for d, n in enumerate(more) if d not in places):
        return None
    if not all(0 < more[d] <= 2 * shape[d] - 2 for d in places):
        return None
    x = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
    y = _run(state, start, raws, x)
    halves = [n // 2 for n in more]
    pads = [(half, n - half) for half, n in zip(halves, more, strict=True)]
    for mode in ("reflect", "edge", "symmetric"):
        if np.array_equal(y, np.pad(x, pads, mode=mode)):
            pad = Raw(raws[-1].id, "pad", (start.id,), {"pads": tuple(pads), "mode": mode})
            pad.attrs["value"] = 0.0
            return MOVING["pad"](state, pad)
    return None


# A maximum over slices, or a weighted sum of them.


def _max_pool(state: State, start: Raw, raws: Sequence[Raw]) -> Act | None:
    """k x k strided slices of one image and their maximum."""
    act, shape = state.values[start.id], state.shape(start.id)
    layout = layout_of(act.dims) if letters(act.dims) else ""
    slices = [raw for raw in raws if raw.prim == "slice"]
    if not layout or len(slices) < 4:
        return None
    places = [layout.index(axis) for axis in "HW"]
    strides = {tuple(raw.attrs["index"][d][2] for d in places) for raw in slices}
    window = tuple(max(raw.attrs["index"][d][0] for raw in slices) + 1 for d in places)
    if len(strides) != 1 or math.prod(window) != len(slices):
        return None
    (stride,) = strides
    how: dict[str, Any] = {"window": [1] * 4, "strides": [1] * 4, "pads": [(0, 0)] * 4}
    for k, d in enumerate(places):
        how["window"][d], how["strides"][d] = window[k], stride[k]
    x = state.rng.normal(0, 2, shape) * 10.0 ** state.rng.uniform(-3, 6, shape)  # no bound hides
    want = sliding(x, how, -np.inf).max((4, 5, 6, 7))
    if not np.array_equal(want, _run(state, start, raws, x)):
        return None
    last = raws[-1]
    attrs = {
        "layout": layout,
        "window": window,
        "strides": stride,
        "pads": ((0, 0), (0, 0)),
        "dilation": (1, 1),
    }
    pool = Raw(last.id, "maxpool", (start.id,), attrs, last.where, last.line)
    return WINDOWS["maxpool"](state, pool)


def _blur(state: State, start: Raw, raws: Sequence[Raw]) -> Act | None:
    """Strided slices of one image, along both axes, and the same weighted sum for every channel."""
    act, shape, given = state.values[start.id], state.shape(start.id), state.shapes[raws[-1].id]
    layout = layout_of(act.dims) if letters(act.dims) else ""
    slices = [raw.attrs["index"] for raw in raws if raw.prim == "slice"]
    if not layout or given is None or len(given) != 4 or not act.is_plain:
        return None
    perms = {tuple(raw.attrs["perm"]) for raw in raws if raw.prim == "transpose"}
    if len(perms) > 1:
        return None
    turned = "".join(layout[d] for perm in perms for d in perm) or layout  # what comes out
    places = [layout.index(axis) for axis in "HW"]
    kernel = (max(i[places[0]][0] for i in slices) + 1, max(i[places[1]][0] for i in slices) + 1)
    stride = (max(i[places[0]][2] for i in slices), max(i[places[1]][2] for i in slices))
    out = (given[turned.index("H")], given[turned.index("W")])
    if min(kernel) < 2:
        return None

    def windows(x: Array) -> Array:
        """[images and channels, pixels, taps] of what each output pixel sees."""
        images = np.transpose(x, [layout.index(axis) for axis in "NCHW"])
        seen = np.lib.stride_tricks.sliding_window_view(images, kernel, (2, 3))
        seen = seen[:, :, :: stride[0], :: stride[1]][:, :, : out[0], : out[1]]
        return seen.reshape(-1, math.prod(seen.shape[2:4]), math.prod(kernel))

    def made(x: Array) -> Array:
        y = np.transpose(_run(state, start, raws, x), [turned.index(axis) for axis in "NCHW"])
        return y.reshape(-1, math.prod(out))

    x = state.rng.normal(0, 2, shape)
    seen, y = windows(x), made(x)
    if seen.shape[:2] != y.shape or y.size < 2 * math.prod(kernel):
        return None
    rows = seen.reshape(-1, math.prod(kernel))[:SOME_ROWS], y.reshape(-1)[:SOME_ROWS]
    taps = np.linalg.lstsq(*rows, rcond=None)[0]
    x = state.rng.normal(0, 2, shape) * 10.0 ** state.rng.uniform(-3, 6, shape)  # no bound hides
    scale = np.abs(windows(x)).max() * 1e-9
    if abs(taps.sum() - 1) > 1e-6 or not np.allclose(windows(x) @ taps, made(x), 1e-9, scale):
        return None
    source, found = blur(state, state.settle(act), out, kernel, stride)
    size = {**state.nodes[source].size, "H": out[0], "W": out[1]}
    exact = tuple(round(float(tap), 12) for tap in taps)
    node = state.new("BlurPool", [source], raws[-1], size, found | {"filter": exact})
    return Act(node.id, in_layout(by_axis(given, turned), turned))
