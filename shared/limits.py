"""How far two frameworks may differ: every tolerance of the project, with where it comes from.

The error of a tensor is its largest absolute difference over its largest absolute value (the
smaller of the two sides'). Float64 has fixed limits. A lower precision has a budget of its own for
every layer, measured with the trace: how far the framework, given the same weights and images, is
there from its own float64. Two frameworks may differ by `ROUNDING_FACTOR` times the smaller of
their two budgets, and by no more than rounding errors that add up like a random walk explain. So a
framework that is out of line cannot hide behind its own budget (TF32, or a half-precision
accumulator, is far beyond the walk).
"""

from __future__ import annotations

# Activations of every layer and the output. `rosetta verify --all` (docs/verify-all.md) measured
# the worst case.
EVAL_FLOAT64 = 1e-12

# `rosetta verify --dtype float32` and the other two over the default set of presets.
ROUNDING_FACTOR = 8.0

# Layer n's error after n roundings: this many units in the last place times sqrt(n). Measured with
# the same commands, the worst is 0.9.
ROUNDING_WALK = 4.0

# No budget is tighter than this many units in the last place of the dtype: a layer that a
# framework happens to compute exactly must not forbid the other its rounding.
ROUNDING_FLOOR_ULPS = 4.0
ULP = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}

DTYPES = ("float64", *ULP)


def rounding_limit(dtype: str, place: int, *budgets: float) -> float:
    """The limit of layer number `place` in a low precision, from the budgets of those that computed it."""
    walk = ROUNDING_WALK * ULP[dtype] * (place + 1) ** 0.5
    return max(min(ROUNDING_FACTOR * min(budgets), walk), ROUNDING_FLOOR_ULPS * ULP[dtype])
