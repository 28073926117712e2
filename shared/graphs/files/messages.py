"""Messages of protocol buffers by a schema: what graphs are written in.

A schema says which fields of a message are wanted, by their numbers; all others are stepped over.
The wire format is that of `shared.formats.containers.protobuf`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from shared.errors import CheckpointError
from shared.formats.containers.protobuf import BYTES as SPAN
from shared.formats.containers.protobuf import Field, Source, varints

MAX_DEPTH = 100  # as protobuf's own parsers
_FEW = 1024  # bytes of packed numbers that become single ones, as axes and sizes are


class Record:
    """A message: its fields are attributes; one that is not there has its default."""

    def __init__(self, fields: Mapping[str, Any]):
        self.__dict__.update(fields)

    def __getattr__(self, name: str) -> Any:  # for type checkers; the schema says what there is
        raise AttributeError(name)


class Kind:
    """What a field holds: how it is read, its default, and how a packed list of it is read."""

    def __init__(
        self,
        read: Callable[[Source, Field], Any],
        default: Any,
        packed: Callable[[bytes], np.ndarray] | None = None,
    ):
        self.read, self.default, self.packed = read, default, packed


class Schema:
    """A message: field number -> (name, what it holds)."""

    def __init__(self, fields: Mapping[int, tuple[str, Any]]):
        self.fields = dict(fields)


class Repeated:
    """A list; of packed numbers, long ones are arrays in it (see `numbers`)."""

    def __init__(self, kind: Kind | Schema):
        self.kind = kind


class Table:
    """A map from strings."""

    def __init__(self, kind: Kind | Schema):
        self.entry = Schema({1: ("key", STRING), 2: ("value", kind)})


class Later:
    """A message that is read when it is needed."""

    def __init__(self, source: Source, field: Field):
        source.size_of(field)
        self._source, self._field = source, field

    def read(self, schema: Schema) -> Record:
        return _message(self._source, self._field.start, self._field.end, schema, MAX_DEPTH)


def _varints(data: bytes) -> np.ndarray:
    """Packed integers, as int64."""
    raw = np.frombuffer(data, np.uint8)
    found = varints(raw, int(np.count_nonzero(raw < 0x80)))
    if found is None:
        raise CheckpointError("a packed integer is cut off, or has more than 64 bits")
    return found.view(np.int64)


def _fixed(dtype: str) -> Kind:
    """A number of four or eight bytes."""
    size = np.dtype(dtype).itemsize

    def read(source: Source, field: Field) -> Any:
        if field.kind == SPAN or field.end - field.start != size:
            raise source.fail(f"the field before byte {field.end} is no number of {size} bytes")
        return np.frombuffer(field.value.to_bytes(size, "little"), dtype)[0].item()

    def packed(data: bytes) -> np.ndarray:
        if len(data) % size:
            raise CheckpointError("a list of numbers is cut off")
        return np.frombuffer(data, dtype)

    return Kind(read, np.zeros((), dtype).item(), packed)


def _integer(source: Source, field: Field) -> int:
    source.number(field)
    return field.signed


def _bytes(source: Source, field: Field) -> bytes:
    return source.take(field.start, source.size_of(field))


INT = Kind(_integer, 0, _varints)
FLOAT, DOUBLE, FIXED32 = _fixed("<f4"), _fixed("<f8"), _fixed("<u4")
BYTES = Kind(_bytes, b"")
LATER = Kind(Later, None)
STRING = Kind(lambda source, field: str(_bytes(source, field), "utf-8", "replace"), "")


def parse(source: Source, schema: Schema) -> Record:
    """The message that `source` holds. Raises `CheckpointError` for bytes that are none."""
    return _message(source, 0, source.size, schema, MAX_DEPTH)


def of_bytes(data: bytes, schema: Schema) -> Record:
    """`parse`, of bytes that a framework in this process has written."""
    return parse(Source(data, CheckpointError), schema)


def _message(source: Source, start: int, end: int, schema: Schema, depth: int) -> Record:
    if not depth:
        raise source.fail(f"its messages are nested more than {MAX_DEPTH} deep")
    values = {name: _default(kind) for name, kind in schema.fields.values()}
    for field in source.fields(start, end):
        if field.number not in schema.fields:
            continue
        name, kind = schema.fields[field.number]
        if isinstance(kind, Table):
            entry = _one(source, field, kind.entry, depth)
            values[name][entry.key] = entry.value
        elif not isinstance(kind, Repeated):
            values[name] = _one(source, field, kind, depth)
        elif field.kind == SPAN and isinstance(kind.kind, Kind) and kind.kind.packed:
            data = _bytes(source, field)
            found = kind.kind.packed(data)
            values[name] += found.tolist() if len(data) < _FEW else [found]
        else:
            values[name].append(_one(source, field, kind.kind, depth))
    return Record(values)


def _one(source: Source, field: Field, kind: Any, depth: int) -> Any:
    if isinstance(kind, Kind):
        return kind.read(source, field)
    source.size_of(field)
    return _message(source, field.start, field.end, kind, depth - 1)


def _default(kind: Any) -> Any:
    if isinstance(kind, Repeated):
        return []
    if isinstance(kind, Table):
        return {}
    return None if isinstance(kind, Schema) else kind.default


def numbers(found: list[Any], dtype: Any) -> np.ndarray:
    """A repeated number in one array: single ones and packed ones may follow each other."""
    parts = [np.atleast_1d(np.asarray(part, dtype)) for part in found]
    return np.concatenate(parts) if parts else np.zeros(0, dtype)
