"""FlatBuffers, read from a file by the numbers of their fields: tables, vectors and texts.

Offsets between tables only lead forwards, so that none leads back to itself. What one file may hold
is counted, for several offsets may lead to one table. Source:
https://flatbuffers.dev/internals.
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import numpy as np

from shared.formats.containers import spans
from shared.formats.containers.protobuf import Source

MAX_TABLES = 1 << 17
MAX_BYTES = 1 << 24  # of vectors and texts that are read; what is only located is not counted
MAX_TEXT = 1 << 14
_OFFSET = 4  # bytes


class Flatbuffer:
    """A file. Every method raises what `fail` makes."""

    def __init__(self, file: BinaryIO, fail: spans.Fail, identifier: bytes):
        self.fail = fail
        self._source = Source(file, fail)
        self.size = self._source.size
        self._identifier = identifier
        self._tables, self._bytes = MAX_TABLES, MAX_BYTES
        self._fields: dict[int, tuple[int, tuple[int, ...]]] = {}

    def root(self) -> Table:
        found = self._source.take(_OFFSET, len(self._identifier)) if self.size >= 8 else b""
        if found != self._identifier:
            raise self.fail(f"its first bytes do not say {self._identifier.decode()}")
        return self.table(self.behind(0))

    def number(self, form: str, at: int) -> Any:
        return struct.unpack(form, self._source.take(at, struct.calcsize(form)))[0]

    def behind(self, at: int) -> int:
        """Where the offset at a place leads."""
        return self.ahead(at, self.number("<I", at))

    def ahead(self, at: int, offset: int) -> int:
        if offset < _OFFSET or at + offset >= self.size:
            raise self.fail(f"the offset at byte {at} leads to byte {at + offset}")
        return at + offset

    def vector(self, at: int, width: int) -> tuple[int, int]:
        """The first byte and the length of a vector of elements of so many bytes."""
        count = self.number("<I", at)
        start = at + _OFFSET
        if start + count * width > self.size:
            raise self.fail(f"a vector at byte {at} announces {count} elements, and the file ends")
        return start, count

    def take(self, start: int, count: int) -> bytes:
        self._bytes -= count
        if self._bytes < 0:
            raise self.fail(f"it has more than {MAX_BYTES:,} bytes of lists and names")
        return self._source.take(start, count)

    def table(self, at: int) -> Table:
        """The table at a place; its fields' offsets from it stand elsewhere, often for many."""
        self._tables -= 1
        if self._tables < 0:
            raise self.fail(f"it has more than {MAX_TABLES:,} tables")
        place = at - self.number("<i", at)
        if place not in self._fields:
            if not 0 <= place <= self.size - 4:
                raise self.fail(f"the table at byte {at} has its fields at byte {place}")
            nbytes, size = struct.unpack("<HH", self._source.take(place, 4))
            if nbytes < 4 or nbytes % 2:
                raise self.fail(f"the fields at byte {place} have {nbytes} bytes")
            data = self.take(place + 4, nbytes - 4)
            self._fields[place] = size, struct.unpack(f"<{len(data) // 2}H", data)
        size, offsets = self._fields[place]
        if at + size > self.size:
            raise self.fail(f"the table at byte {at} has {size} bytes, and the file ends")
        return Table(self, at, size, offsets)


class Table:
    """A table's fields, by their places in the schema from 0 on; one that is not there has a
    default.
    """

    def __init__(self, file: Flatbuffer, at: int, size: int, offsets: tuple[int, ...]):
        self._file, self._at, self._size, self._offsets = file, at, size, offsets

    def _place(self, field: int, width: int) -> int | None:
        offset = self._offsets[field] if field < len(self._offsets) else 0
        if not offset:
            return None
        if offset < _OFFSET or offset + width > self._size:
            raise self._file.fail(f"the field {field} of the table at byte {self._at} is outside")
        return self._at + offset

    def _led_to(self, field: int) -> int | None:
        place = self._place(field, _OFFSET)
        return None if place is None else self._file.behind(place)

    def number(self, field: int, form: str = "<i", default: Any = 0) -> Any:
        """A number of a form of `struct`."""
        place = self._place(field, struct.calcsize(form))
        return default if place is None else self._file.number(form, place)

    def text(self, field: int) -> str:
        place = self._led_to(field)
        if place is None:
            return ""
        start, count = self._file.vector(place, 1)
        if count > MAX_TEXT:
            raise self._file.fail(
                f"a text at byte {place} has {count} bytes; {MAX_TEXT:,} are read"
            )
        return str(self._file.take(start, count), "utf-8", "replace")

    def numbers(self, field: int, dtype: str = "<i4") -> np.ndarray:
        """A vector of numbers; an empty one where there is none."""
        width = np.dtype(dtype).itemsize
        start, count = self.span(field, width)
        return np.frombuffer(self._file.take(start, count * width), dtype)

    def span(self, field: int, width: int = 1) -> tuple[int, int]:
        """Where a vector's elements start, and how many there are; nothing of it is read."""
        place = self._led_to(field)
        return (0, 0) if place is None else self._file.vector(place, width)

    def table(self, field: int) -> Table | None:
        place = self._led_to(field)
        return None if place is None else self._file.table(place)

    def tables(self, field: int) -> list[Table]:
        """A vector of tables."""
        start, count = self.span(field, _OFFSET)
        if count > MAX_TABLES:
            raise self._file.fail(f"a vector before byte {start} announces {count} tables")
        offsets = np.frombuffer(self._file.take(start, count * _OFFSET), "<u4").tolist()
        return [
            self._file.table(self._file.ahead(start + k * _OFFSET, offset))
            for k, offset in enumerate(offsets)
        ]
