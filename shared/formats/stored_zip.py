"""Where the members of an uncompressed zip file lie, as strictly as a program's own files allow.

Members are read in place, so what is wanted of a zip file is its list of names, offsets and sizes. The list is
checked before it is believed: its size and number of members, that members are stored as they are, have proper
and different names, and lie in the file one after the other.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, NamedTuple

from shared.formats.archive import MAX_TENSORS
from shared.formats.spans import shown

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_MEMBERS = MAX_TENSORS + 64
_MAX_DIRECTORY = 32 << 20  # bytes
_ENCRYPTED = 1
_LATER = 0xFFFFFFFF  # a 32-bit field whose value is in the zip64 field


class ZipRefused(ValueError):
    """A zip file that is damaged, or not what a checkpoint is. One line, without the path."""


class Member(NamedTuple):
    """`size` bytes at `offset` of the file."""

    offset: int
    size: int


def read_members(file: BinaryIO, size: int) -> dict[str, Member]:
    """The members of a zip file of `size` bytes, in the order of its directory. Raises `ZipRefused`."""
    start, end, count = _find_directory(file, size)
    if count > _MAX_MEMBERS or end - start > _MAX_DIRECTORY:
        raise ZipRefused(f"it announces {count:,} members, more than a network has tensors")
    file.seek(start)
    try:
        headers = _parse_directory(file.read(end - start), count)
        return _check_members(file, headers, start)
    except struct.error:
        raise ZipRefused("its directory is damaged") from None


def _find_directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Start and end of the directory, and its number of members."""
    tail_size = _END64.size + _LOCATOR.size + _END.size
    file.seek(max(0, size - tail_size))
    tail = file.read(tail_size).rjust(tail_size, b"\0")
    signature, disk, _, _, count, length, start, comment = _END.unpack(tail[-_END.size :])
    if signature != b"PK\5\6" or disk or comment:
        raise ZipRefused("it does not end as a zip file does; it is cut short or something was appended")
    end = size - _END.size
    locator, _, position, _ = _LOCATOR.unpack(tail[_END64.size : -_END.size])
    if locator == b"PK\6\7":
        end = size - tail_size
        record = _END64.unpack(tail[: _END64.size])
        if record[0] != b"PK\6\6" or position != end:
            raise ZipRefused("its zip64 directory is damaged")
        pairs = zip((count, length, start), record[-3:], (0xFFFF, _LATER, _LATER), strict=True)
        if any(small not in (large, later) for small, large, later in pairs):
            raise ZipRefused("its two directories contradict each other")
        count, length, start = record[-3:]
    if start + length != end:
        raise ZipRefused("its directory does not lie where it says")
    return start, end, count


def _parse_directory(directory: bytes, count: int) -> dict[str, Member]:
    """Name -> offset of the local header and size of the data."""
    headers: dict[str, Member] = {}
    position = 0
    for _ in range(count):
        fields = _CENTRAL.unpack_from(directory, position)
        signature, flags, method, packed, size, offset = (fields[i] for i in (0, 3, 4, 8, 9, 16))
        position += _CENTRAL.size
        name, extra = directory[position : position + fields[10]], position + fields[10]
        position = extra + fields[11] + fields[12]
        if signature != b"PK\1\2" or position > len(directory):
            raise ZipRefused("its directory is damaged")
        text = _checked_name(name)
        if text in headers:
            raise ZipRefused(f"it has two members named {shown(text)}")
        if method or flags & _ENCRYPTED:
            kind = "encrypted" if flags & _ENCRYPTED else "compressed"
            raise ZipRefused(f"its member {shown(text)} is {kind}, which PyTorch does not do")
        if _LATER in (size, packed, offset):
            size, packed, offset = _zip64(directory[extra : extra + fields[11]], size, packed, offset)
        if size != packed:
            raise ZipRefused(f"its member {shown(text)} has two sizes")
        headers[text] = Member(offset, size)
    if position != len(directory):
        raise ZipRefused("its directory has more members than it announces")
    return headers


def _checked_name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ZipRefused("the name of a member is not UTF-8") from None
    if not name.isprintable() or len(name) > 512 or "\\" in name or name[:1] in ("", "/") or ".." in name.split("/"):
        raise ZipRefused(f"the name of a member is not acceptable: {shown(name)}")
    return name


def _zip64(extra: bytes, *values: int) -> list[int]:
    """The values, with those that were put off taken from the zip64 field."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{min(length // 8, 3)}Q", extra, position))
            return [next(wide, _LATER) if value == _LATER else value for value in values]
        position += length
    return list(values)


def _check_members(file: BinaryIO, headers: dict[str, Member], end: int) -> dict[str, Member]:
    """The members with the offset of their data; they must not overlap, nor reach into the directory."""
    members = {}
    limit = 0
    for name, header in sorted(headers.items(), key=lambda item: item[1].offset):
        if not limit <= header.offset <= end - _LOCAL.size:
            raise ZipRefused(f"its member {shown(name)} overlaps another, or lies outside the file")
        file.seek(header.offset)
        fields = _LOCAL.unpack(file.read(_LOCAL.size))
        start = header.offset + _LOCAL.size + fields[9] + fields[10]
        if fields[0] != b"PK\3\4" or fields[3] or file.read(fields[9]) != name.encode():
            raise ZipRefused(f"its member {shown(name)} is not where its directory says")
        limit = start + header.size
        if limit > end:
            raise ZipRefused(f"its member {shown(name)} is larger than the file")
        members[name] = Member(start, header.size)
    return {name: members[name] for name in headers}
