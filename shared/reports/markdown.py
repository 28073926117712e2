"""A page as Markdown: what HTML shows, with a line for each strip, and without charts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shared.reports.page import Cell, Page, Part, Strip, Table, Tone, shown

_MEANS_SOMETHING = re.compile(r"[\\`*\[\]<>|&#~]")


def markdown_page(page: Page) -> str:
    """The page as GitHub's Markdown.

    >>> from shared.reports.page import Page, Tone
    >>> markdown_page(Page("compare", Tone.good, "the same"))
    '# the same\\n'
    """
    return "\n".join(_page(page)) + "\n"


def escape(text: str) -> str:
    """`text` as it is, whatever of it would be markup."""
    return _MEANS_SOMETHING.sub(
        lambda found: f"&#{ord(found[0])};" if found[0] in "<>&" else "\\" + found[0], shown(text)
    )


def code(text: str) -> str:
    """`text` in a code span, which nothing in it ends."""
    line = shown(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def _page(page: Page) -> Iterator[str]:
    yield f"# {escape(page.verdict)}"
    if page.details:
        yield from ("", *(f"{escape(line)}  " for line in page.details))
    for part in page.parts:
        yield from part_lines(part)
    if page.environment:
        versions = ", ".join(
            f"{escape(k)} {escape(v)}" for k, v in sorted(page.environment.items())
        )
        yield from ("", f"Versions: {versions}.")
    if page.command:
        yield from ("", f"Written by {code(page.command)}.")


def part_lines(part: Part) -> Iterator[str]:
    """A part under its heading; nothing of one that has charts alone."""
    tables = [item for item in part.items if isinstance(item, Table)]
    strips = [item for item in part.items if isinstance(item, Strip)]
    if tables or strips or part.lines:
        yield from ("", f"## {escape(part.title)}")
        yield from (line for text in part.lines for line in ("", escape(text)))
        for table in tables:
            yield from table_lines(table)
        if strips:
            yield from ("", *map(_line, strips))


def table_lines(table: Table) -> Iterator[str]:
    """A table, with an empty line in front."""
    yield from ("", f"### {escape(table.title)}", "") if table.title else ("",)
    yield "| " + " | ".join(map(escape, table.columns)) + " |"
    yield "|" + "|".join(" ---: " if c in table.right else " --- " for c in table.columns) + "|"
    for row in table.rows:
        yield "| " + " | ".join(map(_cell, row)) + " |"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return f"**{text}**" if cell.tone is Tone.bad and text else text


def _line(strip: Strip) -> str:
    first = f", first at {strip.marks[strip.first].name}" if strip.first is not None else ""
    return f"* {escape(f'{strip.title}: {strip.verdict}{first}; {strip.about}')}"
