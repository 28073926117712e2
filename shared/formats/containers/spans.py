"""What the readers and writers of plain bytes share: tensors that lie in files uncompressed, and
strict small checks.

Every function raises `CheckpointError` with one line and nothing else.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shared.architecture.ops import Shape
from shared.errors import CheckpointError, shown
from shared.formats.containers.archive import MAX_DIMENSIONS, MAX_ELEMENTS, Entry
from shared.formats.containers.prefetch import map_prefetched
from shared.weights.digests import raw_bytes

MAX_JSON = 4 << 20  # bytes; JSON of this size may take 25 times as much memory
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")

Fail = Callable[[str], CheckpointError]


class Span(NamedTuple):
    """Consecutive bytes of a file."""

    path: Path
    offset: int
    nbytes: int


def failing(path: Path, kind: str) -> Fail:
    """The error of a malformed file of some kind."""
    return lambda what: CheckpointError(f"{path}: not {kind}, or a damaged one: {what}")


def cannot_read(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path}: cannot be read ({error.strerror or error})")


def cannot_write(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: cannot be written ({what})")


def checked_shape(name: str, shape: Sequence[Any], fail: Fail) -> Shape:
    """The shape that an untrusted header announces, once it is one that a tensor may have."""
    if len(shape) > MAX_DIMENSIONS:
        raise fail(f"{shown(name)} has {len(shape)} dimensions; {MAX_DIMENSIONS} at most are read")
    if (
        not all(type(n) is int and 0 <= n <= MAX_ELEMENTS for n in shape)
        or math.prod(shape) > MAX_ELEMENTS
    ):
        raise fail(
            f"{shown(name)} has an impossible shape; sizes from 0 to {MAX_ELEMENTS} elements are "
            "read"
        )
    return tuple(shape)


def file_size(path: Path) -> int:
    """Size of a regular file; a pipe or a device, which might never end, is refused."""
    try:
        status = path.stat()
    except OSError as error:
        raise cannot_read(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: cannot be read (not a regular file)")
    return status.st_size


def read_into(array: np.ndarray, spans: Sequence[Span]) -> None:
    """Fill a contiguous array with the bytes of the spans, one after the other."""
    target, position = raw_bytes(array), 0
    for path, offset, nbytes in spans:
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(offset)
                for_span = target[position : position + nbytes]
                while for_span:
                    count = file.readinto(for_span)
                    if not count:
                        raise CheckpointError(
                            f"{path}: has become shorter since its header was read; read it again"
                        )
                    for_span = for_span[count:]
        except OSError as error:
            raise cannot_read(path, error) from None
        position += nbytes


def empty(shape: Shape, dtype: np.dtype, path: Path) -> np.ndarray:
    """An array whose shape comes from a file."""
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError):
        raise CheckpointError(
            f"{path}: a tensor of shape {list(shape)} does not fit into memory"
        ) from None


def span_entry(spans: Sequence[Span], shape: Shape, dtype: np.dtype, path: Path) -> Entry:
    """The entry of a tensor whose bytes in C order are these spans; they must be as many as it
    needs.
    """

    def load() -> np.ndarray:
        array = empty(shape, dtype, path)
        read_into(array, spans)
        return array

    return Entry(shape, dtype, load)


def read_json(path: Path, limit: int = MAX_JSON) -> tuple[dict[str, Any], str]:
    """The object that a small JSON file holds, and its text.

    Names must be unique, numbers finite.
    """
    size = file_size(path)
    if size > limit:
        raise CheckpointError(f"{path}: has {size} bytes; {limit} at most are read")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise cannot_read(path, error) from None
    return parse_json(data, path)


def parse_json(data: bytes, path: Path) -> tuple[dict[str, Any], str]:
    """The JSON object in some bytes of `path`, and its text."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(table := dict(pairs)) != len(pairs):
            raise CheckpointError(f"{path}: its JSON names something twice")
        return table

    def refuse(number: str) -> Any:
        raise CheckpointError(f"{path}: its JSON holds {number[:40]}, expected finite numbers")

    def finite(number: str) -> float:
        return value if math.isfinite(value := float(number)) else refuse(number)

    try:
        text = data.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=unique, parse_float=finite, parse_constant=refuse
        )
    except CheckpointError:  # a ValueError, too
        raise
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: is not JSON, or a damaged file") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: is JSON, but not an object")
    return value, text


def file_in(folder: Path, name: Any, *, others: Sequence[Path] = ()) -> Path:
    """The file of a plain name in a folder.

    No link may lead out of the folder, unless into one of the `others`.
    """
    if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
        found = shown(name) if isinstance(name, str) else "something that is no string"
        raise CheckpointError(
            f"{folder}: names the file {found}; plain names of files beside it are read"
        )
    return own_file(folder / name, *others)


def own_file(path: Path, *others: Path) -> Path:
    """A regular file; no link may lead out of its folder, unless into one of the `others`."""
    try:
        resolved = path.resolve(strict=True)
        allowed = {root.resolve() for root in (path.parent, *others)}
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        reason = getattr(error, "strerror", None) or "a loop of links"
        raise CheckpointError(f"{path}: cannot be read ({reason})") from None
    if resolved.parent not in allowed:
        raise CheckpointError(
            f"{path}: is a link that leads out of its folder; copy the file itself"
        )
    file_size(path)
    return path


def checked_value(path: Path, name: str, entry: Entry) -> np.ndarray:
    """The values of an entry that is being written to `path`: contiguous, little-endian, as
    announced.
    """
    array = np.asarray(entry.load())
    if array.shape != tuple(entry.shape) or array.dtype != entry.dtype:
        raise cannot_write(
            path,
            f"{shown(name)} is {array.dtype} {list(array.shape)}, "
            f"announced {entry.dtype} {list(entry.shape)}",
        )
    if array.ndim > MAX_DIMENSIONS:
        raise cannot_write(
            path,
            f"{shown(name)} has {array.ndim} dimensions; {MAX_DIMENSIONS} at most are read back",
        )
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(array).reshape(
        array.shape
    )  # ascontiguousarray makes a scalar one-dimensional


def checked_values(path: Path, entries: Mapping[str, Entry]) -> Iterator[np.ndarray]:
    """`checked_value` of each, in their order; the next ones are loaded while one is written."""
    return map_prefetched(
        lambda name: checked_value(path, name, entries[name]),
        entries,
        lambda name: entries[name].nbytes,
    )


def encoded(path: Path, name: str) -> bytes:
    """A name in UTF-8, which not every string of Python has."""
    try:
        return name.encode("utf-8")
    except UnicodeEncodeError:
        raise cannot_write(path, f"{shown(name)} is no Unicode text") from None


def new_folder(path: Path) -> None:
    """Make the folder that is written to; an empty one may be there."""
    try:
        path.mkdir(exist_ok=True)
        if any(os.scandir(path)):
            raise cannot_write(path, "the folder is not empty")
    except OSError as error:
        raise cannot_write(path, error.strerror or str(error)) from None
