"""ONNX files: messages that lie about their lengths, tensors elsewhere, and graphs that are not
what was trained.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.attacks import seeds
from tests.attacks.attack import Attack, Make, Placement, attacks
from tests.formats import onnx_files as made
from tests.formats.tensorflow_files import field, varint

NAME = "stem.conv1.weight"
KERNEL = NAME.replace(".", "_")


def lying(**lies: Any) -> Make:
    """What the file says of the first kernel."""
    return lambda p: p.write("net.onnx", made.network(seeds.weights(), **{KERNEL: lies}))


def raw(data: Callable[[], bytes]) -> Make:
    return lambda place: place.write("net.onnx", data())


def elsewhere(
    location: str,
    offset: int | str = 0,
    length: int | str | None = None,
    beside: Callable[[Path, Placement], Any] = lambda path, place: path.write_bytes(bytes(4096)),
) -> Make:
    """The first kernel in the file `data`, or where else it says."""

    def make(place: Placement) -> Path:
        beside(place.inside / "data", place)
        return lying(raw=None, more=made.outside(location, offset, length))(place)

    return make


def chain(*kinds: str) -> Make:
    """The network's tensors, and these operators one behind the other."""

    def make(place: Placement) -> Path:
        norm = [f"stem.norm1.{x}" for x in ("weight", "bias", "running_mean", "running_var")]
        taken = {"Conv": [NAME], "BatchNormalization": norm}
        nodes = [
            made.node(kind, [f"x{i}", *taken.get(kind, [])], [f"x{i + 1}"], f"/n{i}/{kind}")
            for i, kind in enumerate(kinds)
        ]
        tensors = [made.tensor(name, array) for name, array in seeds.weights().items()]
        return place.write("net.onnx", made.model(nodes, tensors))

    return make


def shared_by_many(place: Placement) -> Path:
    big = np.zeros((1 << 10, 1 << 10), "float32")
    nodes = [made.node("Gemm", ["x", "w"], ["y"], f"/a{i}/Gemm") for i in range(500)]
    return place.write("net.onnx", made.model(nodes, [made.tensor("w", big)]))


def twins(place: Placement) -> Path:
    one = made.tensor("a", np.ones(2, "float32"))
    return place.write("net.onnx", made.model([], [one, one]))


HALF = {"code": 10, "raw": None}

TABLE: dict[str, tuple[Make, str]] = {
    "folded": (chain("Conv", "Relu", "Conv"), "folded"),
    "folded-in-part": (chain("Conv", "BatchNormalization", "Relu", "Conv", "Relu"), "folded"),
    "folded-into-products": (chain("Conv", "Mul", "Add"), "folded"),
    "quantised": (chain("QLinearConv"), "quantised"),
    "outside": (elsewhere("../outside/secret.bin"), "plain names"),
    "outside-backslash": (elsewhere("..\\outside\\secret.bin"), "plain names"),
    "absolute": (elsewhere("/etc/passwd"), "plain names"),
    "nowhere": (elsewhere(""), "plain names"),
    "link": (elsewhere("data", beside=lambda t, p: t.symlink_to(p.secret)), "leads out"),
    "loop-of-links": (elsewhere("data", beside=lambda t, p: t.symlink_to(t)), "cannot be read"),
    "pipe": (elsewhere("data", beside=lambda t, p: os.mkfifo(t)), "not a regular file"),
    "folder": (elsewhere("data", beside=lambda t, p: t.mkdir()), "not a regular file"),
    "missing": (elsewhere("other"), "cannot be read"),
    "itself": (elsewhere("net.onnx", 1 << 20), "is not there"),
    "beyond": (elsewhere("data", 1 << 50), "is not there"),
    "negative-offset": (elsewhere("data", "-8"), "the offset"),
    "offset-of-digits": (elsewhere("data", "9" * 400), "the offset"),
    "offset-of-words": (elsewhere("data", "٤"), "the offset"),
    "short-length": (elsewhere("data", 0, 4), "does not follow"),
    "place-twice": (lying(raw=None, more=made.outside("data") + made.outside("data")), "twice"),
    "negative-shape": (lying(dims=(-4, 3, 3, 3)), "impossible shape"),
    "huge-shape": (lying(dims=(1 << 40, 3, 3, 3)), "impossible shape"),
    "hundred-dimensions": (lying(dims=(1,) * 100), "64 dimensions"),
    "packed-dimensions": (lying(dims=(), more=field(1, b"\x01" * 5000)), "64 dimensions"),
    "other-shape": (lying(dims=(5, 5)), "does not follow"),
    "float8": (lying(code=18), "dtype number 18"),
    "dtype-of-64-bits": (lying(code=(1 << 64) - 1), "dtype number"),
    "values-twice": (lying(more=field(4, bytes(8))), "twice"),
    "values-in-pieces": (lying(more=field(9, bytes(8))), "in pieces"),
    "few-halves": (lying(**HALF, more=field(5, b"\1\2")), "2 bytes for"),
    "halves-without-end": (lying(**HALF, more=field(5, b"\xff" * 400)), "numbers of 16 bits"),
    "tensor-twice": (twins, "two of its tensors"),
    "tensor-of-lines": (
        raw(lambda: made.model([], [made.tensor("a\nb\x1b", np.ones(2, "float32"))])),
        "is called",
    ),
    "name-of-a-megabyte": (
        raw(lambda: made.model([], [made.tensor("a" * (1 << 20), np.ones(2, "float32"))])),
        "1048576 bytes",
    ),
    "many-layers-of-one": (shared_by_many, "its layers have"),
    "sparse": (raw(lambda: made.model([], [], more=field(15, b""))), "sparse"),
    "no-graph": (raw(lambda: field(1, 8)), "no graph"),
    "two-graphs": (raw(lambda: field(7, b"") * 2), "twice"),
    "graph-beyond-the-file": (raw(lambda: b"\x3a" + varint(1 << 40)), "announces"),
    "graph-of-8-eib": (raw(lambda: b"\x3a" + varint((1 << 63) - 1)), "announces"),
    "endless-varint": (raw(lambda: b"\x08" + b"\xff" * 20), "does not end"),
    "wide-varint": (raw(lambda: b"\x08" + b"\xff" * 9 + b"\x7f"), "64 bits"),
    "group": (raw(lambda: b"\x0b\x0c"), "unknown kind"),
    "field-0": (raw(lambda: b"\x00\x00"), "number 0"),
    "a-million-fields": (raw(lambda: field(7, field(2, b"") * 1_000_000)), "fields"),
    "many-operators": (raw(lambda: made.model([field(4, "Relu")] * 70_000, [])), "operators"),
    "an-operator-of-many": (
        raw(lambda: made.model([field(1, "x") * 10_000 + field(4, "Concat")], [])),
        "inputs and outputs",
    ),
    "no-text": (raw(lambda: made.model([field(4, b"\xff\xfe")], [])), "not UTF-8"),
}

ATTACKS: list[Attack] = attacks("onnx", TABLE)
