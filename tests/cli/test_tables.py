"""Tables: aligned columns, on terminals of different widths, and nothing raw on them."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from shared import get_spec, make_plan
from shared.cli.tables import Column, Table, plan_table, printable


def on_terminal(width: int, *arguments: object) -> str:
    """What a person sees on a terminal of `width` characters, with its colours taken off."""
    master, slave = pty.openpty()
    env = {**os.environ, "COLUMNS": str(width), "TERM": "dumb"}
    command = [sys.executable, "-m", "shared.cli.main", *map(str, arguments)]
    with subprocess.Popen(command, stdout=slave, stderr=slave, env=env) as process:
        os.close(slave)
        shown = b""
        try:
            while block := os.read(master, 1 << 16):
                shown += block
        except OSError:  # the other side is closed
            pass
        process.wait(timeout=60)
    os.close(master)
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_plan_fits_the_terminal_and_keeps_every_name_whole(width: int) -> None:
    shown = on_terminal(width, "show", "timm/resnet50d").splitlines()
    assert max(map(len, shown)) <= width
    first = [line.split()[0] for line in shown if line]
    assert set(first) >= {row.name for row in make_plan(get_spec("timm/resnet50d")).layers}


def lines(table: Table, width: int = 200, color: bool = False) -> list[str]:
    console = Console(width=width, force_terminal=color, color_system="standard" if color else None)
    with console.capture() as capture:
        console.print(table, soft_wrap=True)
    return capture.get().splitlines()


def test_table_aligns_its_columns() -> None:
    table = Table(Column("name"), Column("n", right=True), title="title")
    table.row("a", "1")
    table.section("more")
    table.row("long", "1,234")
    assert lines(table) == [
        "title",
        "",
        "name      n",
        "────  ─────",
        "a         1",
        "",
        "more",
        "long  1,234",
    ]


@pytest.mark.parametrize("width", [200, 30])
def test_wide_characters_take_two_cells(width: int) -> None:
    """Chinese, Japanese and Korean, and a letter with an accent of its own, which takes none."""
    table = Table(Column("ラベル"), Column("n", right=True), Column("名", cut=True), Column("z"))
    table.row("猫", "1", "トラネコとシマネコ", "z")
    table.row("e\u0301te\u0301", "12,345", "x", "z")
    shown = lines(table, width)
    last = [cell_len(line[: line.rindex("z")]) for line in shown if "z" in line]
    assert len(last) == 3
    assert len(set(last)) == 1
    assert all(cell_len(line) <= width for line in shown)
    assert ("…" in shown[2]) == (width == 30)


def test_narrow_table_drops_columns_in_order_and_then_cuts() -> None:
    table = Table(
        Column("name"), Column("text", cut=True), Column("last", drop=2), Column("first", drop=1)
    )
    table.row("n" * 12, "t" * 20, "l" * 10, "f" * 10)
    headings = {width: lines(table, width)[0].split() for width in (60, 58, 50, 40, 30, 10)}
    assert headings == {
        60: ["name", "text", "last", "first"],
        58: ["name", "text", "last", "first"],
        50: ["name", "text", "last"],
        40: ["name", "text"],
        30: ["name", "text"],
        10: ["name", "text"],
    }
    assert lines(table, 30)[2] == "n" * 12 + "  " + "t" * 15 + "…"
    assert (
        lines(table, 10)[2] == "n" * 12 + "  " + "t" * 9 + "…"
    )  # names stay whole, whatever it takes


def test_table_styles_are_for_terminals_only() -> None:
    table = Table(Column("name"))
    table.row(Text("x", "bold red"))
    assert lines(table)[2] == "x"
    assert lines(table, color=True)[2] == "\x1b[1;31mx\x1b[0m"


def test_table_cells_hold_no_markup_and_no_control_characters() -> None:
    table = Table(Column("name"))
    table.row("[bold]\x1b[31m")
    assert lines(table)[2] == "[bold]?[31m"
    assert printable("a\nb\tc") == "a?b?c"
    assert printable("✓ ok") == "✓ ok"


def test_plan_table_totals() -> None:
    plan = make_plan(get_spec("resnet50"))
    shown = lines(plan_table(plan))
    assert shown[0] == "torchvision/resnet50 on 224 x 224 x 3"
    assert shown[-1].split() == ["total", "1000", "25,557,032", "4.089", "G"]
