"""Checkpoints of one file, as they were before 2017; TF-slim's released ResNets are such.

One table of LevelDB has everything: under the empty key what tensors there are, and under each
tensor's key its values. Source: tensorflow, `core/util/saved_tensor_slice.proto`,
`core/util/saved_tensor_slice_util.cc` and, for the keys, `core/lib/strings/ordered_code.cc`.
"""

from __future__ import annotations

import bisect
import math
from pathlib import Path

import numpy as np

from shared.architecture.ops import Shape
from shared.errors import CheckpointError
from shared.formats.containers import spans
from shared.formats.containers.archive import MAX_TENSORS, Archive, Entry
from shared.formats.containers.protobuf import BYTES, Field, Source, varints
from shared.formats.containers.tensorflow import leveldb_table
from shared.formats.containers.tensorflow.leveldb_table import Block
from shared.formats.containers.tensorflow.types import QUANTISED, STRING, dtype_of, shape_of

_MAX_NAME = 4096  # bytes
_META, _DATA = 1, 2
# The field of a tensor's message that has the values of a dtype, and how they are in it.
_FIXED = {"float32": (5, "<f4"), "float64": (6, "<f8")}
_VARINTS = {
    **dict.fromkeys(("int32", "int16", "int8", "uint8", "uint16"), 7),
    **dict.fromkeys(("float16", "bfloat16"), 13),
    "int64": 10,
    "bool": 11,
}
_CONTENT = 4


_NONE = Field(0, 0, 0, 0, 0)


def is_old(source: Source) -> bool:
    """Whether a table is such a checkpoint, by what is under its empty key."""
    message = _first(source)
    first = next(message.fields(), _NONE) if message is not None else _NONE
    return first.number == _META and first.kind == BYTES


def _first(source: Source) -> Source | None:
    found = leveldb_table.blocks(source)
    for item in leveldb_table.items(source, found[0]) if found else ():
        return None if item.key else Source(bytes(item.value), source.fail)
    return None


def read(path: Path, source: Source) -> Archive:
    """The tensors of a checkpoint. Tensors of texts are left out. Raises `CheckpointError`."""
    meta = _first(source)
    top = meta.single(0, meta.size) if meta is not None else {}
    if meta is None or _META not in top:
        raise source.fail("it is a table, but has no list of tensors")
    index = leveldb_table.indexed(source)
    entries: dict[str, Entry] = {}
    skipped: dict[str, str] = {}
    for field in meta.inside(top[_META]):
        if field.number != 1:
            continue
        meta.size_of(field)
        parts = meta.single(field.start, field.end, many=(4,))
        name = meta.text(parts[1], _MAX_NAME) if 1 in parts else ""
        code = meta.number(parts[3]) if 3 in parts else 0
        if not name or not name.isprintable() or name in entries or name in skipped:
            raise source.fail(f"a tensor is called {spans.shown(name)}, or two are")
        shape = shape_of(name, meta, parts.get(2))
        slices = [f for f in meta.fields(field.start, field.end) if f.number == 4]
        if len(slices) != 1 or not _is_whole(meta, slices[0]):
            raise source.fail(
                f"{spans.shown(name)} is stored in slices (a partitioned variable); load it with "
                "TensorFlow and save it whole"
            )
        if code == STRING:
            skipped[name] = "a tensor of texts"
            continue
        if code in QUANTISED:
            raise source.fail(
                f"{spans.shown(name)} is quantised; tensors of plain numbers are read"
            )
        if len(entries) == MAX_TENSORS:
            raise source.fail(f"it has more than {MAX_TENSORS:,} tensors")
        dtype = dtype_of(name, code, source.fail)
        entries[name] = _entry(path, name, shape, dtype, source.fail, index)
    total = sum(entry.nbytes for entry in entries.values())
    if total > leveldb_table.MAX_RATIO * source.size:
        raise source.fail(f"it announces {total:,} bytes of tensors in {source.size:,} bytes")
    return Archive("tf-checkpoint", entries, skipped)


def _is_whole(source: Source, field: Field) -> bool:
    """Whether a slice is all of its tensor: each of its extents is empty."""
    return all(part.number == 1 and source.size_of(part) == 0 for part in source.inside(field))


def _key(name: str, rank: int) -> bytes:
    """Under which a tensor's values are, in an order that LevelDB can sort."""
    raw = name.encode().replace(b"\xff", b"\xff\x00").replace(b"\x00", b"\x00\xff")
    return (
        b"\x00" + raw + b"\x00\x01" + (bytes([1, rank]) if rank else b"\x00") + b"\x80\x7f" * rank
    )


def _entry(
    path: Path,
    name: str,
    shape: Shape,
    dtype: np.dtype,
    fail: spans.Fail,
    index: tuple[list[bytes], list[Block]],
) -> Entry:
    key = _key(name, len(shape))
    keys, blocks = index
    at = bisect.bisect_left(keys, key)
    if at == len(blocks):
        raise fail(f"the values of {spans.shown(name)} are not there")

    def load() -> np.ndarray:
        try:
            with path.open("rb") as file:
                source = Source(file, fail)
                for item in leveldb_table.items(source, blocks[at]):
                    if item.key == key:
                        return _values(name, Source(bytes(item.value), fail), shape, dtype)
        except OSError as error:
            raise spans.cannot_read(path, error) from None
        raise fail(f"the values of {spans.shown(name)} are not there")

    return Entry(shape, dtype, load)


def _values(name: str, source: Source, shape: Shape, dtype: np.dtype) -> np.ndarray:
    def wrong(what: str) -> CheckpointError:
        return source.fail(f"the values of {spans.shown(name)} {what}")

    top = source.single(0, source.size)
    if _DATA not in top:
        raise wrong("are not there")
    source.size_of(top[_DATA])
    saved = source.single(top[_DATA].start, top[_DATA].end)
    if 1 not in saved or 3 not in saved or source.text(saved[1], _MAX_NAME) != name:
        raise wrong("are those of another tensor")
    source.size_of(saved[3])
    tensor = source.single(saved[3].start, saved[3].end)
    if _CONTENT in tensor:
        where, stored = tensor[_CONTENT], dtype.newbyteorder("<")
    elif dtype.name in _FIXED:
        number, form = _FIXED[dtype.name]
        where, stored = tensor.get(number, _NONE), np.dtype(form)
    else:
        return _varints(source, tensor.get(_VARINTS.get(dtype.name, 0), _NONE), shape, dtype, wrong)
    size = where.end - where.start
    if size != math.prod(shape) * stored.itemsize or (size and where.kind != BYTES):
        raise wrong(f"have {size} bytes, which do not follow from its shape {list(shape)}")
    array = np.frombuffer(source.take(where.start, size), stored).reshape(shape).copy()
    return array.view(np.uint8) != 0 if dtype == np.bool_ else array.astype(dtype, copy=False)


def _varints(
    source: Source, field: Field, shape: Shape, dtype: np.dtype, wrong: spans.Fail
) -> np.ndarray:
    """Values each of which is a number of one to ten bytes."""
    count = math.prod(shape)
    if field.kind != BYTES and field is not _NONE:
        raise wrong("are not packed")
    data = np.frombuffer(source.take(field.start, field.end - field.start), np.uint8)
    numbers = varints(data, count)
    if numbers is None:
        raise wrong(f"are not {count} numbers")
    if dtype.name in ("float16", "bfloat16"):
        return numbers.astype(np.uint16).view(dtype).reshape(shape)
    if dtype == np.bool_:
        return (numbers != 0).reshape(shape)
    return numbers.view(np.int64).astype(dtype).reshape(shape)
