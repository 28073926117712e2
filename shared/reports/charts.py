"""A chart as SVG: lines over a common axis, thinned to what a screen shows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

from shared.reports.page import Chart
from shared.reports.style import LINES

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 10, 40
POINTS = 360  # of a line
FEW = 30  # points of a line that are marked

Point = tuple[float, float]


def draw(chart: Chart, escape: Callable[[str], str]) -> Iterator[str]:
    """The lines of an `<svg>` element; what is not finite, or not positive on a logarithmic axis,
    is left out.
    """
    lines = [
        [
            (x, y)
            for x, y in zip(s.x, s.y, strict=True)
            if math.isfinite(y) and (y > 0 or not chart.log)
        ]
        for s in chart.series
    ]
    points = [point for line in lines for point in line]
    label = escape(f"{chart.title}, over {chart.x_label}")
    yield f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
    if not points:
        place = f'x="{WIDTH // 2}" y="{HEIGHT // 2}" text-anchor="middle"'
        yield f"<text {place}>nothing to draw</text>"
    else:
        yield from _axes(chart, points, escape)
        across, up = _scales(points, chart.log)
        for i, line in enumerate(lines):
            drawn = " ".join(
                f"{across(x):.1f},{up(y):.1f}" for x, y in thinned(line, log=chart.log)
            )
            if len(line) < FEW:
                yield from (
                    f'<circle class="k{i % LINES}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="3"/>'
                    for x, y in line
                )
            yield f'<polyline class="k{i % LINES}" points="{drawn}"/>'
    yield "</svg>"


def thinned(line: Sequence[Point], points: int = POINTS, *, log: bool = False) -> list[Point]:
    """At most `points` of them: means of neighbours, or the largest of neighbours where `log` is,
    so that no peak is lost.
    """
    if len(line) <= points:
        return list(line)
    edges = [round(i * len(line) / points) for i in range(points + 1)]
    found = []
    for start, end in itertools.pairwise(edges):
        xs, ys = zip(*line[start:end], strict=True)
        found.append((sum(xs) / len(xs), max(ys) if log else sum(ys) / len(ys)))
    return found


def _scales(
    points: Sequence[Point], log: bool
) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """From values to places in the picture."""
    xs, ys = zip(*points, strict=True)
    low, high = min(ys), max(ys)
    if log:
        low, high = math.log10(low), math.log10(high)
    if low == high:
        low, high = low - 0.5, high + 0.5
    left, right = min(xs), max(xs)
    wide = (right - left) or 1.0

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - left) / wide

    def up(y: float) -> float:
        place = math.log10(y) if log else y
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (place - low) / (high - low)

    return across, up


def _axes(chart: Chart, points: Sequence[Point], escape: Callable[[str], str]) -> Iterator[str]:
    across, up = _scales(points, chart.log)
    xs, ys = zip(*points, strict=True)
    rows = log_ticks(min(ys), max(ys)) if chart.log else ticks(min(ys), max(ys))
    for value in rows:
        y = up(value)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        said = f"{value:g}"
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{said}</text>'
    for value in ticks(min(xs), max(xs)):
        x = across(value)
        yield f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:,g}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(chart.x_label)}</text>'


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between the two."""
    if not low < high:
        return [low]
    rough = (high - low) / about
    base = 10.0 ** math.floor(math.log10(rough))
    step = next(base * k for k in (1, 2, 5, 10) if base * k >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between the two, or 1, 2 and 5 times those where the powers are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first > 2:
        found = [10.0**i for i in range(first, last + 1, max(1, (last - first) // 5))]
    else:
        found = [k * 10.0**i for i in range(first, last + 1) for k in (1, 2, 5)]
    return [value for value in found if low <= value <= high]
