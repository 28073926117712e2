"""PyTorch checkpoints (.pth, .pt, .th, .bin), read without PyTorch and without running what they
say.

Both layouts of `torch.save` are read: the zip file (since 1.6) and the legacy stream of pickles;
and TorchScript's zip file, whose code is left alone. Of whole models the names are those of their
state dicts.
The pickles go through `shared.formats.containers.pickle_machine`, which builds inert values;
tensors are read from their place in the file. Checksums of members are not compared: PyTorch has a
switch to leave them out.
"""

from __future__ import annotations

import functools
import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from shared.errors import CheckpointError, FrameworkError
from shared.formats.containers import spans
from shared.formats.containers.archive import MAX_ELEMENTS, Archive, Entry
from shared.formats.containers.pickle_file import array_entry
from shared.formats.containers.pickle_machine import MAX_PICKLE, Machine
from shared.formats.containers.pickle_objects import describe, is_script
from shared.formats.containers.pickle_tree import extras, named_tensors
from shared.formats.containers.pickle_values import PickleRefused, Storage, TensorReference
from shared.formats.containers.spans import shown
from shared.formats.containers.zip_members import DEFLATED, Member, read_members

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_SLACK = 1 << 20  # bytes that views may add to four times the file
_CODE = re.compile(r"[^/]+/code/")  # of TorchScript, which is not looked at


class _Place(NamedTuple):
    """Where a storage lies in the file: `nbytes` bytes at `offset`."""

    offset: int
    nbytes: int


def sniff_zip(names: Iterable[str]) -> bool:
    """Whether the members of a zip file are those of a `torch.save` or of TorchScript."""
    return any(name.endswith("/data.pkl") and name.count("/") == 1 for name in names)


def read(path: Path) -> Archive:
    """The tensors of state dicts and of whole models, wherever the checkpoint keeps them.

    Raises `CheckpointError`.
    """

    def fail(what: str) -> CheckpointError:
        return CheckpointError(f"{path}: cannot be read as a PyTorch checkpoint: {what}")

    try:
        size = spans.file_size(path)
        with path.open("rb") as file:
            start = file.read(512)
            _refuse_other_files(start)
            value, places = (
                _read_zip(file, fail) if start[:4] == b"PK\3\4" else _read_legacy(file, size)
            )
        return _make_archive(path, size, value, places)
    except OSError as error:
        raise spans.cannot_read(path, error) from None
    except PickleRefused as error:
        raise fail(str(error)) from None


# Layouts.


def _refuse_other_files(start: bytes) -> None:
    if start[257:262] == b"ustar":
        raise PickleRefused(
            "it has the tar layout of PyTorch before 0.1.10; load it with PyTorch and save it again"
        )
    if start[:4] != b"PK\3\4" and start[:1] != b"\x80":
        raise PickleRefused("it starts neither as a zip file nor as a pickle")


def _checked_name(member: Member, fail: spans.Fail) -> str:
    name = member.name
    if (
        not name.isprintable()
        or len(name) > 512
        or "\\" in name
        or name[:1] in ("", "/")
        or ".." in name.split("/")
    ):
        raise fail(f"the name of a member is not acceptable: {shown(name)}")
    if member.method == DEFLATED and not _CODE.match(name):
        raise fail(f"its member {shown(name)} is compressed, which PyTorch does not do")
    return name


def _read_zip(file: BinaryIO, fail: spans.Fail) -> tuple[Any, dict[str, _Place]]:
    members = {_checked_name(member, fail): member for member in read_members(file, fail)}
    roots = [name.removesuffix("data.pkl") for name in members if sniff_zip([name])]
    if len(roots) != 1:
        raise fail(f"it has {len(roots)} members <name>/data.pkl, expected one")
    root = roots[0]
    order = members.get(f"{root}byteorder")
    if order is not None and _pread(file, order.offset, min(order.size, 16)) != b"little":
        raise fail("its numbers are not little-endian")
    pickle = members[f"{root}data.pkl"]
    if pickle.size > MAX_PICKLE:
        raise fail(f"its pickle has {pickle.size:,} bytes, more than {MAX_PICKLE >> 20} MiB")
    machine = Machine(_pread(file, pickle.offset, pickle.size))
    value = machine.load()
    if machine.position != pickle.size:
        raise fail("something follows its pickle")
    places = {}
    for key, storage in machine.storages.items():
        member = members.get(f"{root}data/{key}")
        if member is None or member.size != _nbytes(storage):
            found = "no such member" if member is None else f"{member.size:,} bytes"
            raise fail(
                f"the storage {shown(key)} needs {_nbytes(storage):,} bytes, the file has {found}"
            )
        places[key] = _Place(member.offset, member.size)
    return value, places


def _read_legacy(file: BinaryIO, size: int) -> tuple[Any, dict[str, _Place]]:
    machine = Machine(_pread(file, 0, min(size, MAX_PICKLE)))
    if not _is_integer(machine.load(), _MAGIC) or not _is_integer(machine.load(), _PROTOCOL):
        raise PickleRefused("it is a pickle, but not one that torch.save wrote")
    system = machine.load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise PickleRefused("its numbers are not little-endian")
    value = machine.load()
    storages, keys = machine.storages, machine.load()
    if (
        type(keys) is not list
        or not all(type(key) is str for key in keys)
        or sorted(keys) != sorted(storages)
    ):
        raise PickleRefused("its list of storages is not that of its tensors")
    places = {}
    position = machine.position
    for key in keys:
        count = int.from_bytes(_pread(file, position, 8), "little") if position < size else -1
        if count != storages[key].numel:
            raise PickleRefused(
                f"the storage {shown(key)} does not have the {storages[key].numel:,} elements "
                "that its "
                "tensors expect; the file is damaged or cut short"
            )
        places[key] = _Place(position + 8, _nbytes(storages[key]))
        position += 8 + places[key].nbytes
    if position != size:
        raise PickleRefused(f"its tensors end at byte {position:,}, the file at byte {size:,}")
    return value, places


def _is_integer(value: Any, expected: int) -> bool:
    return type(value) is int and value == expected


def _pread(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)


@functools.cache
def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":  # NumPy learns bfloat16 from ml_dtypes
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name).newbyteorder("<")


def _nbytes(storage: Storage) -> int:
    return storage.numel * _dtype(storage.dtype).itemsize


# From the value of the pickle to an archive.


def _make_archive(path: Path, size: int, value: Any, places: Mapping[str, _Place]) -> Archive:
    tensors = named_tensors(value)
    if not tensors and is_script(value):
        raise PickleRefused(
            "it is a TorchScript program without tensors: freezing made its weights constants of "
            "its program; save the model before torch.jit.freeze"
        )
    if not tensors:
        raise PickleRefused(f"it holds no state dict: {describe(value)}; save model.state_dict()")
    entries = {
        name: _make_entry(path, name, found, places[found.storage.key])
        if type(found) is TensorReference
        else array_entry(path, name, found)
        for name, found in tensors.items()
    }
    total = sum(entry.nbytes for entry in entries.values())
    if total > 4 * size + _SLACK:
        raise PickleRefused(
            f"its tensors are views that unfold to {total:,} bytes, the file has {size:,}"
        )
    return Archive("torch", entries, extras(value))


# Tensors.


def _make_entry(path: Path, name: str, tensor: TensorReference, place: _Place) -> Entry:
    dtype = _dtype(tensor.dtype)
    if math.prod(n for n in tensor.size if n) > MAX_ELEMENTS:
        raise PickleRefused(
            f"the tensor {shown(name)} has the impossible shape {list(tensor.size)}"
        )
    empty = 0 in tensor.size
    steps = zip(tensor.size, tensor.stride, strict=True)
    span = (
        0 if empty else 1 + sum((n - 1) * step for n, step in steps)
    )  # elements from the first to the last
    if (tensor.offset + span) * dtype.itemsize > place.nbytes:
        raise PickleRefused(f"the tensor {shown(name)} reaches beyond its storage")
    offset = place.offset + tensor.offset * dtype.itemsize

    def load() -> np.ndarray:
        if empty or _is_contiguous(tensor):
            array = spans.empty(tensor.size, dtype, path)
            spans.read_into(array, [spans.Span(path, offset, array.nbytes)])
        else:
            array = _load_view(path, offset, span, dtype, tensor)
        return array.view(np.uint8) != 0 if dtype == np.bool_ else array  # a bool may be any byte

    return Entry(tensor.size, dtype, load)


def _load_view(
    path: Path, offset: int, span: int, dtype: np.dtype, tensor: TensorReference
) -> np.ndarray:
    """The values of a tensor that is not contiguous, as an array that is."""
    try:  # a map, because the elements of a view may be few and far between
        raw = np.asarray(np.memmap(path, np.uint8, "r", offset, (span * dtype.itemsize,)))
    except OSError as error:
        raise spans.cannot_read(path, error) from None
    except ValueError:
        raise CheckpointError(
            f"{path}: has become shorter since its header was read; read it again"
        ) from None
    strides = [step * dtype.itemsize for step in tensor.stride]
    view = np.lib.stride_tricks.as_strided(raw.view(dtype), tensor.size, strides, writeable=False)
    return view.copy(order="C")


def _is_contiguous(tensor: TensorReference) -> bool:
    expected = 1
    for n, step in zip(reversed(tensor.size), reversed(tensor.stride), strict=True):
        if n != 1 and step != expected:
            return False
        expected *= n
    return True


# Writing.


def write(path: Path, archive: Archive) -> None:
    """Write the tensors as a state dict, which PyTorch makes from all of them at once; metadata has
    no place in it.

    Raises `FrameworkError` without PyTorch, and `CheckpointError` for a dtype that it does not
    have.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise FrameworkError(
            "a PyTorch file is written by torch, which is not installed; pip install "
            "'resnet-rosetta[torch]'"
        ) from None
    except ImportError as error:
        raise FrameworkError(f"torch cannot be imported: {error}") from None

    def convert(name: str, value: np.ndarray) -> torch.Tensor:
        array = np.require(value, requirements="W")
        try:
            if array.dtype.name == "bfloat16":
                return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
            return torch.from_numpy(array)
        except TypeError:
            raise spans.cannot_write(
                path, f"PyTorch has no {array.dtype} for {shown(name)}"
            ) from None

    values = zip(archive.entries, spans.checked_values(path, archive.entries), strict=True)
    state = OrderedDict((name, convert(name, value)) for name, value in values)
    try:
        with path.open("wb") as file:  # given a path, PyTorch would write that name into the file
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        raise spans.cannot_write(
            path, getattr(error, "strerror", None) or str(error).partition("\n")[0]
        ) from None
