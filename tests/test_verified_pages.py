"""`docs/verify-*.md`, and what README and `docs/proof.md` say of them, speak of today's networks.

Running them again takes hours; that a preset, a field or a parameter has changed since can be seen
in a second.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from shared import get_spec, list_presets, miniature
from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.frameworks.verify import count_networks

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| \S+/\S+ \|.*\|$", re.MULTILINE)
PAGES = ("verify-all", "verify-main", "verify-miniatures")


class Row(NamedTuple):
    """A line of a page's table."""

    preset: str
    params: int
    size: tuple[int, int]
    pairs: int
    tensors: int
    same_as: str | None
    error: float
    limit: float
    verdict: str


def read(page: str) -> str:
    return (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")


def rows(text: str) -> list[Row]:
    return [row(match[0]) for match in ROW.finditer(text)]


def row(line: str) -> Row:
    preset, params, image, pairs, tensors, nearest, _, error, limit, verdict = (
        cell.strip() for cell in line[1:-1].split("|")
    )
    same_as = nearest.removeprefix("= ") if nearest.startswith("= ") else None
    height, width = image.split(" x ")
    return Row(
        preset,
        int(params.replace(",", "")),
        (int(height), int(width)),
        int(pairs),
        int(tensors),
        same_as,
        float(error),
        float(limit),
        verdict,
    )


def spec_of(page: str, preset: str) -> ResNetSpec:
    return miniature(get_spec(preset)) if page == "verify-miniatures" else get_spec(preset)


@pytest.mark.parametrize("page", ["verify-miniatures", "verify-all"])
def test_every_preset_has_its_row(page: str) -> None:
    assert [r.preset for r in rows(read(page))] == list_presets()


@pytest.mark.parametrize("page", PAGES)
def test_rows_are_of_todays_networks(page: str) -> None:
    table = rows(read(page))
    assert {r.preset: r.params for r in table} == {
        r.preset: make_plan(spec_of(page, r.preset), r.size).params for r in table
    }
    specs = [spec_of(page, r.preset) for r in table]
    measured = {r.preset for r in table if r.same_as is None}
    assert len(measured) == count_networks(specs)
    for r in table:
        if r.same_as is not None:
            assert r.same_as in measured
            assert count_networks([spec_of(page, r.preset), spec_of(page, r.same_as)]) == 1, (
                r.preset
            )


def test_pages_show_what_only_some_sizes_show() -> None:
    """Caffe's pool differs from the SAME one where it sees an odd number of rows."""
    for r in rows(read("verify-miniatures")):
        if r.preset.startswith("he/"):
            plan = make_plan(spec_of("verify-miniatures", r.preset), r.size)
            seen = {row.name: row.output for row in plan.layers}["stem.norm1"]
            assert seen[0] % 2 == 1, r.preset


@pytest.mark.parametrize("page", PAGES)
def test_totals_are_those_of_the_rows(page: str) -> None:
    text = read(page)
    table = rows(text)
    measured = [r for r in table if r.same_as is None]
    assert all(r.verdict == "same" and r.error <= r.limit for r in table)
    assert text.startswith(f"# {len(table)} presets, {len(measured)} networks\n")
    total = f"{sum(r.pairs * r.tensors for r in measured):,} tensors"
    assert f"\n{total} compared; 0 presets differ or were not run;" in text
    assert total in (ROOT / "docs" / "proof.md").read_text(encoding="utf-8")


def test_the_presets_are_counted() -> None:
    presets = list_presets()
    proof = (ROOT / "docs" / "proof.md").read_text("utf-8")
    assert f"All {len(presets)} presets, shallow and narrow" in proof
    networks = count_networks([get_spec(preset) for preset in presets])
    assert f"all of them ({networks} different networks)" in proof
    assert f"for {len(presets)} presets" in (ROOT / "README.md").read_text("utf-8")
