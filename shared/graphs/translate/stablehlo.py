"""A module of StableHLO, with all sizes known, as primitives.

Its operators are those that JAX' primitives are lowered to, and are read by the same rules
(`jaxpr.RULES`), under JAX' names and parameters. Source: the StableHLO specification, "Ops".
Nothing is imported: who has a module, has the bindings that it is an object of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from shared.graphs.primitives import RawGraph
from shared.graphs.translate.emit import Unknown
from shared.graphs.translate.jaxpr import BINARY, Reader

# Operators that differ from JAX' primitives in their name alone.
NAMES = {
    "abs": "abs",
    "add": "add",
    "and": "and",
    "ceil": "ceil",
    "concatenate": "concatenate",
    "divide": "div",
    "exponential": "exp",
    "exponential_minus_one": "expm1",
    "floor": "floor",
    "log": "log",
    "log_plus_one": "log1p",
    "logistic": "logistic",
    "maximum": "max",
    "minimum": "min",
    "multiply": "mul",
    "negate": "neg",
    "not": "not",
    "optimization_barrier": "optimization_barrier",
    "or": "or",
    "power": "pow",
    "reshape": "reshape",
    "rsqrt": "rsqrt",
    "sign": "sign",
    "sqrt": "sqrt",
    "subtract": "sub",
    "tanh": "tanh",
}
COMPARISONS = {"EQ": "eq", "NE": "ne", "GE": "ge", "GT": "gt", "LE": "le", "LT": "lt"}
FOLDS = {"stablehlo.add": "sum", "stablehlo.maximum": "max", "stablehlo.minimum": "min"}
MAX_DEPTH = 64  # of calls

Array = Callable[[Any], np.ndarray]
Special = Callable[[Any], Any]
_DIMENSIONS = ("dimension_numbers", "dot_dimension_numbers")


def translate(
    graph: RawGraph, module: Any, args: Sequence[int], array: Array, special: Special
) -> list[int]:
    """Append the function `main` of a module to `graph`; the ids of its results.

    `array` makes an array of a constant's attribute; `special` an object with the fields of an
    attribute of dimension numbers.
    """
    functions = {
        operation.attributes["sym_name"].value: operation
        for operation in module.body.operations
        if operation.operation.name == "func.func"
    }
    return _Reader(graph, functions, array, special).call("main", args)


class _Reader(Reader):
    def __init__(
        self, graph: RawGraph, functions: Mapping[str, Any], array: Array, special: Special
    ):
        super().__init__(graph, lambda equation: "")
        self._special = special
        self._functions = functions
        self._array = array
        self._depth = 0

    def call(self, name: str, args: Sequence[int]) -> list[int]:
        (block,) = self._functions[name].regions[0].blocks
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unknown("calls that do not end")
        values: dict[Any, int] = dict(zip(block.arguments, args, strict=True))
        results: list[int] = []
        for operation in block.operations:
            ins = [values[operand] for operand in operation.operands]
            if operation.operation.name == "func.return":
                results = ins
                break
            outs = self._operation(operation, ins)
            values.update(zip(operation.operation.results, outs, strict=True))
        self._depth -= 1
        return results

    def _operation(self, operation: Any, ins: list[int]) -> list[int]:
        name = operation.operation.name.removeprefix("stablehlo.")
        try:
            if name == "func.call":
                return self.call(operation.attributes["callee"].value, ins)
            if name == "constant":
                return [self.graph.const(self._array(operation.attributes["value"]))]
            if name == "reduce":
                return [self._reduce(operation, ins)]
            if name == "compare":
                kind = str(operation.attributes["comparison_direction"]).split()[-1].rstrip(">")
                return [self.add("ew", *ins, op=COMPARISONS[kind])]
            if name == "select":
                ins = [ins[0], ins[2], ins[1]]  # JAX has the one for False first
            known, params = _described(name, operation, self._special)
            if len(ins) == 2 and known in BINARY:
                ins = self._without_spread(ins)
                if known == "div" and (inner := self._sigmoid_of(*ins)) is not None:
                    return [self.add("ew", inner, op="logistic")]
            return self._one(known, _equation(known, params, operation), ins, {})
        except (Unknown, KeyError, ValueError) as error:
            what = name if not isinstance(error, Unknown) else f"{name} ({error})"
            return [
                self.graph.opaque(what, ins, result.type.shape)
                for result in operation.operation.results
            ]

    def _without_spread(self, ins: list[int]) -> list[int]:
        """The arguments, of which one may be a number: StableHLO spreads it over the shape of the
        other first.
        """
        bare = list(ins)
        for k, node in enumerate(self.graph.nodes[id] for id in ins):
            if node.prim == "broadcast" and self.shape(node.ins[0]) == ():
                bare[k] = node.ins[0]
        return bare if self.shape(bare[0]) or self.shape(bare[1]) else ins

    def _sigmoid_of(self, one: int, below: int) -> int | None:
        """x of 1 / (1 + exp(-x)), which JAX lowers its `logistic` to."""
        add = self.graph.nodes[below]
        if not self._is_one(one) or add.attrs.get("op") != "add":
            return None
        others = [id for id in add.ins if not self._is_one(id)]
        exp = self.graph.nodes[others[0]] if len(others) == 1 else add
        if exp.attrs.get("op") != "exp":
            return None
        negated = self.graph.nodes[exp.ins[0]]
        return negated.ins[0] if negated.attrs.get("op") == "neg" else None

    def _is_one(self, id: int) -> bool:
        value = self.known(id)
        return value is not None and bool((value == 1).all())

    def _reduce(self, operation: Any, ins: list[int]) -> int:
        kind = FOLDS.get(_body(operation))
        start = self.known(ins[1]) if len(ins) == 2 else None
        neutral = {"sum": 0.0, "max": -np.inf, "min": np.inf}
        if kind is None or start is None or float(start) != neutral[kind]:
            raise Unknown("another function")
        axes = tuple(operation.attributes["dimensions"])
        return self.add("reduce", ins[0], op=kind, axes=axes, keepdims=False)


def _body(operation: Any) -> str:
    """The one operator that a reduction's function is."""
    (block,) = operation.regions[0].blocks
    steps = [step.operation.name for step in block.operations]
    return steps[0] if len(steps) == 2 else ""


def _described(name: str, operation: Any, special: Special) -> tuple[str, dict[str, Any]]:
    """JAX' name and parameters of an operator. Raises `Unknown`."""
    said = operation.attributes
    if name in NAMES:
        return NAMES[name], {"dimension": said["dimension"].value} if name == "concatenate" else {}
    numbers = next((key for key in _DIMENSIONS if key in said), None)
    try:
        if numbers:
            return _DESCRIBED[name](operation, {**_table(said), numbers: special(said[numbers])})
        return _DESCRIBED[name](operation, said)
    except KeyError as error:
        raise Unknown(f"{name}: {error}") from None


def _table(said: Any) -> dict[str, Any]:
    return {name: said[name] for name in said}


def _numbers(said: Any, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
    return tuple(int(n) for n in said[name]) if name in said else tuple(default)


def _pairs(said: Any, name: str, count: int) -> tuple[tuple[int, int], ...]:
    if name not in said:
        return ((0, 0),) * count
    flat = np.asarray(said[name]).reshape(-1, 2)
    return tuple((int(lo), int(hi)) for lo, hi in flat)


def _conv(operation: Any, said: Any) -> tuple[str, dict[str, Any]]:
    numbers = _dimensions(said["dimension_numbers"])
    ones = (1, 1)
    if any(_numbers(said, "window_reversal")):
        raise Unknown("a convolution with a reversed kernel")
    return "conv_general_dilated", {
        "window_strides": _numbers(said, "window_strides", ones),
        "padding": _pairs(said, "padding", 2),
        "lhs_dilation": _numbers(said, "lhs_dilation", ones),
        "rhs_dilation": _numbers(said, "rhs_dilation", ones),
        "feature_group_count": said["feature_group_count"].value,
        "batch_group_count": said["batch_group_count"].value,
        "dimension_numbers": numbers,
    }


def _dimensions(numbers: Any) -> Any:
    """Where batch (or output), feature (or input) and spatial axes stand, as JAX says it."""
    return SimpleNamespace(
        lhs_spec=(
            numbers.input_batch_dimension,
            numbers.input_feature_dimension,
            *numbers.input_spatial_dimensions,
        ),
        rhs_spec=(
            numbers.kernel_output_feature_dimension,
            numbers.kernel_input_feature_dimension,
            *numbers.kernel_spatial_dimensions,
        ),
        out_spec=(
            numbers.output_batch_dimension,
            numbers.output_feature_dimension,
            *numbers.output_spatial_dimensions,
        ),
    )


def _window(operation: Any, said: Any) -> tuple[str, dict[str, Any]]:
    sizes = _numbers(said, "window_dimensions")
    ones = (1,) * len(sizes)
    body = {"stablehlo.maximum": "max", "stablehlo.add": "add"}.get(_body(operation), "")
    step = SimpleNamespace(primitive=SimpleNamespace(name=body))
    return "reduce_window", {
        "window_dimensions": sizes,
        "window_strides": _numbers(said, "window_strides", ones),
        "base_dilation": _numbers(said, "base_dilations", ones),
        "window_dilation": _numbers(said, "window_dilations", ones),
        "padding": _pairs(said, "padding", len(sizes)),
        "jaxpr": SimpleNamespace(eqns=[step]),
    }


def _dot(operation: Any, said: Any) -> tuple[str, dict[str, Any]]:
    numbers = said["dot_dimension_numbers"]
    contracted = (numbers.lhs_contracting_dimensions, numbers.rhs_contracting_dimensions)
    batch = (numbers.lhs_batching_dimensions, numbers.rhs_batching_dimensions)
    plain = [tuple(map(tuple, pair)) for pair in (contracted, batch)]
    return "dot_general", {"dimension_numbers": tuple(plain)}


def _pad(operation: Any, said: Any) -> tuple[str, dict[str, Any]]:
    sides = ("edge_padding_low", "edge_padding_high", "interior_padding")
    return "pad", {"padding_config": list(zip(*(_numbers(said, s) for s in sides), strict=True))}


def _slice(operation: Any, said: Any) -> tuple[str, dict[str, Any]]:
    return "slice", {name: _numbers(said, name) for name in _SLICE}


def _gather(operation: Any, said: Any) -> tuple[str, dict[str, Any]]:
    numbers = said["dimension_numbers"]
    rank = len(operation.operands[1].type.shape)
    if numbers.index_vector_dim != rank - 1 or len(numbers.operand_batching_dims):
        raise Unknown("a general gather")
    return "gather", {"dimension_numbers": numbers, "slice_sizes": _numbers(said, "slice_sizes")}


def _broadcast(operation: Any, said: Any) -> tuple[str, dict[str, Any]]:
    return "broadcast_in_dim", {"broadcast_dimensions": _numbers(said, "broadcast_dimensions")}


def _cast(operation: Any, said: Any) -> tuple[str, dict[str, Any]]:
    return "convert_element_type", {"new_dtype": _dtype(operation.operation.results[0])}


def _iota(operation: Any, said: Any) -> tuple[str, dict[str, Any]]:
    result = operation.operation.results[0]
    return "iota", {
        "shape": tuple(result.type.shape),
        "dimension": said["iota_dimension"].value,
        "dtype": _dtype(result),
    }


_SLICE = ("start_indices", "limit_indices", "strides")
_DESCRIBED: dict[str, Callable[[Any, Any], tuple[str, dict[str, Any]]]] = {
    "broadcast_in_dim": _broadcast,
    "clamp": lambda operation, said: ("clamp", {}),
    "convert": _cast,
    "convolution": _conv,
    "dot_general": _dot,
    "gather": _gather,
    "iota": _iota,
    "pad": _pad,
    "reduce_window": _window,
    "reverse": lambda o, said: ("rev", {"dimensions": _numbers(said, "dimensions")}),
    "select": lambda operation, said: ("select_n", {}),
    "slice": _slice,
    "transpose": lambda o, said: ("transpose", {"permutation": _numbers(said, "permutation")}),
}
_DTYPES = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "i1": "bool"}


def _dtype(value: Any) -> str:
    name = str(value.type.element_type)
    if name in _DTYPES:
        return _DTYPES[name]
    if name.startswith(("i", "ui")) and name.lstrip("ui").isdecimal():
        return f"{'u' if name.startswith('u') else ''}int{name.lstrip('ui')}"
    raise Unknown(f"numbers of the type {name}")


def _equation(name: str, params: dict[str, Any], operation: Any) -> Any:
    """An operator as the rules for a jaxpr's equations want it."""

    def variables(values: Any) -> list[Any]:
        return [
            SimpleNamespace(
                aval=SimpleNamespace(shape=tuple(v.type.shape), dtype=np.dtype(_plain(_dtype(v))))
            )
            for v in values
        ]

    return SimpleNamespace(
        primitive=SimpleNamespace(name=name),
        params=params,
        invars=variables(operation.operands),
        outvars=variables(operation.operation.results),
    )


def _plain(dtype: str) -> str:
    """A dtype that NumPy has; what is asked of it is whether it is a float, and which bool is."""
    return "float16" if dtype == "bfloat16" else dtype
