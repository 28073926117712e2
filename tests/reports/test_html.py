"""Pages of HTML: what they hold, that nothing in a name is markup, and that they need no other
file.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from shared.reports.comparisons import strips
from shared.reports.html import html_page
from shared.reports.page import ERROR, OVER_LIMIT, Page, Part, Tone
from tests.reports.made import NASTY, comparison, page_of, with_a_channel
from tests.reports.reading import assert_nothing_from_elsewhere, read


def page_with(*comparisons, merged: bool = False) -> Page:
    return Page("t", Tone.good, "v", (), [Part("Layers", strips(comparisons, merged=merged))])


def test_the_verdict_comes_first_and_the_command_last() -> None:
    page = Page(
        "rosetta x", Tone.good, "all is well", ["so it is"], [], {"numpy": "2"}, "rosetta x"
    )
    (body,) = read(html_page(page)).all("body")
    header, *_, footer = [element for element in body.children if not isinstance(element, str)]
    assert (header.tag, header.classes) == ("header", ["good"])
    assert [e.text for e in header.all("h1")] == ["all is well"]
    assert "so it is" in header.text
    assert footer.tag == "footer"
    assert [e.text for e in footer.all("pre")] == ["rosetta x"]
    assert [e.text for e in footer.all("dt") + footer.all("dd")] == ["numpy", "2"]


def test_every_layer_has_a_mark_in_order() -> None:
    first, second = comparison(1e-15, 0.0, 3e-13), comparison(2e-15, 1e-3, 1e-15, b="keras")
    figures = read(html_page(page_with(first, second))).all("figure")
    assert len(figures) == 2
    for figure, made in zip(figures, (first, second), strict=True):
        titles = [mark.attributes["title"] for mark in figure.all("i")]
        names = [row.name.removeprefix("eval/") for row in made.rows]
        assert [title.partition(":")[0] for title in titles] == names
        assert [f"{row.error:.1e}" in t for row, t in zip(made.rows, titles, strict=True)] == [
            True
        ] * 3
    assert [len(f.all("i", "over")) for f in figures] == [0, 1]
    assert [len(f.all("i", "first")) for f in figures] == [0, 1]
    (mark,) = figures[1].all("i", "first")
    assert mark.attributes["title"].startswith("stages.0.blocks.1.conv1")
    assert "first at stages.0.blocks.1.conv1" in figures[1].text


def test_a_scale_is_explained_once() -> None:
    part = page_with(comparison(1e-15)).parts[0]
    page = html_page(Page("t", Tone.good, "v", (), [part, part]))
    assert page.count("Hover or tap a bar") == 1
    assert page.count("<figure") == 2


def heights(page: str) -> list[int]:
    found = [m.classes[0] for m in read(page).all("i")]
    assert all(name.startswith("h") for name in found)
    return [int(name[1:]) for name in found]


def test_a_mark_is_as_high_as_its_error() -> None:
    errors = (0.0, 1e-30, 1e-18, 1e-15, 1e-13, 1e-12, 2e-12, 1e-10, 1.0, math.inf, math.nan)
    found = heights(html_page(page_with(comparison(*errors))))
    assert found == sorted(found)
    assert found[0] == 0
    assert found[1] >= 1
    assert len(set(found)) > 5
    assert found[-1] == found[-2] == max(found)


@pytest.mark.parametrize("scale", [OVER_LIMIT, ERROR])
def test_a_scale_goes_from_0_to_1(scale) -> None:
    levels = (-math.inf, -100.0, scale.low, (scale.low + scale.high) / 2, scale.high, math.inf)
    assert [scale.height(level) for level in levels] == [0, 0, 0, 0.5, 1, 1]
    assert scale.height(math.nan) == 1


def test_what_a_channel_fails_by_is_shown_beyond_the_limit() -> None:
    (mark,) = read(html_page(page_with(with_a_channel()))).all("i")
    assert "over" in mark.classes
    assert "channel 3" in mark.attributes["title"]


def test_everything_is_escaped() -> None:
    page = html_page(page_of(NASTY))
    assert_nothing_from_elsewhere(page)
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    page.encode("utf-8")  # no half of a surrogate pair
    document = read(page)
    assert {e.tag for e in document.all()} == {e.tag for e in read(html_page(page_of("x"))).all()}
    expected = "<script>alert('1')</script>\" onmouseover=\"x` | [a](b) & "
    places = [*document.all("h1"), *document.all("td"), *document.all("pre"), *document.all("dt")]
    assert len(places) == 5
    assert all(place.text.startswith(expected) for place in places)
    assert document.all("i")[0].attributes["title"].startswith(expected)


def test_a_policy_forbids_what_escaping_would_have_missed() -> None:
    (policy,) = [
        meta.attributes["content"]
        for meta in read(html_page(page_of("x"))).all("meta")
        if meta.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert "script-src" not in policy


def test_the_same_page_is_the_same_bytes() -> None:
    page = page_of("x")
    assert html_page(page) == html_page(page)
    reordered = replace(page, environment=dict(reversed({"a": "1", "b": "2"}.items())))
    assert html_page(reordered) == html_page(replace(page, environment={"a": "1", "b": "2"}))


@pytest.mark.parametrize(
    "planted",
    [
        "<script>1</script>",
        '<img src="x">',
        '<p onclick="x">a</p>',
        "<style>@import 'x'</style>",
        "<style>a{background:url(x)}</style>",
        '<a href="x">a</a>',
    ],
)
def test_the_check_of_pages_can_fail(planted: str) -> None:
    with pytest.raises(AssertionError):
        assert_nothing_from_elsewhere(f"<div>{planted}</div>")
