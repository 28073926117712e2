"""NumPy's `.npz`: a zip archive of `.npy` files. Arrays of Python objects, which are pickles, are
never read.

The header of a `.npy` file is a Python expression. NumPy hands it to Python's compiler, where no
byte of an untrusted file goes here (`ast.literal_eval` is not safe from deep nesting either): it
must have exactly the form that NumPy writes (`numpy.lib.format`, versions 1 to 3).
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from shared.architecture.ops import Shape
from shared.formats.containers import spans
from shared.formats.containers.archive import Archive, Entry
from shared.formats.containers.zip_members import Member, content, read_members
from shared.weights.dtypes import float_dtype

MAX_INFLATED = 8 << 30  # bytes of all tensors together; the largest BiT has 3.7 GB

_KIND = "an npz archive"
_HEADER = re.compile(
    r"\{'descr': (?P<descr>'[^'\n]{1,16}'|\[[^\n]*\]), 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>[0-9L, ]{0,256})\),? ?\}[ \n]*"
)
_DESCR = re.compile(r"'(?P<order>[<>|=]?)(?P<kind>[fiuV])(?P<size>[1248])'")
_NAMES = {"f": "float", "i": "int", "u": "uint"}
_MAX_HEADER = 4096
_SUFFIX = ".npy"
_WRITTEN = (
    "float16",
    "float32",
    "float64",
    "bfloat16",
    *(f"{s}int{n}" for s in ("", "u") for n in (8, 16, 32, 64)),
)


class _Layout(NamedTuple):
    """What the header of a `.npy` file says, and its length."""

    dtype: np.dtype  # little-endian
    swapped: bool
    fortran: bool
    shape: Shape
    length: int


def read(path: Path) -> Archive:
    """The arrays of an npz archive, under their names without `.npy`.

    Two bytes of no type (`V2`) are bfloat16, which NumPy has no name for. Raises `CheckpointError`.
    """
    fail = spans.failing(path, _KIND)
    spans.file_size(path)
    entries: dict[str, Entry] = {}
    try:
        with path.open("rb") as file:
            members = read_members(file, fail)
            if sum(member.size for member in members) > MAX_INFLATED:
                raise fail(
                    f"its members inflate to more than the {MAX_INFLATED} bytes that are read"
                )
            for member in members:
                if not member.name.endswith(_SUFFIX):
                    raise fail(f"its member {spans.shown(member.name)} is no {_SUFFIX} file")
                pieces = content(path, file, member, fail, chunk=256)
                layout, _ = _parse_header(pieces, member, fail)
                entries[member.name.removesuffix(_SUFFIX)] = _entry(path, member, layout)
    except OSError as error:
        raise spans.cannot_read(path, error) from None
    return Archive("npz", entries)


def _parse_header(
    pieces: Iterator[bytes], member: Member, fail: spans.Fail
) -> tuple[_Layout, bytes]:
    """The header of a `.npy` file, and the data in the last piece that was taken for it."""
    name = member.name
    start = bytearray()

    def need(count: int) -> None:
        while len(start) < count:
            piece = next(pieces, None)
            if piece is None:
                raise fail(f"{spans.shown(name)} ends within its header")
            start.extend(piece)

    need(12)
    version = bytes(start[6:8])
    if start[:6] != b"\x93NUMPY" or version not in (b"\1\0", b"\2\0", b"\3\0"):
        raise fail(f"{spans.shown(name)} is no {_SUFFIX} file of version 1 to 3")
    begin = 10 if version == b"\1\0" else 12
    length = int.from_bytes(start[8:begin], "little")
    if length > _MAX_HEADER:
        raise fail(
            f"{spans.shown(name)} has a header of {length} bytes; {_MAX_HEADER} at most are read"
        )
    need(begin + length)
    layout = _parse_layout(
        start[begin : begin + length].decode("latin-1"), begin + length, name, fail
    )
    if layout.length + math.prod(layout.shape) * layout.dtype.itemsize != member.size:
        raise fail(
            f"{spans.shown(name)} has {member.size} bytes, which does not follow from its shape "
            f"{list(layout.shape)} and dtype {layout.dtype.name}"
        )
    return layout, bytes(start[layout.length :])


def parse_start(file: BinaryIO, name: str, fail: spans.Fail) -> tuple[Shape, str, int]:
    """Of a `.npy` file: the shape, the kind of its dtype ("O": objects), and where its data are."""
    start = file.read(12)
    begin = 10 if start[6:8] == b"\1\0" else 12
    if start[:6] != b"\x93NUMPY" or start[6:8] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise fail(f"{spans.shown(name)} is no {_SUFFIX} file of version 1 to 3")
    length = int.from_bytes(start[8:begin], "little")
    if length > _MAX_HEADER:
        raise fail(
            f"{spans.shown(name)} has a header of {length} bytes; {_MAX_HEADER} at most are read"
        )
    file.seek(begin)
    header = file.read(length)
    match = _HEADER.fullmatch(header.decode("latin-1"))
    if len(header) != length or match is None:
        raise fail(f"{spans.shown(name)} has a header that NumPy would not write")
    found = match["descr"]
    shape = _parse_shape(match["shape"], name, fail)
    return shape, "O" if found.strip("'|") in ("O", "O4", "O8") else found, begin + length


def _parse_layout(text: str, length: int, name: str, fail: spans.Fail) -> _Layout:
    match = _HEADER.fullmatch(text)
    if match is None:
        raise fail(f"{spans.shown(name)} has a header that NumPy would not write")
    found = match["descr"]
    if "O" in found:
        raise fail(
            f"{spans.shown(name)} holds Python objects, which are never read; save plain arrays "
            "of numbers"
        )
    descr = _DESCR.fullmatch(found)
    size = int(descr["size"]) if descr else 0
    if descr is None or (descr["kind"], size) in (("f", 1), ("V", 1), ("V", 4), ("V", 8)):
        said = spans.shown(found.strip("'"))
        raise fail(
            f"{spans.shown(name)} has the dtype {said}; floats and integers of 8 to 64 bits are "
            "read"
        )
    dtype = float_dtype(
        "bfloat16" if descr["kind"] == "V" else f"{_NAMES[descr['kind']]}{8 * size}"
    )
    shape = _parse_shape(match["shape"], name, fail)
    return _Layout(
        dtype, descr["order"] == ">" and size > 1, match["fortran"] == "True", shape, length
    )


def _parse_shape(text: str, name: str, fail: spans.Fail) -> Shape:
    sizes = [part.strip().removesuffix("L") for part in text.split(",")]  # Python 2 wrote 3L
    if sizes[-1] == "":  # (), (3,)
        sizes.pop()
    elif len(sizes) == 1:
        sizes = [""]  # (3) is no tuple
    if not all(part.isdigit() for part in sizes):
        raise fail(f"{spans.shown(name)} has a shape that NumPy would not write")
    return spans.checked_shape(name, [int(part) for part in sizes], fail)


def _entry(path: Path, member: Member, layout: _Layout) -> Entry:
    fail = spans.failing(path, _KIND)

    def load() -> np.ndarray:
        array = spans.empty(
            layout.shape[::-1] if layout.fortran else layout.shape, layout.dtype, path
        )
        target, position = spans.raw_bytes(array), 0
        try:
            with path.open("rb") as file:
                pieces = content(path, file, member, fail)
                found, first = _parse_header(pieces, member, fail)
                if found != layout:
                    raise fail(
                        f"the header of {spans.shown(member.name)} has changed since it was read"
                    )
                for piece in chain([first], pieces):
                    target[position : position + len(piece)] = piece
                    position += len(piece)
        except OSError as error:
            raise spans.cannot_read(path, error) from None
        if layout.swapped:
            array.byteswap(inplace=True)
        return array.T if layout.fortran else array

    return Entry(layout.shape, layout.dtype, load)


def write(path: Path, archive: Archive) -> None:
    """Write an npz archive that `numpy.load` reads; not compressed, the same bytes every time."""
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
            for name, entry in archive.entries.items():
                if entry.dtype.name not in _WRITTEN:
                    raise spans.cannot_write(
                        path,
                        f"{spans.shown(name)} is {entry.dtype.name}; "
                        f"npz is written with {', '.join(_WRITTEN)}",
                    )
            for name, array in zip(
                archive.entries, spans.checked_values(path, archive.entries), strict=True
            ):
                member = zipfile.ZipInfo(_member_name(path, name), date_time=(1980, 1, 1, 0, 0, 0))
                with file.open(member, "w", force_zip64=True) as target:
                    np.lib.format.write_array(target, array, version=(1, 0), allow_pickle=False)
    except OSError as error:
        raise spans.cannot_write(path, error.strerror or str(error)) from None


def _member_name(path: Path, name: str) -> str:
    length = len(spans.encoded(path, name + _SUFFIX))
    if "\0" in name or length > 0xFFFF:
        raise spans.cannot_write(
            path, f"{spans.shown(name)} cannot be the name of a member of a zip archive"
        )
    return name + _SUFFIX
