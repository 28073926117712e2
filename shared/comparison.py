"""Two traces against each other, layer by layer: the verdict, the worst layer, where they part."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from shared.errors import SpecError
from shared.limits import EVAL_FLOAT64, rounding_limit
from shared.plan import make_plan
from shared.trace import EVAL, OUTPUT, Trace


@dataclass(frozen=True)
class Row:
    """One tensor of a comparison: its error, and the limit that applies to it."""

    name: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit


@dataclass(frozen=True)
class Comparison:
    """What came of comparing traces `a` and `b`."""

    preset: str
    a: str
    b: str
    dtype: str
    check: str
    rows: tuple[Row, ...]
    problems: tuple[str, ...] = field(default=())  # what is wrong before any number is compared
    diverges: str | None = None  # the first layer that is missing, mis-shaped or beyond its limit

    @property
    def tensors(self) -> int:
        return len(self.rows)

    @property
    def passed(self) -> bool:
        return bool(self.rows) and not self.problems and all(row.passed for row in self.rows)

    @property
    def worst(self) -> Row | None:
        """The row that comes nearest to its limit, or goes furthest beyond it."""
        return max(self.rows, key=lambda row: row.error / row.limit, default=None)

    def to_dict(self) -> dict[str, Any]:
        worst = self.worst
        shown = None
        if worst is not None:
            error = worst.error if math.isfinite(worst.error) else None  # JSON has no infinity
            shown = {**asdict(worst), "error": error}
        return {
            "preset": self.preset,
            "a": self.a,
            "b": self.b,
            "dtype": self.dtype,
            "check": self.check,
            "tensors": self.tensors,
            "passed": self.passed,
            "worst": shown,
            "first_divergence": self.diverges,
            "problems": list(self.problems),
        }


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute value; infinite if that cannot be said.

    A tensor with a value that is not finite never passes, nor does one that is zero everywhere on
    one side: nothing can be seen through a dead layer.
    """
    wide_a, wide_b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    scale = min(float(np.abs(wide_a).max(initial=0.0)), float(np.abs(wide_b).max(initial=0.0)))
    difference = float(np.abs(wide_a - wide_b).max(initial=0.0))
    if not math.isfinite(scale) or not math.isfinite(difference) or scale == 0.0:
        return math.inf
    return difference / scale


def rounding_budget(low: Trace, exact: Trace) -> dict[str, float]:
    """Each layer's distance between a low-precision trace and the same framework's float64."""
    return {name: relative_error(low[name], exact[name]) for name in low.names}


def compare(a: Trace, b: Trace, *, check: str = EVAL) -> Comparison:
    """Compare everything of one check in two traces.

    Both must hold exactly the layers of the plan of their spec, in its order and its shapes, and
    come from the same spec, images and weights. Then every tensor's error must be within its limit.
    Raises `SpecError` when the traces are of different networks.
    """
    if a.spec != b.spec:
        raise SpecError(f"the traces are of different networks: {_difference(a.spec.to_dict(), b.spec.to_dict())}")
    keys_a, keys_b = ([n for n in t.names if n.startswith(f"{check}/")] for t in (a, b))
    problems, diverges = _structure_problems(a, keys_a, b, keys_b, check)
    for what in ("images", "weights"):
        if a.about.get(what) != b.about.get(what):
            problems.append(f"the {what} of {a.framework} and {b.framework} are not the same")
    rows = []
    budgets = _budgets(a, b)
    dtype = a.dtype if a.dtype != "float64" else b.dtype
    for name in keys_a:
        if name in set(keys_b) and a.shape(name) == b.shape(name):
            limit = EVAL_FLOAT64 if dtype == "float64" else rounding_limit(dtype, *(x[name] for x in budgets))
            rows.append(Row(name, relative_error(a[name], b[name]), limit))
    return Comparison(
        preset=a.spec.name,
        a=a.framework,
        b=b.framework,
        dtype=dtype,
        check=check,
        rows=tuple(rows),
        problems=tuple(problems),
        diverges=diverges or next((row.name for row in rows if not row.passed), None),
    )


def _structure_problems(
    a: Trace, keys_a: list[str], b: Trace, keys_b: list[str], check: str
) -> tuple[list[str], str | None]:
    """What is wrong with names, order and shapes, against the plan and so against each other."""
    problems: list[str] = []
    diverges: str | None = None
    for trace, keys in ((a, keys_a), (b, keys_b)):
        found = {name: trace.shape(name) for name in keys}
        expected = _expected_shapes(trace, check)
        for name in expected:
            if name not in found:
                problems.append(f"{trace.framework} has no {name}")
            elif found[name] != expected[name]:
                problems.append(f"{trace.framework}: {name} has shape {found[name]}, the plan says {expected[name]}")
            else:
                continue
            diverges = diverges or name
        for name in found:
            if name not in expected:
                problems.append(f"{trace.framework}: {name} is not in the plan")
                diverges = diverges or name
        if not problems and list(found) != list(expected):
            first = next(n for n, m in zip(found, expected, strict=True) if n != m)
            problems.append(f"{trace.framework} computes {first} at another place than the plan")
            diverges = diverges or first
    return problems, diverges


def _expected_shapes(trace: Trace, check: str) -> dict[str, tuple[int, ...]]:
    """Key -> shape with the batch in front, for the image size that the trace was taken at."""
    batch, height, width = (int(n) for n in trace.about["image_shape"].split("x")[:3])
    plan = make_plan(trace.spec, (height, width))
    shapes = {f"{check}/{row.name}": (batch, *row.output) for row in plan.layers}
    return {**shapes, f"{check}/{OUTPUT}": (batch, *plan.output)}


def _budgets(a: Trace, b: Trace) -> list[Mapping[str, float]]:
    return [json.loads(t.about["rounding"]) for t in (a, b) if t.dtype != "float64"]


def _difference(a: Any, b: Any, where: str = "") -> str:
    """The fields in which two specs differ, shortly."""
    if isinstance(a, dict) and isinstance(b, dict):
        parts = [_difference(a[k], b[k], f"{where}.{k}".strip(".")) for k in a if a[k] != b[k]]
        return ", ".join(parts[:4]) + (", …" if len(parts) > 4 else "")
    return f"{where} {a} and {b}"
