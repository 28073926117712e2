"""Objects of other people's classes in pickles, as what they are made of: their arguments and
attributes, of which none is ever imported, called or run.

A pickle names a class, says what it is made with, and then sets its attributes. All of that is kept
as a dict; what the class would do with it is not known here and need not be.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from shared.formats.containers.spans import shown

MODULE_PARTS = ("_parameters", "_buffers", "_modules")  # of torch.nn.Module
_MAX_NAME = 256  # characters of a class with its module
_SCRIPTED = "__torch__."  # where TorchScript's classes are


class InertClass(NamedTuple):
    """A class of a program. `fields`: of its arguments, where the pickle says how it is made."""

    module: str
    name: str
    fields: tuple[str, ...] = ()


class InertFunction(NamedTuple):
    """A function of a program, which may be an object's attribute, and is refused when it is
    called.
    """

    module: str
    name: str


class InertObject(dict):
    """An object: attribute -> value. Its arguments are there by their fields or numbers, what it
    holds as a list by numbers, and what it holds as a dict by its keys.
    """

    __slots__ = ("kind",)

    def __init__(self, kind: InertClass):
        super().__init__()
        self.kind = kind

    @property
    def is_module(self) -> bool:
        """Whether it is a module of PyTorch, whose tensors have names between dots."""
        return self.kind.module.startswith(_SCRIPTED) or all(
            isinstance(self.get(part), dict) for part in MODULE_PARTS
        )

    def parts(self) -> Iterable[tuple[Any, Any]]:
        """What it holds, by name; a module's state dict alone."""
        if not self.is_module or self.kind.module.startswith(_SCRIPTED):
            return self.items()
        hidden = self.get("_non_persistent_buffers_set")
        names = hidden if isinstance(hidden, InertSet) and len(hidden) < 1 << 10 else ()
        left = {name for name in names if type(name) is str}
        return [
            (name, value)
            for part in MODULE_PARTS
            for name, value in self[part].items()
            if part != "_buffers" or type(name) is not str or name not in left
        ]


class InertSet(list):
    """A set, whose members need not be hashed."""

    __slots__ = ()


# Classes of Python's own that hold values and nothing else, and functions that only name them.
_HARMLESS = frozenset(
    (
        *(("pathlib", name) for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath")),
        *(("pathlib._local", name) for name in ("Path", "PosixPath", "WindowsPath")),
        *(("datetime", name) for name in ("datetime", "date", "time", "timedelta", "timezone")),
        *(("collections", name) for name in ("defaultdict", "deque", "UserDict", "ChainMap")),
        *(
            (builtins, name)
            for builtins in ("builtins", "__builtin__")
            for name in ("object", "dict", "list", "tuple", "str", "int", "float", "bool")
        ),
        *((b, name) for b in ("builtins", "__builtin__") for name in ("complex", "slice", "range")),
        *(("typing", name) for name in ("Any", "Union", "Optional", "List", "Dict", "Tuple")),
        ("decimal", "Decimal"),
        ("fractions", "Fraction"),
        ("types", "SimpleNamespace"),
        ("uuid", "UUID"),
    )
)


def named(module: str, name: str) -> InertClass | InertFunction | None:
    """What a global stands for that is no function of Python, NumPy or PyTorch's own."""
    if (module, name) in _HARMLESS:
        return InertClass(module, name)
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or not module or top == "__builtin__":
        return None
    if len(module) + len(name) > _MAX_NAME or any(
        not part.isidentifier() for part in (*module.split("."), name)
    ):
        return None
    looks_like_class = name.lstrip("_")[:1].isupper()
    if top in ("torch", "numpy") and (
        name.endswith("Storage") or name.startswith(("_rebuild_", "_reconstruct"))
    ):  # of tensors that are not read
        return None
    return InertClass(module, name) if looks_like_class else InertFunction(module, name)


def why_not(module: str, name: str) -> str:
    """Why a global is refused, and what to do."""
    path, top = _printable(f"{module}.{name}"), module.partition(".")[0]
    quantised = "qtensor" in name or name.startswith(("QInt", "QUInt", "quantize"))
    if top in ("torch", "numpy") and (
        name.startswith(("_rebuild_", "_reconstruct")) or name.endswith("Storage")
    ):
        kind = "its tensors are quantised: " if quantised else ""
        return (
            f"{kind}{path} is not supported: only dense tensors of common number types are read; "
            "nothing was run"
        )
    return (
        f"{path} is not something a state dict needs; the file would run code when it is loaded "
        "the usual way; "
        "nothing was run"
    )


def _printable(text: str) -> str:
    return (
        text
        if text.isprintable() and len(text) <= 80
        else ascii(text[:60]) + ("…" if len(text) > 60 else "")
    )


def is_script(value: Any) -> bool:
    """Whether a value is a module of TorchScript."""
    return isinstance(value, InertObject) and value.kind.module.startswith(_SCRIPTED)


def describe(value: Any) -> str:
    """What something is that holds no tensors."""
    if isinstance(value, InertObject):
        return f"it is an object of the class {shown(f'{value.kind.module}.{value.kind.name}')}"
    if not isinstance(value, dict):
        if type(value).__name__ == "TensorReference":
            return "it is a single tensor"
        return f"it is a {type(value).__name__}"
    keys = [shown(key) for key in list(value)[:8] if isinstance(key, str)]
    return f"its keys are {', '.join(keys)}" if keys else "it is a dict without names"
