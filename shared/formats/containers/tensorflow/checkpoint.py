"""The two kinds of checkpoints: `model.ckpt.index` beside `model.ckpt.data-00000-of-00001` (from
2017 on), and the single `model.ckpt` of before; alone, in a folder, or as a SavedModel's variables.

The index is a table of LevelDB from names to messages that say where in which data file a tensor
is. TensorFlow's own reader, which is C++, would meet untrusted bytes; this one checks every place
before anything is read there, and the CRC-32C of each tensor when it is. Source: tensorflow,
`core/protobuf/tensor_bundle.proto` and `core/util/tensor_bundle/tensor_bundle.cc`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shared.architecture.ops import Shape
from shared.errors import CheckpointError
from shared.formats.containers import spans
from shared.formats.containers.archive import MAX_TENSORS, Archive, Entry
from shared.formats.containers.protobuf import Source
from shared.formats.containers.tensorflow import leveldb_table, one_file
from shared.formats.containers.tensorflow.crc32c import crc32c, masked
from shared.formats.containers.tensorflow.object_graph import GRAPH, shown_names
from shared.formats.containers.tensorflow.types import QUANTISED, STRING, dtype_of, shape_of
from shared.weights.digests import raw_bytes

MAX_INDEX = 16 << 20  # bytes; 100,000 tensors have names of ten
MAX_SHARDS = 1 << 10
MAX_STRINGS = 16 << 20  # bytes of a tensor of texts that is read: the object graph
_INDEX = ".index"
_DATA = re.compile(r"(?P<prefix>.+)\.(data-\d{5}-of-\d{5}|meta)")
_LATEST = re.compile(r'^model_checkpoint_path: "(?P<path>(?:[^"\\\n]|\\.)*)"', re.MULTILINE)
_VARIABLES = "variables"
_MAX_STATE = 1 << 20  # bytes of the file `checkpoint`
_MAX_FILES = 1 << 12  # of a folder


class _Stored(NamedTuple):
    """What the index says of a tensor."""

    code: int  # of its dtype, as TensorFlow numbers them
    shape: Shape
    shard: int
    offset: int
    nbytes: int
    crc: int


@dataclass(frozen=True)
class _Bundle:
    """An index and the data files that belong to it."""

    path: Path
    shards: list[Path]
    fail: spans.Fail


def is_table(path: Path) -> bool:
    """Whether a file ends as a table of LevelDB does."""
    with path.open("rb") as file:
        file.seek(0, 2)
        if file.tell() < leveldb_table.FOOTER:
            return False
        file.seek(-len(leveldb_table.MAGIC), 2)
        return file.read() == leveldb_table.MAGIC


def index_of(path: Path) -> Path | None:
    """The `.index` file that a prefix (`model.ckpt`), a data file or a graph stands for."""
    match = _DATA.fullmatch(path.name)
    if match is None and path.exists():
        return None
    index = path.with_name((match["prefix"] if match else path.name) + _INDEX)
    return index if index.is_file() else None


def is_folder(path: Path) -> bool:
    """Whether a folder holds a checkpoint."""
    return bool(_indexes(path)) or (path / "checkpoint").is_file()


def read(path: Path) -> Archive:
    """The tensors of a checkpoint: of its `.index` file, or of a folder that has one.

    Tensors of texts are left out. Raises `CheckpointError`.
    """
    index = _chosen(path) if path.is_dir() else path
    fail = spans.failing(index, "a checkpoint of TensorFlow")
    try:
        size = spans.file_size(index)
        with index.open("rb") as file:
            source = Source(file, fail)
            if index.name.endswith(_INDEX) and size > MAX_INDEX:
                raise fail(f"it has {size:,} bytes; {MAX_INDEX:,} at most are read")
            if one_file.is_old(source):
                return one_file.read(index, source)
            if not index.name.endswith(_INDEX):
                raise fail(f"it is an index; call it *{_INDEX}, as its data files are called")
            return _read_index(index, source)
    except OSError as error:
        raise spans.cannot_read(index, error) from None


def read_saved_model(path: Path) -> Archive:
    """The variables of a SavedModel; the program in it is not looked at. Raises
    `CheckpointError`.
    """
    folder = path / _VARIABLES
    if not (folder / f"{_VARIABLES}{_INDEX}").is_file():
        raise CheckpointError(
            f"{path}: a SavedModel without {_VARIABLES}/{_VARIABLES}{_INDEX}: its weights are "
            "constants of its program; save the model's variables (tf.train.Checkpoint or "
            "model.save_weights)"
        )
    if folder.is_symlink():
        raise CheckpointError(f"{folder}: is a link; copy the folder itself")
    found = read(folder / f"{_VARIABLES}{_INDEX}")
    return Archive("saved-model", found.entries, found.metadata)


def _chosen(folder: Path) -> Path:
    """The checkpoint of a folder that is meant: the one that its file `checkpoint` calls the last,
    or the only one.
    """
    found = _indexes(folder)
    state = folder / "checkpoint"
    if state.is_file():
        if spans.file_size(state) > _MAX_STATE:
            raise CheckpointError(f"{state}: has more than {_MAX_STATE} bytes")
        match = _LATEST.search(state.read_text("utf-8", "replace"))
        name = re.split(r"[/\\]", match["path"])[-1] if match else ""
        for index in found:
            if index.name == name + _INDEX:
                return index
        if name and name not in (".", "..") and (folder / name).is_file():
            return folder / name
    if len(found) == 1:
        return found[0]
    if not found:
        raise CheckpointError(f"{folder}: holds no {_INDEX} file of TensorFlow")
    names = ", ".join(spans.shown(index.name.removesuffix(_INDEX)) for index in found[:8])
    raise CheckpointError(f"{folder}: holds {len(found)} checkpoints; give one of {names}")


def _indexes(folder: Path) -> list[Path]:
    names: list[str] = []
    for count, path in enumerate(folder.iterdir()):
        if count > _MAX_FILES:
            break
        if path.name.endswith(_INDEX) and path.is_file():
            names.append(path.name)
    return [folder / name for name in sorted(names)]


def read_by_key(path: Path) -> tuple[dict[str, Entry], bytes | None]:
    """The tensors of an `.index` file by their keys, and the object graph that says whose they are.

    Raises `CheckpointError`.
    """
    try:
        with path.open("rb") as file:
            fail = spans.failing(path, "a checkpoint of TensorFlow")
            bundle, stored, _, text = _opened(path, Source(file, fail))
            return {key: _entry(bundle, key, found) for key, found in stored.items()}, text
    except OSError as error:
        raise spans.cannot_read(path, error) from None


def _read_index(path: Path, source: Source) -> Archive:
    bundle, stored, skipped, text = _opened(path, source)
    names = shown_names(
        [*stored],
        None if text is None else Source(text, source.fail),
        lambda a, b: _same(bundle, stored[a], stored[b]),
    )
    entries = {shown: _entry(bundle, key, stored[key]) for key, shown in names.items()}
    return Archive("tf-checkpoint", entries, skipped)


def _opened(
    path: Path, source: Source
) -> tuple[_Bundle, dict[str, _Stored], dict[str, str], bytes | None]:
    """What an index says: its tensors, those that are left out and why, and the object graph."""
    stored: dict[str, _Stored] = {}
    skipped: dict[str, str] = {}
    bundle = None
    last = b""
    for block in leveldb_table.blocks(source):
        for key, value in leveldb_table.items(source, block):
            message = Source(bytes(value), source.fail)
            if bundle is None:
                if key:
                    raise source.fail("it has no header")
                bundle = _Bundle(path, _shards(path, message), source.fail)
                continue
            if key <= last:
                raise source.fail("its keys are not in order")
            last, name = key, _name(key, source.fail)
            if len(stored) == MAX_TENSORS:
                raise source.fail(f"it has more than {MAX_TENSORS:,} tensors")
            stored[name] = _stored(name, message)
    if bundle is None:
        raise source.fail("it is empty")
    _check_places(bundle, stored)
    graph = stored.get(GRAPH)
    for name in [name for name, found in stored.items() if found.code == STRING]:
        del stored[name]
        if name != GRAPH:
            skipped[name] = "a tensor of texts"
    text = _only_text(bundle, graph) if graph is not None and graph.code == STRING else None
    return bundle, stored, skipped, text


def _name(key: bytes, fail: spans.Fail) -> str:
    try:
        name = key.decode("utf-8")
    except UnicodeDecodeError:
        raise fail(
            "a key is not UTF-8: a tensor is stored in slices, or the file is damaged"
        ) from None
    if "\0" in name or not name.isprintable():
        raise fail(
            f"the key {spans.shown(name)} is no name: a tensor is stored in slices "
            "(a partitioned variable); load it with TensorFlow and save it whole"
        )
    return name


def _shards(path: Path, header: Source) -> list[Path]:
    """The data files, which lie beside the index."""
    fields = header.single(0, header.size, many=(3,))
    count = header.number(fields[1]) if 1 in fields else 0
    if 2 in fields and header.number(fields[2]) != 0:
        raise header.fail("its numbers are big-endian")
    if not 0 < count <= MAX_SHARDS:
        raise header.fail(f"it announces {count} data files; 1 to {MAX_SHARDS} are read")
    prefix = path.name.removesuffix(_INDEX)
    found = []
    allowed = {path.parent.resolve(), path.resolve().parent}
    for number in range(count):
        shard = path.with_name(f"{prefix}.data-{number:05d}-of-{count:05d}")
        if not shard.exists():
            raise CheckpointError(
                f"{path}: {shard.name}, which holds its tensors, is not beside it; both files are "
                "needed"
            )
        if shard.resolve().parent not in allowed:
            raise CheckpointError(
                f"{shard}: is a link that leads out of its folder; copy the file itself"
            )
        found.append(shard)
    return found


def _stored(name: str, message: Source) -> _Stored:
    fields = message.single(0, message.size, many=(7,))
    if any(field.number == 7 for field in message.fields()):
        raise message.fail(
            f"{spans.shown(name)} is stored in slices (a partitioned variable); load it with "
            "TensorFlow and save it whole"
        )

    def number(field: int) -> int:
        return message.number(fields[field]) if field in fields else 0

    shape = shape_of(name, message, fields.get(2))
    return _Stored(number(1), shape, number(3), number(4), number(5), number(6))


def _check_places(bundle: _Bundle, stored: Mapping[str, _Stored]) -> None:
    """That every tensor lies in its file, has as many bytes as it needs, and shares none."""
    sizes = [spans.file_size(shard) for shard in bundle.shards]
    for name, found in stored.items():
        if found.code in QUANTISED:
            raise bundle.fail(
                f"{spans.shown(name)} is quantised; tensors of plain numbers are read"
            )
        dtype = None if found.code == STRING else dtype_of(name, found.code, bundle.fail)
        if found.shard >= len(sizes):
            raise bundle.fail(
                f"{spans.shown(name)} is in the data file {found.shard} of {len(sizes)}"
            )
        if found.offset + found.nbytes > sizes[found.shard]:
            raise bundle.fail(
                f"{spans.shown(name)} ends at byte {found.offset + found.nbytes} of a data file "
                f"that has {sizes[found.shard]}; it may be cut off"
            )
        if dtype is not None and found.nbytes != math.prod(found.shape) * dtype.itemsize:
            raise bundle.fail(
                f"{spans.shown(name)} has {found.nbytes} bytes, which does not follow from its "
                f"shape {list(found.shape)} and dtype {dtype.name}"
            )
    end, before = (-1, 0), ""
    order = sorted(stored, key=lambda n: (stored[n].shard, stored[n].offset, stored[n].nbytes))
    for name in order:
        found = stored[name]
        if (found.shard, found.offset) < end and found.nbytes:
            raise bundle.fail(f"{spans.shown(name)} and {spans.shown(before)} overlap")
        end, before = max(end, (found.shard, found.offset + found.nbytes)), name


def _span(bundle: _Bundle, found: _Stored) -> spans.Span:
    return spans.Span(bundle.shards[found.shard], found.offset, found.nbytes)


def _entry(bundle: _Bundle, name: str, found: _Stored) -> Entry:
    dtype = dtype_of(name, found.code, bundle.fail)

    def load() -> np.ndarray:
        array = spans.empty(found.shape, dtype, bundle.path)
        spans.read_into(array, [_span(bundle, found)])
        if masked(crc32c(raw_bytes(array))) != found.crc:
            raise bundle.fail(f"{spans.shown(name)} does not match its checksum")
        return array.view(np.uint8) != 0 if dtype == np.bool_ else array

    return Entry(found.shape, dtype, load)


def _same(bundle: _Bundle, a: _Stored, b: _Stored) -> bool:
    """Whether two tensors are equal, whose checksums are compared first."""
    if (a.code, a.shape, a.crc, a.nbytes) != (b.code, b.shape, b.crc, b.nbytes):
        return False
    return all(x == y for x, y in zip(_pieces(bundle, a), _pieces(bundle, b), strict=True))


def _pieces(bundle: _Bundle, found: _Stored) -> Iterator[bytes]:
    with bundle.shards[found.shard].open("rb") as file:
        file.seek(found.offset)
        left = found.nbytes
        while left:
            piece = file.read(min(left, 1 << 20))
            left -= len(piece)
            yield piece
            if not piece:
                return


def _only_text(bundle: _Bundle, found: _Stored) -> bytes:
    """The text of a tensor that has just one: its length, a checksum of that, and itself."""
    if found.shape or not 6 <= found.nbytes <= MAX_STRINGS:
        raise bundle.fail(f"its {GRAPH} of {found.nbytes} bytes is not one text")
    data = b"".join(_pieces(bundle, found))
    source = Source(data, bundle.fail)
    length, at = source.varint(0, len(data))
    if at + 4 + length != len(data):
        raise bundle.fail(f"its {GRAPH} has {len(data)} bytes, announced {length}")
    crc = crc32c(length.to_bytes(4 if length < 1 << 32 else 8, "little") + data[at:])
    lengths = crc32c(length.to_bytes(4 if length < 1 << 32 else 8, "little"))
    if masked(lengths) != int.from_bytes(data[at : at + 4], "little") or masked(crc) != found.crc:
        raise bundle.fail(f"its {GRAPH} does not match its checksum")
    return data[at + 4 :]
