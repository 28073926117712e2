"""Comparisons as strips and tables."""

from __future__ import annotations

import math

import pytest

from shared.reports.comparisons import PROBLEMS, parting, strip, strips
from shared.reports.page import ERROR, OVER_LIMIT, Tone
from shared.verification.comparison import Row
from tests.reports.made import comparison, with_a_channel


def test_a_strip_of_what_is_the_same() -> None:
    found = strip(comparison(1e-15, 0.0))
    assert (found.tone, found.verdict, found.first) == (Tone.good, "✓ same", None)
    assert found.scale is OVER_LIMIT
    assert "limit 1.0e-12 for each" in found.about
    assert "1 equal bit for bit" in found.about
    assert [mark.level for mark in found.marks] == [pytest.approx(-3), -math.inf]


def test_a_strip_of_what_differs() -> None:
    found = strip(comparison(1e-15, 1e-9, math.nan))
    assert (found.tone, found.first) == (Tone.bad, 1)
    assert [mark.passed for mark in found.marks] == [True, False, False]
    assert [mark.level for mark in found.marks] == [pytest.approx(-3), pytest.approx(3), math.inf]


def test_a_strip_of_what_is_measured() -> None:
    rows = (Row("grad/stem.conv1.weight", 1e-4, None, (1e-6, None)),)
    found = strip(comparison(rows=rows, check="gradients", dtype="float32"))
    assert (found.tone, found.verdict) == (Tone.measured, "measured")
    assert found.scale is ERROR
    assert [mark.level for mark in found.marks] == [pytest.approx(-4)]
    assert "1.0e-06 and exact" in found.marks[0].numbers


def test_limits_that_differ_are_said_of_each() -> None:
    rows = (Row("eval/a", 1e-7, 1e-6, (1e-7, 1e-7)), Row("eval/b", 1e-7, 1e-5, (1e-7, 1e-7)))
    found = strip(comparison(rows=rows, dtype="float32"))
    assert "limit" not in found.about
    assert [f"limit 1.0e-0{n}" in mark.numbers for n, mark in zip((6, 5), found.marks, strict=True)]


@pytest.mark.parametrize(
    ("key", "group"),
    [
        ("eval/stem.conv1", "stem"),
        ("eval/stages.2.blocks.1.norm1", "stages.2"),
        ("eval/stages.2.blocks.1", "stages.2"),
        ("train/final_norm", "head"),
        ("eval/output", "head"),
        ("stats/stages.0.blocks.0.norm1.running_var", "statistics"),
        ("loss", "loss"),
        ("loss/unsmoothed", "loss"),
        ("grad/stages.3.blocks.2.conv3.weight", "stages.3"),
        ("grad/input", "head"),
        ("step7/momentum_buffer/head.weight", "step 7"),
    ],
)
def test_groups(key: str, group: str) -> None:
    found = strip(comparison(rows=(Row(key, 0.0, 1e-12),)))
    assert found.marks[0].group == group


def test_merged_pairs_show_the_worst_of_each_layer() -> None:
    pairs = [
        comparison(1e-15, 3e-13),
        comparison(2e-14, 1e-16, b="keras"),
        comparison(1e-3, 1e-3, b="x"),
    ]
    same, differs = strips(pairs, merged=True)
    assert [mark.level for mark in same.marks] == pytest.approx([math.log10(2e-2), math.log10(0.3)])
    assert "torch and keras" in same.marks[0].numbers
    assert "torch and flax" in same.marks[1].numbers
    assert same.title == "eval, the worst of 2 pairs"
    assert differs.title == "torch and x, eval"
    assert differs.tone is Tone.bad


def test_where_it_parts() -> None:
    assert parting([comparison(1e-15)]) is None
    table = parting([comparison(1e-15), comparison(1e-15, 1e-9, 1e-9), with_a_channel()])
    assert table is not None
    first, second = [[cell.text for cell in row] for row in table.rows]
    assert first[3:6] == ["stages.0.blocks.1.conv1", "1.0e-09", "1.0e-12"]
    assert "2 of 3 tensors" in first[6]
    assert "channel 3 differs by 5.0e-01" in second[6]


def test_problems_are_said_and_not_without_end() -> None:
    problems = tuple(f"problem {i}" for i in range(PROBLEMS + 5))
    table = parting([comparison(rows=(), problems=problems)])
    assert table is not None
    said = table.rows[0][6].text
    assert said.count("problem") == PROBLEMS
    assert "and 5 more" in said
