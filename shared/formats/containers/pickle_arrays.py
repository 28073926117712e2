"""NumPy's arrays in pickles, as what they are made of: a dtype, a shape, an order, and bytes that
are left in the file.

Source: numpy, `ndarray.__reduce_ex__` and `numpy._core.numeric._frombuffer`; jax,
`jax._src.array._reconstruct_array`.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from shared.architecture.ops import Shape
from shared.formats.containers.archive import MAX_DIMENSIONS, MAX_ELEMENTS
from shared.formats.containers.pickle_values import (
    Budget,
    Constructor,
    NumpyDtype,
    Opaque,
    PickleRefused,
)
from shared.weights.dtypes import float_dtype

# How bytes are written in a pickle: as they are; as a text whose characters they are, in UTF-8 or
# (protocol 0) with escapes; or as a literal of Python 2's.
PLAIN, UTF_8, ESCAPED_TEXT, LITERAL = "plain", "utf-8", "escaped text", "literal"


class Raw(NamedTuple):
    """Bytes, or a text, that are in the file: where, how they are written, and how many they
    are when they are read.
    """

    start: int
    end: int
    form: str
    length: int

    def decode(self, data: bytes) -> bytes:
        """The bytes, of what is in the file from `start` to `end`. Raises `ValueError`."""
        if self.form == PLAIN:
            return data
        if self.form == LITERAL:
            return codecs.escape_decode(data)[0]
        text = data.decode("utf-8" if self.form == UTF_8 else "raw-unicode-escape")
        return text.encode("latin-1")


class NumpyArray:
    """An array, whose contents arrive after it. `data` None: none have."""

    __slots__ = ("data", "dtype", "fortran", "shape")

    def __init__(self) -> None:
        self.data: bytes | Raw | list | None = None
        self.dtype, self.fortran = NumpyDtype(""), False
        self.shape: Shape = ()

    def fill(self, dtype: Any, shape: Any, fortran: Any, data: Any) -> None:
        """Take what a pickle says, if it is possible."""
        data = data.encode(errors="surrogatepass") if type(data) is str else data
        if (
            self.data is not None
            or type(dtype) is not NumpyDtype
            or type(shape) is not tuple
            or len(shape) > MAX_DIMENSIONS
            or not all(type(n) is int and 0 <= n <= MAX_ELEMENTS for n in shape)
            or math.prod(n for n in shape if n) > MAX_ELEMENTS
            or type(fortran) not in (bool, int)
            or type(data) not in (bytes, Raw, list)
        ):
            raise PickleRefused("its pickle has an array with an impossible dtype, shape or data")
        self.dtype, self.shape, self.fortran, self.data = dtype, shape, bool(fortran), data
        length = data.length if isinstance(data, Raw) else len(data)
        numbers = self.numbers
        if isinstance(data, list) != (dtype.code[:1] == "O"):
            raise PickleRefused("its pickle has an array whose data are not of its dtype")
        size = 1 if isinstance(data, list) else numbers.itemsize if numbers is not None else 0
        if size and length != math.prod(shape) * size:  # of texts and records nothing is read
            raise PickleRefused(
                f"its pickle has an array of the shape {list(shape)} that needs "
                f"{math.prod(shape) * size:,} bytes, and has {length:,}"
            )

    @property
    def numbers(self) -> np.dtype | None:
        """Its dtype, little-endian, if it is one of numbers."""
        code = self.dtype.code
        return float_dtype(_NUMBERS[code]) if code in _NUMBERS else None

    @property
    def is_swapped(self) -> bool:
        return bool(self.dtype.order == ">")


_NUMBERS = {
    **{f"f{n}": f"float{8 * n}" for n in (2, 4, 8)},
    **{f"{k}{n}": f"{w}int{8 * n}" for k, w in (("i", ""), ("u", "u")) for n in (1, 2, 4, 8)},
    "b1": "bool",
    "bfloat16": "bfloat16",
}
NDARRAY = object()
_BFLOAT16 = object()


def _new_array(budget: Budget, arguments: tuple) -> NumpyArray:
    if len(arguments) != 3 or arguments[0] is not NDARRAY:
        raise PickleRefused("its pickle makes an array of something that is not a NumPy array")
    return NumpyArray()


def _from_buffer(budget: Budget, arguments: tuple) -> NumpyArray:
    """numpy._core.numeric._frombuffer: buffer, dtype, shape, order[, axes]."""
    made = NumpyArray()
    match arguments:
        case (bytes() | Raw() as data, NumpyDtype() as dtype, tuple() as shape, "C" | "F" as order):
            made.fill(dtype, shape, order == "F", data)
            return made
    raise PickleRefused(
        "its pickle has an array whose axes are in an order of its own; save it with "
        "numpy.ascontiguousarray"
    )


def _of_jax(budget: Budget, arguments: tuple) -> NumpyArray:
    """jax._src.array._reconstruct_array: function, arguments, state, and what JAX adds."""
    match arguments:
        case (Constructor() as function, tuple() as inner, tuple() as state, *_):
            made = function.make(budget, inner)
            if type(made) is NumpyArray:
                set_state(made, state)
                return made
    raise PickleRefused("its pickle has an array of JAX that is not one of NumPy inside")


def set_state(array: NumpyArray, state: tuple) -> None:
    """What `BUILD` does to an array: (version, shape, dtype, Fortran's order, data)."""
    if len(state) == 4:  # before NumPy 1.0 there was no version
        state = (0, *state)
    if len(state) != 5:
        raise PickleRefused("its pickle has an array without shape, dtype or data")
    _, shape, dtype, fortran, data = state
    array.fill(dtype, shape, fortran, data)


def _dtype(budget: Budget, arguments: tuple) -> NumpyDtype:
    first = arguments[0] if arguments else None
    code = first if type(first) is str else "bfloat16" if first is _BFLOAT16 else ""
    return NumpyDtype(code)


def _random_state(budget: Budget, arguments: tuple) -> Opaque:
    return Opaque("state of a random generator")


_CALLS: dict[tuple[str, str], Callable[[Budget, tuple], Any]] = {
    ("numpy", "dtype"): _dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _new_array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    ("jax._src.array", "_reconstruct_array"): _of_jax,
    ("jax._src.device_array", "reconstruct_device_array"): _of_jax,
    ("jax.interpreters.xla", "reconstruct_device_array"): _of_jax,
    **{
        ("numpy.random._pickle", f"__{name}_ctor"): _random_state
        for name in ("randomstate", "bit_generator", "generator")
    },
    ("numpy.random", "__RandomState_ctor"): _random_state,
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"): _random_state,
}
ARRAY_GLOBALS: dict[tuple[str, str], Any] = {
    **{key: Constructor(make) for key, make in _CALLS.items()},
    ("numpy", "ndarray"): NDARRAY,
    ("ml_dtypes", "bfloat16"): _BFLOAT16,
    ("jaxlib.xla_extension", "bfloat16"): _BFLOAT16,
    ("jax._src.dtypes", "bfloat16"): _BFLOAT16,
    ("jax.numpy", "bfloat16"): _BFLOAT16,
}
