"""Rounding to formats, and what a stored value may have been."""

from __future__ import annotations

import numpy as np
import pytest

from shared.verification.rounding import STORED, as_stored, finest, lowest_dtype, rounded

VALUES = np.random.default_rng(0).standard_normal(1000) * np.logspace(-3, 3, 1000)


def test_tf32_keeps_ten_bits() -> None:
    kept = rounded(VALUES, "TF32")
    assert (kept.astype(np.float32).view(np.uint32) & 0x1FFF == 0).all()
    assert np.abs(kept / VALUES - 1).max() <= 2.0**-11 * 1.001


@pytest.mark.parametrize("dtype", STORED)
def test_the_lowest_precision_that_holds_the_values(dtype: str) -> None:
    stored = VALUES if dtype == "float64" else rounded(VALUES, dtype)
    assert lowest_dtype(stored) == dtype
    assert finest("bfloat16", dtype) == dtype


@pytest.mark.parametrize("dtype", STORED[:-1])
def test_what_was_stored_is_told_from_what_was_not(dtype: str) -> None:
    """Half a unit in the last place of each value, and no more; next to zero, too."""
    values = np.concatenate([VALUES, VALUES * 1e-6, [0.0]])
    stored = rounded(values, dtype)
    assert np.array_equal(as_stored(values, stored, dtype), stored)
    off = values * 1.02
    assert np.abs(as_stored(off, stored, dtype) - stored).max() > 0.01 * np.abs(stored).max()
