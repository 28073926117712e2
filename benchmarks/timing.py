"""Alternating timings, so that a machine whose speed drifts is unfair to nobody."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

# One training step on images (float32, NHWC) and labels (int64); the loss.
StepFunction = Callable[[np.ndarray, np.ndarray], float]

BATCH, SIZE = 8, 224
ROUNDS = 7


@dataclass(frozen=True)
class Result:
    """Best milliseconds of both sides, and the median over the rounds of peer / ours."""

    what: str
    peer: str
    ours_ms: float
    peer_ms: float
    speedup: float  # above 1: ours is faster

    def to_dict(self) -> dict:
        return asdict(self)


def race(
    what: str,
    peer: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    rounds: int = ROUNDS,
    warmups: int = 1,
) -> Result:
    """Run both in turn, after so many warm-ups each."""
    for _ in range(warmups):
        ours(), theirs()
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        times.append((_seconds(ours), _seconds(theirs)))
    return Result(
        what,
        peer,
        ours_ms=1e3 * min(t for t, _ in times),
        peer_ms=1e3 * min(t for _, t in times),
        speedup=statistics.median(t / o for o, t in times),
    )


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
