"""The wire format of protocol buffers, read strictly from a file or from bytes: numbers and spans,
of which nothing is copied that is not asked for.

Source: https://protobuf.dev/programming-guides/encoding. Groups, which nothing here has, are
refused, and so are fields of a message that may stand there once and stand there twice.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from shared.formats.containers import spans

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_FIELDS = 1 << 19  # of a file; a grouped network as tf2cv splits it has 200,000
_WINDOW = 1 << 16
_MAX_VARINT = 10  # bytes


class Field(NamedTuple):
    """A field of a message: its number, and its value or, of bytes, where they are."""

    number: int
    kind: int
    value: int  # of a varint or a fixed number, without sign
    start: int
    end: int

    @property
    def signed(self) -> int:
        """The value as an int64."""
        return self.value - (1 << 64) if self.value >> 63 else self.value

    @property
    def single_precision(self) -> float:
        """The value of a fixed number as a float32."""
        return float(struct.unpack("<f", (self.value & 0xFFFFFFFF).to_bytes(4, "little"))[0])


class Source:
    """Bytes by their places: of a file, through a small window, or in memory."""

    def __init__(self, data: BinaryIO | bytes, fail: spans.Fail):
        self.fail = fail
        self._file = None if isinstance(data, bytes) else data
        self._window = data if isinstance(data, bytes) else b""
        self._start = 0
        self.size = len(data) if isinstance(data, bytes) else os.fstat(data.fileno()).st_size
        self._fields = MAX_FIELDS

    def take(self, start: int, count: int) -> bytes:
        """Bytes that are there."""
        if start < 0 or count < 0 or start + count > self.size:
            raise self.fail(f"it ends before byte {start + count}")
        at = start - self._start
        if at < 0 or at + count > len(self._window):
            if self._file is None:
                raise self.fail(f"it ends before byte {start + count}")
            self._file.seek(start)
            self._window = self._file.read(max(count, _WINDOW))
            self._start, at = start, 0
            if len(self._window) < count:
                raise self.fail(f"it ends before byte {start + count}")
        return self._window[at : at + count]

    def text(self, field: Field, limit: int = 4096) -> str:
        """The text of a field of bytes."""
        size = self.size_of(field)
        if size > limit:
            raise self.fail(f"a text at byte {field.start} has {size} bytes; {limit} are read")
        try:
            return self.take(field.start, size).decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"the text at byte {field.start} is not UTF-8") from None

    def size_of(self, field: Field) -> int:
        if field.kind != BYTES:
            raise self.fail(f"the field {field.number} before byte {field.end} holds no bytes")
        return field.end - field.start

    def number(self, field: Field) -> int:
        """The value of a field that is a varint or a fixed number."""
        if field.kind == BYTES:
            raise self.fail(f"the field {field.number} at byte {field.start} is no number")
        return field.value

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """The number at a position, and where the next thing starts."""
        at = position - self._start
        if position < end and 0 <= at < len(self._window) and self._window[at] < 0x80:
            return self._window[at], position + 1  # most have a single byte
        value = 0
        head = self.take(position, min(_MAX_VARINT, max(0, end - position)))
        for index, byte in enumerate(head):
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if value >= 1 << 64:
                    raise self.fail(f"the number at byte {position} has more than 64 bits")
                return value, position + index + 1
        raise self.fail(f"the number at byte {position} does not end")

    def fields(self, start: int = 0, end: int | None = None) -> Iterator[Field]:
        """The fields of the message in these bytes."""
        position, end = start, self.size if end is None else end
        if end > self.size:
            raise self.fail(f"it ends before byte {end}")
        while position < end:
            self._fields -= 1
            if self._fields < 0:
                raise self.fail(f"it has more than {MAX_FIELDS:,} fields")
            tag, position = self.varint(position, end)
            number, kind = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise self.fail(f"the field before byte {position} has the number {number}")
            if kind == VARINT:
                at = position
                value, position = self.varint(position, end)
                yield Field(number, kind, value, at, position)
                continue
            if kind == BYTES:
                size, position = self.varint(position, end)
                value = 0
            elif kind in (FIXED64, FIXED32):
                size = 8 if kind == FIXED64 else 4
                value = -1
            else:
                raise self.fail(f"the field before byte {position} is of the unknown kind {kind}")
            if size > end - position:
                raise self.fail(
                    f"a field announces {size} bytes at byte {position}, in what ends at byte {end}"
                )
            if value < 0:
                value = struct.unpack("<Q" if size == 8 else "<L", self.take(position, size))[0]
            yield Field(number, kind, value, position, position + size)
            position += size

    def inside(self, field: Field) -> Iterator[Field]:
        """The fields of the message that is in a field."""
        self.size_of(field)
        return self.fields(field.start, field.end)

    def single(self, start: int, end: int, many: tuple[int, ...] = ()) -> dict[int, Field]:
        """The fields of a message by their numbers, none of them twice; without those of `many`."""
        found: dict[int, Field] = {}
        for field in self.fields(start, end):
            if field.number in many:
                continue
            if field.number in found:
                raise self.fail(f"the field {field.number} before byte {field.end} is there twice")
            found[field.number] = field
        return found


def varints(data: np.ndarray, count: int) -> np.ndarray | None:
    """The numbers, uint64, of uint8 bytes that are `count` packed varints; None if they are not."""
    ends = np.flatnonzero(data < 0x80)
    if len(ends) != count or (len(data) and (not count or ends[-1] != len(data) - 1)):
        return None
    starts = np.concatenate(([0], ends[:-1] + 1)) if count else ends
    if count and (ends - starts).max() >= _MAX_VARINT:
        return None
    numbers = np.zeros(count, np.uint64)
    for byte in range(_MAX_VARINT):
        there = starts + byte <= ends
        part = data[(starts + byte)[there]].astype(np.uint64) & np.uint64(0x7F)
        numbers[there] |= part << np.uint64(7 * byte)
    return numbers
