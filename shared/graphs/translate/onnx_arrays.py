"""What ONNX' operators on shapes and places compute: nothing here is arithmetic.

Before some opset, axes, pads and the like are attributes; from then on they are inputs.
Source: https://github.com/onnx/onnx/blob/main/docs/Operators.md, opsets 7 to 24.
"""

from __future__ import annotations

import math

import numpy as np

from shared.graphs.translate import common
from shared.graphs.translate.emit import Unknown
from shared.graphs.translate.onnx_node import Node, NodeEmitter, Rule, given

Ins = list[int | None]


def _values(emit: NodeEmitter, node: Node, ins: Ins, position: int, name: str) -> list[int] | None:
    """Integers that are an input or an attribute."""
    if position < len(ins) and ins[position] is not None:
        return emit.integers(ins[position])  # type: ignore[arg-type]
    return node.integers(name) if node.has(name) else None


def _constant(emit: NodeEmitter, node: Node, ins: Ins) -> list[int]:
    (name,) = node.attributes
    attribute = node.attributes[name]
    if name == "value":
        value = emit.tensors(attribute.t)
    elif name in ("value_int", "value_ints"):
        value = np.asarray(node.number(name) if name == "value_int" else node.integers(name))
    elif name == "value_float":
        value = np.asarray(attribute.f)
    elif name == "value_floats":
        value = np.concatenate([np.atleast_1d(part) for part in attribute.floats])
    else:
        value = None
    if value is None:
        raise Unknown(name)
    return [emit.graph.const(value, where=node.where)]


def _constant_of_shape(emit: NodeEmitter, node: Node, ins: Ins) -> list[int]:
    fill = emit.tensors(node.attributes["value"].t) if node.has("value") else np.float32(0)
    if fill is None:
        raise Unknown("a constant of another type than numbers")
    shape = tuple(emit.integers(given(ins)[0]))
    number = emit.graph.const(np.reshape(fill, ()))
    return [emit.add("broadcast", number, shape=shape, dims=None, **node.place)]


def _shape(emit: NodeEmitter, node: Node, ins: Ins) -> list[int]:
    shape = emit.sized(given(ins)[0])
    end = node.number("end") if node.has("end") else None
    return [emit.graph.const(np.asarray(shape[node.number("start") : end], np.int64))]


def _size(emit: NodeEmitter, node: Node, ins: Ins) -> list[int]:
    return [emit.graph.const(np.int64(math.prod(emit.sized(given(ins)[0]))))]


def _reshape(emit: NodeEmitter, node: Node, ins: Ins) -> list[int]:
    x = given(ins)[0]
    own, wanted = emit.sized(x), _values(emit, node, ins, 1, "shape") or []
    if not node.number("allowzero"):
        wanted = [own[d] if n == 0 else n for d, n in enumerate(wanted)]
    return [emit.reshape(x, wanted, **node.place)]


def _flatten(emit: NodeEmitter, node: Node, ins: Ins) -> list[int]:
    x = given(ins)[0]
    own = emit.sized(x)
    axis = node.number("axis", 1)
    axis += len(own) if axis < 0 else 0
    return [emit.reshape(x, (math.prod(own[:axis]), math.prod(own[axis:])), **node.place)]


def _squeeze(emit: NodeEmitter, node: Node, ins: Ins) -> list[int]:
    axes = _values(emit, node, ins, 1, "axes")
    return [common.squeeze(emit, given(ins)[0], axes, **node.place)]


def _unsqueeze(emit: NodeEmitter, node: Node, ins: Ins) -> list[int]:
    axes = _values(emit, node, ins, 1, "axes") or []
    return [common.unsqueeze(emit, given(ins)[0], axes, **node.place)]


def _transpose(emit: NodeEmitter, node: Node, ins: Ins) -> list[int]:
    x = given(ins)[0]
    perm = node.integers("perm") or list(range(len(emit.sized(x))))[::-1]
    return [emit.add("transpose", x, perm=tuple(perm), **node.place)]


def _pad(emit: NodeEmitter, node: Node, ins: Ins) -> list[int]:
    x = given(ins)[0]
    rank, sides = len(emit.sized(x)), _values(emit, node, ins, 1, "pads") or []
    axes = _values(emit, node, ins, 3, "axes")
    axes = list(range(rank)) if axes is None else [d % rank for d in axes]
    pads = [(0, 0)] * rank
    for k, d in enumerate(axes):
        pads[d] = (sides[k], sides[k + len(axes)])
    value = node.real("value")
    if len(ins) > 2 and ins[2] is not None:
        value = float(emit.value(ins[2]).reshape(()))
    mode = node.text("mode") or "constant"
    return [emit.add("pad", x, pads=tuple(pads), value=value, mode=mode, **node.place)]


def _slice(emit: NodeEmitter, node: Node, ins: Ins) -> list[int]:
    starts = _values(emit, node, ins, 1, "starts") or []
    ends = _values(emit, node, ins, 2, "ends") or []
    axes = _values(emit, node, ins, 3, "axes")
    steps = _values(emit, node, ins, 4, "steps")
    return [common.plain_slice(emit, given(ins)[0], starts, ends, steps, axes, **node.place)]


def _split(emit: NodeEmitter, node: Node, ins: Ins) -> list[int]:
    x = given(ins)[0]
    own = emit.sized(x)
    axis = node.number("axis") % len(own)
    sizes = _values(emit, node, ins, 1, "split")
    if sizes is None:
        count = node.number("num_outputs")
        each = -(-own[axis] // count)
        sizes = [min(each, own[axis] - k * each) for k in range(count)]
    return common.split(emit, x, axis, sizes, **node.place)


def _concat(emit: NodeEmitter, node: Node, ins: Ins) -> list[int]:
    ids = given(ins)
    axis = node.number("axis") % len(emit.sized(ids[0]))
    return [emit.add("concat", *ids, axis=axis, **node.place)]


def _gather(emit: NodeEmitter, node: Node, ins: Ins) -> list[int]:
    x, indices = given(ins)
    axis = node.number("axis") % len(emit.sized(x))
    return [emit.add("gather", x, indices, axis=axis, **node.place)]


def _reverse_sequence(emit: NodeEmitter, node: Node, ins: Ins) -> list[int]:
    """TensorFlow's reverse, of which every sequence is as long as the axis."""
    x, lengths = given(ins)
    axis = node.number("time_axis")
    if set(emit.integers(lengths)) != {emit.sized(x)[axis]}:
        raise Unknown("sequences of several lengths")
    return [emit.add("reverse", x, axes=(axis,), **node.place)]


def _expand(emit: NodeEmitter, node: Node, ins: Ins) -> list[int]:
    x, sizes = given(ins)
    shape = np.broadcast_shapes(emit.sized(x), tuple(emit.integers(sizes)))
    return [emit.add("broadcast", x, shape=shape, dims=None, **node.place)]


def _range(emit: NodeEmitter, node: Node, ins: Ins) -> list[int]:
    return [emit.graph.const(np.arange(*(emit.value(id).item() for id in given(ins))))]


RULES: dict[str, Rule] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ReverseSequence": _reverse_sequence,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
