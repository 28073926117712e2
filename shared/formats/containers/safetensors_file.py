"""safetensors files as archives: any names, any metadata, one tensor in memory at a time."""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shared.formats.containers import spans
from shared.formats.containers.ahead import each
from shared.formats.containers.archive import Archive, Entry
from shared.weights.files import TensorFile

MAX_HEADER = spans.MAX_JSON  # bytes; some 40,000 tensors
MAX_NAME = 512  # characters
MAX_ENTRIES = 1 << 15  # more take longer than a header may

# As `shared.weights.files` reads them, by the names of NumPy.
_DTYPES = {
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


class _BoundedFile(TensorFile):
    """A `TensorFile` of a file that anybody may have made: its header is small before it is
    interpreted.
    """

    def _read_header(
        self, prefix: bytes, read: Callable[[int], bytes], size: int
    ) -> tuple[dict[str, Any], int]:
        if int.from_bytes(prefix, "little") > MAX_HEADER:
            raise self._fail(f"its first 8 bytes announce a header of more than {MAX_HEADER} bytes")
        header, start = super()._read_header(prefix, read, size)
        if len(header) > MAX_ENTRIES:
            raise self._fail(f"it has {len(header)} tensors; {MAX_ENTRIES} at most are read")
        for name, entry in header.items():
            if len(name) > MAX_NAME or not name.isprintable():
                raise self._fail(f"it has a tensor named {spans.shown(name)}")
            if isinstance(entry, dict) and isinstance(shape := entry.get("shape"), list):
                spans.checked_shape(
                    name, shape, self._fail
                )  # before anyone multiplies a million sizes
        return header, start

    def entries(self) -> dict[str, Entry]:
        """The tensors in the order of the header; none keeps this file open."""
        return {
            name: spans.span_entry(
                [spans.Span(self.path, begin, end - begin)], shape, dtype, self.path
            )
            for name, (dtype, shape, begin, end) in self._entries.items()
        }


def read(path: Path) -> Archive:
    """The tensors and the metadata of a safetensors file. Raises `CheckpointError`."""
    spans.file_size(path)
    try:
        file = _BoundedFile(path)
    except OSError as error:
        raise spans.cannot_read(path, error) from None
    return Archive("safetensors", file.entries(), file.metadata)


def write(path: Path, archive: Archive) -> None:
    """Write a safetensors file, each tensor by the thread that loads it.

    The header has the archive's order; in the file wider numbers come first, so that all of them
    are aligned.
    """
    header, places = _header(path, archive), _places(archive)
    start, turn = (
        8 + len(header),
        threading.Lock(),
    )  # writers of one file would wait for each other busily

    def put(file: BinaryIO, position: int, data: memoryview) -> None:
        while data:  # a system may take less at a time
            with turn:
                count = os.pwrite(file.fileno(), data, position)
            position, data = position + count, data[count:]

    def carry(name: str, entry: Entry) -> None:
        put(file, start + places[name], spans.raw_bytes(spans.checked_value(path, name, entry)))

    try:
        with path.open("wb") as file:
            _reserve(file, start + archive.nbytes)
            put(file, 0, memoryview(len(header).to_bytes(8, "little") + header))
            for _ in each(carry, {name: archive.entries[name] for name in places}):
                pass
    except OSError as error:
        raise spans.cannot_write(path, error.strerror or str(error)) from None


def _reserve(file: BinaryIO, size: int) -> None:
    """Room on the disk, which makes writing faster and a full disk known; not every system can."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)


def rewrite_header(path: Path, archive: Archive) -> None:
    """Other metadata of the same length in a file that `write` has written."""
    header = _header(path, archive)
    try:
        with path.open("rb+") as file:
            if int.from_bytes(file.read(8), "little") != len(header):
                raise spans.cannot_write(path, "its header would have another length")
            file.seek(8)
            file.write(header)
    except OSError as error:
        raise spans.cannot_write(path, error.strerror or str(error)) from None


def _places(archive: Archive) -> dict[str, int]:
    """Where each tensor begins behind the header, in the order of the file."""
    places, position = {}, 0
    for name, entry in sorted(archive.entries.items(), key=lambda item: -item[1].dtype.itemsize):
        places[name] = position
        position += entry.nbytes
    return places


def _header(path: Path, archive: Archive) -> bytes:
    """The JSON header, filled up with spaces to a multiple of 8 bytes."""
    places = _places(archive)
    header: dict[str, Any] = {"__metadata__": dict(archive.metadata)} if archive.metadata else {}
    for name, entry in archive.entries.items():
        spans.encoded(path, name)
        if name == "__metadata__":
            raise spans.cannot_write(path, "no tensor may be named '__metadata__' in safetensors")
        header[name] = {
            "dtype": _dtype_name(path, name, entry.dtype),
            "shape": list(entry.shape),
            "data_offsets": [places[name], places[name] + entry.nbytes],
        }
    for text in (text for pair in archive.metadata.items() for text in pair):
        spans.encoded(path, text)
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    if len(encoded) > MAX_HEADER - 8:
        raise spans.cannot_write(
            path, f"its header would take {len(encoded)} bytes, more than are read back"
        )
    return encoded + b" " * (-len(encoded) % 8)


def _dtype_name(path: Path, name: str, dtype: np.dtype) -> str:
    code = _code(dtype)
    if code is None:
        raise spans.cannot_write(
            path,
            f"{spans.shown(name)} is {dtype.name}; "
            f"safetensors are written with {', '.join(_DTYPES)}",
        )
    return code


@functools.cache
def _code(dtype: np.dtype) -> str | None:
    """Cached, because NumPy makes up the name of a dtype anew each time."""
    return _DTYPES.get(dtype.name)
