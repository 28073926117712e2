"""LiteRT's files: offsets that lead outside, lengths that lie, one table that many offsets lead to,
and networks that do not hold together.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.attacks.attack import Attack, Make, Placement, attacks
from tests.formats.litert_files import Network, number, packed, small

Tables = dict[int, Any]
TENSORS, INPUTS, OUTPUTS, OPERATORS = range(4)  # of a subgraph
KERNEL = 1  # a tensor; its buffer has the same number
LAST = 8  # the tensor that the network returns
VERSION = number(3, "<I")


def raw(data: Callable[[], bytes]) -> Make:
    return lambda place: place.write("net.tflite", data())


def changed(change: Callable[[Tables], object]) -> Make:
    """A network whose tables are changed."""
    return raw(lambda: small().bytes(change))


def kernel(field: int, value: Any) -> Make:
    """What the file says of the first kernel."""
    return changed(lambda model: model[2][0][TENSORS][KERNEL].update({field: value}))


def operator(field: int, value: Any, place: int = 0) -> Make:
    return changed(lambda model: model[2][0][OPERATORS][place].update({field: value}))


def buffers(*spans: tuple[int, int]) -> Make:
    """The bytes of the kernel, and of its bias, elsewhere: from a start on, so many."""

    def change(model: Tables) -> None:
        for k, (start, size) in enumerate(spans):
            model[4][KERNEL + k].update({1: number(start, "<Q"), 2: number(size, "<Q")})

    return changed(change)


def patched(at: Callable[[bytes], int], data: bytes) -> Make:
    """Bytes written over others."""

    def make() -> bytes:
        found = bytearray(small().bytes())
        place = at(found)
        found[place : place + len(data)] = data
        return bytes(found)

    return raw(make)


def root(data: bytes) -> int:
    return int.from_bytes(data[:4], "little")


def fields(data: bytes) -> int:
    """Where the fields of the root stand."""
    at = root(data)
    return at - struct.unpack_from("<i", data, at)[0]


def vector(data: bytes) -> int:
    """Where the name of the kernel's tensor stands."""
    return data.index(b"stem/kernel") - 4


def shared(count: int) -> Callable[[], bytes]:
    """So many offsets to one empty table."""

    def make() -> bytes:
        offsets = 4 * np.arange(count, 0, -1, np.uint32)
        return packed({0: VERSION, 2: offsets}) + struct.pack("<iHH", -4, 4, 4)

    return make


def shared_ports() -> bytes:
    """Operators that all read one long list, which the file has once."""
    net = Network()
    net.add("ADD", net.image, net.image)
    ports = np.zeros(1 << 18, np.int32)
    net.operators[0][1] = ports
    return net.bytes()


def many_names() -> bytes:
    """Texts of 16 KiB, 20 MiB of them."""
    net = Network()
    for _ in range(1280):
        net.tensor("x" * (1 << 14), ())
    return net.bytes()


def sparse(place: Placement) -> Path:
    path = place.write("net.tflite", b"")
    os.truncate(path, 1 << 40)
    return path


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, "<i4")


SCALE = {2: np.ones(4, np.float32)}

TABLE: dict[str, tuple[Make, str]] = {
    "empty": (raw(bytes), "TFL3"),
    "few-bytes": (raw(lambda: b"\x08\0\0\0TFL"), "TFL3"),
    "identifier-alone": (raw(lambda: b"\x08\0\0\0TFL3"), "leads to byte 8"),
    "other-identifier": (patched(lambda data: 4, b"TFL2"), "TFL3"),
    "nulls": (raw(lambda: bytes(4096)), "TFL3"),
    "noise": (raw(lambda: os.urandom(4096)), "damaged"),
    "sparse": (sparse, "TFL3"),
    "cut": (raw(lambda: small().bytes()[:400]), "damaged"),
    "cut-in-the-weights": (raw(lambda: small().bytes()[:-40]), "damaged"),
    "root-outside": (patched(lambda data: 0, struct.pack("<I", 1 << 31)), "leads to byte"),
    "root-at-itself": (patched(lambda data: 0, bytes(4)), "leads to byte 0"),
    "fields-before-the-file": (patched(root, struct.pack("<i", 1 << 30)), "its fields at byte -"),
    "fields-behind-the-file": (patched(root, struct.pack("<i", -(1 << 31))), "its fields at byte"),
    "fields-of-64-kibibytes": (patched(fields, b"\xfe\xff"), "damaged"),
    "fields-of-no-bytes": (patched(fields, bytes(2)), "have 0 bytes"),
    "fields-of-odd-bytes": (patched(fields, b"\x05\0"), "have 5 bytes"),
    "field-outside-its-table": (patched(lambda d: fields(d) + 4, b"\xf0\xff"), "is outside"),
    "table-of-64-kibibytes": (patched(lambda d: fields(d) + 2, b"\xff\xff"), "and the file ends"),
    "text-of-4-gibibytes": (patched(vector, b"\xff" * 4), "announces 4294967295 elements"),
    "text-of-a-megabyte": (kernel(3, "x" * (1 << 20)), "1048576 bytes"),
    "texts-of-20-megabytes": (raw(many_names), "of lists and names"),
    "one-table-300000-times": (raw(shared(300_000)), "300000 tables"),
    "one-table-131072-times": (raw(shared(1 << 17)), "131,072 tables"),
    "many-ports": (raw(shared_ports), "inputs and outputs"),
    "old-version": (changed(lambda model: model.update({0: number(2, "<I")})), "is 2, expected 3"),
    "no-subgraph": (changed(lambda model: model.update({2: []})), "no subgraph"),
    "no-input": (changed(lambda model: model[2][0].update({INPUTS: ints()})), "no input"),
    "no-output": (changed(lambda model: model[2][0].update({OUTPUTS: ints()})), "no output"),
    "output-not-there": (
        changed(lambda model: model[2][0].update({OUTPUTS: ints(99)})),
        "the tensor 99",
    ),
    "output-of-a-constant": (
        changed(lambda model: model[2][0].update({OUTPUTS: ints(KERNEL)})),
        "no output",
    ),
    "output-computed-nowhere": (
        changed(lambda model: model[2][0].update({OPERATORS: model[2][0][OPERATORS][:-1]})),
        "computed nowhere",
    ),
    "input-of-vectors": (raw(lambda: small((-1, 3)).bytes()), "images have 4"),
    "code-not-there": (operator(0, number(99, "<I")), "the code 99"),
    "reads-itself": (operator(1, ints(3)), "which nothing has made"),
    "reads-what-comes-later": (operator(1, ints(LAST)), "which nothing has made"),
    "reads-nothing-that-is": (operator(1, ints(1 << 30)), "which nothing has made"),
    "reads-before-the-first": (operator(1, ints(-2)), "which nothing has made"),
    "makes-what-is-made": (operator(2, ints(3), 1), "is not there or made"),
    "makes-a-constant": (operator(2, ints(KERNEL)), "is not there or made"),
    "makes-the-image": (operator(2, ints(0)), "is not there or made"),
    "makes-nothing-that-is": (operator(2, ints(-1)), "is not there or made"),
    "buffer-not-there": (kernel(2, number(99, "<I")), "the buffer 99"),
    "other-buffer": (kernel(2, number(2, "<I")), "bytes, expected 432"),
    "no-buffer": (kernel(2, number(0, "<I")), "which nothing has made"),
    "other-type": (kernel(1, number(10, "<b")), "432 bytes, expected 864"),
    "negative-shape": (kernel(0, ints(-4, 3, 3, 3)), "the shape"),
    "huge-shape": (kernel(0, ints(1 << 30, 3, 3, 3)), "impossible shape"),
    "hundred-dimensions": (kernel(0, ints(*[1] * 100)), "the shape"),
    "behind-the-end": (buffers((1 << 20, 432)), "a buffer lies in bytes"),
    "two-gibibytes": (buffers((2000, 1 << 31)), "a buffer lies in bytes"),
    "past-64-bits": (buffers(((1 << 64) - 1, 2)), "a buffer lies in bytes"),
    "over-others-in-part": (buffers((1024, 432), (1028, 16)), "others' in part"),
    "quantised": (
        changed(lambda model: model[2][0][TENSORS][KERNEL].update({1: number(9, "<b"), 4: SCALE})),
        "is quantised|without quantisation",
    ),
    "sparse-tensor": (kernel(6, {}), "sparse tensor"),
    "weights-elsewhere": (kernel(10, number(1, "<I")), "in another file"),
}

ATTACKS: list[Attack] = attacks("litert", TABLE)
