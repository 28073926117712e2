"""Networks of one operator or two, in LiteRT's files by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.formats.litert_files import Network

RNG = np.random.default_rng(0)
SHAPE = (-1, 9, 9, 4)

Build = Callable[[Network, int], int]


def numbers(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def whole(*values: int) -> np.ndarray:
    return np.asarray(values, np.int32)


def one(kind: str, *constants: np.ndarray | float, first: bool = True, **options: Any) -> Build:
    """An operator of the image and of constants behind it, or in front."""

    def build(net: Network, x: int) -> int:
        arrays = (np.asarray(c, None if isinstance(c, np.ndarray) else "f4") for c in constants)
        others = [net.const(array, f"constant{k}") for k, array in enumerate(arrays)]
        return net.add(kind, *((x, *others) if first else (*others, x)), **options)

    return build


def saved(build: Build, path: Path, shape: tuple[int, ...] = SHAPE) -> Path:
    net = Network(shape)
    net.outputs = [build(net, net.image)]
    path.write_bytes(net.bytes())
    return path


WINDOW = {"stride_h": 2, "stride_w": 1}
SAME, VALID = {"padding": 0, **WINDOW}, {"padding": 1, **WINDOW}
POOL = {"filter_h": 3, "filter_w": 2}
RELU, CLIPPED, RELU6, TANH = range(1, 5)
INT32 = 2
PADS = np.asarray([[0, 0], [1, 2], [2, 0], [0, 0]], np.int32)
HALVES = numbers(5, 3, 3, 4).astype(np.float16)


def then(*builds: Build) -> Build:
    """One behind the other."""

    def build(net: Network, x: int) -> int:
        for found in builds:
            x = found(net, x)
        return x

    return build


def of_two(kind: str, other: Build, **options: Any) -> Build:
    """Of the image and something that is computed from it."""
    return lambda net, x: net.add(kind, x, other(net, x), **options)


def halves(net: Network, x: int) -> int:
    """As the converter stores weights that shall be halved."""
    kernel = net.add("DEQUANTIZE", net.const(HALVES, "kernel"))
    return net.add("CONV_2D", x, kernel, net.const(numbers(5), "bias"), activation=0, **SAME)


def tiles(net: Network, x: int) -> int:
    """A dilated convolution, as TensorFlow's graphs have it."""
    sizes, borders = net.const(whole(2, 2)), net.const(np.asarray([[2, 3], [2, 3]], np.int32))
    x = net.add("SPACE_TO_BATCH_ND", x, sizes, borders)
    kernel, bias = net.const(numbers(5, 3, 3, 4)), net.const(numbers(5))
    how = {"padding": 1, "stride_h": 1, "stride_w": 1, "activation": RELU}
    x = net.add("CONV_2D", x, kernel, bias, **how)
    crops = net.const(np.asarray([[0, 1], [0, 1]], np.int32))
    return net.add("BATCH_TO_SPACE_ND", x, sizes, crops)


def flat(net: Network, x: int) -> int:
    """To a shape that is computed from the image's."""
    shape = net.add("SHAPE", x, result="INT32", out_type=INT32)
    begin, end, step = (net.const(whole(n)) for n in (0, 1, 1))
    batch = net.add("STRIDED_SLICE", shape, begin, end, step, result="INT32", shrink_axis_mask=1)
    rest = net.const(np.asarray(-1, np.int32))
    return net.add(
        "RESHAPE", x, net.add("PACK", batch, rest, result="INT32", values_count=2, axis=0)
    )


def broadcast(net: Network, x: int) -> int:
    mean = net.add("MEAN", x, net.const(whole(1, 2)), keep_dims=1)
    shapes = [net.add("SHAPE", k, result="INT32", out_type=INT32) for k in (mean, x)]
    return net.add("BROADCAST_TO", mean, net.add("BROADCAST_ARGS", *shapes, result="INT32"))


def long_row(net: Network, x: int) -> int:
    """Two GiB of numbers, which the file need not have."""
    limits = [net.const(np.asarray(n, np.int32)) for n in (0, (1 << 31) - 1, 4)]
    return net.add("ADD", x, net.add("RANGE", *limits, result="INT32"), activation=0)


def pieces(kind: str, *ins: np.ndarray, count: int, **options: Any) -> Build:
    """An operator of several results, of which the last is taken; axes stand in front of SPLIT's
    image.
    """

    def build(net: Network, x: int) -> int:
        others = [net.const(array) for array in ins]
        net.add(kind, *((*others, x) if kind == "SPLIT" else (x, *others)), **options)
        made = [len(net.tensors) - 1, *(net.tensor("more", ()) for _ in range(count - 1))]
        net.operators[-1][2] = whole(*made)
        return made[-1]

    return build


def conv(activation: int = 0, kernel: tuple[int, ...] = (5, 3, 3, 4), **how: Any) -> Build:
    return one("CONV_2D", numbers(*kernel), numbers(kernel[0]), activation=activation, **how)


ONE: dict[str, Build] = {
    "CONV_2D": conv(**SAME),
    "CONV_2D, valid, with ReLU": conv(RELU, **VALID),
    "CONV_2D, dilated": conv(RELU6, padding=0, stride_h=1, stride_w=1, dilation_h=2, dilation_w=3),
    "CONV_2D, of groups": conv(kernel=(6, 3, 3, 2), **SAME),
    "CONV_2D, without a bias": one(
        "CONV_2D", numbers(5, 1, 1, 4), np.zeros(5, np.float32), activation=0, **SAME
    ),
    "CONV_2D, of halves": halves,
    "CONV_2D, of tiles": tiles,
    "DEPTHWISE_CONV_2D": one(
        "DEPTHWISE_CONV_2D", numbers(1, 3, 3, 4), numbers(4), activation=CLIPPED, **SAME
    ),
    "DEPTHWISE_CONV_2D, of more": one(
        "DEPTHWISE_CONV_2D", numbers(1, 3, 3, 8), numbers(8), activation=0, **VALID
    ),
    "FULLY_CONNECTED": one("FULLY_CONNECTED", numbers(7, 324), numbers(7), activation=RELU),
    "FULLY_CONNECTED, of every pixel": one(
        "FULLY_CONNECTED", numbers(7, 4), activation=0, keep_num_dims=1
    ),
    "MAX_POOL_2D": one("MAX_POOL_2D", activation=0, **SAME, **POOL),
    "AVERAGE_POOL_2D": one("AVERAGE_POOL_2D", activation=RELU, **SAME, **POOL),
    "AVERAGE_POOL_2D, valid": one("AVERAGE_POOL_2D", activation=0, **VALID, **POOL),
    "ADD": one("ADD", numbers(4), activation=RELU),
    "ADD, of two": of_two("ADD", one("RELU"), activation=CLIPPED),
    "SUB": one("SUB", numbers(4), first=False, activation=0),
    "MUL": one("MUL", 0.5, activation=RELU6),
    "DIV": one("DIV", np.abs(numbers(9, 1, 1)) + 1, activation=0),
    "MAXIMUM": one("MAXIMUM", numbers(4)),
    "MINIMUM": one("MINIMUM", 0.25),
    "POW": then(one("ABS"), one("POW", 1.5)),
    "SQUARED_DIFFERENCE": one("SQUARED_DIFFERENCE", numbers(4)),
    "ADD_N": of_two("ADD_N", one("NEG")),
    "SELECT_V2": lambda net, x: net.add(
        "SELECT_V2", one("GREATER", 0.0, result="BOOL")(net, x), x, net.const(numbers(4))
    ),
    **{name: one(name) for name in ("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "TANH")},
    **{name: one(name) for name in ("LOGISTIC", "HARD_SWISH", "NEG", "SQUARE", "EXP", "FLOOR")},
    **{name: then(one("ABS"), one(name)) for name in ("SQRT", "RSQRT", "LOG")},
    "GELU": one("GELU", approximate=0),
    "GELU, by tanh": one("GELU", approximate=1),
    "SOFTMAX": one("SOFTMAX", beta=1.0),
    "LOG_SOFTMAX": one("LOG_SOFTMAX"),
    "MEAN": one("MEAN", whole(1, 2), keep_dims=1),
    "MEAN, without the axes": one("MEAN", whole(-1), keep_dims=0),
    "SUM": one("SUM", whole(1), keep_dims=0),
    "REDUCE_MAX": one("REDUCE_MAX", whole(2, 1), keep_dims=0),
    "PAD": one("PAD", PADS),
    "PADV2": one("PADV2", PADS, 3.0),
    "PADV2, in front of a pool": then(
        one("PADV2", PADS // 2, float(np.finfo(np.float32).min)),
        one("MAX_POOL_2D", activation=0, **VALID, **POOL),
    ),
    "MIRROR_PAD": one("MIRROR_PAD", PADS, mode=0),
    "MIRROR_PAD, symmetric": one("MIRROR_PAD", PADS, mode=1),
    "RESHAPE": one("RESHAPE", whole(-1, 9, 36)),
    "RESHAPE, by a computed shape": flat,
    "TRANSPOSE": one("TRANSPOSE", whole(0, 3, 1, 2)),
    "EXPAND_DIMS, SQUEEZE": then(
        one("EXPAND_DIMS", whole(-1)), one("SQUEEZE", squeeze_dims=whole(-1))
    ),
    "CONCATENATION": of_two("CONCATENATION", one("NEG"), axis=-1, activation=0),
    "SPLIT": pieces("SPLIT", np.asarray(3, np.int32), count=2, num_split=2),
    "SPLIT_V": pieces("SPLIT_V", whole(2, -1, 3), np.asarray(1, np.int32), count=3, num_splits=3),
    "UNPACK": pieces("UNPACK", count=4, num=4, axis=3),
    "SLICE": one("SLICE", whole(0, 1, 2, 0), whole(-1, 3, 4, -1)),
    "STRIDED_SLICE": one(
        "STRIDED_SLICE", whole(0, 1, 0, 0), whole(0, 9, 0, 2), whole(1, 2, 3, 1), begin_mask=4,
        end_mask=5
    ),
    "STRIDED_SLICE, backwards": one(
        "STRIDED_SLICE", whole(0, 0, 0, 3), whole(0, 0, 1, -9), whole(1, 1, 1, -1), begin_mask=3,
        end_mask=3, shrink_axis_mask=4
    ),
    "GATHER": one("GATHER", whole(2, 0, 2), axis=3),
    "REVERSE_V2": one("REVERSE_V2", whole(3)),
    "BROADCAST_TO": broadcast,
    "TILE": then(one("MEAN", whole(2), keep_dims=1), one("TILE", whole(1, 1, 3, 1))),
    "BATCH_MATMUL": of_two("BATCH_MATMUL", one("RELU"), adj_x=0, adj_y=1),
    "CAST": then(
        one("GREATER", 0.0, result="BOOL"), lambda net, x: net.add("CAST", x)
    ),
}  # fmt: skip
