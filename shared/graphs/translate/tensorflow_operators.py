"""What TensorFlow's operators compute, one rule an operator; those that only move numbers are in
`tensorflow_arrays`.

Source: tensorflow/core/ops/{math_ops,nn_ops}.cc (2.21).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shared.graphs.translate import tensorflow_arrays
from shared.graphs.translate.emit import Unknown, same_pads
from shared.graphs.translate.tensorflow_node import Node, NodeEmitter, Rule


def _unary(op: str) -> Rule:
    return lambda emit, node, ins: [emit.add("ew", ins[0], op=op, where=node.where)]


def _binary(op: str) -> Rule:
    return lambda emit, node, ins: [emit.add("ew", *ins, op=op, where=node.where)]


def _same(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return ins  # IdentityN has several


def _const(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """A weight of a frozen graph keeps its node's name; numbers and shapes have none."""
    value = node.tensor()
    weight = value.size > 1 and (value.dtype.kind == "f" or value.dtype.name == "bfloat16")
    name = node.where.removesuffix("/resource").removesuffix("/ReadVariableOp")
    return [emit.graph.const(value, name if weight else None, name)]


def _no_op(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return []


def _cast(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return [emit.add("cast", ins[0], dtype=node.dtype("DstT"), where=node.where)]


def _add_n(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return [emit.fold_left("add", ins, where=node.where)]


def _squared_difference(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return [
        emit.add(
            "ew", emit.add("ew", *ins, op="sub", where=node.where), op="square", where=node.where
        )
    ]


def _pads(emit: NodeEmitter, node: Node, id: int, window: Any, strides: Any, dilation: Any) -> Any:
    padding = node.text("padding")
    if padding == "VALID":
        return ((0, 0), (0, 0))
    if padding == "EXPLICIT":
        given = node.integers("explicit_paddings")
        pairs = list(zip(given[::2], given[1::2], strict=True))
        return (pairs[node.layout.index("H")], pairs[node.layout.index("W")])
    if padding != "SAME":
        raise Unknown(f"padding {padding}")
    sizes = node.sides(list(emit.sized(id)))
    return same_pads(sizes, window, strides, dilation)


def _conv(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """LiteRT's convolutions, which come here, too, may have a bias."""
    x, kernel, *bias = ins
    own, shape = emit.sized(x), emit.sized(kernel)
    channels = own[node.layout.index("C")]
    strides = node.sides(node.integers("strides"))
    dilation = node.sides(node.integers("dilations") or [1] * 4)
    if node.op == "Conv2D":
        groups = channels // shape[2]
    else:  # [h, w, channels, multiplier]
        groups = channels
        kernel = emit.reshape(kernel, (*shape[:2], 1, shape[2] * shape[3]), where=node.where)
    pads = _pads(emit, node, x, shape[:2], strides, dilation)
    tiles = emit.tiled.get(x)
    if tiles:
        if node.text("padding") != "VALID" or (strides, dilation) != ((1, 1), (1, 1)):
            raise Unknown("tiles at the border")
        dilation = tiles
    y = emit.add(
        "conv",
        x,
        kernel,
        *bias,
        strides=strides,
        pads=pads,
        dilation=dilation,
        groups=groups,
        x=node.layout,
        w="HWIO",
        y=node.layout,
        where=node.where,
    )
    if tiles:
        emit.tiled[y] = tiles
    return [y]


def _to_tiles(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    x, (tiles, borders) = ins[0], (emit.integers(id) for id in ins[1:])
    if len(tiles) != 2 or len(emit.sized(x)) != 4:
        raise Unknown("tiles of another number of axes")
    pads = ((0, 0), (borders[0], borders[1]), (borders[2], borders[3]), (0, 0))
    x = emit.add("pad", x, pads=pads, value=0.0, mode="constant", where=node.where)
    emit.tiled[x] = (tiles[0], tiles[1])
    return [x]


def _from_tiles(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    x, (tiles, borders) = ins[0], (emit.integers(id) for id in ins[1:])
    if emit.tiled.get(x) != tuple(tiles):
        raise Unknown("tiles of something else")
    crops = ((0, 0), (-borders[0], -borders[1]), (-borders[2], -borders[3]), (0, 0))
    return [emit.add("pad", x, pads=crops, value=0.0, mode="constant", where=node.where)]


def _pool(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    window, strides = node.sides(node.integers("ksize")), node.sides(node.integers("strides"))
    common = {
        "layout": node.layout,
        "window": window,
        "strides": strides,
        "pads": _pads(emit, node, ins[0], window, strides, (1, 1)),
        "where": node.where,
    }
    if node.op == "AvgPool":
        return [emit.add("avgpool", ins[0], count_pad=False, divisor=None, **common)]
    return [emit.add("maxpool", ins[0], dilation=(1, 1), **common)]


def _bias(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    x, bias = ins
    if node.layout == "NCHW":
        rank = len(emit.sized(x))
        bias = emit.reshape(bias, (1, -1, *[1] * (rank - 2)), where=node.where)
    return [emit.add("ew", x, bias, op="add", where=node.where)]


def _batch_norm(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    eps = _decimal(node.real("epsilon", 1e-4))
    training = not node.has("is_training") or node.flag("is_training")
    y = emit.add(
        "bn",
        *ins[:5],
        slots=(True,) * 4,
        eps=eps,
        axis=node.layout.index("C"),
        training=training,
        momentum=None,
        where=node.where,
    )
    return [y]


def _decimal(value: float) -> float:
    """A number that was written in decimal, from the float32 that it became."""
    return float(str(np.float32(value)))


def _leaky_relu(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    alpha = _decimal(node.real("alpha", 0.2))
    return [emit.graph.opaque(f"LeakyRelu {alpha:g}", ins, emit.shape(ins[0]), where=node.where)]


def _elu(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return [emit.graph.opaque(node.op, ins, emit.shape(ins[0]), where=node.where)]


def _reduce(op: str) -> Rule:
    def rule(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
        rank = len(emit.sized(ins[0]))
        axes = tuple(d % rank for d in emit.integers(ins[1]))
        keepdims = node.flag("keep_dims")
        return [emit.add("reduce", ins[0], op=op, axes=axes, keepdims=keepdims, where=node.where)]

    return rule


def _matmul(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    left = 0 if node.flag("transpose_a") else 1
    right = 1 if node.flag("transpose_b") else 0
    return [emit.add("dot", *ins, lhs=(left,), rhs=(right,), where=node.where)]


def _batch_matmul(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    ranks = [len(emit.sized(id)) for id in ins]
    left = ranks[0] - (2 if node.flag("adj_x") else 1)
    right = ranks[1] - (1 if node.flag("adj_y") else 2)
    batch: dict[str, Any] = {}
    if ranks[1] > 2:
        if emit.sized(ins[0])[:-2] != emit.sized(ins[1])[:-2]:
            raise Unknown("a matrix product that broadcasts")
        along = tuple(range(ranks[0] - 2))
        batch = {"lhs_batch": along, "rhs_batch": along}
    return [emit.add("dot", *ins, lhs=(left,), rhs=(right,), **batch, where=node.where)]


def _softmax(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    axis, log = len(emit.sized(ins[0])) - 1, node.op == "LogSoftmax"
    return [emit.add("softmax", ins[0], axis=axis, log=log, where=node.where)]


RULES: dict[str, Rule] = {
    **tensorflow_arrays.RULES,
    **{
        name: _unary(op)
        for name, op in {
            **{op.capitalize(): op for op in ("abs", "ceil", "erf", "exp", "floor", "log", "neg")},
            **{op.capitalize(): op for op in ("relu", "relu6", "rsqrt", "sign", "sqrt", "square")},
            **{"Tanh": "tanh", "Softplus": "softplus", "Expm1": "expm1", "Log1p": "log1p"},
            **{"Sigmoid": "logistic", "Reciprocal": "reciprocal", "Inv": "reciprocal"},
            **{"LogicalNot": "not", "Rint": "round", "Round": "round"},
        }.items()
    },
    **{
        name: _binary(op)
        for name, op in {
            **{"Add": "add", "AddV2": "add", "Sub": "sub", "Mul": "mul", "RealDiv": "div"},
            **{"Div": "div", "Maximum": "max", "Minimum": "min", "Pow": "pow", "Mod": "mod"},
            **{"Greater": "gt", "GreaterEqual": "ge", "Less": "lt", "LessEqual": "le"},
            **{"Equal": "eq", "NotEqual": "ne", "LogicalAnd": "and", "LogicalOr": "or"},
            **{"FloorDiv": "floordiv", "FloorMod": "mod", "Select": "select"},
            **{"SelectV2": "select"},
        }.items()
    },
    **dict.fromkeys(
        ("Identity", "IdentityN", "StopGradient", "Snapshot", "ReadVariableOp", "PreventGradient"),
        _same,
    ),
    **dict.fromkeys(("CheckNumerics", "EnsureShape", "PlaceholderWithDefault"), _same),
    **{name: _reduce(name.lower()) for name in ("Mean", "Sum", "Max", "Min", "Prod")},
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), _batch_norm),
    **dict.fromkeys(("Conv2D", "DepthwiseConv2dNative"), _conv),
    **dict.fromkeys(("MaxPool", "AvgPool"), _pool),
    **dict.fromkeys(("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), _batch_matmul),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    **dict.fromkeys(("Elu", "Selu", "Softsign"), _elu),
    "AddN": _add_n,
    "BatchToSpaceND": _from_tiles,
    "BiasAdd": _bias,
    "Cast": _cast,
    "Const": _const,
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul,
    "NoOp": _no_op,
    "SpaceToBatchND": _to_tiles,
    "SquaredDifference": _squared_difference,
}
