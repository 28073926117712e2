"""Pages of Markdown: tables that stay tables, whatever stands in their cells."""

from __future__ import annotations

import re

import pytest

from shared.reports.comparisons import strips
from shared.reports.markdown import code, escape, markdown_page, table_lines
from shared.reports.page import Cell, Page, Part, Table, Tone
from tests.reports.made import NASTY, comparison, page_of


def test_a_page() -> None:
    table = Table(
        ["pair", "error"], [[Cell("torch"), Cell("1e-3", Tone.bad)]], frozenset({"error"})
    )
    part = Part("Pairs", [table, *strips([comparison(1e-15, 1e-3)])], ["as run"])
    page = Page("t", Tone.bad, "they differ", ["2 tensors"], [part], {"numpy": "2"}, "rosetta x")
    lines = markdown_page(page).splitlines()
    assert lines[0] == "# they differ"
    assert "## Pairs" in lines
    assert lines[lines.index("| pair | error |") + 1] == "| --- | ---: |"
    assert "| torch | **1e-3** |" in lines
    assert any(line.startswith("* torch and flax, eval: ✗ differs, first at") for line in lines)
    assert lines[-1] == "Written by `rosetta x`."


def test_a_cell_stays_in_its_cell() -> None:
    lines = list(table_lines(Table(["a", "b"], [[Cell(NASTY), Cell(NASTY)]])))
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines if line} == {4}


def test_nothing_is_markup() -> None:
    page = markdown_page(page_of(NASTY))
    outside = re.sub(r"(`+)[^`].*?[^`]\1(?!`)", "", page)
    assert "<" not in outside
    assert not re.search(r"(?<!\\)\[", outside)
    page.encode("utf-8")


@pytest.mark.parametrize("text", ["a", "a`b", "``", "`a``b"])
def test_code_spans_end_where_they_should(text: str) -> None:
    found = code(text)
    fence = re.match("`+", found)
    assert fence is not None
    assert found.endswith(fence[0])
    assert fence[0] not in found[len(fence[0]) : -len(fence[0])]


def test_plain_words_are_as_they_are() -> None:
    assert (
        escape("stages.0.blocks.1 (running_var), 1e-12 = a")
        == "stages.0.blocks.1 (running_var), 1e-12 = a"
    )
