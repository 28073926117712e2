"""What a report says, without how it looks: a verdict, and parts of tables, strips and charts.

Every string is plain text and may come from a file of somebody else's; the writers escape it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Tone(StrEnum):
    """How a verdict reads at a glance; its words say the same."""

    good = "good"
    bad = "bad"
    measured = "measured"  # numbers without a limit
    plain = ""


@dataclass(frozen=True)
class Cell:
    """A table's cell."""

    text: str
    tone: Tone = Tone.plain


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings; `right` names the headings of numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    right: frozenset[str] = frozenset()
    title: str = ""


@dataclass(frozen=True)
class Mark:
    """One tensor in a strip.

    `level` is the base-10 logarithm of its error over its limit, or of its error where nothing
    limits it: minus infinity where the two sides are equal bit for bit, infinity where the error
    is not finite.
    """

    name: str
    numbers: str  # what is shown beside the name: its error, and what else is known
    level: float
    passed: bool = True
    group: str = ""  # of neighbours, which stand under one heading


@dataclass(frozen=True)
class Scale:
    """What a strip's height means: the levels at its bottom and top, and in words."""

    low: float
    high: float
    words: str
    limit: bool = False  # whether level 0 is a limit, and drawn as a line
    bar: str = "a tensor"  # what a mark stands for

    def height(self, level: float) -> float:
        """From 0, for what is equal or at the bottom, to 1."""
        if level == -math.inf:
            return 0.0
        if not level < self.high:  # infinity, and what is no number
            return 1.0
        return max(0.0, (level - self.low) / (self.high - self.low))


# A limit stands well above rounding, and what goes beyond it mostly goes far.
OVER_LIMIT = Scale(-7.0, 2.0, "log10 of error over limit, from -7 to 2 and more", limit=True)
ERROR = Scale(-16.0, 0.0, "log10 of the error, from -16 to 0")


@dataclass(frozen=True)
class Strip:
    """Every tensor of a comparison in the order of the computation."""

    title: str
    marks: Sequence[Mark]
    tone: Tone
    verdict: str
    scale: Scale = OVER_LIMIT
    first: int | None = None  # the mark at which the two sides part
    about: str = ""
    nearest: Table | None = None  # the tensors that come nearest to their limits


@dataclass(frozen=True)
class Series:
    """A line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """Lines over a common axis; values that are not positive are left out where `log` is."""

    title: str
    x_label: str
    series: Sequence[Series]
    log: bool = False


@dataclass(frozen=True)
class Part:
    """A heading, lines of text, and what stands under them in this order."""

    title: str
    items: Sequence[Table | Strip | Chart] = ()
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """A report: the verdict first, then its parts, environment and command."""

    title: str
    tone: Tone
    verdict: str
    details: Sequence[str] = ()
    parts: Sequence[Part] = ()
    environment: Mapping[str, str] = field(default_factory=dict)  # package -> version
    command: str = ""


def shown(text: str) -> str:
    """`text` in one line, without characters that print nothing or turn the line's direction."""
    return "".join(
        c if c.isprintable() else " " if c in "\t\n" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
