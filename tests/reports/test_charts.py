"""Charts: what is drawn, and where."""

from __future__ import annotations

import math

import pytest

from shared.reports.charts import HEIGHT, POINTS, WIDTH, draw, log_ticks, thinned, ticks
from shared.reports.html import escape
from shared.reports.page import Chart, Series
from tests.reports.reading import Element, read


def drawn(chart: Chart) -> Element:
    return read("".join(draw(chart, escape)))


def points(line: Element) -> list[tuple[float, float]]:
    return [
        (float(x), float(y))
        for x, y in (pair.split(",") for pair in line.attributes["points"].split())
    ]


@pytest.mark.parametrize("log", [False, True])
def test_lines_rise_where_their_values_do(log: bool) -> None:
    up, down = [1.0, 10.0, 100.0], [100.0, 10.0, 1.0]
    series = [Series("up", [1, 2, 3], up), Series("down", [1, 2, 3], down)]
    first, second = map(points, drawn(Chart("t", "x", series, log)).all("polyline"))
    assert [y for _, y in first] == sorted((y for _, y in first), reverse=True)
    assert first == [(x, y) for (x, _), (_, y) in zip(first, reversed(second), strict=True)]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in first)


def test_what_cannot_be_drawn_is_left_out() -> None:
    values = [1.0, math.nan, math.inf, 0.0, -1.0, 2.0]
    chart = Chart("t", "x", [Series("s", list(range(6)), values)], log=True)
    (line,) = drawn(chart).all("polyline")
    assert len(points(line)) == 2
    assert "nothing to draw" in drawn(Chart("t", "x", [Series("s", [1], [math.nan])])).text


@pytest.mark.parametrize("log", [False, True])
def test_a_single_point_is_drawn(log: bool) -> None:
    found = drawn(Chart("t", "x", [Series("s", [5], [0.5])], log))
    assert len(found.all("circle")) == 1


def test_long_lines_are_thinned_and_keep_their_peaks() -> None:
    line = [(float(i), 1.0) for i in range(10_000)]
    line[5_003] = (5003.0, 9.0)
    assert len(thinned(line)) == POINTS
    assert max(y for _, y in thinned(line, log=True)) == 9.0
    assert max(y for _, y in thinned(line)) < 9.0
    assert thinned(line[:10]) == line[:10]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.71, 0.93), (1, 9000), (-3, 3), (1e-9, 2e-9)])
def test_ticks_are_within(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 12
    assert all(low - 1e-12 <= value <= high + 1e-12 for value in found)


@pytest.mark.parametrize(("low", "high"), [(0.4, 2.1), (1e-17, 1.0), (3e-4, 8e-1), (1, 1)])
def test_log_ticks_are_within(low: float, high: float) -> None:
    found = log_ticks(low, high)
    assert 1 <= len(found) <= 12
    assert all(low <= value <= high for value in found)
