"""The shape of every value of a raw graph, by the primitives' own rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared.graphs.primitives import Raw, RawGraph, Shape

Maybe = Shape | None
SAME_SHAPE = ("bn", "gn", "softmax", "dropout", "cast", "reverse")


def shapes_of(graph: RawGraph) -> list[Maybe]:
    """The physical shape of each node's value; None where an opaque operator hides it."""
    shapes: list[Maybe] = []
    for node in graph.nodes:
        shapes.append(shape_of(node, [shapes[i] for i in node.ins]))
    return shapes


def shape_of(node: Raw, ins: Sequence[Maybe]) -> Maybe:
    """Of one node whose inputs have these shapes."""
    attrs = node.attrs
    match node.prim:
        case "const":
            return tuple(np.shape(node.value))
        case "input" | "reshape" | "broadcast" | "opaque":
            return attrs["shape"]
    known = [shape for shape in ins if shape is not None]
    if len(known) < len(ins):
        return None
    return tuple(int(n) for n in _shape(node, known))


def _shape(node: Raw, ins: list[Shape]) -> Sequence[int]:
    attrs = node.attrs
    if node.prim in SAME_SHAPE:
        return ins[0]
    match node.prim:
        case "ew":
            return np.broadcast_shapes(*ins)
        case "conv":
            return _conv(node, ins[0], ins[1])
        case "maxpool" | "avgpool":
            out = list(ins[0])
            dilation = attrs.get("dilation", (1, 1))
            for k, axis in enumerate("HW"):
                d = attrs["layout"].index(axis)
                out[d] = windows(
                    out[d], attrs["window"][k], attrs["strides"][k], dilation[k], attrs["pads"][k]
                )
            return out
        case "window_max" | "window_sum":
            dilation = attrs.get("dilation", (1,) * len(ins[0]))
            each = zip(
                ins[0], attrs["window"], attrs["strides"], dilation, attrs["pads"], strict=True
            )
            return [windows(*one) for one in each]
        case "dot":
            return _dot(node, ins[0], ins[1])
        case "reduce":
            kept = enumerate(ins[0])
            if attrs["keepdims"]:
                return [1 if d in attrs["axes"] else n for d, n in kept]
            return [n for d, n in kept if d not in attrs["axes"]]
        case "transpose":
            return [ins[0][d] for d in attrs["perm"]]
        case "pad":
            return [n + sum(pads) for n, pads in zip(ins[0], attrs["pads"], strict=True)]
        case "slice":
            return [len(range(*index)) for index in attrs["index"]]
        case "concat":
            out = list(ins[0])
            out[attrs["axis"]] = sum(shape[attrs["axis"]] for shape in ins)
            return out
        case "gather":
            axis = attrs["axis"]
            return (*ins[0][:axis], *ins[1], *ins[0][axis + 1 :])
    raise ValueError(f"{node.prim!r} is no primitive")


def windows(size: int, window: int, stride: int, dilation: int, pads: tuple[int, int]) -> int:
    """How many windows fit."""
    return (size + sum(pads) - dilation * (window - 1) - 1) // stride + 1


def _conv(node: Raw, x: Shape, w: Shape) -> list[int]:
    attrs = node.attrs
    out = {"N": x[attrs["x"].index("N")], "C": w[attrs["w"].index("O")]}
    for k, axis in enumerate("HW"):
        out[axis] = windows(
            x[attrs["x"].index(axis)],
            w[attrs["w"].index(axis)],
            attrs["strides"][k],
            attrs["dilation"][k],
            attrs["pads"][k],
        )
    return [out[axis] for axis in attrs["y"]]


def _dot(node: Raw, a: Shape, b: Shape) -> list[int]:
    attrs = node.attrs
    batch, other = attrs.get("lhs_batch", ()), attrs.get("rhs_batch", ())
    return [
        *(a[d] for d in batch),
        *(n for d, n in enumerate(a) if d not in (*attrs["lhs"], *batch)),
        *(n for d, n in enumerate(b) if d not in (*attrs["rhs"], *other)),
    ]
