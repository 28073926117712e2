"""LevelDB's sorted tables, in which TensorFlow keeps the index of a checkpoint (and, before 2017,
all of it), read strictly.

A table is blocks of (key, value) in the order of their keys, of which each shares its start with
the one before; a block that says where the blocks are; and a footer of 48 bytes. Each block has a
kind (plain or Snappy) and a CRC-32C behind it.
Source: https://github.com/google/leveldb/blob/main/doc/table_format.md; tensorflow's
`core/lib/io/table.cc` differs in nothing that is read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from shared.formats.containers.protobuf import Source
from shared.formats.containers.tensorflow import snappy
from shared.formats.containers.tensorflow.crc32c import crc32c, masked

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER = 48  # bytes
_TRAILER = 5  # bytes behind a block: its kind, and its checksum
_PLAIN, _SNAPPY = 0, 1
MAX_KEY = 4096  # bytes
MAX_BLOCKS = 1 << 16
MAX_BLOCK = 1 << 30  # bytes
MAX_RATIO = snappy.MAX_RATIO  # of what is in a table to its bytes


class Block(NamedTuple):
    """Where a block is in the file, without what stands behind it."""

    start: int
    size: int


class Item(NamedTuple):
    """A key, and its value's bytes."""

    key: bytes
    value: memoryview


def blocks(source: Source) -> list[Block]:
    """The blocks of (key, value), in their order."""
    return indexed(source)[1]


def indexed(source: Source) -> tuple[list[bytes], list[Block]]:
    """The blocks, and for each a key that none of its own is behind; those of the next are."""
    if source.size < FOOTER:
        raise source.fail(f"{source.size} bytes are too few for a table")
    footer = source.take(source.size - FOOTER, FOOTER)
    if footer[-8:] != MAGIC:
        raise source.fail("it does not end as a table does; it may be cut off")
    tail = Source(footer[:-8], source.fail)
    _, at = _handle(source, tail, 0)
    index, _ = _handle(source, tail, at)
    keys: list[bytes] = []
    found: list[Block] = []
    end = 0
    for item in items(source, index):
        handle = Source(bytes(item.value), source.fail)
        block, stop = _handle(source, handle, 0)
        if stop != handle.size:
            raise source.fail("an entry of its index has something behind it")
        if block.start < end or block.start + block.size + _TRAILER > index.start:
            raise source.fail("its blocks overlap, or lie outside the table")
        end = block.start + block.size + _TRAILER
        keys.append(item.key)
        found.append(block)
        if len(found) > MAX_BLOCKS:
            raise source.fail(f"it has more than {MAX_BLOCKS:,} blocks")
    return keys, found


def items(source: Source, block: Block) -> Iterator[Item]:
    """What is in a block; keys rise."""
    whole = content(source, block)
    data, inner = memoryview(whole), Source(whole, source.fail)
    count = int.from_bytes(data[-4:], "little") if len(data) >= 4 else -1
    end = len(data) - 4 - 4 * count
    if count < 1 or end < 0:
        raise source.fail(f"the block at byte {block.start} has no list of its restarts")
    position, last = 0, b""
    first = True
    while position < end:
        kept, position = inner.varint(position, end)
        added, position = inner.varint(position, end)
        size, position = inner.varint(position, end)
        if kept > len(last) or kept + added > MAX_KEY or added + size > end - position:
            raise source.fail(f"an entry of the block at byte {block.start} does not fit into it")
        key = last[:kept] + inner.take(position, added)
        if not first and key <= last:
            raise source.fail(f"the keys of the block at byte {block.start} are not in order")
        position += added
        yield Item(key, data[position : position + size])
        position += size
        last, first = key, False


def content(source: Source, block: Block) -> bytes:
    """The bytes of a block, once its checksum has been compared."""
    if block.size > MAX_BLOCK:
        raise source.fail(f"it announces a block of {block.size:,} bytes")
    data = source.take(block.start, block.size + _TRAILER)
    kind = data[block.size]
    stored = int.from_bytes(data[-4:], "little")
    if masked(crc32c(memoryview(data)[: block.size + 1])) != stored:
        raise source.fail(
            f"the block at byte {block.start} does not match its checksum; the file is damaged"
        )
    if kind == _PLAIN:
        return data[: block.size]
    if kind == _SNAPPY:
        return snappy.decompress(memoryview(data)[: block.size], source.fail)
    raise source.fail(f"the block at byte {block.start} is of the unknown kind {kind}")


def _handle(source: Source, inner: Source, at: int) -> tuple[Block, int]:
    start, at = inner.varint(at, inner.size)
    size, at = inner.varint(at, inner.size)
    if start + size + _TRAILER + FOOTER > source.size:
        raise source.fail(f"a block of {size} bytes at byte {start} lies outside the table")
    return Block(start, size), at
