"""The batches of `cifar-10-batches-py`, which are pickles of Python 2, without Python's unpickler.

A batch is a dict with `data`, a uint8 array [n, 3072], and `labels`, a list of n integers. The
project's own machine reads it, with fewer opcodes than it knows, and four globals, none of which is
ever imported or called: what can come out is inert.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shared.formats.containers.pickle_machine import BY_CODE, Machine
from shared.formats.containers.pickle_values import (
    GLOBALS,
    Budget,
    Constructor,
    NumpyDtype,
    PickleRefused,
)

_STOP, _BUILD = b".b"
# NEWOBJ, persistent references and floats, among others, are missing: no batch has them.
_OPCODES = b"(NJKM\x8a\x88\x89UT\x8cXCB\x8e)\x85\x86\x87t]ae}suqr\x94hjc\x93R\x95"
_NDARRAY = object()


class _Array:
    """numpy.ndarray; its contents arrive later."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | None = None


def _reconstruct(budget: Budget, arguments: tuple) -> _Array:
    if len(arguments) != 3 or arguments[0] is not _NDARRAY:
        raise PickleRefused("its pickle makes an array of something that is not a NumPy array")
    return _Array()


_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): Constructor(_reconstruct),
    ("numpy._core.multiarray", "_reconstruct"): Constructor(_reconstruct),
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): GLOBALS["numpy", "dtype"],
}


class _BatchMachine(Machine):
    """`Machine` for one batch: other opcodes, other globals, and arrays that are filled."""

    def load(self) -> Any:
        if self._byte() != 0x80 or not 2 <= self._byte() <= 5:
            raise PickleRefused("its pickle is not of protocol 2 to 5")
        while (code := self._byte()) != _STOP:
            self._operations -= 1
            if self._operations < 0:
                raise PickleRefused("its pickle has more operations than any batch needs")
            if code == _BUILD:
                self._fill()
            elif code in _OPCODES:
                BY_CODE[code](self)
            else:
                raise PickleRefused(
                    f"its pickle has the opcode 0x{code:02x}, which no batch needs; nothing was run"
                )
        if len(self._stack) != 1 or self._marks:
            raise PickleRefused("its pickle does not end with exactly one value")
        return self._stack[0]

    def _global(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str or (module, name) not in _GLOBALS:
            raise PickleRefused(
                f"its pickle names {ascii(f'{module}.{name}')[:80]}, which no batch needs; "
                "nothing was run"
            )
        self._push(_GLOBALS[module, name])

    def _fill(self) -> None:
        state, target = self._pop(), self._top()
        if type(target) is NumpyDtype:
            self._push(state)
            self._build()
            return
        match state:
            case (
                int(),
                (int() as rows, int() as columns),
                NumpyDtype(code="u1"),
                0,
                bytes() | str() as raw,
            ):
                # 0: rows first, not columns. Of Python 2, a text is bytes that happen to be UTF-8.
                data = raw.encode(errors="surrogatepass") if isinstance(raw, str) else raw
                if (
                    type(target) is _Array
                    and rows >= 0
                    and columns >= 0
                    and rows * columns == len(data)
                ):
                    target.value = np.frombuffer(data, np.uint8).reshape(rows, columns)
                    return
        raise PickleRefused("its pickle has an array that is not one of bytes with two dimensions")


def read_batch(data: bytes, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, uint8 [n, width], and labels, uint8 [n].

    Raises `PickleRefused`, whatever the bytes are.
    """
    batch = _BatchMachine(data).load()
    if type(batch) is not dict:
        raise PickleRefused("its pickle is not a dict")
    pixels, labels = (batch.get(key, batch.get(key.encode())) for key in ("data", "labels"))
    array = pixels.value if type(pixels) is _Array else None
    if array is None or array.shape[1] != width:
        raise PickleRefused(f"its pickle has no array 'data' with {width} columns")
    if type(labels) is not list or len(labels) != len(array):
        raise PickleRefused(f"its pickle has no list 'labels' of {len(array)} numbers")
    if not all(type(label) is int and 0 <= label < 256 for label in labels):
        raise PickleRefused("its pickle has labels that are not small numbers")
    return array, np.array(labels, np.uint8)
