"""Pickles of NumPy arrays (.pkl, .pickle): detectron2's, Caffe2's, Haiku's, anybody's dicts and
lists; and `.npy` files, of which those of a single object are pickles, too.

They are read without Python's unpickler, which runs what a file says
(`shared.formats.containers.pickle_machine`). Arrays stay in the file until they are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shared.errors import CheckpointError
from shared.formats.containers import spans
from shared.formats.containers.archive import Archive, Entry
from shared.formats.containers.npz_file import parse_start
from shared.formats.containers.pickle_arrays import PLAIN, NumpyArray, Raw
from shared.formats.containers.pickle_objects import describe
from shared.formats.containers.pickle_stream import StreamMachine
from shared.formats.containers.pickle_tree import Leaf, extras, named_tensors
from shared.formats.containers.pickle_values import PickleRefused
from shared.formats.containers.spans import shown

_SLACK = 1 << 20  # bytes that arrays may add to four times the file
_AVERAGES = ("/mean_ema", "/var_ema")  # of Haiku's states


def is_pickle(start: bytes) -> bool:
    """Whether a file starts as a pickle of some protocol: with its number, or with a container."""
    return (start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5")) or start[:2] in (
        b"(d",
        b"(l",
        b"(t",
        b"}q",
        b"]q",
        b"(c",
        b"cn",
        b"cc",
        b"ch",
    )


def read(path: Path) -> Archive:
    """The arrays of a pickle by the keys that lead to them. Raises `CheckpointError`."""

    def fail(what: str) -> CheckpointError:
        return CheckpointError(f"{path}: cannot be read as a pickle of arrays: {what}")

    try:
        with path.open("rb") as file:
            return _read_pickle(path, file, 0, "pickle")
    except OSError as error:
        raise spans.cannot_read(path, error) from None
    except PickleRefused as error:
        raise fail(str(error)) from None


def read_npy(path: Path) -> Archive:
    """The arrays of a `.npy` file's single object. One of numbers has just one, and is no network.

    Raises `CheckpointError`.
    """
    fail = spans.failing(path, "a .npy file")
    try:
        with path.open("rb") as file:
            shape, kind, start = parse_start(file, path.name, fail)
            if kind != "O":
                raise CheckpointError(
                    f"{path}: holds one array, of the shape {list(shape)}, without a name; a "
                    "network has an array for each of its layers: save them with numpy.savez, "
                    "each under its name"
                )
            if math.prod(shape) != 1:
                raise CheckpointError(
                    f"{path}: holds {math.prod(shape):,} Python objects; one dict of arrays is read"
                )
            return _read_pickle(path, file, start, "npy")
    except OSError as error:
        raise spans.cannot_read(path, error) from None
    except PickleRefused as error:
        raise fail(str(error)) from None


def _read_pickle(path: Path, file: BinaryIO, start: int, container: str) -> Archive:
    size = spans.file_size(path)
    machine = StreamMachine(file, start, size)
    value = _with_collections(machine.load())
    if machine.position != size:
        raise PickleRefused("something follows its pickle")
    tensors = named_tensors(value)
    if not tensors:
        raise PickleRefused(f"it holds no arrays of numbers: {describe(value)}")
    entries = {name: array_entry(path, name, found) for name, found in tensors.items()}
    check_total(entries, size)
    return Archive(container, entries, extras(value))


def _with_collections(value: Any) -> Any:
    """Haiku's pair of parameters and states with names, as they are saved without: `(params,
    state)`.
    """
    if type(value) in (tuple, list) and len(value) == 2:
        params, state = value
        if (
            isinstance(params, dict)
            and isinstance(state, dict)
            and any(type(key) is str and key.endswith(_AVERAGES) for key in state)
        ):
            return {"params": params, "state": state}
    return value


def check_total(entries: Mapping[str, Entry], size: int) -> None:
    """Refuse arrays that are one another, over and over, as only a hostile file has them."""
    total = sum(entry.nbytes for entry in entries.values())
    if total > 4 * size + _SLACK:
        raise PickleRefused(f"its arrays unfold to {total:,} bytes, the file has {size:,}")


def array_entry(path: Path, name: str, found: Leaf) -> Entry:
    """The tensor of an array, whose bytes are in the file or here."""
    dtype = found.numbers if type(found) is NumpyArray else None
    if type(found) is not NumpyArray or dtype is None:
        raise PickleRefused(f"{shown(name)} is a tensor of PyTorch, which no such pickle has")
    shape, data = found.shape, found.data

    def load() -> np.ndarray:
        flat = spans.empty((math.prod(shape),), dtype, path)
        if isinstance(data, Raw) and data.form == PLAIN:
            spans.read_into(flat, [spans.Span(path, data.start, flat.nbytes)])
        else:
            raw = data if isinstance(data, bytes) else _decoded(path, name, data, flat.nbytes)
            flat[:] = np.frombuffer(raw, dtype)
        if found.is_swapped:
            flat.byteswap(inplace=True)
        array = flat.view(np.uint8) != 0 if dtype == np.bool_ else flat
        return array.reshape(shape, order="F" if found.fortran else "C")

    return Entry(shape, dtype, load)


def _decoded(path: Path, name: str, raw: Any, nbytes: int) -> bytes:
    """The bytes of an array that are written as a text."""
    with path.open("rb") as file:
        file.seek(raw.start)
        data = file.read(raw.end - raw.start)
    try:
        found = raw.decode(data)
    except ValueError:
        raise CheckpointError(
            f"{path}: {shown(name)} is not written as the bytes of an array"
        ) from None
    if len(found) != nbytes:
        raise CheckpointError(f"{path}: {shown(name)} has {len(found)} bytes, expected {nbytes}")
    return found
