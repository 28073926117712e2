"""Plain tables for the terminal, and the plan as one.

Lighter than `rich.table`: the plan of a deep network has hundreds of rows, and a layer's name must
never be folded or cut. A table that is wider than the terminal loses its least telling columns
first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.console import Console, ConsoleOptions
from rich.segment import Segment

from shared.architecture.plan import Plan

GAP = "  "
MIN_CUT = 10  # characters that the column which may be cut keeps in any case


class Column(NamedTuple):
    """A heading, and what becomes of its column where the terminal is too narrow."""

    title: str
    right: bool = False  # numbers stand to the right
    drop: int = 0  # 1 goes first, then 2, …; 0 stays
    cut: bool = False  # may end in …


class Styled(NamedTuple):
    """A text with a rich style."""

    text: str
    style: str = ""


Cell = str | Styled | tuple[Styled, ...]


class Table:
    """Rows of cells in aligned columns. Print it with `console.print(table, soft_wrap=True)`."""

    def __init__(self, *columns: Column, title: str = ""):
        self._columns = columns
        self._title = title
        self._rows: list[tuple[tuple[Styled, ...], ...] | str] = []  # a string heads a section

    def row(self, *cells: Cell, style: str = "") -> None:
        """Add a row; `style` is for the cells that have none of their own."""
        self._rows.append(tuple(_styled(cell, style) for cell in cells))

    def section(self, title: str = "") -> None:
        """An empty line, and a title if there is one."""
        self._rows.append(title)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        shown = self._fit(options.max_width)
        rule = [(Styled("─" * width, "dim"),) for width in shown.values()]
        if self._title:
            yield from self._line([Styled(self._title, "bold")], console)
            yield from self._line([], console)
        yield from self._line(
            self._cells(tuple((Styled(c.title, "bold"),) for c in self._columns), shown), console
        )
        yield from self._line(self._join(rule), console)
        for i, row in enumerate(self._rows):
            if isinstance(row, str):
                if i:
                    yield from self._line([], console)
                if row:
                    yield from self._line([Styled(row, "bold")], console)
            else:
                yield from self._line(self._cells(row, shown), console)

    def _fit(self, limit: int) -> dict[int, int]:
        """Index -> width of the columns that are shown on `limit` characters."""
        cells = [
            [_length(row[i]) for row in self._rows if not isinstance(row, str)]
            for i in range(len(self._columns))
        ]
        widths = {i: max([len(c.title), *cells[i]]) for i, c in enumerate(self._columns)}

        def excess() -> int:
            return sum(widths.values()) + len(GAP) * (len(widths) - 1) - limit

        for i in sorted(
            (i for i, c in enumerate(self._columns) if c.drop), key=lambda i: self._columns[i].drop
        ):
            if excess() > 0:
                del widths[i]
        for i in [i for i in widths if self._columns[i].cut]:
            widths[i] = max(min(MIN_CUT, widths[i]), widths[i] - max(0, excess()))
        return widths

    def _cells(self, row: Sequence[tuple[Styled, ...]], shown: dict[int, int]) -> list[Styled]:
        parts = []
        for i, width in shown.items():
            cell = _cut(row[i], width)
            space = (Styled(" " * (width - _length(cell))),)
            parts.append(space + cell if self._columns[i].right else cell + space)
        return self._join(parts)

    @staticmethod
    def _join(cells: Sequence[tuple[Styled, ...]]) -> list[Styled]:
        joined: list[Styled] = []
        for cell in cells:
            joined += [*cell] if not joined else [Styled(GAP), *cell]
        return joined

    @staticmethod
    def _line(parts: Sequence[Styled], console: Console) -> Iterator[Segment]:
        """Segments of a line, without the spaces at its end."""
        end = len(parts)
        while end and not parts[end - 1].text.strip():
            end -= 1
        for text, style in parts[:end]:
            yield Segment(text, console.get_style(style) if style else None)
        yield Segment.line()


def printable(text: str) -> str:
    """`text` without control characters, which a name in a third-party file could send to the
    terminal.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def giga(macs: int) -> str:
    return f"{macs / 1e9:.3f} G" if macs >= 1e8 else f"{macs / 1e6:.2f} M"


def shape(output: Sequence[int]) -> str:
    return " x ".join(map(str, output))


def plan_table(plan: Plan) -> Table:
    """Every layer of the plan, a section a stage."""
    spec = plan.spec
    table = Table(
        Column("layer"),
        Column("operator", cut=True),
        Column("output", right=True),
        Column("params", right=True),
        Column("MACs", right=True),
        title=f"{spec.name} on {shape((*plan.image_size, spec.in_channels))}",
    )
    section = "stem"
    for row in plan.layers:
        path = row.name.split(".")
        part = ".".join(path[:2]) if path[0] == "stages" else path[0]
        if part != section and "stages" in (path[0], section.split(".")[0]):
            table.section()
        section = part
        is_block = path[-2:-1] == ["blocks"]
        table.row(
            row.name,
            (
                Styled(row.op, "bold" if is_block else ""),
                Styled(f" {row.about}" if row.about else "", "dim"),
            ),
            "x".join(map(str, row.output)),
            f"{row.params:,}" if row.params else "",
            giga(row.macs) if row.macs else "",
            style="bold" if is_block else "",
        )
    table.section()
    table.row(
        "total",
        "",
        "x".join(map(str, plan.output)),
        f"{plan.params:,}",
        giga(plan.macs),
        style="bold",
    )
    return table


def _styled(cell: Cell, style: str) -> tuple[Styled, ...]:
    if isinstance(cell, str):
        return (Styled(printable(cell), style),)
    return (cell,) if isinstance(cell, Styled) else cell


def _length(cell: Sequence[Styled]) -> int:
    return sum(len(part.text) for part in cell)


def _cut(cell: tuple[Styled, ...], width: int) -> tuple[Styled, ...]:
    """The cell's first `width` characters; the last of them is … where something is missing."""
    if _length(cell) <= width:
        return cell
    kept: list[Styled] = []
    left = width - 1
    for text, style in cell:
        if text[:left]:
            kept.append(Styled(text[:left], style))
        left = max(0, left - len(text))
    return (*kept, Styled("…", "dim"))
