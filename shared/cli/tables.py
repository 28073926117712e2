"""Plain tables for the terminal, and the plan as one.

`rich.table` folds or cuts what is too wide, has no sections within a table, and fills every line up
with spaces. Here a table that is wider than the terminal loses its least informative columns first,
and a layer's name stays whole. rich's `Text` measures the cells: wide characters take two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.text import Text

from shared.architecture.plan import Plan
from shared.reports.page import Cell, Tone
from shared.reports.page import Table as PageTable

GAP = "  "
MIN_CUT = 10  # cells that the column which may be cut keeps in any case


class Column(NamedTuple):
    """A heading, and what becomes of its column where the terminal is too narrow."""

    title: str
    right: bool = False  # numbers stand to the right
    drop: int = 0  # 1 goes first, then 2, …; 0 stays
    cut: bool = False  # may end in …


class Table:
    """Rows of cells in aligned columns. Print it with `console.print(table, soft_wrap=True)`."""

    def __init__(self, *columns: Column, title: str = ""):
        self._columns = columns
        self._title = title
        self._rows: list[tuple[Text, ...] | str] = []  # a string heads a section

    def row(self, *cells: str | Text, style: str = "") -> None:
        """Add a row; `style` is for the cells that have none of their own."""
        self._rows.append(
            tuple(Text(printable(c), style) if isinstance(c, str) else c for c in cells)
        )

    def section(self, title: str = "") -> None:
        """An empty line, and a title if there is one."""
        self._rows.append(title)

    def for_page(self) -> PageTable:
        """The same table for a page, where every column has its place."""
        rows = [
            [Cell(cell.plain, _tone(cell)) for cell in row]
            for row in self._rows
            if not isinstance(row, str)
        ]
        titles = [column.title for column in self._columns]
        right = frozenset(column.title for column in self._columns if column.right)
        return PageTable(titles, rows, right, self._title)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        widths = self._fit(options.max_width)
        if self._title:
            yield Text(self._title, "bold")
            yield Text()
        yield self._line([Text(column.title, "bold") for column in self._columns], widths)
        yield Text(GAP).join(Text("─" * width, "dim") for width in widths.values())
        for i, row in enumerate(self._rows):
            if not isinstance(row, str):
                yield self._line(row, widths)
                continue
            if i:
                yield Text()
            if row:
                yield Text(row, "bold")

    def _fit(self, limit: int) -> dict[int, int]:
        """Index -> width of the columns that are shown on `limit` cells of a terminal."""
        rows = [row for row in self._rows if not isinstance(row, str)]
        widths = {
            i: max([cell_len(column.title), *(row[i].cell_len for row in rows)])
            for i, column in enumerate(self._columns)
        }

        def excess() -> int:
            return sum(widths.values()) + len(GAP) * (len(widths) - 1) - limit

        droppable = [i for i, column in enumerate(self._columns) if column.drop]
        for i in sorted(droppable, key=lambda i: self._columns[i].drop):
            if excess() > 0:
                del widths[i]
        for i in [i for i in widths if self._columns[i].cut]:
            widths[i] = max(min(MIN_CUT, widths[i]), widths[i] - max(0, excess()))
        return widths

    def _line(self, cells: Sequence[Text], widths: dict[int, int]) -> Text:
        """The cells that are shown, aligned; without spaces at the end."""
        parts = []
        for i, width in widths.items():
            cell = cells[i].copy()
            cell.truncate(width, overflow="ellipsis")
            space = Text(" " * (width - cell.cell_len))
            parts.append(space + cell if self._columns[i].right else cell + space)
        line = Text(GAP).join(parts)
        line.rstrip()
        return line


def _tone(cell: Text) -> Tone:
    """What the colour of a verdict says."""
    colours = {"green": Tone.good, "red": Tone.bad, "yellow": Tone.measured}
    words = str(cell.style).split()
    return next((tone for colour, tone in colours.items() if colour in words), Tone.plain)


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
            Text.assemble(
                (row.op, "bold" if is_block else ""), (f" {row.about}" if row.about else "", "dim")
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
