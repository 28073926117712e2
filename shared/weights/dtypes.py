"""The float types, of NumPy and by their names in each framework.

It imports as little as it can: processes that read one file start with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from shared.errors import SpecError

FLOATS = ("float64", "float32", "float16", "bfloat16")


def dtype_name(dtype: Any, known: Sequence[str] = FLOATS) -> str:
    """The name of a float type, of itself or of the object that NumPy, PyTorch, JAX, TensorFlow or
    Keras has for it. Raises `SpecError` for one that is not in `known`.
    """
    found = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or dtype
    name = str(found).removeprefix("torch.")
    if name not in known:
        raise SpecError(f"dtype = {found}: must be one of {', '.join(known)}")
    return name


def float_dtype(dtype: Any) -> np.dtype:
    """A NumPy dtype from its name; NumPy learns bfloat16 from ml_dtypes."""
    if str(dtype) == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(dtype)


def is_float(dtype: np.dtype) -> bool:
    """Whether a dtype is a floating type, bfloat16 included."""
    return np.issubdtype(dtype, np.floating) or dtype.name == "bfloat16"
