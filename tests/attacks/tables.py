"""TensorFlow's checkpoints: tables whose blocks, keys and checksums lie, and tensors elsewhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from shared.formats.containers.tensorflow.leveldb_table import MAGIC
from tests.attacks import seeds
from tests.attacks.attack import Attack, Make, Placement, attacks
from tests.formats import tensorflow_files as made
from tests.formats.tensorflow_files import field, varint

NAME = "stem.conv1.weight"
DATA = "net.ckpt.data-00000-of-00001"


def index(data: Callable[[], bytes]) -> Make:
    """A checkpoint whose index is other bytes."""
    return lambda place: made.write(place.inside / "net.ckpt.index", seeds.weights(), data())


def lying(**lies: Any) -> Make:
    """What the index says of the first kernel."""
    return lambda place: made.write(
        place.inside / "net.ckpt.index", seeds.weights(), None, **{NAME: lies}
    )


def items() -> list[tuple[bytes, bytes]]:
    return made.items_of(seeds.weights())


def header(data: bytes) -> Make:
    return index(lambda: made.table([(b"", data), *items()[1:]]))


def block(data: Callable[[], bytes], kind: int = 0) -> Make:
    """A table whose one block has these bytes, and the right checksum."""
    return index(lambda: made.table(items(), kind, data()))


def places(*handles: tuple[int, int]) -> Make:
    """A table whose index says that its blocks are there."""

    def data() -> bytes:
        first = made.closed(made.block(items()))
        said = [
            (bytes([i]), varint(start) + varint(size)) for i, (start, size) in enumerate(handles)
        ]
        return made.assembled([first], made.block(said))

    return index(data)


def footer(*numbers: int) -> Make:
    tail = b"".join(map(varint, numbers)).ljust(40, b"\0")[:40] + MAGIC
    return index(lambda: made.assembled([made.closed(made.block(items()))], made.block([]), tail))


def elsewhere(replace: Callable[[Path, Placement], Any]) -> Make:
    """A checkpoint whose data file is something else."""

    def make(place: Placement) -> Path:
        path = made.write(place.inside / "net.ckpt.index", seeds.weights())
        target = place.inside / DATA
        target.unlink()
        replace(target, place)
        return path

    return make


def flipped(place: Placement) -> Path:
    path = made.write(place.inside / "net.ckpt.index", seeds.weights())
    data = bytearray((place.inside / DATA).read_bytes())
    data[len(data) // 2] ^= 1
    (place.inside / DATA).write_bytes(data)
    return path


def graph(text: bytes, crc: int | None = None) -> Make:
    """A checkpoint with an object graph of these bytes."""

    def make(place: Placement) -> Path:
        lengths = len(text).to_bytes(4, "little")
        sealed = made.masked(made.crc32c(lengths)).to_bytes(4, "little")
        raw = varint(len(text)) + sealed + text
        right = made.masked(made.crc32c(lengths + sealed + text))
        name = "_CHECKPOINTABLE_OBJECT_GRAPH"
        one = np.frombuffer(raw, "uint8")
        said = field(1, 7) + field(2, b"") + field(4, 4) + field(5, len(raw))
        said += made.varint(6 << 3 | 5) + (right if crc is None else crc).to_bytes(4, "little")
        two = np.ones(1, "float32")
        entries = [(b"", made.header()), (name.encode(), said), (b"x", made.entry(two, 0))]
        path = place.write("net.ckpt.index", made.table(entries))
        place.write(DATA, two.tobytes() + one.tobytes())
        return path

    return make


def folder(state: str) -> Make:
    """Two checkpoints, and a file that says which is meant."""

    def make(place: Placement) -> Path:
        for name in ("a", "b"):
            made.write(place.inside / f"{name}.index", seeds.weights())
        (place.inside / "checkpoint").write_text(state)
        return place.inside

    return make


def saved(change: Callable[[Path, Placement], Any]) -> Make:
    def make(place: Placement) -> Path:
        path = seeds.saved_model(place.inside)
        change(path, place)
        return path

    return make


def linked_folder(path: Path, place: Placement) -> None:
    shutil.move(path / "variables", place.outside / "variables")
    (path / "variables").symlink_to(place.outside / "variables")


def old(**lies: Any) -> Make:
    return lambda place: place.write("model.ckpt", made.old(seeds.weights(), **{NAME: lies}))


def keys(*found: bytes) -> Make:
    """An index of these keys, each of a tensor of nothing."""
    empty = made.entry(np.zeros(0, "float32"), 0)
    return index(lambda: made.table([(b"", made.header()), *((key, empty) for key in found)]))


BOMB = varint(1 << 30) + b"\x00a" + b"\xfe\x01\x00" * (1 << 20)

TABLE: dict[str, tuple[Make, str]] = {
    "index-crc": (index(lambda: made.table(items(), crc=7)), "match its checksum"),
    "values-crc": (flipped, "match its checksum"),
    "stored-crc": (lying(crc=7), "match its checksum"),
    "unknown-compression": (block(lambda: made.block(items()), 2), "unknown kind 2"),
    "snappy-bomb": (block(lambda: BOMB, 1), "announces 1,073,741,824 bytes"),
    "snappy-before-its-start": (block(lambda: varint(60) + b"\x00a\xee\xff\xff", 1), "Snappy"),
    "snappy-length": (block(lambda: b"\xff" * 8, 1), "Snappy"),
    "no-restarts": (block(lambda: bytes(4)), "no list of its restarts"),
    "many-restarts": (block(lambda: bytes(8) + b"\xff" * 4), "no list of its restarts"),
    "prefix-of-nothing": (block(lambda: b"\x05\x01\x00a" + bytes(4) + b"\1\0\0\0"), "not fit"),
    "value-beyond": (
        block(lambda: b"\x00\x00\xff\x7f" + bytes(4) + b"\1\0\0\0"),
        "does not fit into it",
    ),
    "key-of-a-gigabyte": (
        block(lambda: b"\x00" + varint(1 << 30) + b"\x00" + bytes(4) + b"\1\0\0\0"),
        "does not fit into it",
    ),
    "endless-varint": (block(lambda: b"\xff" * 30 + bytes(4) + b"\1\0\0\0"), "does not end"),
    "keys-out-of-order": (keys(b"b", b"a"), "not in order"),
    "a-key-twice": (keys(b"a", b"a"), "not in order"),
    "a-key-of-lines": (keys(b"a\nError\x1b[2J"), "is no name"),
    "a-key-of-slices": (keys(b"\0a\0\1\1\2"), "slices"),
    "a-key-that-is-no-text": (keys(b"\xff\xfe"), "slices"),
    "blocks-overlap": (places((0, 10), (4, 10)), "overlap"),
    "block-outside": (places((1 << 40, 10)), "outside"),
    "block-of-8-eib": (places((0, 1 << 62)), "outside"),
    "footer-outside": (footer(0, 8, 1 << 50, 8), "outside"),
    "footer-of-zeros": (footer(), "match its checksum"),
    "footer-without-end": (footer(*[(1 << 64) - 1] * 4), "outside"),
    "only-a-footer": (lambda p: p.write("net.index", bytes(40) + MAGIC), "outside"),
    "big-endian": (header(made.header(1, field(2, 1))), "big-endian"),
    "no-data-files": (header(b""), "0 data files"),
    "a-billion-data-files": (header(made.header(1 << 30)), "data files"),
    "another-data-file": (lying(shard=1), "data file 1 of 1"),
    "beyond-the-data": (lying(offset=1 << 60), "of a data file that has"),
    "overlapping": (lying(offset=4), "overlap"),
    "negative-size": (lying(size=-1), "of a data file that has"),
    "negative-offset": (lying(offset=-8), "of a data file that has"),
    "negative-shape": (lying(shape=(-1, 3)), "impossible shape"),
    "huge-shape": (lying(shape=(1 << 40, 1 << 40)), "impossible shape"),
    "hundred-dimensions": (lying(shape=(1,) * 100), "64 dimensions"),
    "other-shape": (lying(shape=(5, 7)), "does not follow from its shape"),
    "unknown-rank": (lying(shape=field(3, 1)), "unknown number of dimensions"),
    "complex": (lying(dtype=8), "complex64"),
    "resource": (lying(dtype=20), "resource"),
    "quantised": (lying(dtype=12), "quantised"),
    "a-field-twice": (lying(more=field(5, 4)), "twice"),
    "a-group": (lying(more=b"\x4b\x4c"), "unknown kind 3"),
    "slices": (lying(more=field(7, b"")), "in slices"),
    "data-link": (elsewhere(lambda t, p: t.symlink_to(p.secret)), "leads out"),
    "data-pipe": (elsewhere(lambda t, p: os.mkfifo(t)), "not a regular file"),
    "data-folder": (elsewhere(lambda t, p: t.mkdir()), "not a regular file"),
    "data-missing": (elsewhere(lambda t, p: None), "not beside it"),
    "data-cut": (elsewhere(lambda t, p: t.write_bytes(bytes(8))), "may be cut off"),
    "graph-crc": (graph(field(1, b""), crc=7), "match its checksum"),
    "graph-of-garbage": (graph(b"\xff" * 40), "does not end"),
    "graph-of-many": (graph(field(1, b"") * 300_000), "objects"),
    "state-outside": (
        folder('model_checkpoint_path: "../outside/secret.bin"\n'),
        "holds 2 checkpoints",
    ),
    "state-of-dots": (folder('model_checkpoint_path: ".."\n'), "holds 2 checkpoints"),
    "saved-model-link": (saved(linked_folder), "link"),
    "saved-model-frozen": (
        saved(lambda path, p: shutil.rmtree(path / "variables")),
        "constants of its program",
    ),
    "old-slices": (old(slice=field(1, field(1, 4))), "in slices"),
    "old-few-values": (old(values=b"abcd"), "have 4 bytes"),
    "old-other-name": (old(name="stem.conv2.weight"), "another tensor"),
    "old-bomb": (old(shape=(1 << 14, 1 << 14)), "announces"),
    "old-negative": (old(shape=(-4, 4)), "impossible shape"),
}

ATTACKS: list[Attack] = attacks("tensorflow", TABLE)
