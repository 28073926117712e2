"""Orbax checkpoints: a folder of `_METADATA`, the tree, and a TensorStore database of the arrays
(OCDBT or plain zarr).

TensorStore parses untrusted bytes in C++, so it runs in a child process
(`shared.formats.containers.sandbox`). Orbax itself, and JAX with it, is needed for writing only.
Source: orbax/checkpoint/_src/metadata/tree.py.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import CheckpointError, FrameworkError
from shared.formats.containers import safetensors_file, spans
from shared.formats.containers.archive import MAX_TENSORS, Archive
from shared.formats.containers.flax_tree import MAX_DEPTH, MAX_PATH, nested, whole_tree
from shared.formats.containers.sandbox import Reader, Tensors
from shared.machine import require_packages
from shared.processes import ON_CPU, call
from shared.weights.files import TensorFile

MAX_FILES = 1 << 16
MAX_RATIO = 1000  # bytes of all tensors over bytes of the folder
MAX_STEPS = 1 << 12  # folders that are looked at
MAX_CHUNK = 2  # elements of a chunk, which TensorStore allocates whole, over elements of its array

_METADATA, _MARK = "_METADATA", "_CHECKPOINT_METADATA"
_STEP = re.compile(r"(\w{1,64}_)?[0-9]{1,12}")  # `7`, `checkpoint_7`
_ITEMS = (
    "",
    "default",
    "model",
    "state",
    "params",
)  # where a step of a CheckpointManager has its tree
_NO_ARRAY = ("None", "Dict", "List", "Tuple", "NamedTuple", "string")


def read(path: Path) -> Archive:
    """The arrays of a checkpoint (`whole_tree`), under `a/b/c`; its numbers are metadata.

    Raises `CheckpointError`, and `FrameworkError` when TensorStore is not installed.
    """
    require_packages("reading an Orbax checkpoint", "flax", "tensorstore")
    path = _step(path)
    size = _checked_size(path)
    item = _item(path)
    reader = Reader(__name__, path / item, label=path)
    total = sum(entry.nbytes for entry in reader.entries.values())
    if total > MAX_RATIO * size:
        raise CheckpointError(
            f"{path}: announces {total} bytes of arrays in {size} bytes of files; "
            f"{MAX_RATIO} times as many at most are read"
        )
    archive = whole_tree("orbax", reader.entries, reader.metadata)
    if not item:
        return archive
    return Archive(
        "orbax", archive.entries, archive.metadata, (f"item '{item}'", *archive.stripped_prefixes)
    )


def is_manager(folder: Path) -> bool:
    """Whether a folder is that of a `CheckpointManager`, which has one for each of its steps."""
    return bool(_steps(folder))


def _steps(folder: Path) -> list[str]:
    found = [
        name
        for name in _subfolders(folder)
        if _STEP.fullmatch(name) and (folder / name / _MARK).is_file()
    ]
    return sorted(found, key=lambda name: (len(name), name))


def _subfolders(folder: Path) -> list[str]:
    names: list[str] = []
    try:
        for entry in itertools.islice(os.scandir(folder), MAX_STEPS):
            if entry.is_dir(follow_symlinks=False):
                names.append(entry.name)
    except OSError as error:
        raise spans.cannot_read(folder, error) from None
    return sorted(names)


def _step(folder: Path) -> Path:
    """The folder of a manager's only step, or the folder itself."""
    if (folder / _MARK).is_file() or (folder / _METADATA).is_file():
        return folder
    steps = _steps(folder)
    if len(steps) > 1:
        last = ", ".join(map(spans.shown, steps[-8:]))
        raise CheckpointError(f"{folder}: holds {len(steps)} steps; give the folder of one: {last}")
    return folder / steps[0] if steps else folder


def _item(folder: Path) -> str:
    """The item of a step that has the model: by its usual name, or because it is the only tree."""
    usual = next((item for item in _ITEMS if (folder / item / _METADATA).is_file()), None)
    if usual is not None:
        return usual
    found = [name for name in _subfolders(folder) if (folder / name / _METADATA).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(map(spans.shown, found[:8]))
        raise CheckpointError(
            f"{folder}: holds {len(found)} trees; give the folder of one: {listed}"
        )
    raise CheckpointError(
        f"{folder}: holds no {_METADATA} of Orbax; give the folder of one checkpoint or step"
    )


def _checked_size(folder: Path) -> int:
    """Bytes of all files in a folder, none of which is a link: Orbax makes none, and they could
    lead out of it.
    """
    files, size, todo = 0, 0, [folder]
    try:
        while todo:
            for entry in os.scandir(todo.pop()):
                files += 1
                if files > MAX_FILES:
                    raise CheckpointError(
                        f"{folder}: has more than the {MAX_FILES} files that are read"
                    )
                if entry.is_dir(follow_symlinks=False):
                    todo.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    size += entry.stat(follow_symlinks=False).st_size
                else:
                    raise CheckpointError(
                        f"{folder}: {spans.shown(entry.name)} in it is a link or no file; "
                        "copy the files themselves"
                    )
    except OSError as error:
        raise spans.cannot_read(folder, error) from None
    return size


def prepare() -> None:
    """Import what the sandbox would not let in later."""
    import tensorstore  # noqa: F401


def open_entries(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The child's side: every array by its place in the tree. See
    `shared.formats.containers.sandbox`.
    """
    import tensorstore

    try:
        tree, _ = spans.read_json(path / _METADATA)
    except CheckpointError as error:
        raise CheckpointError(str(error).removeprefix(f"{path}/")) from None
    context = tensorstore.Context(
        {"file_io_concurrency": {"limit": 1}, "data_copy_concurrency": {"limit": 1}}
    )
    tensors: Tensors = {}
    metadata: dict[str, str] = {}
    for keys, kind in _leaves(tree):
        name = "/".join(keys)
        if name in tensors or name in metadata:
            raise CheckpointError(f"{_METADATA} has {spans.shown(name)} twice")
        store = tensorstore.open(
            _spec(path, tree, ".".join(keys)), open=True, read=True, context=context
        ).result()
        if not store.shape and (
            kind == "scalar" or keys[-1] == "step"
        ):  # an array when JAX counted it
            metadata[name] = str(store.read().result())
        else:
            shape = spans.checked_shape(name, [int(n) for n in store.shape], CheckpointError)
            chunk = math.prod(np.asarray(store.chunk_layout.read_chunk.shape).tolist())
            if chunk > MAX_CHUNK * max(math.prod(shape), 1):
                raise CheckpointError(
                    f"{spans.shown(name)} announces chunks of {chunk} elements in an array of "
                    f"{math.prod(shape)}; {MAX_CHUNK} times as many at most are read"
                )
            tensors[name] = (shape, store.dtype.name, partial(_load, store))
    return tensors, metadata


def _load(store: Any) -> np.ndarray:
    return store.read().result()


def _leaves(tree: dict[str, Any]) -> list[tuple[list[str], str]]:
    """(keys, type) of what `_METADATA` says are arrays and numbers."""
    fields = tree.get("tree_metadata")
    if not isinstance(fields, dict) or len(fields) > MAX_TENSORS:
        raise CheckpointError(
            f"{_METADATA} has no table 'tree_metadata' of at most {MAX_TENSORS} leaves"
        )
    leaves = []
    for field in fields.values():
        try:
            keys = [key["key"] for key in field["key_metadata"]]
            kind, skipped = (
                field["value_metadata"]["value_type"],
                field["value_metadata"]["skip_deserialize"],
            )
        except (KeyError, TypeError):
            raise CheckpointError(f"{_METADATA} has a leaf without key or type") from None
        if (
            not all(isinstance(key, str | int) for key in keys)
            or not isinstance(kind, str)
            or not 0 < len(keys) < MAX_DEPTH
        ):
            raise CheckpointError(f"{_METADATA} has a leaf with impossible keys or type")
        if sum(len(str(key)) + 1 for key in keys) > MAX_PATH or any(
            set(str(key)) & set("/\\\0") or key in (".", "..") for key in keys
        ):
            raise CheckpointError(
                f"{_METADATA} has the key {spans.shown('.'.join(map(str, keys)))}, "
                "which is too long or looks like a path"
            )
        if not skipped and kind not in _NO_ARRAY:
            leaves.append(([str(key) for key in keys], kind))
    return leaves


def _spec(path: Path, tree: dict[str, Any], name: str) -> dict[str, Any]:
    """Where TensorStore finds an array.

    A chunk that is not there is an error, not zeros, if all were written.
    """
    folder = f"{path}/"
    store: dict[str, Any] = {"driver": "file", "path": f"{folder}{name}/"}
    if tree.get("use_ocdbt"):
        store = {"driver": "ocdbt", "base": {"driver": "file", "path": folder}, "path": f"{name}/"}
    complete = tree.get("store_array_data_equal_to_fill_value") is True
    return {
        "driver": "zarr3" if tree.get("use_zarr3") else "zarr",
        "kvstore": store,
        "fill_missing_data_reads": not complete,
    }


def write(path: Path, archive: Archive) -> None:
    """Write the nested dict with Orbax's `StandardCheckpointer`, in a process of its own. Metadata
    has no place in it.

    The tensors go there in a safetensors file beside `path`, one by one.
    """
    require_packages("writing an Orbax checkpoint", "flax", "orbax")
    nested(path, archive.entries)  # refuses what has no nested dict
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        source = Path(folder) / "tensors.safetensors"
        safetensors_file.write(source, Archive("safetensors", archive.entries))
        try:
            call(_save, str(source), str(path.absolute()), name="Orbax", environment=ON_CPU)
        except FrameworkError as error:
            raise spans.cannot_write(path, str(error)) from None


def _save(source: str, target: str) -> None:
    """The writing child's side."""
    import orbax.checkpoint

    file, folder = TensorFile(source), Path(target)
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(
            folder, nested(folder, {name: np.array(file[name]) for name in file.names})
        )
