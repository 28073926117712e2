"""The pages of `identify`, and why a framework differs on those of `verify` and `compare`."""

from __future__ import annotations

from typing import Any

import pytest

from shared import get_spec
from shared.cli.pages_of_others import identify_page, why_parts
from shared.reports.html import html_page
from shared.reports.markdown import markdown_page
from shared.reports.page import Page, Tone
from shared.verification.diagnosis.diagnose import Cause, Diagnosis
from tests.cli_runner import Rosetta
from tests.reports.reading import assert_nothing_from_elsewhere, read

NASTY = '<script>1</script>" | [a](b)'


def found(**changes: Any) -> dict[str, Any]:
    """What `identify` finds of a model that is a preset, changed."""
    return {
        "recognised": True,
        "verdict": "same network",
        "preset": "torchvision/resnet18",
        "presets": ["torchvision/resnet18"],
        "nearest": "torchvision/resnet18",
        "spec": get_spec("resnet18").to_dict(),
        "departures": [],
        "from_nearest": [],
        "paper": None,
        "from_paper": [],
        "image_sizes": [64, 96],
        "evidence": {
            "passed": True,
            "shows": True,
            "images": "2 random images",
            "dtype": "float64",
            "error": 1e-15,
            "limit": 1e-12,
        },
        "surroundings": [],
        "notes": [],
        "assumed": [],
    } | changes


def diagnosis(**changes: Any) -> Diagnosis:
    """One of a port that differs, changed."""
    facts: dict[str, Any] = {
        "spec": get_spec("resnet18"),
        "same": False,
        "explained": False,
        "causes": (),
        "key": "eval/output",
        "error_before": 1e-2,
        "error_after": 1e-2,
        "limit": 1e-6,
        "dtype": "float32",
        "tried": 7,
        "keys": 1,
    }
    return Diagnosis(**(facts | changes))


def departure(where: str) -> dict[str, Any]:
    return {"where": where, "what": "stride", "theirs": "1", "ours": "2", "line": "m.py:3"}


def test_what_is_recognised() -> None:
    page = identify_page("python:m.py:net", found(), None, True, "rosetta identify x")
    assert (page.tone, page.verdict) == (Tone.good, "✓ torchvision/resnet18: the same network")
    document = read(html_page(page))
    assert [h.text for h in document.all("h2")] == ["What it rests on", "Environment", "Command"]
    rows = [[cell.text for cell in row.all("td")] for row in document.all("tr")[1:]]
    assert [label for label, _ in rows] == ["network", "compared", "numbers"]
    assert rows[2][1].startswith("✓ 2 random images in float64: 1.0e-15")


@pytest.mark.parametrize("key", ["departures", "from_nearest"])
def test_where_it_departs(key: str) -> None:
    said = found(recognised=False, **{key: [departure(NASTY)]}, notes=[NASTY])
    page = identify_page(NASTY, said, None, False, "rosetta identify")
    assert page.tone is Tone.bad
    text = html_page(page)
    assert_nothing_from_elsewhere(text)
    rows = [[cell.text for cell in row.all("td")] for row in read(text).all("tr")]
    assert [NASTY, "stride", "1", "2", "m.py:3"] in rows
    assert "<script" not in markdown_page(page)


@pytest.mark.parametrize("option", ["--html", "--markdown"])
def test_a_place_that_cannot_be_written_is_refused_first(rosetta: Rosetta, option: str) -> None:
    place = "no/such/folder/x"
    rosetta("identify", "python:none.py:net", option, place).refused("there is no folder")


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (NASTY, [f"No cause: {NASTY}"]),
        (diagnosis(same=True), ["It is as the reference is, within what rounding explains."]),
        (diagnosis(), ["✗ torchvision/resnet18: the port differs; not explained"]),
        (
            diagnosis(
                explained=True,
                causes=(Cause("spec", NASTY, "norm.eps=0.001", None, ("stem.norm1",), 1e-2),),
            ),
            ["✗ torchvision/resnet18: the port differs, and one change explains it"],
        ),
    ],
    ids=["none", "same", "unexplained", "explained"],
)
def test_why_a_framework_differs(cause: Diagnosis | str, said: list[str]) -> None:
    (part,) = why_parts({"torch": cause}, " on x")
    assert "torch" in part.title
    assert part.title.endswith(" on x")
    assert list(part.lines) == said
    cells = [cell.text for table in part.items for row in table.rows for cell in row]
    assert ("--set norm.eps=0.001" in cells) == (not isinstance(cause, str) and bool(cause.causes))
    page = Page("t", Tone.bad, "v", (), [part])
    assert_nothing_from_elsewhere(html_page(page))
