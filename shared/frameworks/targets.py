"""What the user points at: `python:FILE.py:NAME`, `python:package.module:NAME`, or a file; and the
process in which the user's own code runs.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from shared.errors import FrameworkError, RosettaError, nearest
from shared.frameworks.readers import file_reader, is_model, reader_of
from shared.graphs.verdict import Read
from shared.machine import free_memory

PREFIX = "python:"
SHARE = 0.8  # of the free memory, that the user's code may take


def is_target(text: str) -> bool:
    """Whether a command line's word names a model rather than a checkpoint or a preset."""
    suffixes = (".pt2", ".onnx", ".xml", ".tflite", ".keras", ".stablehlo", ".pb", ".ts")
    return text.startswith(PREFIX) or text.endswith(suffixes)


def checked(target: str, folder: Path) -> str:
    """A target with its file in full, before a process starts for it.

    Raises `FrameworkError` for one that is not well formed or not there.
    """
    if not target.startswith(PREFIX):
        path = folder / target
        if not path.exists():
            raise FrameworkError(
                f"{target}: no such file or folder; a model is python:FILE.py:NAME, "
                "python:package.module:NAME, or a file such as model.onnx"
            )
        return str(path.absolute())  # a link keeps its name, which says what the file is
    place, separator, name = target.removeprefix(PREFIX).rpartition(":")
    if not separator or not place or not name.isidentifier():
        raise FrameworkError(
            f"{target}: expected python:FILE.py:NAME or python:package.module:NAME, where NAME is "
            "a model or a function without arguments that makes one"
        )
    if place.endswith(".py"):
        path = folder / place
        if not path.is_file():
            raise FrameworkError(f"{target}: there is no file {place}")
        return f"{PREFIX}{path.resolve()}:{name}"
    return target


def target_reader(target: str, folder: str) -> Read:
    """What reads a checked target, in a process that is for it alone.

    Raises `FrameworkError` that names the target, with the user's own line where its code fails.
    """
    limit_memory()
    if not target.startswith(PREFIX):
        return file_reader(Path(target))
    return reader_of(load_python(target, folder))


def load_python(target: str, folder: str) -> Any:
    """The model of a `python:` target; a function that makes one is called."""
    place, _, name = target.removeprefix(PREFIX).rpartition(":")
    module = _loaded(target, place, folder)
    try:
        found = getattr(module, name)
    except AttributeError:
        known = [key for key in vars(module) if not key.startswith("_")]
        raise FrameworkError(f"{target}: has no {name!r}{nearest(name, known)}") from None
    if is_model(found) or not callable(found):
        return found
    if isinstance(found, type) or _takes_nothing(found):
        with _explained(target):
            return found()
    return found  # a function of images


def _takes_nothing(function: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.default is not p.empty or p.kind in free for p in parameters)


def _loaded(target: str, place: str, folder: str) -> ModuleType:
    """The user's module; its folder is on the path from here on, in front."""
    with _explained(target):
        if not place.endswith(".py"):
            sys.path.insert(0, folder)
            return importlib.import_module(place)
        path = Path(place)
        sys.path.insert(0, str(path.parent))
        name = path.stem if path.stem not in sys.modules else f"model_in_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise FrameworkError(f"{target}: is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module


class _explained(contextlib.AbstractContextManager):
    """Turns what the user's code raises into one line with the place where it did."""

    def __init__(self, target: str):
        self.target = target

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, (RosettaError, KeyboardInterrupt)):
            return
        raise FrameworkError(f"{self.target}: {said(error)}") from None


@contextlib.contextmanager
def told_in_one_line(target: str, name: str) -> Iterator[None]:
    """Whatever goes wrong with a target inside is a `FrameworkError` of one line, which begins with
    the `name` that the user wrote.
    """
    try:
        yield
        return
    except MemoryError:
        problem = "needs more memory than is free on this machine"
    except RosettaError as error:
        problem = str(error).removeprefix(f"{target}: ")
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything
        problem = said(error)
    raise FrameworkError(problem if problem.startswith(f"{name}: ") else f"{name}: {problem}")


def said(error: BaseException) -> str:
    """An exception in one line, with the last line of the user's own that led to it."""
    own = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if _is_users(frame.filename)
    ]
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    at = f" at {own[-1]}" if own else ""
    return f"{type(error).__name__}{at}" + (f": {text[:300]}" if text else "")


def _is_users(file: str) -> bool:
    ours = str(Path(__file__).parents[2])
    return "site-packages" not in file and not file.startswith(("<", ours, sys.base_prefix))


def limit_memory() -> None:
    """Let this process take most of what is free, and fail in words where it wants more."""
    if sys.platform != "linux":
        return
    import resource

    most = int(free_memory() * SHARE)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def working_folder() -> Path:
    """Where the user is; the process of a target is elsewhere."""
    return Path(os.getcwd())
