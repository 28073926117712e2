"""What the pickles of PyTorch checkpoints may build: a closed table of globals, and inert values in
their place.

Each global that `torch.save` writes into a state dict stands for a constructor of ours, never for
what Python would import. A constructor takes the tuple of arguments of the pickle, which may be
anything.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from shared.formats.containers.archive import MAX_DIMENSIONS

_KEYS = {str, bytes, int, float, bool, type(None)}


class PickleRefused(ValueError):
    """A pickle that is damaged, or that asks for something no state dict needs.

    One line, without the path.
    """


class StorageType(NamedTuple):
    """torch.FloatStorage and the like."""

    dtype: str


class TorchDtype(NamedTuple):
    """torch.float32 and the like."""

    dtype: str


class Storage(NamedTuple):
    """A run of `numel` elements that lies elsewhere in the file, under `key`."""

    key: str
    dtype: str
    numel: int


class TensorReference(NamedTuple):
    """A strided view of a storage. That it lies inside has not been checked yet."""

    storage: Storage
    dtype: str
    offset: int  # in elements, as are the strides
    size: tuple[int, ...]
    stride: tuple[int, ...]


class InertOrderedDict(dict):
    """collections.OrderedDict, without the attributes that it may carry."""

    __slots__ = ()


class InertNamespace(dict):
    """argparse.Namespace."""

    __slots__ = ()


class Opaque(NamedTuple):
    """A value of which only its kind is kept."""

    kind: str


class NumpyDtype:
    """numpy.dtype, as an item of `_SCALARS`; its byte order arrives later."""

    __slots__ = ("code", "order")

    def __init__(self, code: str):
        self.code, self.order = code, "="


class Budget:
    """What constructors may copy in all: values are shared, so their copies may be many times the
    file.
    """

    def __init__(self, limit: int):
        self._left = limit

    def spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise PickleRefused(
                "its pickle copies shared values over and over, as only a hostile one does"
            )


class Constructor(NamedTuple):
    """A global that may be called."""

    make: Callable[[Budget, tuple], Any]


def put(target: dict, key: Any, value: Any) -> None:
    """Set an item; keys are such that hashing is quick and nobody can choose many equal hashes."""
    if type(key) not in _KEYS or (type(key) is int and not -(1 << 63) <= key < 1 << 63):
        raise PickleRefused(
            "its pickle has a dict with a key that is neither a text nor a common number"
        )
    target[key] = value


def _ordered_dict(budget: Budget, arguments: tuple) -> InertOrderedDict:
    made = InertOrderedDict()
    match arguments:
        case ():
            return made
        case (list() as pairs,):  # as Python 2 wrote it
            budget.spend(len(pairs))
            for pair in pairs:
                if type(pair) not in (list, tuple) or len(pair) != 2:
                    break
                put(made, *pair)
            else:
                return made
    raise PickleRefused("its pickle makes an ordered dict of something that is not a list of pairs")


def _tensor(budget: Budget, arguments: tuple) -> TensorReference:
    """torch._utils._rebuild_tensor, _v2 and _v3: storage, offset, size, stride[, requires_grad,
    hooks[, dtype]].
    """
    match arguments:
        case (Storage() as storage, int() as offset, tuple() as size, tuple() as stride, *rest):
            dtype = (
                rest[2].dtype if len(rest) > 2 and type(rest[2]) is TorchDtype else storage.dtype
            )
            numbers = (offset, *size[: MAX_DIMENSIONS + 1], *stride[: MAX_DIMENSIONS + 1])
            if len(size) == len(stride) <= MAX_DIMENSIONS and all(
                type(n) is int and 0 <= n < 1 << 60 for n in numbers
            ):
                return TensorReference(storage, dtype, offset, size, stride)
    raise PickleRefused(
        "its pickle has a tensor whose storage, offset, size or strides are impossible"
    )


def _parameter(budget: Budget, arguments: tuple) -> TensorReference:
    if len(arguments) != 3 or type(arguments[0]) is not TensorReference:
        raise PickleRefused("its pickle makes a parameter of something that is not a tensor")
    return arguments[0]


def _size(budget: Budget, arguments: tuple) -> tuple:
    if len(arguments) != 1 or type(arguments[0]) is not tuple:
        raise PickleRefused("its pickle makes a torch.Size of something that is not a tuple")
    return arguments[0]


def _encode(budget: Budget, arguments: tuple) -> bytes:
    """_codecs.encode: how protocol 2 writes bytes."""
    match arguments:
        case (str() as text, "latin1" | "latin-1"):
            budget.spend(len(text))
            try:
                return text.encode("latin-1")
            except UnicodeEncodeError:
                pass
    raise PickleRefused("its pickle has bytes that are not written as Latin-1")


def _numpy_dtype(budget: Budget, arguments: tuple) -> NumpyDtype:
    return NumpyDtype(arguments[0] if arguments and type(arguments[0]) is str else "")


def _numpy_scalar(budget: Budget, arguments: tuple) -> int | float | bool | Opaque:
    match arguments:
        case (NumpyDtype() as dtype, str() | bytes() as raw):
            if dtype.code in _SCALARS and dtype.order in ("<", "=", "|") and len(raw) <= 8:
                raw = raw.encode(errors="replace") if isinstance(raw, str) else raw
                scalar = np.dtype(_SCALARS[dtype.code])
                if len(raw) == scalar.itemsize:
                    return np.frombuffer(raw, scalar)[0].item()
            return Opaque("NumPy scalar")
    raise PickleRefused("its pickle has a NumPy scalar without dtype or bytes")


def _opaque(kind: str) -> Callable[[Budget, tuple], Opaque]:
    return lambda budget, arguments: Opaque(kind)


_SCALARS = {
    code: f"<{code}" for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
}
_SCALARS["b1"] = "<u1"  # never a bool of some other byte
_STORAGES = {
    "Float": "float32",
    "Double": "float64",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
}
_DTYPES = (*_STORAGES.values(), "uint16", "uint32", "uint64")
NAMESPACE = Constructor(_opaque("Namespace"))

_CONSTRUCTORS: dict[tuple[str, str], Callable[[Budget, tuple], Any]] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("collections", "Counter"): _opaque("Counter"),  # of a learning rate schedule
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): _size,
    ("torch", "device"): _opaque("device"),
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _numpy_dtype,
    ("numpy.core.multiarray", "scalar"): _numpy_scalar,
    ("numpy._core.multiarray", "scalar"): _numpy_scalar,
}
GLOBALS: dict[tuple[str, str], Any] = {
    **{key: Constructor(make) for key, make in _CONSTRUCTORS.items()},
    ("argparse", "Namespace"): NAMESPACE,
    **{("torch", f"{name}Storage"): StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{
        ("torch.storage", f"{name}Storage"): StorageType(dtype) for name, dtype in _STORAGES.items()
    },
    ("torch.storage", "UntypedStorage"): StorageType("uint8"),
    ("torch", "UntypedStorage"): StorageType("uint8"),
    **{("torch", name): TorchDtype(name) for name in _DTYPES},
}


def why_not(module: str, name: str) -> str:
    """Why a global is refused, and what to do."""
    path, top = _printable(f"{module}.{name}"), module.partition(".")[0]
    if top in ("torch", "numpy") and (
        name.startswith(("_rebuild_", "_reconstruct")) or name.endswith("Storage")
    ):
        return (
            f"{path} is not supported: only dense tensors of common number types are read; "
            "nothing was run"
        )
    if module.startswith("torch.nn.") or (
        name[:1].isupper() and top not in sys.stdlib_module_names
    ):
        return (
            f"{path} is a class of the program that wrote the file: a whole model or some other "
            "object was saved; "
            "save model.state_dict() instead; nothing was run"
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
