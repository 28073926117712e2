"""HDF5 as Keras writes it: legacy `.h5` by layer names, and the `.weights.h5` of Keras 3 by
counters.

Reading happens in a sandboxed process (`hdf5_reader`), writing in this one. Entries are
`<layer>/<leaf>`, leaf one of kernel, bias, gamma, beta, moving_mean, moving_variance. Sources:
keras 3.15 src/legacy/saving/legacy_h5_format.py and src/saving/saving_lib.py.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shared.errors import CheckpointError
from shared.formats.containers import hdf5_reader, spans
from shared.formats.containers.archive import Archive, Configuration, Entry
from shared.formats.containers.hdf5_reader import LEAVES, MODEL_CONFIG, ROSETTA
from shared.formats.containers.sandbox import Reader

if TYPE_CHECKING:
    import h5py

_MAGIC = b"\x89HDF\r\n\x1a\n"
_MAX_ATTRIBUTE = 64512  # bytes; Keras' HDF5_OBJECT_HEADER_LIMIT
_WRITABLE = ("float16", "float32", "float64")
# Metadata that a file has by itself, or that only writing needs.
Norms = Mapping[str, tuple[str, ...]]  # layer -> its variables
_OUR_NAME = re.compile(r"(stem|stages\.\d+\.blocks\.\d+|final_norm|head)(\.\w+)*/[\w ]+")
_ABOUT_THE_FILE = ("hdf5", "keras_version", "backend", "layer_names", "layers")
_CONTAINERS = {"legacy": "hdf5", "weights": "keras-weights"}


def read(path: Path) -> Archive:
    """The weights of a Keras HDF5 file.

    Legacy entries are in the file's layer order, others in the order of class and counter.
    Metadata: `hdf5` is "legacy" or "weights", `keras_version` and `backend` if the file has them,
    what `write` was given, and `layer_names` = "absent" where layers are known by their counters
    only (before Keras 3.11). The configuration is that of a whole model. Raises `CheckpointError`.
    """
    return read_as(path, path)


def read_as(path: Path, label: Path, norms: Norms | None = None, *, ours: bool = False) -> Archive:
    """`read`, for a file that messages shall call `label`.

    `norms` are the variables of norms by layer, in the file's order: those that lack gamma or beta
    are not read without. `ours`: the model is one of ours, of which none lacks beta.
    """
    spans.file_size(path)
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise CheckpointError(
                f"{label}: not an HDF5 file: it does not start with HDF5's signature"
            )
    reader = Reader("shared.formats.containers.hdf5_reader", path, label)
    return _archive(reader.entries, dict(reader.metadata), label, norms or {}, ours=ours)


def read_own(path: Path) -> Archive:
    """`read`, in this process: for a file that it has written itself, to see that it arrived."""
    tensors, metadata = hdf5_reader.open_entries(path, directly=True)
    entries = {
        name: Entry(shape, np.dtype(dtype), load) for name, (shape, dtype, load) in tensors.items()
    }
    return _archive(entries, metadata, path, {})


def _archive(
    entries: dict[str, Entry],
    metadata: dict[str, str],
    label: Path,
    norms: Norms,
    *,
    ours: bool = False,
) -> Archive:
    ours = ours or ROSETTA in metadata or all(map(_OUR_NAME.fullmatch, entries))
    usual = hdf5_reader.UNSCALED if ours else ()
    entries = _with_leaves(entries, norms, usual, label)
    own = _own_metadata(metadata.pop(ROSETTA, "{}"), label)
    configuration = None
    if MODEL_CONFIG in metadata:
        text = metadata.pop(MODEL_CONFIG)
        value, _ = spans.parse_json(text.encode("utf-8", "replace"), label)
        configuration = Configuration("keras", MODEL_CONFIG, value)
    container = _CONTAINERS.get(metadata.get("hdf5", ""), "hdf5")
    return Archive(container, entries, own | metadata, configuration=configuration)


def _with_leaves(
    entries: dict[str, Entry], norms: Norms, usual: tuple[str, ...], label: Path
) -> dict[str, Entry]:
    """The entries, with those of norms that lack a variable under the names of their leaves."""
    lacking = Counter(
        layer
        for layer, _, leaf in (name.rpartition("/") for name in entries)
        if leaf.startswith(hdf5_reader.UNKNOWN)
    )
    found = {}
    for name, entry in entries.items():
        layer, _, leaf = name.rpartition("/")
        if layer in lacking:
            leaves = norms.get(layer, usual)
            if len(leaves) != lacking[layer]:
                raise CheckpointError(
                    f"{label}: the norm {spans.shown(layer)} has {lacking[layer]} variables, and "
                    "its file does not say which; a .keras or .h5 file of the model does"
                )
            leaf = leaves[int(leaf.removeprefix(hdf5_reader.UNKNOWN))]
        found[f"{layer}/{leaf}"] = entry
    return found


def _own_metadata(text: str, label: Path) -> dict[str, str]:
    if len(text) > spans.MAX_JSON:
        raise CheckpointError(
            f"{label}: its attribute {ROSETTA} is longer than {spans.MAX_JSON} bytes"
        )
    table, _ = spans.parse_json(text.encode("utf-8", "replace"), label)
    if not all(isinstance(value, str) for value in table.values()):
        raise CheckpointError(f"{label}: its attribute {ROSETTA} is not a table of strings")
    return table


def write_legacy(path: Path, archive: Archive) -> None:
    """A legacy `.h5`, which `load_weights` of Keras 2 and 3 takes, in order or by name.

    Keras goes by the order of `model.layers`, which the entries must be in. Raises
    `CheckpointError`.
    """
    layers = _layers(path, archive)
    with _created(path, archive) as file:
        _set_strings(file, "layer_names", list(layers))
        file.attrs["backend"] = "tensorflow"
        file.attrs["keras_version"] = "3.0.0"
        values = _values(path, layers)
        for layer, leaves in layers.items():
            group = file.create_group(layer)
            _set_strings(group, "weight_names", [f"{layer}/{leaf}" for leaf in leaves])
            for leaf in leaves:
                group.create_dataset(f"{layer}/{leaf}", data=next(values))


def write_weights(path: Path, archive: Archive) -> None:
    """A `.weights.h5` of Keras 3, which numbers the layers of each class in the order of
    `model.layers`.

    The entries must be in that order, per class at least. Layers without weights need no group.
    Raises `CheckpointError`.
    """
    layers = _layers(path, archive)
    counter: Counter[str] = Counter()
    with _created(path, archive) as file:
        file.create_group("vars")
        values = _values(path, layers)
        for layer, leaves in layers.items():
            kind = _class_of(path, layer, leaves)
            number = counter[kind]
            counter[kind] += 1
            group = file.create_group(
                f"layers/{kind}_{number}" if number else f"layers/{kind}"
            ).create_group("vars")
            group.attrs["name"] = layer
            for i in range(len(leaves)):
                group.create_dataset(str(i), data=next(values))


def _layers(path: Path, archive: Archive) -> dict[str, dict[str, Entry]]:
    """Layer -> leaf -> entry: layers in the archive's order, leaves in Keras'."""
    layers: dict[str, dict[str, Entry]] = {}
    for name, entry in archive.entries.items():
        layer, _, leaf = name.rpartition("/")
        if leaf not in LEAVES or not layer.isprintable() or layer in ("", ".") or "/" in layer:
            raise spans.cannot_write(
                path, f"{spans.shown(name)} is not <layer>/<{'|'.join(LEAVES)}>"
            )
        if entry.dtype.name not in _WRITABLE:
            raise spans.cannot_write(
                path,
                f"{spans.shown(name)} is {entry.dtype}; Keras' HDF5 files hold "
                f"{', '.join(_WRITABLE)}, so round it first",
            )
        layers.setdefault(layer, {})[leaf] = entry
    return {
        layer: {leaf: leaves[leaf] for leaf in LEAVES if leaf in leaves}
        for layer, leaves in layers.items()
    }


def _values(path: Path, layers: Mapping[str, Mapping[str, Entry]]) -> Iterator[np.ndarray]:
    """The values of all layers, in their order."""
    return spans.checked_values(
        path,
        {
            f"{layer}/{leaf}": entry
            for layer, leaves in layers.items()
            for leaf, entry in leaves.items()
        },
    )


def _class_of(path: Path, layer: str, leaves: Mapping[str, Entry]) -> str:
    """Keras' name of the layer's class; its leaves must be all that the class has."""
    names = tuple(leaves)
    if names in (("kernel",), ("kernel", "bias")):
        return "conv2d" if len(leaves["kernel"].shape) == 4 else "dense"
    if names in (("gamma", *hdf5_reader.UNSCALED), hdf5_reader.UNSCALED):
        return "batch_normalization"
    if names == ("gamma", "beta"):
        return "group_normalization"
    raise spans.cannot_write(
        path, f"{spans.shown(layer)} has {', '.join(names)}, which no layer of Keras has"
    )


@contextlib.contextmanager
def _created(path: Path, archive: Archive) -> Iterator[h5py.File]:
    """A new HDF5 file with our metadata, closed at the end."""
    import h5py

    metadata = {key: value for key, value in archive.metadata.items() if key not in _ABOUT_THE_FILE}
    try:
        with h5py.File(path, "w") as file:
            if metadata:  # a string of variable length, which may be longer than an attribute
                file.attrs[ROSETTA] = json.dumps(metadata)
            yield file
    except CheckpointError:  # a ValueError, too
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise spans.cannot_write(path, " ".join(str(error).split())) from None


def _set_strings(group: h5py.Group, name: str, strings: list[str]) -> None:
    """An attribute of strings, split as Keras does it when it is too long: name0, name1, ..."""
    data = np.array([text.encode() for text in strings])
    parts = [data]
    while any(part.nbytes > _MAX_ATTRIBUTE for part in parts):
        parts = np.array_split(data, len(parts) + 1)
    for k, part in enumerate(parts):
        group.attrs[name if len(parts) == 1 else f"{name}{k}"] = part
