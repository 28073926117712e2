"""IDX files, MNIST's format: a magic number, the sizes big-endian, then bytes; compressed with gzip
or not.

yann.lecun.com/exdb/mnist, "the IDX file format". Only unsigned bytes are read, which is what images
and labels are.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np

from shared.errors import DatasetError

GZIP_MAGIC = b"\x1f\x8b"
MAX_BYTES = 4 << 30  # of the array
_MOST_COMPRESSED = (
    1032  # bytes that a byte of deflate can stand for, at most (zlib.net/zlib_tech.html)
)
_CHUNK = 1 << 20


class IdxFile(NamedTuple):
    array: np.ndarray  # uint8
    content: memoryview  # all that the file holds uncompressed, header and array


def read_idx(path: Path, dimensions: int) -> IdxFile:
    """The array of so many dimensions in an IDX file.

    Raises `DatasetError` for anything else than a whole one.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as raw:
            packed = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            # Both have readinto and read, and gzip checks the CRC where it finds the end.
            stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw
            return _read(path, stream, dimensions, size * _MOST_COMPRESSED if packed else size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(
            f"{path}: its compression is damaged or cut short ({error}); fetch it again"
        ) from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read(path: Path, stream: IO[bytes], dimensions: int, most: int) -> IdxFile:
    """`most`: how many bytes the stream can hold, so that no header makes us take
    memory for more.
    """
    header = stream.read(4 + 4 * dimensions)
    expected = bytes((0, 0, 0x08, dimensions))
    if header[:4] != expected:
        raise DatasetError(
            f"{path}: not an IDX file of bytes with {dimensions} dimensions; expected the magic "
            "number "
            f"{expected.hex()}, found {header[:4].hex() or 'nothing'}"
        )
    shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(4, len(header), 4))
    count = len(header) + math.prod(shape)
    if len(shape) != dimensions or len(header) % 4 or count > min(most, MAX_BYTES):
        raise DatasetError(
            f"{path}: its header announces {_by(shape)} bytes, which the file cannot hold; fetch "
            "it again"
        )
    content = np.empty(count, np.uint8)
    content[: len(header)] = np.frombuffer(header, np.uint8)
    position, view = len(header), content.data
    while position < count:
        got = stream.readinto(view[position : position + _CHUNK])  # type: ignore[attr-defined]
        if not got:
            raise DatasetError(
                f"{path}: cut short; expected {count:,} bytes for {_by(shape)}, found {position:,}"
            )
        position += got
    if stream.read(1):
        raise DatasetError(
            f"{path}: goes on after the {count:,} bytes for {_by(shape)} that its header announces"
        )
    return IdxFile(content[len(header) :].reshape(shape), view)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{n:,}" for n in shape)
