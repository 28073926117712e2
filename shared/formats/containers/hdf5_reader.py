"""The child's side of `hdf5_file.read`: walks an untrusted HDF5 file and names its tensors as Keras
means them.

Every object of the file is visited before one is believed, by hard links only. What no Keras file
needs is refused: other links, data in other files, virtual datasets, filters but gzip and shuffle,
types but plain numbers, objects that are reachable twice. Names and attributes are looked up among
what was visited.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shared.architecture.ops import Shape
from shared.errors import CheckpointError
from shared.formats.containers.archive import MAX_DIMENSIONS, MAX_ELEMENTS
from shared.formats.containers.sandbox import Tensors
from shared.formats.containers.spans import Span, shown, span_entry

if TYPE_CHECKING:
    import h5py

MAX_OBJECTS = 30_000  # ResNet-1202 has 25,000
MAX_DEPTH = 24
MAX_TEXT = 16 << 20  # bytes of an attribute
MAX_RATIO = 1000  # gzip reaches 1032 on zeros, and 1.1 on weights
MAX_CHUNK = 1 << 20  # bytes, unless the dataset is larger
MAX_CONFIG = 4 << 20  # bytes of a model's configuration; ResNet-152 has 0.6 MiB
MODEL_CONFIG = "model_config"  # the root attribute with Keras' own description of a whole model
ROSETTA = "resnet_rosetta"  # the root attribute with our own metadata, a table of strings in JSON
DTYPES = frozenset(
    ("float16", "float32", "float64", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)))
)

# Keras' legacy order of the weights of one layer; that of the variables' numbers, too.
LEAVES = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
UNSCALED = ("beta", "moving_mean", "moving_variance")  # a batch norm's without scale
UNKNOWN = "variable "  # and its number: of a norm that lacks gamma, beta or both
_BY_CLASS = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", *UNSCALED),
    "group_normalization": ("gamma", "beta"),
}
# Files of Keras 1: conv1/conv1_W:0. Its running_std held the variance.
_OLD_LEAVES = {
    "W": "kernel",
    "b": "bias",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
}
_OLD_LEAF = re.compile(rf".*_({'|'.join((*_OLD_LEAVES, *LEAVES))})")
_NOT_WEIGHTS = {"optimizer", "optimizer_weights", "seed_generator"}


class _Data(NamedTuple):
    """A dataset that may be read."""

    shape: Shape
    dtype: np.dtype
    stored: int = 0  # bytes in the file
    offset: int | None = None  # of what is stored in one piece

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class _Contents(NamedTuple):
    """All objects of a file by their paths, without the first slash; the root is ''. None is kept
    open.
    """

    file: h5py.h5f.FileID
    size: int
    groups: set[str]
    data: dict[str, _Data]


def prepare() -> None:
    """Import what the sandbox would not let in later."""
    import h5py  # noqa: F401


def open_entries(path: Path, *, directly: bool = False) -> tuple[Tensors, dict[str, str]]:
    """See `shared.formats.containers.sandbox`. Entries are `<layer>/<leaf>`, metadata what
    `hdf5_file.read` says.

    `directly`: what lies in one piece is read from where HDF5 says that it lies, for HDF5 serves
    one thread at a time.
    """
    import h5py

    contents = _visit(path)
    own = _attribute("", h5py.h5g.open(contents.file, b"/"), ROSETTA)
    metadata = {} if own is None else {ROSETTA: "".join(own)}
    legacy = next(
        (p for p in ("", "model_weights") if _strings(contents, p, "layer_names") is not None), None
    )
    if legacy is not None:
        metadata |= {"hdf5": "legacy", **_versions(contents, legacy), **_model_config(contents)}
        return _unique(contents, _legacy(contents, legacy), path if directly else None), metadata
    layers = _layer_groups(contents)
    if not layers:
        raise CheckpointError(
            "an HDF5 file, but not of Keras: it has neither layer_names nor layers/*/vars"
        )
    names = [_strings(contents, f"{path}/vars", "name") for path in layers]
    absent = any(name is None for name in names)
    metadata |= {"hdf5": "weights", **_versions(contents, "")} | (
        {"layer_names": "absent"} if absent else {}
    )
    titles = (
        [_counter_name(path) for path in layers] if absent else [name[0] for name in names if name]
    )
    return _unique(
        contents, _numbered(contents, layers, titles), path if directly else None
    ), metadata


# The walk.


def _visit(path: Path) -> _Contents:
    """Every object of the file, checked."""
    import h5py

    file = h5py.h5f.open(bytes(path), h5py.h5f.ACC_RDONLY)
    contents, seen = _Contents(file, path.stat().st_size, set(), {}), set()
    root = h5py.h5g.open(file, b"/")
    pending = [("", root, b"/", h5py.h5o.get_info(root).addr)]
    while pending:
        name, parent, key, address = pending.pop()
        if address in seen:
            raise CheckpointError(f"{shown(name)} is linked to twice")
        seen.add(address)
        item = h5py.h5o.open(parent, key)
        if isinstance(item, h5py.h5d.DatasetID):
            contents.data[name] = _checked(name, item, contents.size)
        elif isinstance(item, h5py.h5g.GroupID):
            contents.groups.add(name)
            if (
                item.get_num_objs() + len(seen) + len(pending) > MAX_OBJECTS
                or name.count("/") >= MAX_DEPTH
            ):
                raise CheckpointError(
                    f"it has more than {MAX_OBJECTS} objects, or groups deeper than {MAX_DEPTH}"
                )
            pending.extend(_members(name, item))
        else:
            raise CheckpointError(f"{shown(name)} is neither a group nor a dataset")
    _check_overlaps(contents)
    return contents


def _check_overlaps(contents: _Contents) -> None:
    """Raise where the same bytes serve twice; a small file could announce any amount."""
    if sum(data.stored for data in contents.data.values()) > contents.size:
        raise CheckpointError("its datasets store more bytes than it has")
    end = 0
    for offset, size in sorted(
        (d.offset, d.stored) for d in contents.data.values() if d.offset is not None
    ):
        if offset < end:
            raise CheckpointError("two of its datasets overlap")
        end = offset + size


def _members(
    path: str, group: h5py.h5g.GroupID
) -> Iterator[tuple[str, h5py.h5g.GroupID, bytes, int]]:
    """(path, group, name in the group, address) of what the group links to."""
    import h5py

    for name in group:
        child = f"{path}/{_text(name)}" if path else _text(name)
        link = group.links.get_info(name)
        if link.type != h5py.h5l.TYPE_HARD:
            raise CheckpointError(
                f"{shown(child)} is a soft or an external link, which may lead anywhere"
            )
        yield child, group, name, link.u


def _checked(path: str, dataset: h5py.h5d.DatasetID, size: int) -> _Data:
    """The dataset, if it is plain numbers that this file stores."""
    import h5py

    plist, kind, space = dataset.get_create_plist(), dataset.get_type(), dataset.get_space()
    if plist.get_external_count() or plist.get_layout() == h5py.h5d.VIRTUAL:
        raise CheckpointError(f"{shown(path)} has its data in another file or dataset")
    if not isinstance(
        kind, h5py.h5t.TypeFloatID | h5py.h5t.TypeIntegerID
    ) or kind.get_size() not in (1, 2, 4, 8):
        raise CheckpointError(f"{shown(path)} is not of plain numbers")
    dtype = kind.dtype.newbyteorder("=")
    if dtype.name not in DTYPES:
        raise CheckpointError(
            f"{shown(path)} is {dtype.name}; known are {', '.join(sorted(DTYPES))}"
        )
    if (
        space.get_simple_extent_type() == h5py.h5s.NULL
        or space.get_simple_extent_ndims() > MAX_DIMENSIONS
    ):
        raise CheckpointError(
            f"{shown(path)} has no shape, or more than {MAX_DIMENSIONS} dimensions"
        )
    shape = tuple(space.get_simple_extent_dims())
    if math.prod(shape) > MAX_ELEMENTS:
        raise CheckpointError(
            f"{shown(path)} has the shape {list(shape)}; {MAX_ELEMENTS} elements at most are read"
        )
    offset = dataset.get_offset() if plist.get_layout() == h5py.h5d.CONTIGUOUS else None
    data = _Data(shape, dtype, dataset.get_storage_size(), offset)
    _check_storage(path, data, plist, size)
    return data


def _check_storage(path: str, data: _Data, plist: Any, size: int) -> None:
    """Raise unless what is stored can be all that is announced."""
    import h5py

    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if not set(filters) <= {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}:
        raise CheckpointError(f"{shown(path)} uses other filters than gzip and shuffle")
    nbytes, stored, packed = data.nbytes, data.stored, h5py.h5z.FILTER_DEFLATE in filters
    if stored > size or (stored * MAX_RATIO < nbytes if packed else stored < nbytes):
        raise CheckpointError(
            f"{shown(path)} announces {nbytes} bytes and stores {stored}, in a file of {size}"
        )
    if data.offset is not None and data.offset + stored > size:
        raise CheckpointError(f"{shown(path)} lies behind the end of the file")
    if plist.get_layout() == h5py.h5d.CHUNKED:
        chunk = math.prod(plist.get_chunk()) * data.dtype.itemsize
        if chunk > max(nbytes, MAX_CHUNK):
            raise CheckpointError(f"{shown(path)} has chunks larger than itself")


def _load(contents: _Contents, path: str) -> np.ndarray:
    import h5py

    dataset = h5py.h5d.open(contents.file, path.encode())
    found = _checked(path, dataset, contents.size)
    array = np.empty(found.shape, found.dtype)
    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    return array


# Attributes.


def _strings(contents: _Contents, path: str, name: str) -> list[str] | None:
    """An attribute of strings of a group; None where there is none. Keras splits long ones: name0,
    name1, ...
    """
    import h5py

    if path not in contents.groups:
        return None
    group = h5py.h5g.open(contents.file, path.encode() or b"/")
    found = _attribute(path, group, name)
    if found is not None:
        return found
    parts: list[str] = []
    for k in range(MAX_OBJECTS):
        part = _attribute(path, group, f"{name}{k}")
        if part is None:
            return parts if k else None
        parts += part
    raise CheckpointError(f"the attribute {name} of {shown(path)} has too many parts")


def _attribute(path: str, group: h5py.h5g.GroupID, name: str) -> list[str] | None:
    import h5py

    key = name.encode()
    if not h5py.h5a.exists(group, key):
        return None
    attribute = h5py.h5a.open(group, key)
    kind, shape = attribute.get_type(), attribute.shape
    if 0 in shape:  # of a layer without weights; NumPy's default type
        return []
    strings = isinstance(kind, h5py.h5t.TypeStringID)
    if not strings or len(shape) > 1 or math.prod(shape) * kind.get_size() > MAX_TEXT:
        raise CheckpointError(
            f"the attribute {name} of {shown(path)} is not a list of strings, or a very long one"
        )
    array = np.empty(shape, attribute.dtype)
    attribute.read(array)
    values = [_text(value) for value in array.reshape(-1).tolist()]
    if sum(map(len, values)) > MAX_TEXT:
        raise CheckpointError(
            f"the attribute {name} of {shown(path)} is longer than {MAX_TEXT} bytes"
        )
    return values


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(f"the name {value[:100]!r} is not UTF-8") from None


def _versions(contents: _Contents, path: str) -> dict[str, str]:
    found = {key: _strings(contents, path, key) for key in ("keras_version", "backend")}
    return {key: value[0] for key, value in found.items() if value}


def _model_config(contents: _Contents) -> dict[str, str]:
    """The configuration of a whole model, which is no part of a file of weights."""
    text = "".join(_strings(contents, "", MODEL_CONFIG) or [])
    if len(text) > MAX_CONFIG:
        raise CheckpointError(
            f"its {MODEL_CONFIG} has {len(text)} characters; {MAX_CONFIG} at most are read"
        )
    return {MODEL_CONFIG: text} if text else {}


# Names.


def _legacy(contents: _Contents, root: str) -> Iterator[tuple[str, str]]:
    """`<layer>/<leaf>` and path of every weight, in the order of layer_names."""
    for layer in _strings(contents, root, "layer_names") or []:
        path = f"{root}/{layer}".strip("/")
        if path not in contents.groups:
            raise CheckpointError(f"its layer_names name {shown(layer)}, which has no group")
        weights = _strings(contents, path, "weight_names") or []
        leaves = [_legacy_leaf(name) for name in weights]
        nested = len(set(leaves)) < len(
            leaves
        )  # a model as a layer: its weights say whose they are
        for name, leaf in zip(weights, leaves, strict=True):
            dataset = f"{path}/{name}"
            if dataset not in contents.data:
                raise CheckpointError(
                    f"the weight_names of {shown(layer)} name {shown(name)}, which is no dataset "
                    "in its group"
                )
            owner = name.split("/")[-2] if nested and "/" in name else layer
            yield f"{owner}/{leaf}", dataset
    for name in (
        _strings(contents, f"{root}/top_level_model_weights".strip("/"), "weight_names") or []
    ):
        raise CheckpointError(f"it has the weight {shown(name)} outside of its layers")


def _legacy_leaf(name: str) -> str:
    """conv1/kernel:0, conv1/kernel, conv1_W:0 and the like."""
    leaf = re.sub(r":\d+$", "", name.rpartition("/")[2])
    if leaf in LEAVES:
        return leaf
    numbered = re.fullmatch(rf"({'|'.join(LEAVES)})_\d+", leaf)
    if numbered:
        return numbered[1]
    old = _OLD_LEAF.fullmatch(leaf)
    return _OLD_LEAVES.get(old[1], old[1]) if old else leaf


def _layer_groups(contents: _Contents) -> list[str]:
    """The groups with variables, in the order of their counters."""
    owners = set()
    for path in contents.data:
        parts = path.split("/")
        if set(parts) & _NOT_WEIGHTS:
            continue
        if len(parts) < 3 or parts[-2] != "vars":
            raise CheckpointError(f"it has the dataset {shown(path)} outside of its layers")
        owners.add("/".join(parts[:-2]))
    return sorted(owners, key=lambda path: [_class_and_counter(part) for part in path.split("/")])


def _class_and_counter(name: str) -> tuple[str, int]:
    """("conv2d", 3) of conv2d_3; the first of its class has no number."""
    match = re.fullmatch(r"(.*?)_([1-9]\d{0,8})", name, re.DOTALL)
    return (match[1], int(match[2])) if match else (name, 0)


def _counter_name(path: str) -> str:
    return "/".join(part for part in path.split("/") if part != "layers") or path


def _numbered(
    contents: _Contents, layers: list[str], titles: list[str]
) -> Iterator[tuple[str, str]]:
    """`<layer>/<leaf>` and path of every variable; its leaf is known by its class and number.

    Of a norm that lacks some, it is not: those are `UNKNOWN` and a number.
    """
    variables: dict[str, list[str]] = {path: [] for path in layers}
    for name in contents.data:
        owner, _, number = name.rpartition("/vars/")
        if owner in variables:
            variables[owner].append(number)
    for path, title in zip(layers, titles, strict=True):
        prefix = f"{path}/vars/"
        numbers = sorted(variables[path], key=lambda name: (len(name), name))
        kind = _class_and_counter(path.rpartition("/")[2])[0]
        leaves = next((leaves for end, leaves in _BY_CLASS.items() if kind.endswith(end)), None)
        if leaves and leaves[0] == "gamma" and len(numbers) < len(leaves):
            leaves = tuple(f"{UNKNOWN}{i}" for i in range(len(numbers)))
        counts = (1, 2) if leaves and leaves[0] == "kernel" else (len(leaves or ()),)
        if leaves is None:
            leaves = tuple(numbers)
        elif numbers != [str(i) for i in range(len(numbers))] or len(numbers) not in counts:
            raise CheckpointError(
                f"{shown(path)} has the variables {numbers[:6]}; expected are those of "
                f"{list(leaves)}"
            )
        for number, leaf in zip(numbers, leaves, strict=False):
            yield f"{title}/{leaf}", prefix + number


def _unique(contents: _Contents, named: Iterable[tuple[str, str]], direct: Path | None) -> Tensors:
    tensors: Tensors = {}
    for name, path in named:
        if name in tensors:
            raise CheckpointError(f"it has {shown(name)} twice")
        data = contents.data[path]
        load: Callable[[], np.ndarray] = partial(_load, contents, path)
        if direct and data.offset is not None and data.stored == data.nbytes:
            load = span_entry(
                [Span(direct, data.offset, data.nbytes)], data.shape, data.dtype, direct
            ).load
        tensors[name] = data.shape, data.dtype.name, load
    return tensors
