"""The directory of a zip archive, read strictly: what two readers could take for two different
archives is refused.

Only what a tensor archive needs: one disk, no comment, no encryption, members stored or deflated,
which lie one after the other from the first byte to the directory. Nothing is extracted here.
Source: PKWARE's APPNOTE 6.3.10, sections 4.3.7 (local header) to 4.3.16 (end record).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shared.formats.containers import spans

STORED, DEFLATED = 0, 8
MAX_MEMBERS = 1 << 15  # more take longer than a header may
MAX_RATIO = 1000  # of deflated data; deflate itself reaches 1032

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_DIRECTORY = 32 << 20
_KNOWN_FLAGS = 0b1000_0000_1110  # deflate's level (2 bits), sizes after the data, names in UTF-8
_SIZES_AFTER_DATA = 0b1000
_MAX_DESCRIPTOR = 24  # bytes of sizes after the data


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an archive: its bytes are `packed` bytes at `offset` of the file, `size` when
    inflated.
    """

    name: str
    method: int
    crc: int
    packed: int
    size: int
    offset: int


def read_members(file: BinaryIO, fail: spans.Fail) -> list[Member]:
    """The members in the order of the file. Raises `fail(what)`.

    Checked: names are unique, no member overlaps another or the directory, both headers of a member
    agree.
    """
    file_bytes = os.fstat(file.fileno()).st_size
    start, length, count = _find_directory(file, file_bytes, fail)
    directory = _pread(file, start, length, fail)
    members, position, names = [], 0, set()
    for _ in range(count):
        member, flags, position = _parse_central(directory, position, fail)
        if member.name in names:
            raise fail(f"the member {spans.shown(member.name)} is there twice")
        names.add(member.name)
        members.append((member, flags))
    if position != length:
        raise fail(f"its directory has {length} bytes, its {count} members take {position}")
    return _locate(file, sorted(members, key=lambda pair: pair[0].offset), start, fail)


def _pread(file: BinaryIO, offset: int, count: int, fail: spans.Fail) -> bytes:
    file.seek(offset)
    if len(data := file.read(count)) != count:
        raise fail(f"it ends before byte {offset + count}")
    return data


def _find_directory(file: BinaryIO, size: int, fail: spans.Fail) -> tuple[int, int, int]:
    """(start, bytes, members) of the directory, which ends where the end records start."""
    if size < _END.size:
        raise fail(f"{size} bytes are too few for a zip archive")
    record = _END.unpack(_pread(file, end := size - _END.size, _END.size, fail))
    signature, disk, first_disk, here, count, length, start, comment = record
    if signature != b"PK\5\6" or comment:
        raise fail(
            "it does not end with the end record of a zip archive without comment; it may be cut "
            "off"
        )
    small = here, count, length, start
    large = 0xFFFF in small[:2] or 0xFFFFFFFF in small[2:]
    at = max(0, end - _LOCATOR.size)
    if (
        large or _pread(file, at, 4, fail) == b"PK\6\7"
    ):  # PyTorch writes the large records whether needed or not
        end, (here, count, length, start) = _find_end64(file, end, fail)
        later = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
        wide = (here, count, length, start)
        if any(n not in (w, mark) for n, w, mark in zip(small, wide, later, strict=True)):
            raise fail("its two end records contradict each other")
    if disk or first_disk or here != count:
        raise fail("it is one volume of several")
    if count > MAX_MEMBERS or length > _MAX_DIRECTORY:
        raise fail(
            f"it announces {count} members in a directory of {length} bytes; "
            f"{MAX_MEMBERS} members and {_MAX_DIRECTORY} bytes at most are read"
        )
    if start + length != end:
        raise fail(
            f"its directory should end at byte {end}, and is announced to end at byte "
            f"{start + length}"
        )
    return start, length, count


def _find_end64(
    file: BinaryIO, end: int, fail: spans.Fail
) -> tuple[int, tuple[int, int, int, int]]:
    """Where the end record of a large archive starts, and its counts, bytes and start of the
    directory.
    """
    if end < _LOCATOR.size + _END64.size:
        raise fail("its end record refers to a second one for large archives, which is not there")
    signature, disk, offset, disks = _LOCATOR.unpack(
        _pread(file, end - _LOCATOR.size, _LOCATOR.size, fail)
    )
    expected = end - _LOCATOR.size - _END64.size
    if signature != b"PK\6\7" or disk or disks != 1 or offset != expected:
        raise fail(
            "its end record refers to a second one for large archives, which is not just before it"
        )
    record = _END64.unpack(_pread(file, offset, _END64.size, fail))
    signature, length, _, _, disk, first_disk, *numbers = record
    if signature != b"PK\6\6" or length != _END64.size - 12 or disk or first_disk:
        raise fail("its end record for large archives is damaged")
    here, count, length, start = numbers
    return offset, (here, count, length, start)


def _parse_central(directory: bytes, position: int, fail: spans.Fail) -> tuple[Member, int, int]:
    """The member at a position of the directory (its offset is still its local header's), its
    flags, the next one.
    """
    if position + _CENTRAL.size > len(directory):
        raise fail("its directory has fewer members than it announces")
    (
        signature,
        _,
        _,
        flags,
        method,
        _,
        _,
        crc,
        packed,
        size,
        name_bytes,
        extra_bytes,
        comment_bytes,
        disk,
        _,
        _,
        offset,
    ) = _CENTRAL.unpack_from(directory, position)
    name_at = position + _CENTRAL.size
    extra_at = name_at + name_bytes
    end = extra_at + extra_bytes + comment_bytes
    if signature != b"PK\1\2" or end > len(directory) or disk:
        raise fail("an entry of its directory is damaged")
    try:
        name = directory[name_at:extra_at].decode("utf-8" if flags & 0x800 else "cp437")
    except UnicodeDecodeError:
        raise fail("a member's name is not UTF-8, as announced") from None
    if flags & ~_KNOWN_FLAGS:
        raise fail(
            f"the member {spans.shown(name)} is encrypted or needs an unknown feature (flags "
            f"{flags:#x})"
        )
    if method not in (STORED, DEFLATED):
        raise fail(
            f"the member {spans.shown(name)} is compressed with method {method}; "
            "stored and deflated members are read"
        )
    extra = directory[extra_at : extra_at + extra_bytes]
    size, packed, offset = _large(extra, (size, packed, offset), name, fail)
    if (method == STORED and packed != size) or size > packed * MAX_RATIO:
        raise fail(
            f"the member {spans.shown(name)} announces {size} bytes from {packed}; "
            f"{MAX_RATIO} times as many at most are read"
        )
    return Member(name, method, crc, packed, size, offset), flags, end


def _large(extra: bytes, values: tuple[int, ...], name: str, fail: spans.Fail) -> list[int]:
    """The sizes and the offset; those that 32 bits do not hold are in the extra field 1."""
    large, position = None, 0
    while position < len(extra):
        kind, length = (
            struct.unpack_from("<2H", extra, position)
            if position + 4 <= len(extra)
            else (0, 1 << 16)
        )
        if position + 4 + length > len(extra) or (kind == 1 and large is not None):
            raise fail(f"the extra fields of {spans.shown(name)} are damaged")
        if kind == 1:
            large = extra[position + 4 : position + 4 + length]
        position += 4 + length
    missing = sum(value == 0xFFFFFFFF for value in values)
    if missing and len(large or b"") != 8 * missing:
        raise fail(f"the extra field of {spans.shown(name)} with its sizes is damaged")
    numbers = iter(struct.unpack(f"<{missing}Q", large) if missing and large else ())
    return [next(numbers) if value == 0xFFFFFFFF else value for value in values]


def _locate(
    file: BinaryIO, members: list[tuple[Member, int]], end: int, fail: spans.Fail
) -> list[Member]:
    """The members with the offset of their data, once their local headers have been compared."""
    located, position, gap = [], 0, 0
    for member, flags in members:
        if not position <= member.offset <= position + gap:
            raise fail(
                f"the member {spans.shown(member.name)} overlaps what precedes it or leaves a gap"
            )
        start = member.offset + _LOCAL.size
        if start > end:
            raise fail(f"the member {spans.shown(member.name)} lies outside the file")
        signature, _, local_flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = (
            _LOCAL.unpack(_pread(file, member.offset, _LOCAL.size, fail))
        )
        encoding = "utf-8" if flags & 0x800 else "cp437"
        name_and_extra = _pread(file, start, name_bytes + extra_bytes, fail)
        if (signature, local_flags, method, name_and_extra[:name_bytes]) != (
            b"PK\3\4",
            flags,
            member.method,
            member.name.encode(encoding),
        ):
            raise fail(f"the two headers of the member {spans.shown(member.name)} differ")
        later = bool(flags & _SIZES_AFTER_DATA)
        if not later:
            size, packed = _large(name_and_extra[name_bytes:], (size, packed), member.name, fail)
            if (crc, packed, size) != (member.crc, member.packed, member.size):
                raise fail(
                    f"the two headers of the member {spans.shown(member.name)} differ in their "
                    "sizes"
                )
        offset = start + name_bytes + extra_bytes
        position, gap = offset + member.packed, _MAX_DESCRIPTOR if later else 0
        if position > end:
            raise fail(f"the member {spans.shown(member.name)} lies outside the file")
        located.append(
            Member(member.name, member.method, member.crc, member.packed, member.size, offset)
        )
    if not position <= end <= position + gap:
        raise fail(f"its members end at byte {position}, its directory starts at byte {end}")
    return located


def content(
    path: Path, file: BinaryIO, member: Member, fail: spans.Fail, chunk: int = 1 << 16
) -> Iterator[bytes]:
    """The bytes of a member in pieces of `chunk` at most, never more than it announces.

    Whoever takes all of them knows that the length and the checksum are right.
    """
    try:
        file.seek(member.offset)
        packed = _stored(file, member, chunk)
        yield from _checked(
            _inflated(packed, member, fail, chunk) if member.method else packed, member, fail
        )
    except OSError as error:
        raise spans.cannot_read(path, error) from None


def _stored(file: BinaryIO, member: Member, chunk: int) -> Iterator[bytes]:
    left = member.packed
    while left and (piece := file.read(min(left, chunk))):
        left -= len(piece)
        yield piece


def _inflated(
    packed: Iterator[bytes], member: Member, fail: spans.Fail, chunk: int
) -> Iterator[bytes]:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for source in packed:
            if inflate.eof:
                break
            while source:
                if piece := inflate.decompress(source, chunk):
                    yield piece
                source = inflate.unconsumed_tail
    except zlib.error:
        raise fail(f"the member {spans.shown(member.name)} cannot be inflated") from None
    if not inflate.eof or inflate.unused_data or next(packed, None):
        raise fail(
            f"the member {spans.shown(member.name)} does not end where its deflated data ends"
        )


def _checked(pieces: Iterator[bytes], member: Member, fail: spans.Fail) -> Iterator[bytes]:
    crc, size = 0, 0
    for piece in pieces:
        crc, size = zlib.crc32(piece, crc), size + len(piece)
        if size > member.size:
            break
        yield piece
    if size != member.size or crc != member.crc:
        raise fail(
            f"the member {spans.shown(member.name)} has {size} bytes, announced {member.size}, "
            "or does not match its checksum"
        )
