"""ONNX files made by hand, byte by byte, so that each of their parts can lie."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.formats.tensorflow_files import field, varint

CODES = {"float32": 1, "int64": 7, "float16": 10, "float64": 11, "int8": 3}


def fixed32(number: int, value: float) -> bytes:
    return varint(number << 3 | 5) + struct.pack("<f", value)


def tensor(name: str, array: np.ndarray, **lies: Any) -> bytes:
    """A TensorProto. `lies`: its `dims`, `code`, `raw`, or `more` fields."""
    said: dict[str, Any] = {
        "dims": array.shape,
        "code": CODES[array.dtype.name],
        "raw": array.tobytes(),
        "more": b"",
    } | lies
    dims = b"".join(field(1, size) for size in said["dims"])
    raw = b"" if said["raw"] is None else field(9, said["raw"])
    return dims + field(2, said["code"]) + field(8, name) + raw + said["more"]


def outside(location: str, offset: int | str = 0, length: int | str | None = None) -> bytes:
    """That the values are in a file beside it."""
    pairs = {"location": location, "offset": str(offset)}
    pairs |= {} if length is None else {"length": str(length)}
    entries = b"".join(field(13, field(1, k) + field(2, v)) for k, v in pairs.items())
    return entries + field(14, 1)


def node(
    kind: str, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **a: Any
) -> bytes:
    """A NodeProto; `a`: attributes, whole numbers, floats or the bytes of a tensor."""
    out = b"".join(field(1, i) for i in inputs) + b"".join(field(2, o) for o in outputs)
    out += field(3, name) + field(4, kind)
    for key, value in a.items():
        said = (
            fixed32(2, value)
            if isinstance(value, float)
            else field(3, value)
            if isinstance(value, int)
            else field(5, value)
        )
        out += field(5, field(1, key) + said)
    return out


def model(
    nodes: Sequence[bytes], tensors: Sequence[bytes], producer: str = "pytorch", more: bytes = b""
) -> bytes:
    graph = b"".join(field(1, n) for n in nodes) + b"".join(field(5, t) for t in tensors) + more
    return field(1, 8) + field(2, producer) + field(7, graph) + field(8, field(2, 17))


def network(arrays: Mapping[str, np.ndarray], **lies: Mapping[str, Any]) -> bytes:
    """A file of the layers `<name>.weight` and so on, one behind the other.

    `lies`: of a tensor, its name with underscores for dots.
    """
    nodes, here = [], "x"
    layers = dict.fromkeys(name.rpartition(".")[0] for name in arrays)
    for number, layer in enumerate(layers):
        leaves = ("weight", "bias", "running_mean", "running_var")
        own = [f"{layer}.{leaf}" for leaf in leaves if f"{layer}.{leaf}" in arrays]
        rank = arrays[own[0]].ndim
        kind = {4: "Conv", 1: "BatchNormalization", 2: "Gemm"}[rank]
        more: dict[str, Any] = {"Gemm": {"transB": 1}, "Conv": {}}.get(kind, {"epsilon": 1e-5})
        nodes.append(node(kind, [here, *own], [f"o{number}"], f"/{layer}/{kind}", **more))
        here = f"o{number}"
    made = [tensor(n, a, **lies.get(n.replace(".", "_"), {})) for n, a in arrays.items()]
    return model(nodes, made)
