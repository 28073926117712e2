"""What several languages of graphs compute alike, once its arguments are plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shared.graphs.translate.emit import Emitter, Pads, Unknown

_MAX_ROW = 1 << 16  # numbers, as axes and places are


def plain(value: float) -> float:
    """A number that was written in decimal, from the float32 that it became."""
    return float(str(np.float32(value)))


def gelu(emit: Emitter, x: int, *, by_tanh: bool, **place: str) -> int:
    """x/2 (1 + erf(x / sqrt 2)), or the approximation by tanh."""

    def two(op: str, a: int, b: int | float) -> int:
        other = b if isinstance(b, int) else emit.graph.const(b)
        return emit.add("ew", a, other, op=op, **place)

    if by_tanh:
        cube = two("mul", two("pow", x, 3.0), 0.044715)
        inner = two("mul", two("add", x, cube), math.sqrt(2 / math.pi))
        y = emit.add("ew", inner, op="tanh", **place)
    else:
        y = emit.add("ew", two("mul", x, math.sqrt(0.5)), op="erf", **place)
    return two("mul", two("mul", x, 0.5), two("add", y, 1.0))


def hard_sigmoid(emit: Emitter, x: int, alpha: float, beta: float, **place: str) -> int:
    """alpha x + beta, between 0 and 1."""
    number = emit.graph.const
    y = emit.add("ew", x, number(alpha), op="mul", **place)
    y = emit.add("ew", y, number(beta), op="add", **place)
    return emit.add("ew", y, number(0.0), number(1.0), op="clip", **place)


def matmul(
    emit: Emitter, a: int, b: int, transposed: tuple[bool, bool] = (False, False), **place: str
) -> int:
    """The matrix product over the last two axes, those of a vector excepted."""
    left, right = emit.sized(a), emit.sized(b)
    lhs = len(left) - (2 if transposed[0] and len(left) > 1 else 1)
    rhs = len(right) - (2 if not transposed[1] and len(right) > 1 else 1)
    if len(right) < 3:
        return emit.add("dot", a, b, lhs=(lhs,), rhs=(rhs,), **place)
    if left[:-2] != right[:-2]:
        raise Unknown("a matrix product that broadcasts")
    along = tuple(range(len(right) - 2))
    batch: dict[str, Any] = {"lhs_batch": along, "rhs_batch": along}
    return emit.add("dot", a, b, lhs=(lhs,), rhs=(rhs,), **batch, **place)


def up_to_whole(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    pads: Pads,
) -> Pads:
    """The padding with which the last window is whole that ceil_mode keeps: one that starts inside
    the image or its first padding.
    """
    found = []
    for n, k, stride, d, (low, high) in zip(sizes, kernel, strides, dilation, pads, strict=True):
        reach = d * (k - 1) + 1
        count = math.ceil((n + low + high - reach) / stride) + 1
        if (count - 1) * stride >= n + low:
            count -= 1
        found.append((low, max((count - 1) * stride + reach - n - low, high)))
    first, second = found
    return first, second


def masked_slice(
    emit: Emitter,
    x: int,
    begin: Sequence[int],
    end: Sequence[int],
    step: Sequence[int],
    marked: Callable[[str, int], bool],
    **place: str,
) -> int:
    """x[begin:end:step, …] where `marked(kind, k)` says what Python leaves out of the k-th: its
    "begin" or "end"; and that it is an "ellipsis", a "new_axis", or one index ("shrink_axis").
    """
    shape = emit.sized(x)
    index: list[tuple[int, int, int]] = []
    gone, fresh, written = [], [], 0  # fresh: places of new axes in the result
    there = sum(not marked("new_axis", k) and not marked("ellipsis", k) for k in range(len(begin)))
    for k in range(len(begin)):
        d = len(index)
        if marked("ellipsis", k):
            for n in shape[d : d + len(shape) - there]:
                index.append((0, n, 1))
                written += 1
        elif marked("new_axis", k):
            fresh.append(written)
            written += 1
        elif marked("shrink_axis", k):
            at = begin[k] % shape[d] if begin[k] < 0 else begin[k]
            index.append((at, at + 1, 1))
            gone.append(d)
        else:
            start = None if marked("begin", k) else begin[k]
            stop = None if marked("end", k) else end[k]
            index.append(slice(start, stop, step[k]).indices(shape[d]))
            written += 1
    index += [(0, n, 1) for n in shape[len(index) :]]
    id = emit.strided(x, index, gone, **place)
    if fresh:
        wanted = list(emit.sized(id))
        for at in fresh:
            wanted.insert(at, 1)
        id = emit.reshape(id, wanted, **place)
    return id


def plain_slice(
    emit: Emitter,
    x: int,
    starts: Sequence[int],
    ends: Sequence[int],
    steps: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    **place: str,
) -> int:
    """x[start:end:step] along each of `axes`, or of the first ones."""
    own = emit.sized(x)
    index = [(0, n, 1) for n in own]
    for k, d in enumerate(range(len(starts)) if axes is None else axes):
        d %= len(own)
        start, stop, step = starts[k], ends[k], steps[k] if steps else 1
        if step < 0 and stop < -own[d]:  # before the first one, which Python calls None
            found = slice(start, None, step).indices(own[d])
        else:
            found = slice(start, stop, step).indices(own[d])
        index[d] = found
    return emit.strided(x, index, (), **place)


def split(emit: Emitter, x: int, axis: int, sizes: Sequence[int], **place: str) -> list[int]:
    """Pieces of these sizes, one after the other."""
    own = emit.sized(x)
    found, at = [], 0
    for n in sizes:
        index = [(0, m, 1) for m in own]
        index[axis] = (at, at + n, 1)
        found.append(emit.strided(x, index, (), **place))
        at += n
    return found


def squeeze(emit: Emitter, x: int, axes: Sequence[int] | None, **place: str) -> int:
    """Without these axes, or without all of length 1."""
    own = emit.sized(x)
    gone = (
        [d for d, n in enumerate(own) if n == 1] if axes is None else [d % len(own) for d in axes]
    )
    return emit.reshape(x, [n for d, n in enumerate(own) if d not in gone], **place)


def unsqueeze(emit: Emitter, x: int, axes: Sequence[int], **place: str) -> int:
    """With axes of length 1 at these places of the result."""
    own = list(emit.sized(x))
    rank = len(own) + len(axes)
    for d in sorted(d % rank for d in axes):
        own.insert(d, 1)
    return emit.reshape(x, own, **place)


def row(emit: Emitter, start: int, stop: int, step: int) -> int:
    """Numbers from a start to a stop, which are nodes; a file may ask for any number of them."""
    first, end, width = (emit.value(id).item() for id in (start, stop, step))
    if not width or not 0 <= (end - first) / width <= _MAX_ROW:
        raise Unknown("a long row of numbers")
    return emit.graph.const(np.arange(first, end, width))


def tile(emit: Emitter, x: int, repeats: Sequence[int], **place: str) -> int:
    """Of what has length 1 along the repeated axes; elsewhere one would be behind the other."""
    own = emit.sized(x)
    if len(repeats) != len(own):
        raise Unknown("another number of axes")
    if any(count > 1 and n > 1 for n, count in zip(own, repeats, strict=True)):
        raise Unknown("an image side by side with itself")
    shape = tuple(n * count for n, count in zip(own, repeats, strict=True))
    return emit.add("broadcast", x, shape=shape, dims=None, **place)
