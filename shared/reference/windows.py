"""Where the windows of a convolution or a pool stand, by rules of the reference's own.

`shared.architecture.ops` has such rules too, from which come the plan's shapes and the renderings'
padding. Here they are written anew, each as its source has it, so that a mistake there shows.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from shared.architecture.ops import AvgPool, BlurPool, Conv, MaxPool, Pads

Array = np.ndarray


def pads_of(op: Conv | MaxPool | AvgPool, x: Array) -> Pads:
    """((top, bottom), (left, right)) around images x [N, H, W, C]."""
    reach = 1 + (op.kernel_size - 1) * (op.dilation if isinstance(op, Conv) else 1)
    return (
        _side(op.padding, x.shape[1], reach, op.stride),
        _side(op.padding, x.shape[2], reach, op.stride),
    )


def _side(padding: str, n: int, reach: int, stride: int) -> tuple[int, int]:
    """In front of and behind a row of n pixels, for windows that reach over so many."""
    match padding:
        case "valid":
            return 0, 0
        case "symmetric" | "zero":
            return (reach - 1) // 2, (reach - 1) // 2
        case "same":  # tf.nn, "Notes on padding"
            total = max(reach - (n % stride or stride), 0)
            return total // 2, total - total // 2
        case "ceil":  # Caffe, pooling_layer.cpp
            count = math.ceil((n - reach) / stride) + 1
            return 0, max((count - 1) * stride + reach - n, 0)
    raise ValueError(f"unknown padding {padding!r}")


def padded(x: Array, pads: Pads, value: float = 0.0) -> Array:
    return np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=value)


def cropped(x: Array, pads: Pads) -> Array:
    """The inverse of `padded`; what is in the border is lost."""
    (top, bottom), (left, right) = pads
    return x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]


def reflected(op: BlurPool, x: Array) -> Array:
    """x in a border as wide as the filter needs, mirrored at its outermost pixels."""
    border = (len(op.taps) // 2,) * 2
    return np.pad(x, ((0, 0), border, border, (0, 0)), mode="reflect")


def folded_back(op: BlurPool, dx: Array) -> Array:
    """The gradient by x, from that by `reflected(op, x)`: the border's goes to what it mirrors."""
    border = len(op.taps) // 2
    for axis in (1, 2):
        lines = np.moveaxis(dx, axis, 0)
        by_origin = np.zeros((len(lines) - 2 * border, *lines.shape[1:]), dx.dtype)
        origins = np.pad(np.arange(len(by_origin)), border, mode="reflect")
        for origin, line in zip(origins, lines, strict=True):
            by_origin[origin] += line
        dx = np.moveaxis(by_origin, 0, axis)
    return dx


def window(x: Array, i: int, j: int, size: tuple[int, int], stride: int) -> Array:
    """The pixels under place (i, j) of a sliding window, one for each of the `size` outputs; a
    view.
    """
    return x[
        :, i : i + stride * (size[0] - 1) + 1 : stride, j : j + stride * (size[1] - 1) + 1 : stride
    ]


def pool_windows(op: MaxPool | AvgPool | BlurPool, edged: Array) -> list[Array]:
    """`window` of padded images for every place in the pool's window, row by row."""
    height, width = ((n - op.kernel_size) // op.stride + 1 for n in edged.shape[1:3])
    places = range(op.kernel_size)
    return [window(edged, i, j, (height, width), op.stride) for i in places for j in places]


def conv_windows(op: Conv, x: Array) -> Array:
    """The pixels under every window of the padded image, [N, H, W, C, kernel, kernel]; a view."""
    reach = op.dilation * (op.kernel_size - 1) + 1
    found = sliding_window_view(padded(x, pads_of(op, x)), (reach, reach), axis=(1, 2))
    return found[:, :: op.stride, :: op.stride, :, :: op.dilation, :: op.dilation]
