"""What TensorFlow's operators on shapes and places compute: nothing here is arithmetic.

Source: tensorflow/core/ops/array_ops.cc (2.21).
"""

from __future__ import annotations

import math

import numpy as np

from shared.graphs.translate.common import masked_slice, row, split, tile
from shared.graphs.translate.emit import Unknown
from shared.graphs.translate.tensorflow_node import Node, NodeEmitter, Rule


def _shape(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return [emit.graph.const(np.asarray(emit.sized(id), np.int64)) for id in ins]


def _size(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return [emit.graph.const(np.int64(math.prod(emit.sized(ins[0]))))]


def _rank(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return [emit.graph.const(np.int64(len(emit.sized(ins[0]))))]


def _pack(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return [emit.stack(ins, node.number("axis"), where=node.where)]


def _unpack(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    shape = emit.sized(ins[0])
    axis = node.number("axis") % len(shape)
    found = []
    for k in range(shape[axis]):
        index = [(0, n, 1) for n in shape]
        index[axis] = (k, k + 1, 1)
        found.append(emit.strided(ins[0], index, gone=(axis,), where=node.where))
    return found


def _reshape(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return [emit.reshape(ins[0], emit.integers(ins[1]), where=node.where)]


def _squeeze(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    shape = emit.sized(ins[0])
    gone = [d % len(shape) for d in node.integers("squeeze_dims")] or [
        d for d, n in enumerate(shape) if n == 1
    ]
    kept = [n for d, n in enumerate(shape) if d not in gone]
    return [emit.reshape(ins[0], kept, where=node.where)]


def _expand_dims(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    shape, (axis,) = emit.sized(ins[0]), emit.integers(ins[1])
    axis %= len(shape) + 1
    return [emit.reshape(ins[0], (*shape[:axis], 1, *shape[axis:]), where=node.where)]


def _transpose(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return [emit.add("transpose", ins[0], perm=tuple(emit.integers(ins[1])), where=node.where)]


def _pad(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    flat = emit.integers(ins[1])
    pads = tuple(zip(flat[::2], flat[1::2], strict=True))
    value = float(emit.value(ins[2])) if node.op == "PadV2" else 0.0
    mode = node.text("mode").lower() if node.op == "MirrorPad" else "constant"
    return [emit.add("pad", ins[0], pads=pads, value=value, mode=mode, where=node.where)]


def _strided_slice(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """x[begin:end:step, …], with bit masks for what Python leaves out."""
    begin, end, step = (emit.integers(id) for id in ins[1:4])
    masks = {
        name: node.number(f"{name}_mask")
        for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }

    def marked(name: str, k: int) -> bool:
        return bool(masks[name] >> k & 1)

    return [masked_slice(emit, ins[0], begin, end, step, marked, where=node.where)]


def _slice(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    shape, begin, size = emit.sized(ins[0]), emit.integers(ins[1]), emit.integers(ins[2])
    index = [(b, n if s == -1 else b + s, 1) for n, b, s in zip(shape, begin, size, strict=True)]
    return [emit.strided(ins[0], index, where=node.where)]


def _reverse(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    rank = len(emit.sized(ins[0]))
    axes = tuple(d % rank for d in emit.integers(ins[1]))
    return [emit.add("reverse", ins[0], axes=axes, where=node.where)]


def _gather(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    axis = int(emit.value(ins[2])) % len(emit.sized(ins[0])) if len(ins) > 2 else 0
    if node.number("batch_dims"):
        raise Unknown("a gather along the batch")
    return [emit.add("gather", ins[0], ins[1], axis=axis, where=node.where)]


def _split(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    if node.op == "Split":
        axis_id, x = ins
        shape = emit.sized(x)
        axis = int(emit.value(axis_id)) % len(shape)
        count = node.number("num_split")
        if shape[axis] % count:
            raise Unknown(f"{shape[axis]} in {count} equal pieces")
        sizes = [shape[axis] // count] * count
    else:
        x, sizes_id, axis_id = ins
        shape = emit.sized(x)
        axis = int(emit.value(axis_id)) % len(shape)
        sizes = emit.integers(sizes_id)
        rest = shape[axis] - sum(n for n in sizes if n >= 0)
        sizes = [rest if n == -1 else n for n in sizes]
    return split(emit, x, axis, sizes, where=node.where)


def _concat(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    *arrays, axis = ins
    rank = len(emit.sized(arrays[0]))
    return [emit.add("concat", *arrays, axis=int(emit.value(axis)) % rank, where=node.where)]


def _fill(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    sizes, value = ins if node.op == "Fill" else ins[::-1]
    shape = tuple(emit.integers(sizes))
    return [emit.add("broadcast", value, shape=shape, dims=None, where=node.where)]


def _tile(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return [tile(emit, ins[0], emit.integers(ins[1]), where=node.where)]


def _zeros_like(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    fill = np.float32(node.op == "OnesLike")
    return [emit.graph.const(np.broadcast_to(fill, emit.sized(ins[0])))]


def _range(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return [row(emit, *ins)]


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Fill", "BroadcastTo"), _fill),
    **dict.fromkeys(("Gather", "GatherV2"), _gather),
    **dict.fromkeys(("Pad", "PadV2", "MirrorPad"), _pad),
    **dict.fromkeys(("Shape", "ShapeN"), _shape),
    **dict.fromkeys(("Split", "SplitV"), _split),
    **dict.fromkeys(("ZerosLike", "OnesLike"), _zeros_like),
    "ConcatV2": _concat,
    "ExpandDims": _expand_dims,
    "Pack": _pack,
    "Range": _range,
    "Rank": _rank,
    "Reshape": _reshape,
    "ReverseV2": _reverse,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "StridedSlice": _strided_slice,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unpack": _unpack,
}
