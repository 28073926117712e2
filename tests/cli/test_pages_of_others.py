"""The page of `identify`."""

from __future__ import annotations

from typing import Any

import pytest

from shared import get_spec
from shared.cli.pages_of_others import identify_page
from shared.reports.html import html_page
from shared.reports.markdown import markdown_page
from shared.reports.page import Tone
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
        "image_sizes": [64, 96],
        "evidence": {
            "passed": True,
            "images": "2 random images",
            "dtype": "float64",
            "error": 1e-15,
            "limit": 1e-12,
        },
        "surroundings": [],
        "notes": [],
        "assumed": [],
    } | changes


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
