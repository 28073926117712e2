"""A page as HTML: one file that needs no other, no network and no script.

Everything that a page says is escaped, and the page's own policy forbids to load or run anything.
The same page gives the same bytes.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterator

from shared.reports.charts import draw
from shared.reports.page import OVER_LIMIT, Chart, Mark, Page, Part, Scale, Strip, Table, shown
from shared.reports.style import LEVELS, LINES, style

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
MANY = 500  # marks of a strip; they are drawn smaller


def html_page(page: Page) -> str:
    """The page as the text of an HTML file, in UTF-8.

    >>> from shared.reports.page import Page, Tone
    >>> "<h1>a &lt; b</h1>" in html_page(Page("compare", Tone.good, "a < b"))
    True
    """
    return "\n".join(_page(page)) + "\n"


def escape(text: str) -> str:
    """`text` for the inside of an element or of an attribute in double quotes."""
    return html.escape(shown(text), quote=True)


def _page(page: Page) -> Iterator[str]:
    yield "<!DOCTYPE html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield '<meta name="viewport" content="width=device-width,initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield f"<title>{escape(page.verdict)}</title>"
    yield f"<style>{style(OVER_LIMIT.height(0.0), OVER_LIMIT.height(-1.0))}</style></head><body>"
    yield f'<header class="{page.tone}"><p class="what">{escape(page.title)}</p>'
    yield f"<h1>{escape(page.verdict)}</h1>"
    yield from (f"<p>{escape(line)}</p>" for line in page.details)
    yield "</header><main>"
    explained: set[Scale] = set()
    for part in page.parts:
        yield from _part(part, explained)
    yield "</main><footer>"
    if page.environment:
        yield "<h2>Environment</h2><dl>"
        for name, version in sorted(page.environment.items()):
            yield f"<dt>{escape(name)}</dt><dd>{escape(version)}</dd>"
        yield "</dl>"
    if page.command:
        yield f"<h2>Command</h2><pre>{escape(page.command)}</pre>"
    yield "</footer></body></html>"


def _part(part: Part, explained: set[Scale]) -> Iterator[str]:
    yield f"<section><h2>{escape(part.title)}</h2>"
    yield from (f"<p>{escape(line)}</p>" for line in part.lines)
    for item in part.items:
        if isinstance(item, Strip):
            if item.scale not in explained:
                explained.add(item.scale)
                yield f'<p class="scale">{_legend(item)}</p>'
            yield from _strip(item)
        elif isinstance(item, Table):
            yield from _table(item)
        else:
            yield from _chart(item)
    yield "</section>"


def _legend(strip: Strip) -> str:
    line = "; the line is the limit" if strip.scale.limit else ""
    return (
        f"A bar is {strip.scale.bar}, in the order of the computation. Its height is "
        f"{strip.scale.words}{line}; grey is equal bit for bit. Hover or tap a bar for its name "
        "and numbers."
    )


def _table(table: Table) -> Iterator[str]:
    if table.title:
        yield f"<h3>{escape(table.title)}</h3>"
    right = [title in table.right for title in table.columns]
    yield '<div class="table"><table><thead><tr>'
    yield from (
        f"<th{_class('right' if r else '')}>{escape(title)}</th>"
        for title, r in zip(table.columns, right, strict=True)
    )
    yield "</tr></thead><tbody>"
    for row in table.rows:
        cells = (
            f'<td{_class("right" if r else "", cell.tone)} data-of="{escape(title)}">'
            f"{escape(cell.text)}</td>"
            for title, cell, r in zip(table.columns, row, right, strict=True)
        )
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _class(*names: str) -> str:
    said = " ".join(name for name in names if name)
    return f' class="{said}"' if said else ""


def _strip(strip: Strip) -> Iterator[str]:
    kind = "limit" if strip.scale.limit else "free"
    fine = "fine" if len(strip.marks) > MANY else ""
    yield f"<figure{_class(kind, fine)}><figcaption><b>{escape(strip.title)}</b>"
    yield f"<span{_class(strip.tone)}>{escape(strip.verdict)}</span>"
    if strip.first is not None:
        yield f'<span class="bad">first at {escape(strip.marks[strip.first].name)}</span>'
    yield f"<small>{escape(strip.about)}</small></figcaption>"
    yield f'<div class="strip" role="img" aria-label="{escape(_spoken(strip))}">'
    marks = enumerate(strip.marks)
    for group, members in itertools.groupby(marks, key=lambda pair: pair[1].group):
        yield (
            f'<div class="group"><span>{escape(group)}</span><div class="marks">'
            + "".join(_mark(mark, strip, first=i == strip.first) for i, mark in members)
            + "</div></div>"
        )
    yield "</div>"
    if strip.nearest is not None:
        yield f"<details><summary>{escape(strip.nearest.title)}</summary>"
        yield from _table(Table(strip.nearest.columns, strip.nearest.rows, strip.nearest.right))
        yield "</details>"
    yield "</figure>"


def _spoken(strip: Strip) -> str:
    """A strip for who hears the page."""
    beyond = sum(not mark.passed for mark in strip.marks)
    limit = f", {beyond} beyond a limit" if strip.scale.limit else ""
    return f"{strip.title}: {strip.verdict}, {len(strip.marks)} bars{limit}"


def _mark(mark: Mark, strip: Strip, *, first: bool) -> str:
    height = round(LEVELS * strip.scale.height(mark.level))
    if mark.level > -math.inf:
        height = max(1, height)  # what is not equal does not look so
    over = "" if mark.passed else "over"
    classes = _class(f"h{height}", over, "first" if first else "")
    return f'<i{classes} title="{escape(mark.name)}: {escape(mark.numbers)}"></i>'


def _chart(chart: Chart) -> Iterator[str]:
    yield f"<figure><figcaption><b>{escape(chart.title)}</b></figcaption>"
    yield from draw(chart, escape)
    yield '<ul class="key">'
    for i, series in enumerate(chart.series):
        yield f'<li class="k{i % LINES}">{escape(series.name)}</li>'
    yield "</ul></figure>"
