"""Flax's msgpack checkpoints (`flax.serialization.to_bytes`), read and written without Flax.

The file is one nested map. Arrays are extension type 1: a msgpack array (shape, dtype name, bytes);
NumPy scalars are type 3 of the same form, complex numbers type 2. Arrays of more than 2 ** 30 bytes
are maps of flat chunks. Source: flax/serialization.py and the msgpack specification.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shared.architecture.ops import Shape
from shared.errors import FrameworkError
from shared.formats.containers import spans
from shared.formats.containers.archive import Archive, Entry
from shared.formats.containers.flax_tree import MAX_DEPTH, MAX_PATH, nested, whole_tree
from shared.weights.dtypes import float_dtype

CHUNK = 1 << 30  # bytes of an array above which Flax writes chunks
_MAX_TEXT = 1 << 20  # characters of all leaves that are kept as metadata

MAX_ARRAYS = 1 << 15  # more take longer than a header may
_KIND = "a msgpack checkpoint of Flax"
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_CHUNKED = "__msgpack_chunked_array__"
_DTYPES = (
    "float16",
    "float32",
    "float64",
    "bfloat16",
    *(f"{s}int{n}" for s in ("", "u") for n in (8, 16, 32, 64)),
)

# The first byte of an object: its kind, and the struct of the length or number that follows.
_HEADS: dict[int, tuple[str, str]] = {
    0xC4: ("bin", ">B"),
    0xC5: ("bin", ">H"),
    0xC6: ("bin", ">I"),
    0xC7: ("ext", ">B"),
    0xC8: ("ext", ">H"),
    0xC9: ("ext", ">I"),
    0xCA: ("number", ">f"),
    0xCB: ("number", ">d"),
    0xCC: ("number", ">B"),
    0xCD: ("number", ">H"),
    0xCE: ("number", ">I"),
    0xCF: ("number", ">Q"),
    0xD0: ("number", ">b"),
    0xD1: ("number", ">h"),
    0xD2: ("number", ">i"),
    0xD3: ("number", ">q"),
    0xD9: ("str", ">B"),
    0xDA: ("str", ">H"),
    0xDB: ("str", ">I"),
    0xDC: ("array", ">H"),
    0xDD: ("array", ">I"),
    0xDE: ("map", ">H"),
    0xDF: ("map", ">I"),
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


class _Cursor:
    """Goes through the objects of a msgpack file, never past `end`. What is skipped is not read."""

    def __init__(self, file: BinaryIO, end: int, fail: spans.Fail):
        self.file, self.position, self.end, self.fail = file, 0, end, fail

    def take(self, count: int) -> bytes:
        """The next bytes."""
        self.need(count)
        data = self.file.read(count)
        if len(data) != count:
            raise self.fail(f"it ends before byte {self.position + count}")
        self.position += count
        return data

    def skip(self, count: int) -> int:
        """Where the next bytes start, which are left out."""
        self.need(count)
        start, self.position = self.position, self.position + count
        self.file.seek(self.position)
        return start

    def need(self, count: int) -> None:
        if count > self.end - self.position:
            raise self.fail(
                f"it announces {count} bytes at byte {self.position}, which ends at byte {self.end}"
            )

    def head(self) -> tuple[str, Any]:
        """The kind of the next object, and its length (the value of a number or constant)."""
        tag = self.take(1)[0]
        if tag <= 0x7F or tag >= 0xE0:
            return "number", tag if tag <= 0x7F else tag - 0x100
        if tag <= 0x8F:
            return "map", tag & 0x0F
        if tag <= 0x9F:
            return "array", tag & 0x0F
        if tag <= 0xBF:
            return "str", tag & 0x1F
        if tag in _CONSTANTS:
            return "number", _CONSTANTS[tag]
        if 0xD4 <= tag <= 0xD8:
            return "ext", 1 << (tag - 0xD4)
        if tag not in _HEADS:
            raise self.fail(f"byte {self.position - 1} starts no object of msgpack")
        kind, form = _HEADS[tag]
        return kind, struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"the text before byte {self.position} is not UTF-8") from None

    def expect(self, *kinds: str) -> Any:
        """The length of the next object, which must be of one of the kinds."""
        start = self.position
        kind, length = self.head()
        if kind not in kinds:
            raise self.fail(f"byte {start} starts a {kind}, expected {' or '.join(kinds)}")
        return length

    def key(self) -> str:
        """A key of a map, which must be a string."""
        length = self.expect("str")
        if length > 4 * MAX_PATH:
            raise self.fail(f"the key at byte {self.position} has {length} bytes")
        return self.text(length)


@dataclass
class _Tree:
    """What has been found so far."""

    path: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    objects: int = 0
    text: int = 0


def read(path: Path) -> Archive:
    """The arrays of the nested map (`whole_tree`), under `a/b/c`; other leaves are metadata.

    Raises `CheckpointError`.
    """
    size, tree = spans.file_size(path), _Tree(path)
    try:
        with path.open("rb") as file:
            cursor = _Cursor(file, size, spans.failing(path, _KIND))
            count = cursor.expect("map")
            _walk_map(cursor, count, "", 1, tree)
            if cursor.position != size:
                raise cursor.fail(
                    f"its map ends at byte {cursor.position}, the file at byte {size}"
                )
    except OSError as error:
        raise spans.cannot_read(path, error) from None
    return whole_tree("msgpack", tree.entries, tree.metadata)


def _walk(cursor: _Cursor, path: str, depth: int, tree: _Tree) -> None:
    """Take in the next object, which is at `path` of the tree."""
    tree.objects += 1
    if tree.objects > 2 * MAX_ARRAYS or len(tree.entries) > MAX_ARRAYS:
        raise cursor.fail(f"it has more than {MAX_ARRAYS} tensors")
    if depth > MAX_DEPTH or len(path) > MAX_PATH:
        raise cursor.fail(
            f"{spans.shown(path)} is nested deeper than {MAX_DEPTH} levels or {MAX_PATH} characters"
        )
    kind, length = cursor.head()
    if kind == "map":
        _walk_map(cursor, length, path + "/", depth + 1, tree)
    elif (
        kind == "array"
    ):  # a list of Python: its places are its keys, as Flax has them in state dicts
        cursor.need(length)
        for index in range(length):
            _walk(cursor, f"{path}/{index}", depth + 1, tree)
    elif kind == "ext":
        _take_extension(cursor, length, path, tree)
    elif kind == "bin":
        raise cursor.fail(
            f"{spans.shown(path)} is {length} bytes without a type, which Flax does not write"
        )
    else:
        if kind == "str" and length > _MAX_TEXT:
            raise cursor.fail(
                f"{spans.shown(path)} is a text of {length} bytes; {_MAX_TEXT} at most are read"
            )
        _keep_text(tree, path, cursor.text(length) if kind == "str" else str(length), cursor)


def _keep_text(tree: _Tree, path: str, text: str, cursor: _Cursor) -> None:
    tree.text += len(path) + len(text)
    if tree.text > _MAX_TEXT:
        raise cursor.fail(f"its leaves that are no arrays take more than {_MAX_TEXT} characters")
    _keep(tree.metadata, path, text, cursor)


def _keep(table: dict[str, Any], path: str, value: Any, cursor: _Cursor) -> None:
    if path in table:
        raise cursor.fail(f"{spans.shown(path)} is there twice")
    table[path] = value


def _walk_map(cursor: _Cursor, count: int, prefix: str, depth: int, tree: _Tree) -> None:
    cursor.need(2 * count)
    keys = set()
    for _ in range(count):
        key = cursor.key()
        if key in keys:
            raise cursor.fail(f"{spans.shown(prefix + key)} is there twice")
        keys.add(key)
        if key == _CHUNKED:
            if len(keys) != 1 or count != 3 or cursor.head() != ("number", True) or not prefix:
                raise cursor.fail(f"the chunked array {spans.shown(prefix)} is damaged")
            _keep(tree.entries, prefix[:-1], _take_chunks(cursor, prefix[:-1], tree), cursor)
            return
        _walk(cursor, prefix + key, depth, tree)


def _take_chunks(cursor: _Cursor, path: str, tree: _Tree) -> Entry:
    """The array of the two tables that follow its mark: of sizes, and of flat arrays."""
    tables = []
    for expected in ("shape", "chunks"):
        if cursor.key() != expected:
            raise cursor.fail(f"the chunked array {spans.shown(path)} lacks {expected}")
        count = cursor.expect("map")
        cursor.need(2 * count)
        tree.objects += count
        if tree.objects > 2 * MAX_ARRAYS:
            raise cursor.fail(f"it has more than {MAX_ARRAYS} tensors")
        table = {}
        for _ in range(count):
            key = cursor.key()
            table[key] = (
                cursor.expect("number") if expected == "shape" else _take_chunk(cursor, path, tree)
            )
        if set(table) != {str(index) for index in range(count)}:
            raise cursor.fail(
                f"the chunked array {spans.shown(path)} does not number its {expected} from 0"
            )
        tables.append([table[str(index)] for index in range(count)])
    shape = spans.checked_shape(path, tables[0], cursor.fail)
    dtypes = {dtype for _, dtype in tables[1]}
    if len(dtypes) != 1:
        raise cursor.fail(
            f"the chunks of {spans.shown(path)} have {len(dtypes)} dtypes, expected one"
        )
    (dtype,) = dtypes
    return _entry(cursor, path, shape, dtype, [span for span, _ in tables[1]], tree)


def _take_chunk(cursor: _Cursor, path: str, tree: _Tree) -> tuple[spans.Span, np.dtype]:
    length = cursor.expect("ext")
    code, shape, dtype, span = _take_array(cursor, length, path, tree)
    if code != _ARRAY or len(shape) != 1 or shape[0] * dtype.itemsize != span.nbytes:
        raise cursor.fail(f"a chunk of {spans.shown(path)} is no flat array")
    return span, dtype


def _take_extension(cursor: _Cursor, length: int, path: str, tree: _Tree) -> None:
    code, shape, dtype, span = _take_array(cursor, length, path, tree)
    if code == _SCALAR:
        if shape or span.nbytes != dtype.itemsize:
            raise cursor.fail(
                f"the scalar {spans.shown(path)} has the shape {list(shape)} and {span.nbytes} "
                "bytes"
            )
        cursor.file.seek(span.offset)
        value = np.frombuffer(cursor.file.read(span.nbytes), dtype)[0]
        _keep_text(tree, path, str(value), cursor)
    else:
        _keep(tree.entries, path, _entry(cursor, path, shape, dtype, [span], tree), cursor)


def _take_array(
    cursor: _Cursor, length: int, path: str, tree: _Tree
) -> tuple[int, Shape, np.dtype, spans.Span]:
    """The code, shape and dtype of an extension object of `length` bytes, and where its
    data lies.
    """
    code = cursor.take(1)[0]
    cursor.need(length)
    end = cursor.position + length
    if code not in (_ARRAY, _SCALAR):
        what = "a complex number" if code == _COMPLEX else f"of the unknown extension type {code}"
        raise cursor.fail(f"{spans.shown(path)} is {what}; arrays of real numbers are read")
    inner = _Cursor(cursor.file, end, cursor.fail)
    inner.position = cursor.position
    if inner.expect("array") != 3:
        raise cursor.fail(f"the array {spans.shown(path)} has not three parts")
    rank = inner.expect("array")
    inner.need(rank)
    if rank > 64:  # the limit of NumPy
        raise cursor.fail(f"{spans.shown(path)} has {rank} dimensions")
    shape = spans.checked_shape(path, [inner.expect("number") for _ in range(rank)], cursor.fail)
    name_length = inner.expect("str", "bin")
    name = inner.text(min(name_length, 64))
    if name not in _DTYPES:
        raise cursor.fail(
            f"{spans.shown(path)} has the dtype {spans.shown(name)}; {', '.join(_DTYPES)} are read"
        )
    nbytes = inner.expect("bin", "str")
    span = spans.Span(tree.path, inner.skip(nbytes), nbytes)
    if inner.position != end:
        raise cursor.fail(
            f"the parts of the array {spans.shown(path)} end at byte {inner.position}, it at {end}"
        )
    cursor.position = end
    return code, shape, float_dtype(name), span


def _entry(
    cursor: _Cursor, path: str, shape: Shape, dtype: np.dtype, parts: list[spans.Span], tree: _Tree
) -> Entry:
    nbytes = sum(part.nbytes for part in parts)
    if nbytes != math.prod(shape) * dtype.itemsize:
        raise cursor.fail(
            f"{spans.shown(path)} has {nbytes} bytes, which does not follow from its shape "
            f"{list(shape)} and dtype {dtype.name}"
        )
    return spans.span_entry(parts, shape, dtype, tree.path)


def write(path: Path, archive: Archive) -> None:
    """Write the bytes of `flax.serialization.to_bytes` of the nested dict, array by array.

    Metadata is left out. Raises `CheckpointError`, and `FrameworkError` without msgpack, which Flax
    brings along.
    """
    try:
        import msgpack
    except ImportError:
        raise FrameworkError(
            "a msgpack file is written by msgpack, which is not installed; pip install "
            "'resnet-rosetta[flax]'"
        ) from None
    for name, entry in archive.entries.items():
        if _CHUNKED in name.split("/"):
            raise spans.cannot_write(
                path, f"{spans.shown(name)} has a part that Flax keeps for itself"
            )
        if entry.dtype.name not in _DTYPES:
            raise spans.cannot_write(
                path, f"{spans.shown(name)} is {entry.dtype.name}, not {', '.join(_DTYPES)}"
            )
    tree = nested(path, archive.entries)
    values = spans.checked_values(path, dict(_leaves(tree, "")))
    try:
        with path.open("wb") as file:
            _write_map(file, msgpack.Packer(), tree, values)
    except OSError as error:
        raise spans.cannot_write(path, error.strerror or str(error)) from None


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Entry]]:
    """The entries in the order in which `_write_map` comes to them."""
    for key, value in tree.items():
        if isinstance(value, Entry):
            yield prefix + key, value
        else:
            yield from _leaves(value, f"{prefix}{key}/")


def _write_map(
    file: BinaryIO, packer: Any, tree: Mapping[str, Any], values: Iterator[np.ndarray]
) -> None:
    file.write(packer.pack_map_header(len(tree)))
    for key, value in tree.items():
        file.write(packer.pack(key))
        if isinstance(value, Entry):
            _write_array(file, packer, next(values))
        else:
            _write_map(file, packer, value, values)


def _write_array(file: BinaryIO, packer: Any, array: np.ndarray) -> None:
    if array.nbytes <= CHUNK:
        _write_extension(file, packer, array)
        return
    flat, size = array.reshape(-1), max(1, CHUNK // array.itemsize)
    chunks = [flat[start : start + size] for start in range(0, flat.size, size)]
    file.write(packer.pack_map_header(3))
    for item in (_CHUNKED, True, "shape", {str(i): n for i, n in enumerate(array.shape)}, "chunks"):
        file.write(packer.pack(item))
    file.write(packer.pack_map_header(len(chunks)))
    for index, chunk in enumerate(chunks):
        file.write(packer.pack(str(index)))
        _write_extension(file, packer, chunk)


def _write_extension(file: BinaryIO, packer: Any, array: np.ndarray) -> None:
    start = packer.pack_array_header(3) + packer.pack(array.shape) + packer.pack(array.dtype.name)
    if array.nbytes < 1 << 16:
        file.write(packer.pack_ext_type(_ARRAY, start + packer.pack(array.tobytes())))
        return
    start += b"\xc6" + array.nbytes.to_bytes(4, "big")  # bytes of 32 bits of length
    head = struct.pack(">BIB", 0xC9, len(start) + array.nbytes, _ARRAY)  # an extension, as well
    file.write(head + start)  # the packer would copy the array twice
    file.write(spans.raw_bytes(array))
