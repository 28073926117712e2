"""Which reader takes a model, by its class alone: no framework is imported to find out."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.errors import FrameworkError
from shared.formats.containers import landlock
from shared.graphs.primitives import RawGraph
from shared.graphs.verdict import Read

STABLEHLO = ".stablehlo"  # what `jax.export` serializes, as `rosetta export` calls it
PROGRAMS = (".pt2", ".pt", ".pth", ".ts")  # of PyTorch: all may hold code
KERAS = ("keras", "tf_keras", "tensorflow")
JAX = ("flax", "equinox", "haiku", "jax", "jaxlib")


def packages_of(model: Any) -> set[str]:
    """The packages that an object's classes come from."""
    return {kind.__module__.partition(".")[0] for kind in type(model).__mro__}


def is_model(model: Any) -> bool:
    """Whether an object is a model of a framework, by its class, and no function that makes one."""
    first = model[0] if isinstance(model, (tuple, list)) and model else model
    known = packages_of(first) & {"torch", *KERAS, *JAX}
    return bool(known) or isinstance(model, tuple)


def reader_of(model: Any) -> Read:
    """What reads a model at an image size.

    Raises `FrameworkError` for what is no model, and where the framework's package is not there.
    """
    packages = packages_of(model)
    if packages & set(KERAS):
        keras = _load("resnet_keras.read", "keras")
        if "torch" in packages:
            program = _load("resnet_torch.read", "torch").read_graph
            return lambda size: keras.read_graph(model, size, read_program=program)
        return lambda size: keras.read_graph(model, size)
    if "torch" in packages:
        read = _load("resnet_torch.read", "torch").read_graph
        return lambda size: read(model, size)
    if packages & set(JAX) or isinstance(model, tuple) or callable(model):
        jax = _load("resnet_flax.read", "flax").read_graph
        return lambda size: jax(model, size)
    raise FrameworkError(
        f"expected a model, found {type(model).__name__}; give a torch.nn.Module, a keras.Model, a "
        "tf.Module, an nnx.Module, or (a function or Linen module, its variables)"
    )


def _load(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise FrameworkError(
            f"a model of this kind needs {error.name}, which is not installed; "
            f"pip install 'resnet-rosetta[{extra}]'"
        ) from None


FILES: dict[str, str] = {
    ".onnx": "shared.graphs.files.onnx_file",
    ".xml": "shared.graphs.files.openvino_file",
    ".tflite": "shared.graphs.files.litert_file",
    ".keras": "shared.graphs.files.keras_archive",
    ".pb": "shared.graphs.files.saved_model",
}


def file_reader(path: Path) -> Read:
    """What reads a model in a file. A PyTorch program is code: it is loaded in this process, which
    from then on can read the libraries and that file, and change nothing.

    Raises `FrameworkError` for a file of tensors alone, and for a kind that is not known.
    """
    suffix = path.suffix.lower()
    if path.is_dir() and (path / "saved_model.pb").is_file():
        suffix = ".pb"
    if suffix in FILES:
        return _of_file(FILES[suffix], path)
    if suffix == STABLEHLO and path.is_file():
        read = _load("resnet_flax.read_exported", "flax").read_graph
        return lambda size: read(path, size)
    if suffix not in PROGRAMS or not path.is_file():
        known = ", ".join([*FILES, STABLEHLO, *PROGRAMS])
        raise FrameworkError(
            f"{path}: no model is read from this; known are {known}, a SavedModel folder and "
            "python:FILE.py:NAME"
        )
    if suffix != ".pt2" and not _is_script(path):
        raise FrameworkError(
            f"{path}: is no TorchScript program; `rosetta inspect` says which tensors it holds"
        )
    torch = _load("resnet_torch.read", "torch")
    torch.prepare()
    confine(path)
    return reader_of(torch.load(str(path)))


def _of_file(module: str, path: Path) -> Read:
    try:
        read: Callable[[str, int | None], RawGraph] = importlib.import_module(module).read_graph
    except ImportError as error:
        raise FrameworkError(f"{path}: cannot be read here ({error})") from None
    return lambda size: read(str(path), size)


def _is_script(path: Path) -> bool:
    """Whether a PyTorch archive has code beside its tensors.

    Raises `FrameworkError` for a zip archive without an end.
    """
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except OSError:
        return False
    except zipfile.BadZipFile:
        with path.open("rb") as file:
            cut = file.read(4) == b"PK\x03\x04"
    if cut:
        raise FrameworkError(f"{path}: a PyTorch archive that cannot be read; it may be cut off")
    return False


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = (
    *("socket.connect", "socket.bind", "subprocess.", "os.system", "os.exec", "os.posix_spawn"),
    *("os.spawn", "os.fork", "os.kill", "os.remove", "os.rename", "os.rmdir", "shutil."),
)


def confine(path: Path) -> None:
    """Take from this process, for good, what loading a program does not need: other files than it
    and the libraries, writing, the network, other processes. Raises `FrameworkError` where the
    system cannot.
    """
    libraries = {sys.prefix, sys.base_prefix, *sys.path, "/usr", "/lib", "/lib64", "/etc", "/proc"}
    if not landlock.confine([path, *(libraries - {"", "/"}), "/dev/null", "/dev/urandom", "/sys"]):
        raise FrameworkError(
            f"{path}: holds code, and this system has no Landlock to confine it; save the model as "
            "ONNX, or run your own code with python:FILE.py:NAME"
        )
    sys.dont_write_bytecode = True  # of a library's module that is imported for the first time
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(FORBIDDEN):
        raise FrameworkError(f"the program asked for {event}, which no model needs")
    if event == "open" and arguments[0] != os.devnull:
        path, mode, flags = arguments
        writes = isinstance(mode, str) and set(mode) & set("wxa+")
        if writes or (isinstance(flags, int) and flags & WRITING):
            raise FrameworkError(f"the program asked to write {path!r}, which no model needs")
