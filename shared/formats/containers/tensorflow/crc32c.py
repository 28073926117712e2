"""CRC-32C, the checksum of LevelDB's and TensorFlow's files, by NumPy: a hundred megabytes take
half a second.

A checksum is linear over GF(2). So data is cut into lanes, whose checksums are found side by side,
and put together: that of `a + b` is that of `a`, shifted by the length of `b`, XOR that of `b`.
Source: RFC 3720, appendix B.4; masking: leveldb, `util/crc32c.h`.
"""

from __future__ import annotations

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78  # reflected
_ALL = 0xFFFFFFFF
_MASK_DELTA = 0xA282EAD8
_LANES = 4096
_SHORT = 1024  # bytes below which a plain loop is quicker
_PIECE = 1 << 22  # bytes that are taken at a time


def crc32c(data: bytes | memoryview) -> int:
    """The checksum of some bytes.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    state = _ALL
    view = memoryview(data).cast("B")
    for start in range(0, len(view), _PIECE):
        piece = view[start : start + _PIECE]
        state = _shifted(state, len(piece)) ^ _linear(piece)
    return state ^ _ALL


def masked(crc: int) -> int:
    """A checksum as files hold it, so that a checksum of checksums tells something."""
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & _ALL


@functools.cache
def _tables() -> np.ndarray:
    """[4, 256]: what a byte does that is followed by 0 to 3 others."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(_POLYNOMIAL), table >> 1)
    tables = [table]
    for _ in range(3):
        last = tables[-1]
        tables.append(table[last & 0xFF] ^ last >> 8)
    return np.stack(tables)


@functools.cache
def _first_table() -> list[int]:
    return _tables()[0].tolist()


def _linear(data: memoryview) -> int:
    """The checksum that starts from zero."""
    if len(data) < _SHORT:
        table, state = _first_table(), 0
        for byte in data:
            state = table[(state ^ byte) & 0xFF] ^ state >> 8
        return state
    width = -(-len(data) // (4 * _LANES))  # words of a lane; zeros before the data change nothing
    padded = np.zeros(4 * _LANES * width, np.uint8)
    padded[padded.size - len(data) :] = data
    words = np.ascontiguousarray(padded.view("<u4").reshape(_LANES, width).T)
    zero, one, two, three = _tables()
    lanes = np.zeros(_LANES, np.uint32)
    for row in words:
        lanes ^= row
        lanes = (
            three[lanes & 0xFF]
            ^ two[lanes >> 8 & 0xFF]
            ^ one[lanes >> 16 & 0xFF]
            ^ zero[lanes >> 24]
        )
    length = 4 * width
    while len(lanes) > 1:  # neighbours are put together
        lanes = _applied(_shift(length), lanes[0::2]) ^ lanes[1::2]
        length *= 2
    return int(lanes[0])


def _shifted(state: int, count: int) -> int:
    """The state after `count` bytes of zero."""
    return int(_applied(_shift(count), np.array([state], np.uint32))[0])


def _applied(matrix: tuple[int, ...], vectors: np.ndarray) -> np.ndarray:
    """The product over GF(2); `matrix` is its columns."""
    found = np.zeros_like(vectors)
    for bit, column in enumerate(matrix):
        found ^= np.where(vectors >> bit & 1, np.uint32(column), np.uint32(0))
    return found


@functools.lru_cache(maxsize=256)
def _shift(count: int) -> tuple[int, ...]:
    """The matrix of `count` bytes of zero."""
    if count == 0:
        return tuple(1 << bit for bit in range(32))
    if count == 1:
        table = _first_table()
        return tuple(table[1 << bit & 0xFF] ^ (1 << bit) >> 8 for bit in range(32))
    half = _shift(count // 2)
    whole = _applied(half, np.array(half, np.uint32))
    if count % 2:
        whole = _applied(_shift(1), whole)
    return tuple(map(int, whole))
