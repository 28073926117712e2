"""safetensors files, written tensor by tensor.

The safetensors library wants all tensors in memory at once, and puts the metadata into another
order in every process: the same tensors would give another file each time. The format is the length
of the header in 8 bytes, the header in JSON, and the tensors without a gap. Source: README of
github.com/huggingface/safetensors.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from shared.errors import CheckpointError, shown
from shared.weights.digests import raw_bytes

MAX_HEADER = 16 << 20  # bytes that are read back; training traces of ResNet-1202 need about twelve

CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
}


class Shaped(Protocol):
    """What a header says of a tensor: an array, or something that can be loaded as one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Shaped],
    metadata: Mapping[str, str],
    values: Iterable[tuple[str, np.ndarray]],
    max_header: int = MAX_HEADER,
) -> None:
    """Write the `values` of the `tensors`, one at a time, in any order.

    The header has the order of `tensors`; in the file wider numbers come first, so that all of them
    are aligned. Raises `CheckpointError` for what the format or the disk cannot hold.
    """
    header, places, size = _layout(path, tensors, metadata, max_header)
    try:
        with path.open("wb") as file:
            _reserve(file, size)
            file.write(header)
            for name, array in values:
                little = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
                file.seek(places[name])
                file.write(raw_bytes(little))
    except OSError as error:
        raise _cannot_write(path, error.strerror or str(error)) from None


def rewrite_metadata(
    path: Path, tensors: Mapping[str, Shaped], metadata: Mapping[str, str]
) -> None:
    """Put other metadata of the same length into a file that `write_safetensors` has written."""
    header, _, size = _layout(path, tensors, metadata, MAX_HEADER)
    try:
        with path.open("rb+") as file:
            if file.read(8) != header[:8] or os.fstat(file.fileno()).st_size != size:
                raise _cannot_write(path, "its header would have another length")
            file.seek(0)
            file.write(header)
    except OSError as error:
        raise _cannot_write(path, error.strerror or str(error)) from None


def _layout(
    path: Path, tensors: Mapping[str, Shaped], metadata: Mapping[str, str], max_header: int
) -> tuple[bytes, dict[str, int], int]:
    """The header with its length, where each tensor begins, and the size of the file."""
    spans, position = {}, 0
    for name in sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize):
        start, position = position, position + _nbytes(tensors[name])
        spans[name] = [start, position]
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, tensor in tensors.items():
        if name == "__metadata__":
            raise _cannot_write(path, "no tensor may be named '__metadata__' in safetensors")
        if tensor.dtype.name not in CODES:
            raise _cannot_write(
                path, f"{shown(name)} is {tensor.dtype.name}; safetensors hold {', '.join(CODES)}"
            )
        table[name] = {
            "dtype": CODES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": spans[name],
        }
    try:
        text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        part = error.object[max(0, error.start - 40) : error.end + 40]
        raise _cannot_write(path, f"{shown(part)} is no Unicode text") from None
    text += b" " * (-len(text) % 8)
    if len(text) > max_header:
        raise _cannot_write(
            path, f"its header would take {len(text)} bytes; {max_header} at most are read back"
        )
    header = len(text).to_bytes(8, "little") + text
    places = {name: len(header) + start for name, (start, _) in spans.items()}
    return header, places, len(header) + position


def _nbytes(tensor: Shaped) -> int:
    count = tensor.dtype.itemsize
    for n in tensor.shape:
        count *= n
    return count


def _reserve(file: BinaryIO, size: int) -> None:
    """Room on the disk, so that a full one is known at once; not every file system can tell."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise


def _cannot_write(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: cannot be written ({what})")
