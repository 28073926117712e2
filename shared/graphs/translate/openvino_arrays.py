"""What OpenVINO's operators on shapes and places compute: nothing here is arithmetic.

Source: https://docs.openvino.ai/2025/documentation/openvino-ir-format/operation-sets.html, opsets
1 to 16.
"""

from __future__ import annotations

import numpy as np

from shared.graphs.translate import common
from shared.graphs.translate.emit import Unknown
from shared.graphs.translate.openvino_node import Node, NodeEmitter, Rule

_MASKS = ("begin", "end", "ellipsis", "new_axis", "shrink_axis")


def _shape_of(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return [emit.graph.const(np.asarray(emit.sized(ins[0]), np.int64))]


def _reshape(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    own, wanted = emit.sized(ins[0]), emit.integers(ins[1])
    if node.flag("special_zero"):
        wanted = [own[d] if n == 0 else n for d, n in enumerate(wanted)]
    return [emit.reshape(ins[0], wanted, **node.place)]


def _squeeze(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    axes = emit.integers(ins[1]) if len(ins) > 1 else None
    return [common.squeeze(emit, ins[0], axes, **node.place)]


def _unsqueeze(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return [common.unsqueeze(emit, ins[0], emit.integers(ins[1]), **node.place)]


def _transpose(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    perm = emit.integers(ins[1]) or list(range(len(emit.sized(ins[0]))))[::-1]
    if sorted(perm) != list(range(len(emit.sized(ins[0])))):
        raise Unknown(f"axes in the order {perm}")
    return [emit.add("transpose", ins[0], perm=tuple(perm), **node.place)]


def _pad(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    x, begin, end = ins[0], emit.integers(ins[1]), emit.integers(ins[2])
    value = float(emit.value(ins[3]).item()) if len(ins) > 3 else 0.0
    pads, mode = tuple(zip(begin, end, strict=True)), node.text("pad_mode")
    if mode not in ("constant", "edge", "reflect", "symmetric"):
        raise Unknown(mode)
    return [emit.add("pad", x, pads=pads, value=value, mode=mode, **node.place)]


def _slice(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    starts, ends, steps, *axes = (emit.integers(id) for id in ins[1:])
    axis = axes[0] if axes else None
    return [common.plain_slice(emit, ins[0], starts, ends, steps, axis, **node.place)]


def _strided_slice(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """x[begin:end:step, …], with lists of ones for what Python leaves out."""
    begin, end = emit.integers(ins[1]), emit.integers(ins[2])
    step = emit.integers(ins[3]) if len(ins) > 3 else [1] * len(begin)
    masks = {name: node.integers(f"{name}_mask") for name in _MASKS}

    def marked(name: str, k: int) -> bool:
        return k < len(masks[name]) and bool(masks[name][k])

    return [common.masked_slice(emit, ins[0], begin, end, step, marked, **node.place)]


def _split(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    """Into equal pieces, or into those of given lengths, one of which may be the rest."""
    own = emit.sized(ins[0])
    axis = emit.integers(ins[1])[0] % len(own)
    if node.op == "Split":
        count = node.number("num_splits")
        if own[axis] % count:
            raise Unknown(f"{own[axis]} in {count} equal pieces")
        sizes = [own[axis] // count] * count
    else:
        sizes = emit.integers(ins[2])
        sizes = [own[axis] - sum(sizes) - 1 if n == -1 else n for n in sizes]
    return common.split(emit, ins[0], axis, sizes, **node.place)


def _concat(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    own = [emit.sized(id) for id in ins]
    axis = node.number("axis") % len(own[0])
    if len({(*shape[:axis], *shape[axis + 1 :]) for shape in own}) > 1:
        raise Unknown("arrays that do not fit each other")
    return [emit.add("concat", *ins, axis=axis, **node.place)]


def _gather(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    x, indices, axis = ins
    if node.number("batch_dims", 0):
        raise Unknown("several gathers at once")
    along = emit.integers(axis)[0] % len(emit.sized(x))
    return [emit.add("gather", x, indices, axis=along, **node.place)]


def _broadcast(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    x, wanted, mode = ins[0], tuple(emit.integers(ins[1])), node.text("mode", "numpy").lower()
    dims = None
    if mode == "bidirectional":
        wanted = np.broadcast_shapes(emit.sized(x), wanted)
    elif mode == "explicit":
        dims = tuple(emit.integers(ins[2]))
    elif mode != "numpy":
        raise Unknown(mode)
    own = list(emit.sized(x))
    if dims is not None:
        own = [1] * len(wanted)
        for d, n in zip(dims, emit.sized(x), strict=True):
            own[d] = n
    if np.broadcast_shapes(tuple(own), wanted) != wanted:
        raise Unknown(f"{own} as {list(wanted)}")
    return [emit.add("broadcast", x, shape=wanted, dims=dims, **node.place)]


def _tile(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return [common.tile(emit, ins[0], emit.integers(ins[1]), **node.place)]


def _range(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    return [common.row(emit, *ins)]


def _reverse(emit: NodeEmitter, node: Node, ins: list[int]) -> list[int]:
    rank = len(emit.sized(ins[0]))
    if node.text("mode", "index") != "index":
        raise Unknown("axes that are marked")
    axes = tuple(d % rank for d in emit.integers(ins[1]))
    return [emit.add("reverse", ins[0], axes=axes, **node.place)]


RULES: dict[str, Rule] = {
    "Broadcast": _broadcast,
    "Concat": _concat,
    "Gather": _gather,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Reverse": _reverse,
    "ShapeOf": _shape_of,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "StridedSlice": _strided_slice,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "VariadicSplit": _split,
}
