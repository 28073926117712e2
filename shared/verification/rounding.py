"""What the formats of floating-point numbers hold: rounding to them, and what a value that was
stored in one may have been.
"""

from __future__ import annotations

import numpy as np

from shared.weights.dtypes import float_dtype

Array = np.ndarray

TF32_BITS = 13  # of float32's 23, that the hardware drops in front of a product
# What arrays are stored in, the coarsest first, and the bits of each one's mantissa behind the
# point; the exponent of its smallest number above zero.
STORED = ("bfloat16", "float16", "float32", "float64")
HALF = 0.5 * (1 + 2.0**-12)  # of a unit; rounding by way of float32 may leave a little more
_MANTISSA = {"bfloat16": 7, "float16": 10, "float32": 23}
_SMALLEST = {"bfloat16": -133, "float16": -24, "float32": -149}


def rounded(x: Array, precision: str) -> Array:
    """x as `precision` holds it, in x's own dtype."""
    if precision == "TF32":
        bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
        kept = (bits + np.uint32(1 << (TF32_BITS - 1))) & np.uint32(~((1 << TF32_BITS) - 1) % 2**32)
        return kept.view(np.float32).astype(x.dtype)
    return x.astype(float_dtype(precision)).astype(x.dtype)


def lowest_dtype(array: Array) -> str:
    """The lowest precision that holds every value exactly."""
    for dtype in STORED[:-1]:
        with np.errstate(over="ignore"):
            if np.array_equal(array.astype(float_dtype(dtype)).astype(np.float64), array):
                return dtype
    return "float64"


def finest(*dtypes: str) -> str:
    """Of what arrays are stored in, the one that holds most."""
    return max(dtypes, key=STORED.index)


def as_stored(computed: Array, seen: Array, dtype: str) -> Array:
    """`computed`, as near to `seen` as rounding to `dtype` can have taken it: by half a unit in the
    last place of each value, and no further.
    """
    exponent = np.frexp(np.maximum(np.abs(computed), np.abs(seen)))[1]
    half = np.ldexp(HALF, np.maximum(exponent - 1 - _MANTISSA[dtype], _SMALLEST[dtype]))
    return computed + np.clip(seen - computed, -half, half)
