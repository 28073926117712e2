"""What LiteRT's operators compute, one rule an operator.

Most are TensorFlow's under other names. Kernels are laid out otherwise, biases are inputs, and
activations are attributes of the operator in front. Source:
https://www.tensorflow.org/mlir/tfl_ops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from shared.graphs.files.messages import Record
from shared.graphs.translate import tensorflow_operators
from shared.graphs.translate.common import gelu, hard_sigmoid
from shared.graphs.translate.emit import Unknown
from shared.graphs.translate.tensorflow_node import Node, NodeEmitter, Rule

_LOWEST = float(np.finfo(np.float32).min)

# What TensorFlow's translation has under another name.
TENSORFLOW: dict[str, str] = {
    **{name.upper(): name for name in ("Abs", "Cast", "Ceil", "Elu", "Equal", "Exp", "Fill")},
    **{name.upper(): name for name in ("Floor", "Gather", "Greater", "Less", "Log", "Maximum")},
    **{name.upper(): name for name in ("Mean", "Minimum", "Neg", "Pack", "Pad", "Pow", "Range")},
    **{name.upper(): name for name in ("Rank", "Relu", "Relu6", "Reshape", "Round", "Rsqrt")},
    **{name.upper(): name for name in ("Select", "Shape", "Sign", "Slice", "Softmax", "Split")},
    **{name.upper(): name for name in ("Sqrt", "Square", "Squeeze", "Sum", "Tanh", "Transpose")},
    **{name.upper(): name for name in ("Tile", "Unpack")},
    **{"ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div", "ADD_N": "AddN"},
    **{"CONV_2D": "Conv2D", "DEPTHWISE_CONV_2D": "DepthwiseConv2dNative"},
    **{"MAX_POOL_2D": "MaxPool", "AVERAGE_POOL_2D": "AvgPool", "PADV2": "PadV2"},
    **{"MIRROR_PAD": "MirrorPad", "LOGISTIC": "Sigmoid", "LOG_SOFTMAX": "LogSoftmax"},
    **{"LEAKY_RELU": "LeakyRelu", "BATCH_MATMUL": "BatchMatMul", "BROADCAST_TO": "BroadcastTo"},
    **{"CONCATENATION": "ConcatV2", "EXPAND_DIMS": "ExpandDims", "STRIDED_SLICE": "StridedSlice"},
    **{"REVERSE_V2": "ReverseV2", "SPLIT_V": "SplitV", "ZEROS_LIKE": "ZerosLike"},
    **{"SQUARED_DIFFERENCE": "SquaredDifference", "SELECT_V2": "SelectV2"},
    **{"FLOOR_DIV": "FloorDiv", "FLOOR_MOD": "FloorMod", "NOT_EQUAL": "NotEqual"},
    **{"GREATER_EQUAL": "GreaterEqual", "LESS_EQUAL": "LessEqual"},
    **{"LOGICAL_AND": "LogicalAnd", "LOGICAL_OR": "LogicalOr", "LOGICAL_NOT": "LogicalNot"},
    **{f"REDUCE_{op.upper()}": op for op in ("Max", "Min", "Prod")},
    **{"SPACE_TO_BATCH_ND": "SpaceToBatchND", "BATCH_TO_SPACE_ND": "BatchToSpaceND"},
}


def _as(node: Node, **values: Any) -> Node:
    """The operator with TensorFlow's attributes in the place of LiteRT's."""
    attributes = {
        key: Record({"list": Record({"i": value})} if isinstance(value, list) else {"s": value})
        for key, value in values.items()
    }
    return Node(Record({"name": node.name, "op": node.op, "attr": attributes}), node.where)


def _activated(emit: NodeEmitter, node: Node, y: int) -> list[int]:
    """With the activation behind it that an operator has as an option; LiteRT ignores some."""
    kind, made = node.text("activation"), y
    if kind in ("RELU", "RELU6"):
        made = emit.add("ew", y, op=kind.lower(), where=node.where)
    elif kind == "RELU_N1_TO_1":
        made = _between(emit, node, y, -1.0)
    elif kind != "NONE":
        raise Unknown(f"the activation {kind}")
    if y in emit.tiled:
        emit.tiled[made] = emit.tiled[y]
    return [made]


def _between(emit: NodeEmitter, node: Node, x: int, least: float) -> int:
    """No less than a number, and no more than 1."""
    limits = (emit.graph.const(least), emit.graph.const(1.0))
    return emit.add("ew", x, *limits, op="clip", where=node.where)


def _sides(node: Node, name: str) -> list[int]:
    return [1, node.number(f"{name}_h"), node.number(f"{name}_w"), 1]


def _padding(node: Node) -> bytes:
    return node.text("padding").encode()


def _bias(emit: NodeEmitter, bias: Sequence[int]) -> list[int]:
    """The bias, if there is one: where a network has none, TensorFlow's converter writes zeros."""
    known = [emit.known(id) for id in bias]
    return [id for id, value in zip(bias, known, strict=True) if value is None or value.any()]


def _conv(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """Kernels are OHWI; depthwise ones [1, h, w, channels * multiplier]."""
    x, kernel, *bias = ins
    shape, channels = emit.sized(kernel), emit.sized(x)[3]
    if node.op == "Conv2D":
        if channels % shape[3]:
            raise Unknown(f"a kernel of {list(shape)} for {channels} channels")
        kernel = emit.add("transpose", kernel, perm=(1, 2, 3, 0), where=node.where)
    else:
        if shape[0] != 1 or shape[3] % channels:
            raise Unknown(f"a kernel of {list(shape)} for {channels} channels")
        own = (*shape[1:3], channels, shape[3] // channels)
        kernel = emit.reshape(kernel, own, where=node.where)
    how = _as(
        node,
        strides=_sides(node, "stride"),
        dilations=_sides(node, "dilation"),
        padding=_padding(node),
    )
    rule = tensorflow_operators.RULES[node.op]
    (y,) = rule(emit, how, [x, kernel, *_bias(emit, bias)])
    return _activated(emit, node, y)


def _pool(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    how = _as(
        node, ksize=_sides(node, "filter"), strides=_sides(node, "stride"), padding=_padding(node)
    )
    (y,) = tensorflow_operators.RULES[node.op](emit, how, ins)
    return _activated(emit, node, y)


def _fully_connected(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """The matrix is [out, in]."""
    x, matrix, *bias = ins
    if node.number("weights_format"):
        raise Unknown("a matrix in another order")
    if not node.flag("keep_num_dims") and len(emit.sized(x)) != 2:
        x = emit.reshape(x, (-1, emit.sized(matrix)[1]), where=node.where)
    last = len(emit.sized(x)) - 1
    y = emit.add("dot", x, matrix, lhs=(last,), rhs=(1,), where=node.where)
    for id in _bias(emit, bias):
        y = emit.add("ew", y, id, op="add", where=node.where)
    return _activated(emit, node, y)


def _arithmetic(op: str) -> Rule:
    def rule(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
        a, b = ins
        values = [emit.known(id) for id in ins]
        whole = all(value is not None and value.dtype.kind in "iu" for value in values)
        how = "floordiv" if op == "div" and whole else op
        return _activated(emit, node, emit.add("ew", a, b, op=how, where=node.where))

    return rule


def _concat(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    own = [emit.sized(id) for id in ins]
    axis = node.number("axis") % len(own[0])
    if len({(*shape[:axis], *shape[axis + 1 :]) for shape in own}) > 1:
        raise Unknown("arrays that do not fit each other")
    if node.text("activation") != "NONE":  # which LiteRT ignores
        raise Unknown("an activation behind a concatenation")
    return [emit.add("concat", *ins, axis=axis, where=node.where)]


def _reshape(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """To a shape that is an input or an option."""
    shape = emit.integers(ins[1]) if len(ins) > 1 else node.integers("new_shape")
    return [emit.reshape(ins[0], shape, where=node.where)]


def _gather(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    if node.number("batch_dims"):
        raise Unknown("several gathers at once")
    axis = node.number("axis") % len(emit.sized(ins[0]))
    return [emit.add("gather", *ins, axis=axis, where=node.where)]


def _cast(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """To the type of the result; so halves are widened, too."""
    dtype = node.text("to")
    if not dtype:
        raise Unknown("a cast to something else than numbers")
    return [emit.add("cast", ins[0], dtype=dtype, where=node.where)]


def _pad(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """The converter writes the lowest float32 for -inf, in front of a max pool."""
    x, pads, value = ins
    if emit.value(value).item() <= _LOWEST:
        value = emit.graph.const(-np.inf)
    return tensorflow_operators.RULES[node.op](emit, node, [x, pads, value])


def _softmax(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    if node.real("beta") != 1:
        raise Unknown("a softmax of multiples")
    return tensorflow_operators.RULES[node.op](emit, node, ins)


def _strided_slice(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    if node.flag("offset"):
        raise Unknown("ends that are counted from the beginning")
    return tensorflow_operators.RULES[node.op](emit, node, ins)


def _broadcast_shape(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    shapes = [tuple(emit.integers(id)) for id in ins]
    return [emit.graph.const(np.asarray(np.broadcast_shapes(*shapes), np.int64))]


def _hard_swish(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    (x,) = ins
    gate = hard_sigmoid(emit, x, 1 / 6, 0.5, where=node.where)
    return [emit.add("ew", x, gate, op="mul", where=node.where)]


def _gelu(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return [gelu(emit, ins[0], by_tanh=node.flag("approximate"), where=node.where)]


def _prelu(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """An activation that no ResNet of ours has, with its number."""
    slope = emit.known(ins[1])
    number = f" {slope.item():g}" if slope is not None and slope.size == 1 else ""
    return [emit.graph.opaque(f"PRELU{number}", ins, emit.shape(ins[0]), where=node.where)]


# By TensorFlow's names for what it has as well.
RULES: dict[str, Rule] = {
    **{name: tensorflow_operators.RULES[name] for name in TENSORFLOW.values()},
    **{name: _arithmetic(name.lower()) for name in ("Add", "Sub", "Mul", "Div")},
    **dict.fromkeys(("Conv2D", "DepthwiseConv2dNative"), _conv),
    **dict.fromkeys(("MaxPool", "AvgPool"), _pool),
    "BROADCAST_ARGS": _broadcast_shape,
    "Cast": _cast,
    "ConcatV2": _concat,
    "DEQUANTIZE": _cast,
    "FULLY_CONNECTED": _fully_connected,
    "GELU": _gelu,
    "Gather": _gather,
    "HARD_SWISH": _hard_swish,
    "PRELU": _prelu,
    "PadV2": _pad,
    "RELU_0_TO_1": lambda emit, node, ins: [_between(emit, node, ins[0], 0.0)],
    "RELU_N1_TO_1": lambda emit, node, ins: [_between(emit, node, ins[0], -1.0)],
    "Reshape": _reshape,
    "Softmax": _softmax,
    "StridedSlice": _strided_slice,
}
