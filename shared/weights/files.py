"""Tensor files on disk: safetensors, checked before they are read, and replaced in one step.

A file is written to a temporary sibling, flushed to disk, read back and renamed: whoever is killed
leaves the old file or the new one.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shared.errors import CheckpointError, shown
from shared.weights.tensor_writer import MAX_HEADER, write_safetensors

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    # No network has these; they may lie beside one.
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "BOOL": "?",
    "C64": "<c8",
}
# NumPy learns these from ml_dtypes.
_ML_DTYPES = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
MAX_DIMENSIONS = (
    8  # a product of more sizes than any tensor has could keep a reader busy for minutes
)


class TensorFile:
    """A safetensors file, read lazily: `names`, `metadata`, `shape(name)`, `file[name]`.

    Raises `CheckpointError` when the file is missing, truncated or not what the format allows:
    tensors must fill the file without gap or overlap.
    """

    def __init__(self, path: str | Path, max_header: int = MAX_HEADER):
        self.path = Path(path)
        try:
            size = self.path.stat().st_size
            with self.path.open("rb") as file:
                header, start = self._read_header(file, size, max_header)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
        self.metadata: dict[str, str] = self._read_metadata(header)
        self._entries = self._read_entries(header, start, size)
        self._map = np.memmap(self.path, np.uint8, "r") if size else np.empty(0, np.uint8)

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name][1]

    def dtype(self, name: str) -> np.dtype:
        return self._entries[name][0]

    def place(self, name: str) -> tuple[int, int]:
        """Where the tensor's bytes start and end in the file."""
        return self._entries[name][2:]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> np.ndarray:
        dtype, shape, begin, end = self._entries[name]
        try:
            return np.frombuffer(self._map[begin:end], dtype).reshape(shape)
        except ValueError:  # an empty tensor whose other axes are absurd
            raise self._fail(f"{shown(name)} has the impossible shape {list(shape)}") from None

    def _fail(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: not a safetensors file, or a damaged one: {what}")

    def _read_header(
        self, file: BinaryIO, size: int, max_header: int
    ) -> tuple[dict[str, Any], int]:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if length > max_header:
            raise self._fail(f"its first 8 bytes announce a header of more than {max_header} bytes")
        if len(prefix) < 8 or not 2 <= length <= size - 8:
            raise self._fail(f"{size} bytes do not hold the header that its first 8 bytes announce")
        text = file.read(length)
        try:
            header = json.loads(text.decode("utf-8"), object_pairs_hook=self._unique)
        except CheckpointError:  # a ValueError, too
            raise
        except (ValueError, RecursionError):
            raise self._fail("its header is not JSON") from None
        if not isinstance(header, dict):
            raise self._fail("its header is not an object")
        return header, 8 + length

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise self._fail("its header names something twice")
        return dict(pairs)

    def _read_metadata(self, header: dict[str, Any]) -> dict[str, str]:
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise self._fail("its metadata is not a table of strings")
        return metadata

    def _read_entries(self, header: dict[str, Any], start: int, size: int) -> dict[str, tuple]:
        entries: dict[str, tuple] = {}
        for name, entry in header.items():
            try:
                dtype = _dtype(entry["dtype"])
                shape = tuple(entry["shape"])
                begin, end = entry["data_offsets"]
            except (KeyError, TypeError, ValueError):
                raise self._fail(
                    f"the entry of {shown(name)} has an unknown dtype or lacks a field"
                ) from None
            if len(shape) > MAX_DIMENSIONS:
                raise self._fail(
                    f"{shown(name)} has {len(shape)} dimensions; {MAX_DIMENSIONS} at most are read"
                )
            valid = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
            if not valid or end - begin != math.prod(shape) * dtype.itemsize:
                raise self._fail(
                    f"the size of {shown(name)} does not follow from its shape and dtype"
                )
            entries[name] = (dtype, shape, start + begin, start + end)
        position = start
        for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
            if begin != position:
                raise self._fail(f"{shown(name)} overlaps another tensor or leaves a gap")
            position = end
        if position != size:
            raise self._fail(f"its tensors end at byte {position}, the file at byte {size}")
        return entries


def _dtype(name: str) -> np.dtype:
    if name in _ML_DTYPES:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, _ML_DTYPES[name]))
    return np.dtype(_DTYPES[name])


def read_tensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors of a safetensors file, in memory, and its metadata."""
    file = TensorFile(path)
    return {name: np.array(file[name]) for name in file.names}, file.metadata


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    *,
    durable: bool = True,
) -> None:
    """Write a safetensors file in one step; flushed to the disk unless it need not be `durable`."""
    with replacing(path, durable=durable) as temporary:
        write_safetensors(temporary, tensors, metadata, tensors.items())
        written = TensorFile(temporary)
        if {n: (written.dtype(n), written.shape(n)) for n in written.names} != {
            n: (a.dtype, a.shape) for n, a in tensors.items()
        }:
            raise CheckpointError(
                f"{path}: what was written does not read back; the disk may be failing"
            )


@contextlib.contextmanager
def replacing(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary sibling of `path` to write to, which takes its place when the block succeeds.

    A link is followed: what it leads to is replaced. The new file has the permissions of the one
    that it replaces, or those of the umask where there was none. Raises `CheckpointError` when the
    folder cannot be written; the old file then stands untouched.
    """
    temporary: Path | None = None
    try:
        target, replaced = _written_to(path)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
        # The system applies the umask to a mode that a file is created with, and in no race.
        mode = 0o600 if replaced else 0o666
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        mode = stat.S_IMODE((replaced or os.fstat(descriptor)).st_mode) & 0o777
        os.close(descriptor)
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        if replaced:
            with contextlib.suppress(OSError):  # the owner of the new file is whoever writes it
                os.chown(temporary, replaced.st_uid, replaced.st_gid)
        temporary.chmod(mode)  # again: some writers put a file of their own in its place
        os.replace(temporary, target)
        temporary = None
        if durable:
            flush_folder(target.parent)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def creating_folder(path: str | Path) -> Iterator[Path]:
    """The path of a folder to make and fill, which takes the place of `path` when the block
    succeeds.

    A link is followed, to what does not exist yet: a folder replaces nothing. Raises
    `CheckpointError`.
    """
    holder: Path | None = None
    try:
        target = Path(os.path.realpath(path))
        if os.path.lexists(target):
            raise FileExistsError(
                None, "exists already, and a folder is not replaced in one step; remove it first"
            )
        holder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        yield holder / target.name
        for file in sorted((holder / target.name).rglob("*")):
            flush_folder(file)
        os.rename(holder / target.name, target)
        flush_folder(target.parent)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        if holder is not None:
            shutil.rmtree(holder, ignore_errors=True)


def _written_to(path: str | Path) -> tuple[Path, os.stat_result | None]:
    """Where a file goes that is written to `path`, links followed, and what is known of the file
    that lies there.
    """
    target = Path(os.path.realpath(path))
    try:
        found = target.lstat()
    except FileNotFoundError:
        return target, None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(None, "is a folder")
    if not stat.S_ISREG(found.st_mode):  # a device or a pipe; a link if they go in circles
        raise OSError(None, "is not a regular file")
    return target, found


def flush_folder(folder: Path) -> None:
    """Make a rename in it last; not every file system lets a folder be flushed."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replacing_is_possible(path: str | Path) -> None:
    """Raise `CheckpointError` now if `path` could not be written later."""
    try:
        folder = _written_to(path)[0].parent
        if not folder.is_dir():
            raise FileNotFoundError(None, f"there is no folder {folder}")
        if not os.access(folder, os.W_OK):
            raise PermissionError(None, f"the folder {folder} is not writable")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from None
