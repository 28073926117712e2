"""Snappy, as blocks of old TensorFlow checkpoints are compressed.

Source: https://github.com/google/snappy/blob/main/format_description.txt
"""

from __future__ import annotations

from shared.formats.containers import spans

MAX_RATIO = 22  # of 64 bytes from three, with what a table adds
MAX_ELEMENTS = 1 << 19  # literals and copies, of which a network's numbers give few


def decompress(data: memoryview, fail: spans.Fail) -> bytes:
    """The bytes that were compressed, as many as are announced. Raises `fail(what)`."""
    size, position = 0, 0
    for index in range(5):
        if position >= len(data):
            raise fail("its Snappy data ends within its length")
        byte = data[position]
        position += 1
        size |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            break
    else:
        raise fail("its Snappy data has a length that does not end")
    if size > MAX_RATIO * len(data) + 64:
        raise fail(f"its Snappy data announces {size:,} bytes from {len(data):,}")
    out = bytearray()
    for _ in range(MAX_ELEMENTS):
        if position >= len(data):
            break
        tag = data[position]
        position += 1
        kind, upper = tag & 3, tag >> 2
        if kind == 0:
            if upper >= 60:
                width = upper - 59
                upper = int.from_bytes(data[position : position + width], "little")
                position += width
            count = upper + 1
            if count > len(data) - position or len(out) + count > size:
                raise fail("its Snappy data has a literal that does not fit")
            out += data[position : position + count]
            position += count
            continue
        if kind == 1:
            count, width = 4 + (upper & 7), 1
            offset = upper >> 3 << 8 | int.from_bytes(data[position : position + 1], "little")
        else:
            count, width = upper + 1, 2 if kind == 2 else 4
            offset = int.from_bytes(data[position : position + width], "little")
        position += width
        if position > len(data) or not 0 < offset <= len(out) or len(out) + count > size:
            raise fail("its Snappy data copies what is not there")
        start = len(out) - offset
        pattern = out[start : start + min(count, offset)]
        out += (pattern * (count // offset + 1))[:count]  # it may reach into what it makes
    else:
        raise fail(f"its Snappy data has more than {MAX_ELEMENTS:,} parts")
    if len(out) != size:
        raise fail(f"its Snappy data has {len(out):,} bytes, announced {size:,}")
    return bytes(out)
