"""Comparisons and pages made up for tests."""

from __future__ import annotations

from shared.reports.page import Cell, Chart, Mark, Page, Part, Series, Strip, Table, Tone
from shared.verification.comparison import Comparison, Row
from shared.verification.distance import Channel

NASTY = "<script>alert('1')</script>\" onmouseover=\"x` | [a](b) & \x1b[31m\u202e\udc80\n\0"


def comparison(*errors: float, **changes: object) -> Comparison:
    """Of layers `eval/stages.0.blocks.N.conv1` with these errors."""
    rows = tuple(Row(f"eval/stages.0.blocks.{i}.conv1", e, 1e-12) for i, e in enumerate(errors))
    first = next((row.name for row in rows if not row.passed), None)
    made = {
        "preset": "cifar/resnet20",
        "a": "torch",
        "b": "flax",
        "dtype": "float64",
        "check": "eval",
        "rows": rows,
        "first_divergence": first,
    }
    return Comparison(**{**made, **changes})  # type: ignore[arg-type]


def with_a_channel() -> Comparison:
    """One whose tensor is within its limit, and a channel of it is not."""
    row = Row("eval/stem.conv1", 1e-15, 1e-12, channel=Channel(3, 0.5))
    return comparison(rows=(row,), first_divergence=row.name)


def page_of(text: str) -> Page:
    """A page that says `text` wherever a page can say anything."""
    cells = [Cell(text, Tone.bad)]
    table = Table([text], [cells], frozenset({text}), text)
    strip = Strip(
        title=text,
        marks=[Mark(text, text, 1.0, False, text)],
        tone=Tone.bad,
        verdict=text,
        first=0,
        about=text,
        nearest=table,
    )
    chart = Chart(text, text, [Series(text, [1.0, 2.0], [3.0, 4.0])])
    part = Part(text, [table, strip, chart], [text])
    return Page(text, Tone.bad, text, [text], [part], {text: text}, text)
