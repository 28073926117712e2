"""What ONNX' operators compute, one rule an operator; those that only move numbers are in
`onnx_arrays`.

Source: https://github.com/onnx/onnx/blob/main/docs/Operators.md, opsets 7 to 24.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.graphs.translate import onnx_arrays
from shared.graphs.translate.common import gelu, hard_sigmoid, matmul, plain, up_to_whole
from shared.graphs.translate.emit import Unknown, same_pads
from shared.graphs.translate.onnx_node import Node, NodeEmitter, Rule, given


def _unary(op: str) -> Rule:
    return lambda emit, node, ins: [emit.add("ew", *given(ins), op=op, **node.place)]


def _binary(op: str) -> Rule:
    """Max, Min and Sum take any number of arrays."""
    return lambda emit, node, ins: [emit.fold_left(op, given(ins), **node.place)]


def _divide(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    """Integers, which only shapes are, are divided to integers."""
    values = [emit.known(id) for id in given(ins)]
    whole = all(value is not None and value.dtype.kind in "iu" for value in values)
    return [emit.add("ew", *given(ins), op="floordiv" if whole else "div", **node.place)]


def _select(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    return [emit.add("ew", *given(ins), op="select", **node.place)]


def _mean(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    ids = given(ins)
    total = emit.fold_left("add", ids, **node.place)
    return [emit.add("ew", total, emit.graph.const(float(len(ids))), op="div", **node.place)]


def _same(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    return [given(ins)[0]]


def _clip(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    """Limits are attributes before opset 11."""
    x, limits = given(ins)[0], [*ins[1:3], None, None][:2]
    if emit.opset < 11:
        limits = [
            emit.graph.const(plain(node.real(key))) if node.has(key) else None
            for key in ("min", "max")
        ]
    for limit, op in zip(limits, ("max", "min"), strict=True):
        if limit is not None:
            x = emit.add("ew", x, limit, op=op, **node.place)
    return [x]


def _hard_sigmoid(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    """HardSwish is x times the one of 1/6 and 0.5."""
    (x,) = given(ins)
    swish = node.op == "HardSwish"
    alpha = 1 / 6 if swish else plain(node.real("alpha", 0.2))
    beta = 0.5 if swish else plain(node.real("beta", 0.5))
    y = hard_sigmoid(emit, x, alpha, beta, **node.place)
    return [emit.add("ew", x, y, op="mul", **node.place) if swish else y]


def _gelu(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    (x,) = given(ins)
    return [gelu(emit, x, by_tanh=node.text("approximate") == "tanh", **node.place)]


def _cast_like(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    """To the dtype of another array, which is known where that is a constant."""
    x, like = given(ins)
    found = emit.graph.nodes[like].value
    if found is None:
        return [emit.add("ew", x, op="identity", **node.place)]
    return [emit.add("cast", x, dtype=found.dtype.name, **node.place)]


def _swish(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    """x sigmoid(alpha x)."""
    (x,) = given(ins)
    gate = emit.add("ew", _times(emit, node, x, "alpha"), op="logistic", **node.place)
    return [emit.add("ew", x, gate, op="mul", **node.place)]


def _foreign(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    """An activation that no ResNet of ours has, with its number."""
    number = f" {plain(node.real('alpha', 0.01)):g}" if node.op == "LeakyRelu" else ""
    shape = emit.shape(given(ins)[0])
    return [emit.graph.opaque(f"{node.op}{number}", given(ins), shape, **node.place)]


def _cast(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    return [emit.add("cast", given(ins)[0], dtype=node.dtype("to"), **node.place)]


def _window(emit: NodeEmitter, node: Node, id: int, kernel: Sequence[int]) -> dict[str, Any]:
    """Strides, dilation and pads over height and width, as convolutions and pools have them."""
    if len(kernel) != 2:
        raise Unknown(f"{len(kernel)} dimensions")
    strides = tuple(node.integers("strides") or (1, 1))
    dilation = tuple(node.integers("dilations") or (1, 1))
    auto = node.text("auto_pad") or "NOTSET"
    sizes = emit.sized(id)[2:]
    top, left, bottom, right = node.integers("pads") or (0, 0, 0, 0)
    pads = ((top, bottom), (left, right))
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = same_pads(sizes, kernel, strides, dilation, lower=auto == "SAME_LOWER")
    elif auto not in ("NOTSET", "VALID"):
        raise Unknown(auto)
    return {"strides": strides, "dilation": dilation, "pads": pads}


def _conv(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    x, kernel, *bias = given(ins)
    how = _window(emit, node, x, emit.sized(kernel)[2:])
    layouts = {"x": "NCHW", "w": "OIHW", "y": "NCHW"}
    groups = node.number("group", 1)
    return [emit.add("conv", x, kernel, *bias, groups=groups, **how, **layouts, **node.place)]


def _pool(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    (x,) = given(ins)
    kernel = tuple(node.integers("kernel_shape"))
    how = _window(emit, node, x, kernel)
    counted = how["pads"]
    if node.number("ceil_mode"):
        how["pads"] = up_to_whole(emit.sized(x)[2:], kernel, **how)
    common = {"layout": "NCHW", "window": kernel, **how, **node.place}
    if node.op == "MaxPool":
        return [emit.add("maxpool", x, **common)]
    if common.pop("dilation") != (1, 1):
        raise Unknown("a dilated average pool")
    count = bool(node.number("count_include_pad"))
    return [emit.add("avgpool", x, count_pad=count, counted=counted, divisor=None, **common)]


def _global_pool(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    (x,) = given(ins)
    op = "max" if node.op == "GlobalMaxPool" else "mean"
    axes = tuple(range(2, len(emit.sized(x))))
    return [emit.add("reduce", x, op=op, axes=axes, keepdims=True, **node.place)]


def _batch_norm(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    return [
        emit.add(
            "bn",
            *given(ins)[:5],
            slots=(True,) * 4,
            eps=plain(node.real("epsilon", 1e-5)),
            axis=1,
            training=bool(node.number("training_mode")),
            momentum=None,
            **node.place,
        )
    ]


def _group_norm(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    """InstanceNormalization has a group a channel."""
    x, scale, shift = given(ins)
    channels = emit.sized(x)[1]
    if emit.sized(scale) != (channels,):
        raise Unknown("a factor a group")  # opset 18 to 20
    groups = node.number("num_groups") if node.op == "GroupNormalization" else channels
    eps = plain(node.real("epsilon", 1e-5))
    slots = (True, True)
    return [
        emit.add("gn", x, scale, shift, slots=slots, axis=1, groups=groups, eps=eps, **node.place)
    ]


def _reduce(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    """Axes are an attribute before opset 13 or 18, and an input from then on."""
    x, rank = given(ins)[0], len(emit.sized(given(ins)[0]))
    axes = node.integers("axes")
    if len(ins) > 1 and ins[1] is not None:
        axes = emit.integers(ins[1])
    if not axes:
        if node.number("noop_with_empty_axes"):
            return [x]
        axes = list(range(rank))
    keepdims = bool(node.number("keepdims", 1))
    found = tuple(sorted(d % rank for d in axes))
    op = node.op.removeprefix("Reduce").lower()
    return [emit.add("reduce", x, op=op, axes=found, keepdims=keepdims, **node.place)]


def _gemm(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    """alpha A B + beta C."""
    a, b, *shift = given(ins)
    lhs, rhs = (0 if node.number("transA") else 1,), (1 if node.number("transB") else 0,)
    y = emit.add("dot", a, b, lhs=lhs, rhs=rhs, **node.place)
    y = _times(emit, node, y, "alpha")
    if shift:
        y = emit.add("ew", y, _times(emit, node, shift[0], "beta"), op="add", **node.place)
    return [y]


def _times(emit: NodeEmitter, node: Node, id: int, name: str) -> int:
    factor = plain(node.real(name, 1.0))
    if factor == 1.0:
        return id
    return emit.add("ew", id, emit.graph.const(factor), op="mul", **node.place)


def _matmul(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    a, b = given(ins)
    return [matmul(emit, a, b, (False, False), **node.place)]


def _softmax(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    """Over all axes from the given one on, before opset 13."""
    (x,) = given(ins)
    rank = len(emit.sized(x))
    axis = node.number("axis", -1 if emit.opset >= 13 else 1) % rank
    if emit.opset < 13 and axis != rank - 1:
        raise Unknown("a softmax over several axes")
    return [emit.add("softmax", x, axis=axis, log=node.op == "LogSoftmax", **node.place)]


def _dropout(emit: NodeEmitter, node: Node, ins: list[int | None]) -> list[int]:
    ratio = emit.known(ins[1]) if len(ins) > 1 and ins[1] is not None else None
    rate = float(ratio) if ratio is not None else plain(node.real("ratio", 0.5))
    return [emit.add("dropout", given(ins)[0], rate=rate, **node.place)]


RULES: dict[str, Rule] = {
    **onnx_arrays.RULES,
    **{
        name: _unary(op)
        for name, op in {
            **{op.capitalize(): op for op in ("abs", "ceil", "erf", "exp", "floor", "log", "neg")},
            **{op.capitalize(): op for op in ("reciprocal", "relu", "round", "sign", "softplus")},
            **{"Sqrt": "sqrt", "Tanh": "tanh", "Sigmoid": "logistic", "Not": "not"},
        }.items()
    },
    **{
        name: _binary(op)
        for name, op in {
            **{"Add": "add", "Sub": "sub", "Mul": "mul", "Pow": "pow", "Max": "max", "Min": "min"},
            **{"Sum": "add", "And": "and", "Or": "or", "Equal": "eq", "Greater": "gt"},
            **{"GreaterOrEqual": "ge", "Less": "lt", "LessOrEqual": "le", "Mod": "mod"},
        }.items()
    },
    **{f"Reduce{op}": _reduce for op in ("Mean", "Sum", "Max", "Min", "Prod")},
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization"), _group_norm),
    **dict.fromkeys(("HardSigmoid", "HardSwish"), _hard_sigmoid),
    **dict.fromkeys(("LeakyRelu", "Elu", "Selu", "Celu", "PRelu", "Mish", "Softsign"), _foreign),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "Conv": _conv,
    "Div": _divide,
    "Dropout": _dropout,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "Identity": _same,
    "MatMul": _matmul,
    "Mean": _mean,
    "Swish": _swish,
    "Where": _select,
}
