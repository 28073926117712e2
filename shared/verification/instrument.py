"""Whether a comparison can fail: a trace against itself with one mistake planted in it.

Every other tensor must be equal, and the planted one must be named as the first that differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from shared.verification.comparison import compare
from shared.verification.trace import Trace

BEYOND = 4.0  # times its limit, that the planted value is off


@dataclass(frozen=True)
class Instrument:
    """What came of comparing a trace with itself and a planted mistake."""

    check: str
    sound: bool
    planted: str | None  # the tensor with the mistake
    size: float | None  # of the mistake, relative to the tensor's largest value
    why_not: str | None = None

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)


class _Planted(Mapping[str, np.ndarray]):
    """The arrays of a trace, read when they are asked for, with one value of one changed."""

    def __init__(self, trace: Trace, name: str, factor: float):
        self._trace, self._name, self._factor = trace, name, factor

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._trace[name]
        if name != self._name:
            return array
        changed = np.array(array, np.float64)
        changed.flat[int(np.abs(changed).argmax())] *= self._factor
        return changed

    def __iter__(self) -> Iterator[str]:
        return iter(self._trace.names)

    def __len__(self) -> int:
        return len(self._trace.names)


def examine(trace: Trace, check: str) -> Instrument:
    """Compare (A, A) with one value of A's middle tensor changed by a few times its limit."""
    rows = compare(trace, trace, check=check).rows
    if not rows or rows[0].limit is None:
        why = "this check is measured and not judged" if rows else "there is nothing to compare"
        return Instrument(check, False, None, None, why)
    dead = [row.name for row in rows if not row.passed]
    if dead:
        return Instrument(
            check, False, None, None, f"{dead[0]} is zero or not finite: nothing is seen through it"
        )
    row = rows[len(rows) // 2]
    size = BEYOND * (row.limit or 0.0)
    planted = dataclasses.replace(trace, arrays=_Planted(trace, row.name, 1 + size))
    found = compare(trace, planted, check=check)
    seen = [r.name for r in found.rows if not r.passed]
    sound = seen == [row.name] and found.first_divergence == row.name
    sound &= all(r.error == 0 for r in found.rows if r.name != row.name)
    return Instrument(
        check,
        sound,
        row.name,
        size,
        None if sound else f"a change planted in {row.name} is not seen",
    )
