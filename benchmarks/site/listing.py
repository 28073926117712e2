"""A generated file as rows of lines, each with the parts of the network that it writes down.

Nothing is written by hand here: the lines of all rows, one after the other, are the file.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from shared import get_spec
from shared.source.write import source

FRAMEWORKS = {"torch": "PyTorch", "keras": "Keras 3", "flax": "Flax NNX"}
# In the order of every file; what a file does not have is an empty cell.
ROWS = {
    "about": "Docstring and imports",
    "layers": "Layers of its own",
    "block": "The block",
    "stem": "The stem",
    "network": "The network",
    "load": "Loading weights",
}


@dataclass
class Line:
    """One line of a file."""

    text: str
    row: str
    units: tuple[str, ...] = ()
    # Networks, by number: whose file has no such line here, or has lines that were here.
    new: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)


def listing(preset: str, framework: str) -> tuple[Line, ...]:
    """The lines of `rosetta source PRESET --framework FRAMEWORK`."""
    text = source(get_spec(preset), framework)
    lines = [Line(line, "") for line in text.splitlines()]
    cutter = _Cutter(lines, len(get_spec(preset).depths))
    tree = ast.parse(text)
    for node in tree.body:
        cutter.top(node)
    _fill(lines)
    return tuple(lines)


def mark_changes(line_lists: list[tuple[Line, ...]]) -> None:
    """Note in every list how it differs from every other one."""
    for lines in line_lists:
        for number, other in enumerate(line_lists):
            if other is lines:
                continue
            texts = [line.text for line in other], [line.text for line in lines]
            matcher = difflib.SequenceMatcher(None, *texts, autojunk=False)
            for tag, _, _, start, end in matcher.get_opcodes():
                if tag == "delete":
                    lines[min(start, len(lines) - 1)].cut.append(number)
                elif tag != "equal":
                    for line in lines[start:end]:
                        if line.text:
                            line.new.append(number)


class _Cutter:
    """Gives lines their rows and parts, statement by statement."""

    def __init__(self, lines: list[Line], stages: int):
        self.lines = lines
        self.stages = tuple(f"stages.{i}" for i in range(stages))

    def give(self, node: ast.AST, row: str, *units: str) -> None:
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])  # type: ignore[attr-defined]
        for line in self.lines[start - 1 : node.end_lineno]:  # type: ignore[attr-defined]
            line.row, line.units = row, units

    def text(self, node: ast.AST) -> str:
        return "\n".join(line.text for line in self.lines[node.lineno - 1 : node.end_lineno])  # type: ignore[attr-defined]

    def top(self, node: ast.stmt) -> None:
        """A statement of the module."""
        if isinstance(node, ast.Expr):
            self.give(node, "about", "about")
            for line in self.lines[node.lineno - 1 : node.end_lineno]:
                if line.text.startswith("    "):
                    line.units = ("load",)
            return
        if isinstance(node, ast.Import | ast.ImportFrom):
            return self.give(node, "about", "imports")
        assigned = [t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)]
        name = getattr(node, "name", assigned[0] if assigned else "")
        lower = name.lower()
        if name == "ResNet":
            self.network(node)
        elif name == "Stage":
            self.give(node, "network", *self.stages)
        elif name == "Stem":
            self.give(node, "stem", "stem")
        elif name == "load_weights":
            self.give(node, "load", "load")
        elif name == "Projection":
            self.give(node, "block", "shortcut")
        elif "block" in lower or "bottleneck" in lower:
            self.block(node)
        elif "norm" in lower:
            self.give(node, "layers", "norm")
        elif name == "Subsample":
            self.give(node, "layers", "shortcut")
        elif "pool" in lower:
            self.give(node, "layers", "stem")
        else:
            self.give(node, "layers", "conv")

    def block(self, node: ast.stmt) -> None:
        self.give(node, "block", "block")
        inner: list[ast.stmt] = []
        for statement in node.body:  # type: ignore[attr-defined]
            inner += statement.body if isinstance(statement, ast.FunctionDef) else [statement]
        before: tuple[str, ...] = ("block",)
        waiting: list[ast.stmt] = []
        for statement in inner:
            text = self.text(statement)
            numbers = sorted(set(re.findall(r"(?:conv|norm)(\d)", text)))
            if isinstance(statement, ast.Expr):  # a docstring, or super().__init__()
                units: tuple[str, ...] = ("block",)
            elif re.search(r"Add\(|shortcut \+ ", text):
                units = ("add",)
            elif numbers:
                units = tuple(f"block.{k}" for k in numbers)
            elif "shortcut" in text or "self.share" in text:
                units = ("shortcut",)
            elif re.search(r"ZeroPadding|ops\.pad", text):
                waiting.append(statement)
                continue
            else:
                units = before
            for one in [*waiting, statement]:
                self.give(one, "block", *units)
            waiting, before = [], units

    def network(self, node: ast.stmt) -> None:
        self.give(node, "network")
        functional = isinstance(node, ast.FunctionDef)
        inner: list[ast.stmt] = []
        for statement in node.body:  # type: ignore[attr-defined]
            inner += statement.body if isinstance(statement, ast.FunctionDef) else [statement]
        if functional:  # its head stands above the stem
            for line in self.lines[node.lineno - 1 : inner[0].end_lineno]:
                line.row = "stem"
        begun = False
        for statement in inner:
            text = self.text(statement)
            numbered = sorted(set(re.findall(r"stages\.(\d)\.", text)))
            if isinstance(statement, ast.Expr) or "setrecursionlimit" in text:
                continue
            if numbered:
                self.give(statement, "network", *(f"stages.{i}" for i in numbered))
                begun = True
            elif "self.stages" in text:
                self.give(statement, "network", *self.stages)
                calls = [n for n in ast.walk(statement) if isinstance(n, ast.Call)]
                stages = [n for n in calls if isinstance(n.func, ast.Name) and n.func.id == "Stage"]
                for i, call in enumerate(sorted(stages, key=lambda n: n.lineno)):
                    self.give(call, "network", f"stages.{i}")
                begun = True
            elif "self.stem" in text:
                self.give(statement, "network", "stem")
            elif not begun:
                self.give(statement, "stem", "stem")
            else:
                self.give(statement, "network", "head")


def _fill(lines: list[Line]) -> None:
    """Comments and blank lines belong to what follows them; blank ones to no part."""
    row: str = "load"
    units: tuple[str, ...] = ()
    for line in reversed(lines):
        if line.row:
            row, units = line.row, line.units
            if line.text.strip().startswith("#"):
                continue
        else:
            line.row = row
        if line.text.strip().startswith("#"):
            line.units = units
        elif not line.text.strip() and "about" not in line.units:
            line.units = ()
    _comments(lines)


def _comments(lines: list[Line]) -> None:
    """A comment inside of a class or function says something of the statement below it."""
    for line, below in zip(reversed(lines[:-1]), reversed(lines[1:]), strict=True):
        if line.text.strip().startswith("#"):
            line.row, line.units = below.row, below.units


def rows(lines: tuple[Line, ...]) -> Iterator[tuple[str, list[Line]]]:
    """The lines of each row, without blank ones at their ends."""
    for row in ROWS:
        chosen = [line for line in lines if line.row == row]
        while chosen and not chosen[0].text:
            chosen = chosen[1:]
        while chosen and not chosen[-1].text:
            chosen = chosen[:-1]
        yield row, chosen
