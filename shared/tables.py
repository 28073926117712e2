"""Plain tables for the terminal, and the plan as one."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from shared.plan import Plan


def make_table(*columns: str, title: str | None = None) -> Table:
    """A plain table; columns that start with `>` are numbers and stand to the right."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if right else "left", overflow="fold")
    return table


def giga(macs: int) -> str:
    return f"{macs / 1e9:.3f} G" if macs >= 1e8 else f"{macs / 1e6:.2f} M"


def shape(output: Sequence[int]) -> str:
    return " x ".join(map(str, output))


def plan_table(plan: Plan) -> Table:
    """Every layer of the plan, a section a stage."""
    spec = plan.spec
    size = shape((*plan.image_size, spec.in_channels))
    table = make_table("layer", "operator", "", ">output", ">params", ">multiply-adds",
                       title=f"{spec.name} on {size}")  # fmt: skip
    section = "stem"
    for row in plan.layers:
        part = ".".join(row.name.split(".")[:2]) if row.name.startswith("stages") else row.name.split(".")[0]
        if part != section and (part.startswith("stages") or section.startswith("stages")):
            table.add_section()
        section = part
        is_block = row.name.split(".")[-2:-1] == ["blocks"]
        table.add_row(
            row.name,
            row.op,
            Text(row.about, style="dim"),
            shape(row.output),
            f"{row.params:,}" if row.params else "",
            giga(row.macs) if row.macs else "",
            style="bold" if is_block else "",
        )
    table.add_section()
    table.add_row("total", "", "", shape(plan.output), f"{plan.params:,}", giga(plan.macs), style="bold")
    return table
