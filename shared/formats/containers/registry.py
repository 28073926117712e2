"""The file formats that checkpoints come in, and which one a file is.

Readers are imported when they are needed.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import CheckpointError
from shared.formats.containers import orbax_folder, pickle_file, spans
from shared.formats.containers.archive import Archive
from shared.formats.containers.tensorflow import checkpoint as tensorflow


@dataclass(frozen=True)
class Container:
    """A file format: the module that reads and writes it, and how its files are called."""

    name: str
    title: str
    module: str
    suffixes: tuple[str, ...]
    folder: bool = False  # several files in a folder
    writer: str = "write"
    rereader: str = "read"  # of what this process has just written, and need not be protected from
    dtypes: tuple[str, ...] = ("float64", "float32", "float16", "bfloat16")  # that it can hold
    reader: str = "read"

    @property
    def is_written(self) -> bool:
        """Whether there is a writer; others are read alone, and hold no format of ours."""
        return bool(self.writer)

    def read(self, path: Path) -> Archive:
        return self._function(self.reader)(path)

    def read_back(self, path: Path) -> Archive:
        """`read`, of a file that this process has just written."""
        return self._function(self.rereader)(path)

    def write(self, path: Path, archive: Archive) -> None:
        self._function(self.writer)(path, archive)

    def _function(self, name: str) -> Callable[..., Any]:
        return getattr(importlib.import_module(f"shared.formats.containers.{self.module}"), name)


def _read_only(
    name: str, title: str, module: str, suffixes: tuple[str, ...] = (), **options: Any
) -> Container:
    return Container(name, title, module, suffixes, writer="", dtypes=(), **options)


EXPORTED = (".xml", ".tflite", ".stablehlo")  # which are read as graphs
NUMPY_ONLY = ("float64", "float32", "float16")

CONTAINERS: dict[str, Container] = {
    c.name: c
    for c in (
        Container("safetensors", "safetensors", "safetensors_file", (".safetensors",)),
        Container(
            "torch", "PyTorch checkpoint", "torch_file", (".pth", ".pt", ".th", ".bin", ".tar")
        ),
        Container(
            "keras-weights",
            "Keras 3 weights",
            "hdf5_file",
            (".weights.h5",),
            writer="write_weights",
            rereader="read_own",
            dtypes=NUMPY_ONLY,
        ),
        Container(
            "hdf5",
            "Keras legacy HDF5",
            "hdf5_file",
            (".h5", ".hdf5"),
            writer="write_legacy",
            rereader="read_own",
            dtypes=NUMPY_ONLY,
        ),
        Container("keras", "Keras archive", "keras_file", (".keras",), dtypes=NUMPY_ONLY),
        Container("msgpack", "Flax msgpack", "msgpack_file", (".msgpack",)),
        Container("npz", "NumPy npz", "npz_file", (".npz",), dtypes=NUMPY_ONLY),
        Container(
            "tfjs",
            "TensorFlow.js layers model",
            "tfjs_folder",
            (),
            folder=True,
            dtypes=("float32",),
        ),
        Container("orbax", "Orbax checkpoint", "orbax_folder", (), folder=True),
        Container("huggingface", "Hugging Face folder", "huggingface_folder", (), folder=True),
        _read_only("pickle", "pickle of arrays", "pickle_file", (".pkl", ".pickle", ".p")),
        _read_only("npy", "NumPy npy", "pickle_file", (".npy",), reader="read_npy"),
        _read_only("onnx", "ONNX", "onnx.file", (".onnx",)),
        _read_only("tf-checkpoint", "TensorFlow checkpoint", "tensorflow.checkpoint", (".index",)),
        _read_only(
            "saved-model",
            "TensorFlow SavedModel",
            "tensorflow.checkpoint",
            folder=True,
            reader="read_saved_model",
        ),
    )
}

MAX_NAME = 256  # bytes of a zip member's name
_HDF5 = b"\x89HDF\r\n\x1a\n"


def by_suffix(path: Path) -> Container | None:
    """The container that a file of this name is, the longest suffix first."""
    name = path.name.lower()
    known = [
        (suffix, c) for c in CONTAINERS.values() for suffix in c.suffixes if name.endswith(suffix)
    ]
    return max(known, key=lambda pair: len(pair[0]))[1] if known else None


def read_archive(path: Path) -> Archive:
    """The named tensors of a checkpoint file or folder, whatever it is.

    Raises `CheckpointError` when it is none, or its name and its first bytes say different things.
    """
    if "\0" in str(path):
        shown = str(path).replace("\0", "\\0")
        raise CheckpointError(f"{shown}: cannot be read (no path has a null)")
    try:
        path = tensorflow.index_of(path) or _flax_file(path) or path
        return _detect(path).read(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def _flax_file(path: Path) -> Path | None:
    """The file `checkpoint` of a folder that Flax or an early Orbax made; TensorFlow has one, too,
    which is a text.
    """
    file = path / "checkpoint"
    if not path.is_dir() or file.is_symlink() or not file.is_file():
        return None
    with file.open("rb") as stream:
        return file if _is_msgpack(stream.read(2)) else None


def _is_msgpack(start: bytes) -> bool:
    """Whether a file starts as a map of msgpack, with a short text as its first key."""
    return len(start) > 1 and 0x81 <= start[0] <= 0x8F and 0xA1 <= start[1] <= 0xBF


def _detect(path: Path) -> Container:
    if path.is_dir():
        return CONTAINERS[_folder_kind(path)]
    spans.file_size(path)  # which refuses a pipe, whose opening would never end
    if path.name == "model.json":
        return CONTAINERS["tfjs"]
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    named, found = by_suffix(path), _by_content(path, start)
    if found is None and path.suffix in EXPORTED:
        raise CheckpointError(
            f"{path}: an exported network is no checkpoint; `rosetta identify TARGET -o WEIGHTS` "
            "says which ResNet it is, and writes its weights"
        )
    if found is None:
        known = ", ".join(suffix for c in CONTAINERS.values() for suffix in c.suffixes)
        raise CheckpointError(
            f"{path}: not a checkpoint file that is known; expected one of {known}, or a folder of "
            "Hugging Face, Orbax, TensorFlow or TensorFlow.js"
        )
    if named is None or {named.name, found} == {"torch", "pickle"}:  # whatever people call them
        return CONTAINERS[found]
    if {named.name, found} == {"hdf5", "keras-weights"}:
        return named
    if named.name != found:
        raise CheckpointError(
            f"{path}: its name says {named.title}, its content {CONTAINERS[found].title}; rename "
            "it "
            "if the content is right"
        )
    hubs = path.name in ("model.safetensors", "pytorch_model.bin")  # as the hub calls them
    if hubs and (path.parent / "config.json").is_file():
        return CONTAINERS["huggingface"]
    return named


def _folder_kind(path: Path) -> str:
    marks = (
        ("tfjs", ("model.json",)),
        (
            "huggingface",
            (
                "config.json",
                "model.safetensors",
                "pytorch_model.bin",
                "model.safetensors.index.json",
            ),
        ),
        ("saved-model", ("saved_model.pb", "saved_model.pbtxt")),
        ("orbax", ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "default", "_sharding")),
    )
    for kind, names in marks:
        if any((path / name).exists() for name in names):
            return kind
    if tensorflow.is_folder(path):
        return "tf-checkpoint"
    if orbax_folder.is_manager(path):
        return "orbax"
    raise CheckpointError(
        f"{path}: a folder without model.json (TensorFlow.js), config.json (Hugging Face), "
        "_CHECKPOINT_METADATA (Orbax), saved_model.pb or a *.index file (TensorFlow)"
    )


def _by_content(path: Path, start: bytes) -> str | None:
    if start.startswith(_HDF5):
        return "hdf5"
    if start.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    if tensorflow.is_table(path):
        return "tf-checkpoint"
    if start.startswith(b"\x93NUMPY"):
        return "npy"
    if start[:1] == b"\x80" and b"\x8a\x0a" in start:  # a long of ten bytes: torch's magic number
        return "torch"
    named = by_suffix(path)
    if pickle_file.is_pickle(start) and (named is None or named.name in ("torch", "pickle")):
        return "pickle"
    if named is not None and named.name in ("torch", "safetensors", "msgpack", "pickle", "onnx"):
        return named.name  # no magic of their own that tells more than their readers do
    if len(start) > 8 and start[8:9] == b"{":
        return "safetensors"
    if named is None and _is_msgpack(start):  # Flax calls its files `checkpoint_7`
        return "msgpack"
    return None


def _zip_kind(path: Path) -> str | None:
    """Which kind of zip, by the name of the first member; the whole directory is for the readers to
    check.
    """
    with path.open("rb") as file:
        header = file.read(30 + MAX_NAME)
    name = header[30 : 30 + int.from_bytes(header[26:28], "little")]
    if name.endswith(
        (b".pkl", b"/version", b"/byteorder", b".format_version", b".storage_alignment")
    ) or re.match(rb"[^/]+/(data/[0-9]+$|code/|constants/)", name):  # TorchScript's first members
        return "torch"
    if name in (b"metadata.json", b"config.json", b"model.weights.h5", b"assets/"):
        return "keras"
    if name.endswith(b".npy"):
        return "npz"
    named = by_suffix(path)
    return named.name if named is not None and named.name in ("torch", "keras", "npz") else None
