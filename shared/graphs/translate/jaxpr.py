"""A jaxpr, the graph that JAX traces of any function, as primitives.

Source: the parameters of each primitive, jax/_src/lax/{lax,convolution,windowed_reductions,
slicing,control_flow/loops}.py (0.10). Calls are inlined and scans unrolled. JAX itself is not
imported; who has a jaxpr, has JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shared.graphs.primitives import RawGraph
from shared.graphs.translate.emit import Emitter, Unknown

# Primitives that call a jaxpr -> the parameter that holds it.
CALLS = {
    "pjit": "jaxpr",
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "core_closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_lin": "jaxpr",
}
SAME = (
    "copy",
    "copy_p",
    "device_put",
    "mesh_cast",
    "name",
    "optimization_barrier",
    "pvary",
    "reduce_precision",
    "sharding_constraint",
    "stop_gradient",
)
UNARY = (
    *("abs", "ceil", "erf", "exp", "expm1", "floor", "log", "log1p", "logistic", "neg", "not"),
    *("round", "rsqrt", "sign", "sqrt", "square", "tanh"),
)
BINARY = {
    **{op: op for op in ("add", "sub", "mul", "div", "max", "min", "pow")},
    **{op: op for op in ("gt", "ge", "lt", "le", "eq", "ne", "and", "or")},
    "add_any": "add",
}
_OF_FLOATS = ("and", "or", "not", "div", "integer_pow")
REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod")
MAX_STEPS = 4096  # of a scan

Known = Callable[[Any], str]


def translate(
    graph: RawGraph, closed: Any, args: Sequence[int], line: Known = lambda equation: ""
) -> list[int]:
    """Append a closed jaxpr to `graph`; the ids of its results.

    `args` are the ids of its arguments; `line` is the user's source line of an equation. Constants
    that the function has closed over have no name, since JAX knows none.
    """
    return Reader(graph, line).run(closed.jaxpr, closed.consts, args, "")


def constant(value: Any) -> np.ndarray:
    """An array in its own dtype; of a random key, nothing that a network needs."""
    if str(getattr(value, "dtype", "")).startswith("key<"):
        return np.zeros(np.shape(value), np.uint32)
    return np.asarray(value)


class Reader(Emitter):
    def __init__(self, graph: RawGraph, line: Known):
        super().__init__(graph)
        self._line = line

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[int], prefix: str) -> list[int]:
        values: dict[Any, int] = {}

        def read(variable: Any) -> int:
            if hasattr(variable, "val"):  # a literal
                return self.graph.const(variable.val)
            return values[variable]

        for variable, const in zip(jaxpr.constvars, consts, strict=True):
            values[variable] = self.graph.const(constant(const))
        values.update(zip(jaxpr.invars, args, strict=True))
        for equation in jaxpr.eqns:
            ins = [read(variable) for variable in equation.invars]
            outs = self._equation(equation, ins, prefix)
            values.update(zip(equation.outvars, outs, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def _equation(self, equation: Any, ins: list[int], prefix: str) -> list[int]:
        stack = str(equation.source_info.name_stack)
        where = "/".join(part for part in (prefix, stack) if part)
        if equation.primitive.name in CALLS:
            return self._call(equation, ins, where)
        place = {"where": where, "line": self._line(equation)}
        try:
            if equation.primitive.name == "scan":
                return self._scan(equation, ins, place)
            if equation.primitive.name == "cond":
                return self._cond(equation, ins, where)
            return self._one(equation.primitive.name, equation, ins, place)
        except Unknown:
            return [
                self.graph.opaque(equation.primitive.name, ins, variable.aval.shape, **place)
                for variable in equation.outvars
            ]

    def _call(self, equation: Any, ins: list[int], where: str) -> list[int]:
        inner = equation.params[CALLS[equation.primitive.name]]
        jaxpr, consts = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
        return self.run(jaxpr, consts, ins[len(ins) - len(jaxpr.invars) :], where)

    def _cond(self, equation: Any, ins: list[int], where: str) -> list[int]:
        """The branch that constants choose."""
        branches = equation.params["branches"]
        chosen = branches[min(max(int(self.value(ins[0])), 0), len(branches) - 1)]
        return self.run(chosen.jaxpr, chosen.consts, ins[1:], where)

    def _scan(self, equation: Any, ins: list[int], place: dict[str, str]) -> list[int]:
        """One copy of the body a step, each with its slice of what is stacked."""
        params = equation.params
        fixed, carried, steps = params["num_consts"], params["num_carry"], params["length"]
        if steps > MAX_STEPS:
            raise Unknown(f"{steps} steps")
        inner = params["jaxpr"]
        consts, carry = ins[:fixed], ins[fixed : fixed + carried]
        stacked: list[list[int]] = [[] for _ in equation.outvars[carried:]]
        for step in reversed(range(steps)) if params["reverse"] else range(steps):
            slices = [self._step(id, step, place) for id in ins[fixed + carried :]]
            where = f"{place['where']}[{step}]"
            outs = self.run(inner.jaxpr, inner.consts, [*consts, *carry, *slices], where)
            carry = outs[:carried]
            for found, out in zip(stacked, outs[carried:], strict=True):
                found.append(out)
        if params["reverse"]:
            stacked = [found[::-1] for found in stacked]
        return [*carry, *(self.stack(found, 0, **place) for found in stacked)]

    def _step(self, id: int, step: int, place: dict[str, str]) -> int:
        own = self.sized(id)
        index = [(step, step + 1, 1), *((0, n, 1) for n in own[1:])]
        return self.strided(id, index, gone=(0,), **place)

    def _one(self, name: str, equation: Any, ins: list[int], place: dict[str, str]) -> list[int]:
        params = equation.params
        if name in SAME:  # `optimization_barrier` has as many results as arguments
            return ins
        if name in _OF_FLOATS and equation.invars[0].aval.dtype.kind in "iu":
            raise Unknown(f"{name} of integers")  # bits, or truncation
        if name in UNARY:
            return [self.add("ew", ins[0], op=name, **place)]
        if name in BINARY:
            return [self.add("ew", *ins, op=BINARY[name], **place)]
        if name in REDUCTIONS:
            axes = tuple(int(d) for d in params["axes"])
            return [self.add("reduce", ins[0], op=name[7:], axes=axes, keepdims=False, **place)]
        if name in ("reshape", "squeeze", "expand_dims"):
            shape = equation.outvars[0].aval.shape
            return [self.add("reshape", ins[0], shape=tuple(shape), **place)]
        try:
            rule = RULES[name]
        except KeyError:
            raise Unknown(name) from None
        found = rule(self, equation, ins, place)
        return found if isinstance(found, list) else [found]

    # One method a primitive, or a few of one kind.

    def _integer_pow(self, equation: Any, ins: list[int], place: dict[str, str]) -> int:
        power = equation.params["y"]
        if power == 2:
            return self.add("ew", ins[0], op="square", **place)
        return self.add("ew", ins[0], self.graph.const(float(power)), op="pow", **place)

    def _erfc(self, equation: Any, ins: list[int], place: dict[str, str]) -> int:
        erf = self.add("ew", ins[0], op="erf", **place)
        return self.add("ew", self.graph.const(1.0), erf, op="sub", **place)

    def _clamp(self, equation: Any, ins: list[int], place: dict[str, str]) -> int:
        least, x, most = ins
        return self.add("ew", x, least, most, op="clip", **place)

    def _select(self, equation: Any, ins: list[int], place: dict[str, str]) -> int:
        if len(ins) != 3 or equation.invars[0].aval.dtype != np.bool_:
            raise Unknown("a choice among several")
        which, if_false, if_true = ins
        return self.add("ew", which, if_true, if_false, op="select", **place)

    def _cast(self, equation: Any, ins: list[int], place: dict[str, str]) -> int:
        dtype = str(equation.params["new_dtype"])
        return self.add("cast", ins[0], dtype=dtype, **place)

    def _transpose(self, equation: Any, ins: list[int], place: dict[str, str]) -> int:
        return self.add(
            "transpose", ins[0], perm=tuple(map(int, equation.params["permutation"])), **place
        )

    def _broadcast(self, equation: Any, ins: list[int], place: dict[str, str]) -> int:
        dims = tuple(map(int, equation.params["broadcast_dimensions"]))
        shape = tuple(equation.outvars[0].aval.shape)
        return self.add("broadcast", ins[0], shape=shape, dims=dims, **place)

    def _conv(self, equation: Any, ins: list[int], place: dict[str, str]) -> int:
        params = equation.params
        numbers = params["dimension_numbers"]
        if len(params["window_strides"]) != 2:
            raise Unknown("a convolution of another number of dimensions")
        if any(d != 1 for d in params["lhs_dilation"]) or params["batch_group_count"] != 1:
            raise Unknown("a transposed convolution")
        return self.add(
            "conv",
            *ins,
            strides=tuple(map(int, params["window_strides"])),
            pads=tuple((int(lo), int(hi)) for lo, hi in params["padding"]),
            dilation=tuple(map(int, params["rhs_dilation"])),
            groups=int(params["feature_group_count"]),
            x=_layout(numbers.lhs_spec, "NCHW"),
            w=_layout(numbers.rhs_spec, "OIHW"),
            y=_layout(numbers.out_spec, "NCHW"),
            **place,
        )

    def _window(self, equation: Any, ins: list[int], place: dict[str, str]) -> int:
        params = equation.params
        kind = _window_kind(equation)
        if any(d != 1 for d in params["base_dilation"]):
            raise Unknown("a window over a dilated array")
        if len(ins) > 1:  # the general form, which says what it starts from
            start = self.known(ins[1])
            neutral = start is not None and float(start) in (_NEUTRAL[kind], _LOWEST[kind])
            if len(ins) > 2 or not neutral:
                raise Unknown("a window that starts from a value of its own")
        return self.add(
            f"window_{kind}",
            ins[0],
            window=tuple(map(int, params["window_dimensions"])),
            strides=tuple(map(int, params["window_strides"])),
            pads=tuple((int(lo), int(hi)) for lo, hi in params["padding"]),
            dilation=tuple(map(int, params["window_dilation"])),
            **place,
        )

    def _dot(self, equation: Any, ins: list[int], place: dict[str, str]) -> int:
        (left, right), (left_batch, right_batch) = equation.params["dimension_numbers"]
        batch: dict[str, Any] = {}
        if left_batch:
            batch = {"lhs_batch": tuple(left_batch), "rhs_batch": tuple(right_batch)}
        return self.add("dot", *ins, lhs=tuple(left), rhs=tuple(right), **batch, **place)

    def _pad(self, equation: Any, ins: list[int], place: dict[str, str]) -> int:
        config = equation.params["padding_config"]
        if any(inside for _, _, inside in config):
            raise Unknown("padding between the pixels")
        value = float(self.value(ins[1]).reshape(-1)[0])  # it may be an equation itself
        pads = tuple((int(lo), int(hi)) for lo, hi, _ in config)
        return self.add("pad", ins[0], pads=pads, value=value, mode="constant", **place)

    def _slice(self, equation: Any, ins: list[int], place: dict[str, str]) -> int:
        params = equation.params
        steps = params["strides"] or (1,) * len(params["start_indices"])
        ends = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
        index = tuple((int(start), int(stop), int(step)) for start, stop, step in ends)
        return self.add("slice", ins[0], index=index, **place)

    def _dynamic_slice(self, equation: Any, ins: list[int], place: dict[str, str]) -> int:
        """As a slice where the places are known, which JAX keeps inside the array."""
        sizes, own = equation.params["slice_sizes"], self.sized(ins[0])
        index = []
        for id, n, size in zip(ins[1:], own, sizes, strict=True):
            start = min(max(int(self.value(id)), 0), n - size)
            index.append((start, start + int(size), 1))
        return self.add("slice", ins[0], index=tuple(index), **place)

    def _reverse(self, equation: Any, ins: list[int], place: dict[str, str]) -> int:
        return self.add(
            "reverse", ins[0], axes=tuple(map(int, equation.params["dimensions"])), **place
        )

    def _concat(self, equation: Any, ins: list[int], place: dict[str, str]) -> int:
        return self.add("concat", *ins, axis=int(equation.params["dimension"]), **place)

    def _stack(self, equation: Any, ins: list[int], place: dict[str, str]) -> int:
        return self.stack(ins, int(equation.params["axis"]), **place)

    def _split(self, equation: Any, ins: list[int], place: dict[str, str]) -> list[int]:
        axis, at, found = int(equation.params["axis"]), 0, []
        for size in map(int, equation.params["sizes"]):
            index = [(0, n, 1) for n in self.sized(ins[0])]
            index[axis] = (at, at + size, 1)
            found.append(self.add("slice", ins[0], index=tuple(index), **place))
            at += size
        return found

    def _gather(self, equation: Any, ins: list[int], place: dict[str, str]) -> int:
        """`x[…, rows, …, columns]`: whole slices along some axes, in any order that is known."""
        params, own = equation.params, self.sized(ins[0])
        numbers, indices = params["dimension_numbers"], self.value(ins[1]).astype(int)
        axes = tuple(map(int, numbers.start_index_map))
        whole = [1 if d in axes else n for d, n in enumerate(own)]
        others = tuple(d for d in range(len(own)) if d not in axes)
        if (
            tuple(numbers.collapsed_slice_dims) != axes
            or list(params["slice_sizes"]) != whole
            or tuple(numbers.offset_dims) != others
            or indices.ndim != len(axes) + 1
        ):
            raise Unknown("a general gather")
        id = ins[0]
        for k, axis in enumerate(axes):  # each along an axis of its own
            along = np.moveaxis(indices[..., k], k, 0).reshape(indices.shape[k], -1)
            if (along != along[:, :1]).any() or along.min() < 0 or along.max() >= own[axis]:
                raise Unknown("a gather of single places")
            id = self._picked(id, axis, along[:, 0], place)
        return id

    def _picked(self, id: int, axis: int, places: np.ndarray, place: dict[str, str]) -> int:
        """Along an axis, the places of these numbers: a slice where they are evenly spaced."""
        steps = np.unique(np.diff(places))
        if len(steps) != 1 or steps[0] < 1:
            return self.add("gather", id, self.graph.const(places), axis=axis, **place)
        index = [(0, n, 1) for n in self.sized(id)]
        before = self.graph.nodes[id]
        if before.prim == "slice" and before.attrs["index"][axis] == index[axis]:
            id, index = before.ins[0], list(before.attrs["index"])  # of another axis: one slice
        index[axis] = (int(places[0]), int(places[-1]) + 1, int(steps[0]))
        return self.add("slice", id, index=tuple(index), **place)

    def _iota(self, equation: Any, ins: list[int], place: dict[str, str]) -> int:
        params = equation.params
        shape, axis = tuple(params["shape"]), params["dimension"]
        along = np.arange(shape[axis]).reshape([-1 if d == axis else 1 for d in range(len(shape))])
        return self.graph.const(np.broadcast_to(along, shape).astype(params["dtype"]))


def _layout(spec: Sequence[int], letters: str) -> str:
    """JAX says where each of `letters` stands."""
    placed = sorted(zip(spec, letters, strict=True))
    return "".join(letter for _, letter in placed)


_NEUTRAL = {"max": -np.inf, "sum": 0.0}
_LOWEST = {"max": float(np.finfo(np.float32).min), "sum": 0.0}


def _window_kind(equation: Any) -> str:
    name = equation.primitive.name
    if name != "reduce_window":
        return name.removeprefix("reduce_window_")
    body = equation.params["jaxpr"]
    inner = [step.primitive.name for step in getattr(body, "jaxpr", body).eqns]
    kind = {"max": "max", "add": "sum"}.get(inner[0]) if len(inner) == 1 else None
    if kind is None:
        raise Unknown("a window of another function")
    return kind


RULES: dict[str, Callable[..., int | list[int]]] = {
    "broadcast_in_dim": Reader._broadcast,
    "clamp": Reader._clamp,
    "concatenate": Reader._concat,
    "conv_general_dilated": Reader._conv,
    "convert_element_type": Reader._cast,
    "dot_general": Reader._dot,
    "dynamic_slice": Reader._dynamic_slice,
    "erfc": Reader._erfc,
    "gather": Reader._gather,
    "integer_pow": Reader._integer_pow,
    "iota": Reader._iota,
    "pad": Reader._pad,
    "reduce_window": Reader._window,
    "reduce_window_max": Reader._window,
    "reduce_window_sum": Reader._window,
    "rev": Reader._reverse,
    "select_n": Reader._select,
    "slice": Reader._slice,
    "split": Reader._split,
    "stack": Reader._stack,
    "transpose": Reader._transpose,
}
