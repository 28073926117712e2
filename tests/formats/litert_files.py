"""LiteRT's files by hand, without a package: what is right, and what lies."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from shared.graphs.files.litert_schema import OPERATORS, OPTIONS, TYPES

IDENTIFIER = b"TFL3"
NAMES = {"float32": "FLOAT32", "float16": "FLOAT16", "float64": "FLOAT64", "int32": "INT32",
         "int64": "INT64", "int8": "INT8", "uint8": "UINT8", "bool": "BOOL"}  # fmt: skip
# What LiteRT wants to be told, and no reader needs.
TOLD = OPTIONS | {
    "PACK": (59, {"values_count": (0, "<i", 0), "axis": (1, "<i", 0)}),
    "SHAPE": (55, {"out_type": (0, "<b", 0)}),
    "SPLIT_V": (79, {"num_splits": (0, "<i", 0)}),
    "UNPACK": (64, {"num": (0, "<i", 0), "axis": (1, "<i", 0)}),
}
VERSIONS = {"BROADCAST_TO": 2}  # the first that there is, where it is not 1


class Number(NamedTuple):
    """A field inside its table."""

    form: str
    value: Any

    @property
    def data(self) -> bytes:
        return struct.pack(self.form, self.value)


Fields = Mapping[int, Any]  # Number, bytes, str, array, Fields, or a list of Fields


def packed(root: Fields, identifier: bytes = IDENTIFIER) -> bytes:
    """A FlatBuffer of a table; every table has its fields' offsets in front of it."""
    data = bytearray(4) + identifier
    _led_to(data, 0, root)
    return bytes(data)


def _led_to(data: bytearray, place: int, value: Any) -> None:
    """Append a value, and write at a place how far away it is."""
    data += bytes(-len(data) % 16)
    at = _table(data, value) if isinstance(value, Mapping) else len(data)
    data[place : place + 4] = struct.pack("<I", at - place)
    if isinstance(value, Mapping):
        _children(data, at, value)
    elif isinstance(value, list):
        data += struct.pack("<I", len(value)) + bytes(4 * len(value))
        for k, one in enumerate(value):
            _led_to(data, at + 4 + 4 * k, one)
    else:
        raw = value.encode() if isinstance(value, str) else value
        count = len(raw)
        data += struct.pack("<I", count) + (raw if isinstance(raw, bytes) else raw.tobytes())
        data += b"\0" * isinstance(value, str)


def _widths(table: Fields) -> dict[int, tuple[int, int]]:
    """Where in a table each field stands, and its width."""
    found, at = {}, 4
    for field, value in table.items():
        width = len(value.data) if isinstance(value, Number) else 4
        at += -at % width
        found[field] = at, width
        at += width
    return found


def _table(data: bytearray, table: Fields) -> int:
    places = _widths(table)
    size = max((at + width for at, width in places.values()), default=4)
    offsets = [places.get(k, (0, 0))[0] for k in range(max(table, default=-1) + 1)]
    fields = struct.pack(f"<{2 + len(offsets)}H", 4 + 2 * len(offsets), size, *offsets)
    start = len(data)
    data += fields + bytes(-(start + len(fields)) % 8)
    at = len(data)
    data += struct.pack("<i", at - start) + bytes(size - 4)
    for field, value in table.items():
        if isinstance(value, Number):
            place = at + places[field][0]
            data[place : place + places[field][1]] = value.data
    return at


def _children(data: bytearray, at: int, table: Fields) -> None:
    places = _widths(table)
    for field, value in table.items():
        if not isinstance(value, Number):
            _led_to(data, at + places[field][0], value)


def number(value: int, form: str = "<i") -> Number:
    return Number(form, value)


class Network:
    """Operators that are added one behind the other; each `add` returns its result's tensor."""

    def __init__(self, shape: Sequence[int] = (-1, 16, 16, 3)):
        self.tensors: list[dict[int, Any]] = []
        self.operators: list[dict[int, Any]] = []
        self.buffers: list[dict[int, Any]] = [{}]
        self.codes: list[str] = []
        self.image = self.tensor("images", np.abs(shape), free=shape)
        self.outputs: list[int] = []

    def tensor(
        self, name: str, shape: Any, kind: str = "FLOAT32", buffer: int = 0, free: Any = None
    ) -> int:
        said: dict[int, Any] = {
            0: np.asarray(shape, "<i4"),
            1: number(TYPES.index(kind), "<b"),
            2: number(buffer, "<I"),
            3: name,
        }
        self.tensors.append(said if free is None else said | {7: np.asarray(free, "<i4")})
        return len(self.tensors) - 1

    def const(self, array: np.ndarray, name: str = "") -> int:
        self.buffers.append({0: array.tobytes()})
        return self.tensor(name, array.shape, NAMES[array.dtype.name], len(self.buffers) - 1)

    def add(
        self,
        kind: str,
        *ins: int,
        name: str = "",
        result: str = "FLOAT32",
        shape: Sequence[int] = (),
        **options: Any,
    ) -> int:
        """An operator of one result of a type; its shape is left out where none is given."""
        if kind not in self.codes:
            self.codes.append(kind)
        out = self.tensor(name or kind.lower(), np.abs(shape).astype(int), result, free=shape)
        table: dict[int, Any] = {
            0: number(self.codes.index(kind), "<I"),
            1: np.asarray(ins, "<i4"),
            2: np.asarray([out], "<i4"),
        }
        if options:
            which, fields = TOLD[kind]
            table |= {3: number(which, "<B"), 4: {}}
            for key, value in options.items():
                place, form, _ = fields[key]
                table[4][place] = np.asarray(value, "<i4") if form == "[i]" else number(value, form)
        self.operators.append(table)
        return out

    def model(self) -> dict[int, Any]:
        """The tables, to be changed."""
        codes = []
        for name in self.codes:
            code = OPERATORS.index(name)
            version = number(VERSIONS.get(name, 1))
            codes.append({0: number(min(code, 127), "<b"), 2: version, 3: number(code)})
        subgraph = {
            0: self.tensors,
            1: np.asarray([self.image], "<i4"),
            2: np.asarray(self.outputs or [len(self.tensors) - 1], "<i4"),
            3: self.operators,
            4: "main",
        }
        return {0: number(3, "<I"), 1: codes, 2: [subgraph], 4: self.buffers}

    def bytes(self, change: Callable[[dict[int, Any]], object] = lambda model: None) -> bytes:
        """The file; `change` may change its tables before."""
        model = self.model()
        change(model)
        return packed(model)


WINDOW = {"padding": 0, "stride_h": 1, "stride_w": 1}


def small(images: Sequence[int] = (-1, 16, 16, 3)) -> Network:
    """A convolution with a bias and a ReLU, a mean and a matrix."""
    rng, net = np.random.default_rng(0), Network(images)

    def weight(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    kernel, bias = net.const(weight(4, 3, 3, 3), "stem/kernel"), net.const(weight(4), "stem/bias")
    x = net.add("CONV_2D", net.image, kernel, bias, name="stem", activation=1, **WINDOW)
    axes = net.const(np.asarray([1, 2], np.int32), "axes")
    x = net.add("MEAN", x, axes, name="pool", keep_dims=0)
    matrix, bias = net.const(weight(5, 4), "head/kernel"), net.const(weight(5), "head/bias")
    net.add("FULLY_CONNECTED", x, matrix, bias, name="logits", activation=0)
    return net
