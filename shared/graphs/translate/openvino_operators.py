"""What OpenVINO's operators compute, one rule an operator; those that only move numbers are in
`openvino_arrays`.

Source: https://docs.openvino.ai/2025/documentation/openvino-ir-format/operation-sets.html, opsets
1 to 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from shared.graphs.files.openvino_xml import DTYPES
from shared.graphs.translate import openvino_arrays
from shared.graphs.translate.common import gelu, hard_sigmoid, matmul, up_to_whole
from shared.graphs.translate.emit import Pads, Unknown, same_pads
from shared.graphs.translate.openvino_node import Node, NodeEmitter, Rule

_LARGEST = float(np.finfo(np.float32).max)  # a limit of which is none


def _unary(op: str) -> Rule:
    return lambda emit, node, ins: [emit.add("ew", ins[0], op=op, **node.place)]


def _binary(op: str) -> Rule:
    def rule(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
        a, b = _broadcasting(node, ins)
        return [emit.add("ew", a, b, op=op, **node.place)]

    return rule


def _broadcasting(node: Node, ins: list[int]) -> list[int]:
    """As NumPy does; PaddlePaddle's way is another."""
    if node.text("auto_broadcast", "numpy") not in ("numpy", "none"):
        raise Unknown("another kind of broadcasting")
    return ins


def _divide(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """Integers, which only shapes are, are divided to integers."""
    values = [emit.known(id) for id in ins]
    whole = all(value is not None and value.dtype.kind in "iu" for value in values)
    return _binary("floordiv" if whole else "div")(emit, node, ins)


def _squared_difference(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    (y,) = _binary("sub")(emit, node, ins)
    return [emit.add("ew", y, op="square", **node.place)]


def _select(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    condition, yes, no = _broadcasting(node, ins)
    return [emit.add("ew", condition, yes, no, op="select", **node.place)]


def _clamp(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    (x,) = ins
    for name, op in (("min", "max"), ("max", "min")):
        limit = node.real(name)
        if abs(limit) < _LARGEST:
            x = emit.add("ew", x, emit.graph.const(limit), op=op, **node.place)
    return [x]


def _round(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    if node.text("mode", "half_to_even") != "half_to_even":
        raise Unknown("halves rounded away from zero")
    return _unary("round")(emit, node, ins)


def _gelu(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    by_tanh = node.text("approximation_mode", "ERF").upper() == "TANH"
    return [gelu(emit, ins[0], by_tanh=by_tanh, **node.place)]


def _swish(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """x sigmoid(beta x)."""
    x, *beta = ins
    inner = emit.add("ew", x, *beta, op="mul", **node.place) if beta else x
    gate = emit.add("ew", inner, op="logistic", **node.place)
    return [emit.add("ew", x, gate, op="mul", **node.place)]


def _hard(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """HSigmoid is the hard sigmoid of 1/6 and 0.5, HSwish x times that."""
    x, *given = ins
    alpha, beta = (float(emit.value(id).item()) for id in given) if given else (1 / 6, 0.5)
    y = hard_sigmoid(emit, x, alpha, beta, **node.place)
    return [emit.add("ew", x, y, op="mul", **node.place) if node.op == "HSwish" else y]


def _foreign(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """An activation that no ResNet of ours has, with its number."""
    slope = emit.known(ins[1]) if node.op == "PReLU" else None
    number = f" {slope.item():g}" if slope is not None and slope.size == 1 else ""
    what = f"{node.op}{number}"
    return [emit.graph.opaque(what, ins, emit.shape(ins[0]), **node.place)]


def _convert(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    dtype = np.dtype(DTYPES[node.text("destination_type")]).name
    return [emit.add("cast", ins[0], dtype=dtype, **node.place)]


def _convert_like(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """To the dtype of another array, which is known where that is a constant."""
    found = emit.graph.nodes[ins[1]].value
    if found is None:
        raise Unknown("a dtype that depends on the image")
    return [emit.add("cast", ins[0], dtype=found.dtype.name, **node.place)]


def _window(
    emit: NodeEmitter, node: Node, id: int, kernel: Sequence[int], dilation: Sequence[int] = (1, 1)
) -> dict[str, Any]:
    """Strides, dilation and pads over height and width, as convolutions and pools have them."""
    if len(kernel) != 2 or len(dilation) != 2:
        raise Unknown(f"{len(kernel)} dimensions")
    sizes = emit.sized(id)[2:]
    strides = tuple(node.integers("strides")) or (1, 1)
    if min(*kernel, *strides, *dilation) < 1 or len(strides) != 2:
        raise Unknown("a window without a size")
    auto = node.text("auto_pad", "explicit").lower()
    pads: Pads
    if auto in ("same_upper", "same_lower"):
        pads = same_pads(sizes, kernel, strides, dilation, lower=auto == "same_lower")
    elif auto == "valid":
        pads = ((0, 0), (0, 0))
    elif auto in ("explicit", "notset"):
        (top, left), (bottom, right) = node.integers("pads_begin"), node.integers("pads_end")
        pads = ((top, bottom), (left, right))
    else:
        raise Unknown(auto)
    return {"strides": strides, "dilation": tuple(dilation), "pads": pads}


def _conv(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """Kernels are OIHW; those of a GroupConvolution have the groups in front."""
    x, kernel = ins
    shape, groups = emit.sized(kernel), 1
    if node.op == "GroupConvolution":
        groups, out, *rest = shape
        kernel = emit.reshape(kernel, (groups * out, *rest), **node.place)
        shape = emit.sized(kernel)
    if emit.sized(x)[1] != groups * shape[1]:
        raise Unknown(f"a kernel of {list(shape)} for {emit.sized(x)[1]} channels")
    how = _window(emit, node, x, shape[2:], node.integers("dilations") or (1, 1))
    layouts = {"x": "NCHW", "w": "OIHW", "y": "NCHW"}
    return [emit.add("conv", x, kernel, groups=groups, **how, **layouts, **node.place)]


def _pool(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """Of a max pool only the first result is known here; the second are places."""
    (x,) = ins
    kernel = tuple(node.integers("kernel"))
    how = _window(emit, node, x, kernel, node.integers("dilations") or (1, 1))
    counted, sizes = how["pads"], emit.sized(x)[2:]
    rounding = node.text("rounding_type", "floor").lower()
    if rounding in ("ceil", "ceil_torch"):
        how["pads"] = up_to_whole(sizes, kernel, **how)
        if rounding == "ceil" and how["pads"] != _whole(sizes, kernel, how, counted):
            raise Unknown("a window outside the image")
    elif rounding != "floor":
        raise Unknown(rounding)
    common = {"layout": "NCHW", "window": kernel, **how, **node.place}
    if node.op == "MaxPool":
        return [emit.add("maxpool", x, **common)]
    if common.pop("dilation") != (1, 1):
        raise Unknown("a dilated average pool")
    count = not node.flag("exclude-pad")
    y = emit.add("avgpool", x, count_pad=count, counted=counted, divisor=None, **common)
    if count and how["pads"] != counted:
        # OpenVINO counts what lies beyond the padding, too; PyTorch, which it converts, does not.
        what = "AvgPool that counts pixels beyond its padding"
        return [emit.graph.opaque(what, ins, emit.shape(y), **node.place)]
    return [y]


def _whole(sizes: Sequence[int], kernel: Sequence[int], how: dict[str, Any], pads: Pads) -> Pads:
    """The padding with which every window is whole, those outside the image, too."""
    found = []
    for n, k, stride, d, (low, high) in zip(
        sizes, kernel, how["strides"], how["dilation"], pads, strict=True
    ):
        reach = d * (k - 1) + 1
        found.append((low, high + -(n + low + high - reach) % stride))
    first, second = found
    return first, second


def _adaptive_pool(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """To so many rows and columns, which the image's are multiples of."""
    x, size = ins
    sizes, wanted = emit.sized(x)[2:], emit.integers(size)
    largest = node.op == "AdaptiveMaxPool"
    if wanted == [1] * len(sizes):
        op, axes = "max" if largest else "mean", tuple(range(2, 2 + len(sizes)))
        return [emit.add("reduce", x, op=op, axes=axes, keepdims=True, **node.place)]
    if len(sizes) != 2 or any(n % k for n, k in zip(sizes, wanted, strict=True)):
        raise Unknown("windows of several sizes")
    window = tuple(n // k for n, k in zip(sizes, wanted, strict=True))
    pads = ((0, 0), (0, 0))
    how: dict[str, Any] = {"layout": "NCHW", "window": window, "strides": window, "pads": pads}
    if largest:
        return [emit.add("maxpool", x, dilation=(1, 1), **how, **node.place)]
    return [
        emit.add("avgpool", x, count_pad=False, counted=pads, divisor=None, **how, **node.place)
    ]


def _batch_norm(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """In the first set of operators the image is the third input."""
    x, gamma, beta, mean, variance = ins if node.opset >= 5 else (ins[2], *ins[:2], *ins[3:])
    how: dict[str, Any] = {
        "eps": node.real("epsilon"),
        "axis": 1,
        "training": False,
        "momentum": None,
    }
    slots = (True,) * 4
    return [emit.add("bn", x, gamma, beta, mean, variance, slots=slots, **how, **node.place)]


def _group_norm(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    x, scale, shift = ins
    how: dict[str, Any] = {
        "axis": 1,
        "groups": node.number("num_groups"),
        "eps": node.real("epsilon"),
    }
    if emit.sized(x)[1] % how["groups"]:
        raise Unknown("channels that the groups do not divide")
    return [emit.add("gn", x, scale, shift, slots=(True, True), **how, **node.place)]


def _mvn(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """(x - mean) / sqrt(variance + eps), or / (sqrt(variance) + eps), along axes."""
    x, rank = ins[0], len(emit.sized(ins[0]))
    axes = tuple(sorted(d % rank for d in emit.integers(ins[1])))

    def two(op: str, a: int, b: int) -> int:
        return emit.add("ew", a, b, op=op, **node.place)

    def mean(id: int) -> int:
        return emit.add("reduce", id, op="mean", axes=axes, keepdims=True, **node.place)

    y = two("sub", x, mean(x))
    if not node.flag("normalize_variance"):
        return [y]
    variance, eps = mean(emit.add("ew", y, op="square", **node.place)), node.real("eps")
    inside = node.text("eps_mode").lower() == "inside_sqrt"
    if inside:
        variance = two("add", variance, emit.graph.const(eps))
    root = emit.add("ew", variance, op="sqrt", **node.place)
    return [two("div", y, root if inside else two("add", root, emit.graph.const(eps)))]


def _reduce(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    x, rank = ins[0], len(emit.sized(ins[0]))
    axes = tuple(sorted({d % rank for d in emit.integers(ins[1])}))
    if not axes:
        return [x]
    op = node.op.removeprefix("Reduce").lower()
    keepdims = node.flag("keep_dims", False)
    return [emit.add("reduce", x, op=op, axes=axes, keepdims=keepdims, **node.place)]


def _matmul(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    a, b = ins
    transposed = (node.flag("transpose_a", False), node.flag("transpose_b", False))
    return [matmul(emit, a, b, transposed, **node.place)]


def _softmax(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    (x,) = ins
    axis = node.number("axis", 1) % len(emit.sized(x))
    return [emit.add("softmax", x, axis=axis, log=node.op == "LogSoftmax", **node.place)]


RULES: dict[str, Rule] = {
    **openvino_arrays.RULES,
    **{
        name: _unary(op)
        for name, op in {
            **{op.capitalize(): op for op in ("abs", "erf", "exp", "floor", "log", "sign", "sqrt")},
            **{"Ceiling": "ceil", "LogicalNot": "not", "Negative": "neg", "ReLU": "relu"},
            **{"Sigmoid": "logistic", "SoftPlus": "softplus", "Tanh": "tanh"},
        }.items()
    },
    **{
        name: _binary(op)
        for name, op in {
            **{"Add": "add", "Subtract": "sub", "Multiply": "mul", "Power": "pow"},
            **{"Maximum": "max", "Minimum": "min", "FloorMod": "mod", "Equal": "eq"},
            **{"NotEqual": "ne", "Greater": "gt", "GreaterEqual": "ge", "Less": "lt"},
            **{"LessEqual": "le", "LogicalAnd": "and", "LogicalOr": "or"},
        }.items()
    },
    **{f"Reduce{op}": _reduce for op in ("Mean", "Sum", "Max", "Min", "Prod")},
    **dict.fromkeys(("Convolution", "GroupConvolution"), _conv),
    **dict.fromkeys(("MaxPool", "AvgPool"), _pool),
    **dict.fromkeys(("AdaptiveAvgPool", "AdaptiveMaxPool"), _adaptive_pool),
    **dict.fromkeys(("HardSigmoid", "HSigmoid", "HSwish"), _hard),
    **dict.fromkeys(("Elu", "Mish", "PReLU", "Selu", "SoftSign"), _foreign),
    **dict.fromkeys(("SoftMax", "LogSoftmax"), _softmax),
    "BatchNormInference": _batch_norm,
    "Clamp": _clamp,
    "Convert": _convert,
    "ConvertLike": _convert_like,
    "Divide": _divide,
    "Gelu": _gelu,
    "GroupNormalization": _group_norm,
    "MatMul": _matmul,
    "MVN": _mvn,
    "Round": _round,
    "Select": _select,
    "SquaredDifference": _squared_difference,
    "Swish": _swish,
}
