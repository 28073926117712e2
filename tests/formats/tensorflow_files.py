"""Checkpoints of TensorFlow made by hand, byte by byte, so that each of their parts can lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared.formats.containers.tensorflow.crc32c import crc32c, masked
from shared.formats.containers.tensorflow.leveldb_table import MAGIC

CODES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}
ORDER = 16  # entries from one restart to the next


def varint(value: int) -> bytes:
    """Of a number, which may be negative as protocol buffers have it."""
    value %= 1 << 64
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes | str) -> bytes:
    """A field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def fixed32(number: int, value: int) -> bytes:
    return varint(number << 3 | 5) + value.to_bytes(4, "little")


def shape(sizes: Sequence[int]) -> bytes:
    """A TensorShapeProto."""
    return b"".join(field(2, field(1, size)) for size in sizes)


def block(items: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A block of a table, whose keys share their beginnings."""
    out, restarts, last = bytearray(), [], b""
    for count, (key, value) in enumerate(items):
        if count % ORDER == 0:
            restarts.append(len(out))
            last = b""
        pairs = zip(last, key, strict=False)
        kept = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(last), len(key)))
        out += varint(kept) + varint(len(key) - kept) + varint(len(value)) + key[kept:] + value
        last = key
    restarts = restarts or [0]
    tail = b"".join(n.to_bytes(4, "little") for n in (*restarts, len(restarts)))
    return bytes(out) + tail


def closed(data: bytes, kind: int = 0, crc: int | None = None) -> bytes:
    """A block with its kind and its checksum."""
    data += bytes([kind])
    return data + (masked(crc32c(data)) if crc is None else crc).to_bytes(4, "little")


def table(
    items: Sequence[tuple[bytes, bytes]], kind: int = 0, data: bytes | None = None, **crc: int
) -> bytes:
    """A table of one block of (key, value); `data`: that block's bytes instead."""
    first = closed(block(items) if data is None else data, kind, **crc)
    last = items[-1][0] if items else b"\xff"
    index = block([(last + b"\xff", varint(0) + varint(len(first) - 5))])
    return assembled([first], index)


def assembled(blocks: Sequence[bytes], index: bytes, footer: bytes | None = None) -> bytes:
    """A table of blocks that are closed, and the bytes of their index."""
    body = b"".join(blocks)
    meta = closed(block([]))
    places = (len(body), len(meta) - 5, len(body) + len(meta), len(index))
    tail = b"".join(map(varint, places)).ljust(40, b"\0") + MAGIC
    return body + meta + closed(index) + (tail if footer is None else footer)


def header(shards: int = 1, *more: bytes) -> bytes:
    return field(1, shards) + field(3, field(1, 1)) + b"".join(more)


def entry(array: np.ndarray, at: int, **changes: Any) -> bytes:
    """What an index says of an array at an offset; `changes`: of its parts."""
    said: dict[str, Any] = {
        "dtype": CODES[array.dtype.name],
        "shape": array.shape,
        "shard": 0,
        "offset": at,
        "size": array.nbytes,
        "crc": masked(crc32c(array.tobytes())),
        "more": b"",
    } | changes
    return (
        field(1, said["dtype"])
        + field(2, shape(said["shape"]) if not isinstance(said["shape"], bytes) else said["shape"])
        + (field(3, said["shard"]) if said["shard"] else b"")
        + (field(4, said["offset"]) if said["offset"] else b"")
        + field(5, said["size"])
        + fixed32(6, said["crc"])
        + said["more"]
    )


def items_of(
    arrays: Mapping[str, np.ndarray], lies: Mapping[str, Mapping[str, Any]] | None = None
) -> list[tuple[bytes, bytes]]:
    """(key, value) of an index; `lies`: changes of what is said of a tensor."""
    out, offset = [(b"", header())], 0
    for name in sorted(arrays):
        array = arrays[name]
        out.append((name.encode(), entry(array, offset, **(lies or {}).get(name, {}))))
        offset += array.nbytes
    return out


def data_of(arrays: Mapping[str, np.ndarray]) -> bytes:
    return b"".join(arrays[name].tobytes() for name in sorted(arrays))


def write(
    path: Path, arrays: Mapping[str, np.ndarray], index: bytes | None = None, **lies: Any
) -> Path:
    """Write a checkpoint whose index is `path`, which ends in `.index`."""
    path.write_bytes(table(items_of(arrays, lies)) if index is None else index)
    prefix = path.name.removesuffix(".index")
    path.with_name(f"{prefix}.data-00000-of-00001").write_bytes(data_of(arrays))
    return path


def old_key(name: str, rank: int) -> bytes:
    """The key of a tensor's values in a checkpoint of one file."""
    count = bytes([1, rank]) if rank else b"\0"
    return b"\0" + name.encode() + b"\0\1" + count + b"\x80\x7f" * rank


def old(arrays: Mapping[str, np.ndarray], **lies: Any) -> bytes:
    """A checkpoint of one file, of float32 arrays. `lies`: of a tensor's `name`, `shape`, `values`,
    `slice`.
    """
    meta, out = b"", []
    for name in sorted(arrays):
        array, said = arrays[name], lies.get(name, {})
        sizes = shape(said.get("shape", array.shape))
        whole = said.get("slice", b"".join(field(1, b"") for _ in array.shape))
        meta += field(1, field(1, name) + field(2, sizes) + field(3, 1) + field(4, whole))
        values = said.get("values", array.tobytes())
        tensor = field(1, 1) + field(2, sizes) + field(5, values)
        saved = field(1, said.get("name", name)) + field(2, whole) + field(3, tensor)
        out.append((old_key(name, array.ndim), field(2, saved)))
    return table([(b"", field(1, meta)), *out])


def literal(data: bytes) -> bytes:
    """Snappy of one literal."""
    return varint(len(data)) + b"\xfc" + (len(data) - 1).to_bytes(4, "little") + data
