"""What the pickles of PyTorch checkpoints may build: a closed table of globals, and inert values in
their place.

Each global that `torch.save` writes into a state dict stands for a constructor of ours, never for
what Python would import. A constructor takes the tuple of arguments of the pickle, which may be
anything. Classes of other programs are `shared.formats.containers.pickle_objects`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from shared.formats.containers.archive import MAX_DIMENSIONS
from shared.formats.containers.pickle_objects import (
    InertClass,
    InertFunction,
    InertObject,
    InertSet,
    why_not,
)

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


def _parameter_with_state(budget: Budget, arguments: tuple) -> TensorReference:
    return _parameter(budget, arguments[:3])


def _subclass(budget: Budget, arguments: tuple) -> TensorReference:
    """torch._tensor._rebuild_from_type_v2: function, class, its arguments, attributes."""
    match arguments:
        case (Constructor() as function, _, tuple() as inner, _) if function.make is _tensor:
            return _tensor(budget, inner)
    raise PickleRefused(why_not("torch._tensor", "_rebuild_from_type_v2"))


def _tagged(budget: Budget, arguments: tuple) -> Any:
    """torch.jit._pickle.build_intlist and the like, which only say what a list holds."""
    if not arguments:
        raise PickleRefused("its pickle tags nothing")
    return arguments[0]


def _set(budget: Budget, arguments: tuple) -> InertSet:
    if len(arguments) > 1 or (arguments and type(arguments[0]) not in (list, tuple)):
        raise PickleRefused("its pickle makes a set of something that is not a list")
    items = arguments[0] if arguments else ()
    budget.spend(len(items))
    return InertSet(items)


def _partial(budget: Budget, arguments: tuple) -> Opaque:
    """functools.partial, of a class or a function of the program."""
    if len(arguments) != 1 or type(arguments[0]) not in (InertClass, InertFunction, Opaque):
        raise PickleRefused(why_not("functools", "partial"))
    return Opaque("partial")


def _attribute(budget: Budget, arguments: tuple) -> InertObject | Opaque:
    """getattr, by which a method of an object is pickled: `torch.save(model.state_dict)`, without
    its call, has all of the model.
    """
    owners = (InertClass, InertFunction, InertObject, Opaque)
    if len(arguments) != 2 or type(arguments[0]) not in owners or type(arguments[1]) is not str:
        raise PickleRefused(why_not("builtins", "getattr"))
    return arguments[0] if type(arguments[0]) is InertObject else Opaque("attribute")


def make_object(budget: Budget, kind: InertClass, arguments: tuple) -> InertObject:
    """An object of a class, with its arguments: a single dict is what it holds."""
    made = InertObject(kind)
    if len(arguments) == 1 and isinstance(arguments[0], dict):
        budget.spend(len(arguments[0]))
        made.update(arguments[0])
        return made
    budget.spend(len(arguments))
    for number, value in enumerate(arguments):
        made[kind.fields[number] if number < len(kind.fields) else number] = value
    return made


def _reconstructor(budget: Budget, arguments: tuple) -> InertObject:
    """copy_reg._reconstructor of protocols 0 and 1: class, base, what the base is made of."""
    first = arguments[0] if arguments else None
    if type(first) is InertFunction:  # a class that is called like one
        arguments = (InertClass(*first), *arguments[1:])
    match arguments:
        case (InertClass() as kind, InertClass(), None):
            return make_object(budget, kind, ())
        case (InertClass() as kind, InertClass(), dict() as held):
            return make_object(budget, kind, (held,))
        case (InertClass() as kind, InertClass(), list() | tuple() as held):
            return make_object(budget, kind, tuple(held))
        case (InertClass() as kind, InertClass(), _):
            return make_object(budget, kind, ())
    raise PickleRefused("its pickle makes an object of something that is not a class")


def _new_object(budget: Budget, arguments: tuple) -> InertObject:
    """copyreg.__newobj__"""
    if not arguments or type(arguments[0]) is not InertClass:
        raise PickleRefused("its pickle makes an object of something that is not a class")
    return make_object(budget, arguments[0], arguments[1:])


def _named_tuple(budget: Budget, arguments: tuple) -> InertClass:
    """dill._dill._create_namedtuple: name, fields, module."""
    match arguments:
        case (str() as name, tuple() | list() as fields, str() as module, *_) if len(fields) < 256:
            if all(type(field) is str for field in fields):
                return InertClass(module, name, tuple(fields))
    raise PickleRefused("its pickle makes a named tuple of something that is not names")


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


def _bytes(budget: Budget, arguments: tuple) -> bytes:
    """bytes(), as protocols 0 to 2 write empty ones."""
    if arguments:
        raise PickleRefused(why_not("builtins", "bytes"))
    return b""


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
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter_with_state,
    ("torch._tensor", "_rebuild_from_type_v2"): _subclass,
    **{
        ("torch.jit._pickle", name): _tagged
        for name in (
            *("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist"),
            "restore_type_tag",
        )
    },
    ("torch.nn.backends.thnn", "_get_thnn_function_backend"): _opaque("backend"),
    **{(b, name): _set for b in ("builtins", "__builtin__") for name in ("set", "frozenset")},
    **{(builtins, "bytes"): _bytes for builtins in ("builtins", "__builtin__")},
    **{(builtins, "getattr"): _attribute for builtins in ("builtins", "__builtin__")},
    ("functools", "partial"): _partial,
    ("logging", "getLogger"): _opaque("logger"),
    ("re", "_compile"): _opaque("regular expression"),
    **{(name, "_reconstructor"): _reconstructor for name in ("copy_reg", "copyreg")},
    **{(name, "__newobj__"): _new_object for name in ("copy_reg", "copyreg")},
    **{(name, "_create_namedtuple"): _named_tuple for name in ("dill._dill", "dill.dill")},
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
