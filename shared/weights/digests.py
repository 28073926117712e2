"""SHA-256 of tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np


def raw_bytes(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data  # bfloat16 has no buffer of its own


def sha256_of(array: np.ndarray) -> str:
    """SHA-256 of the bytes of an array, in C order."""
    return hashlib.sha256(raw_bytes(array)).hexdigest()


def digest(arrays: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]]) -> str:
    """SHA-256 of names, shapes and values, in order. Equal values of different float types are the
    same.

    Pairs are taken one by one: the largest networks do not fit into memory once more.
    """
    total = hashlib.sha256()
    for name, array in arrays.items() if isinstance(arrays, Mapping) else arrays:
        exact = np.ascontiguousarray(array, dtype="<f8")
        total.update(f"{name} {exact.shape}\n".encode())
        total.update(exact.data)
    return total.hexdigest()
