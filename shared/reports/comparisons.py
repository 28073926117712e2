"""Comparisons of traces as strips, and where they part."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from shared.reports.page import ERROR, OVER_LIMIT, Cell, Mark, Strip, Table, Tone
from shared.verification.comparison import Comparison, Row
from shared.verification.recording import EVAL, GRADIENTS, STEP, TRAIN
from shared.verification.tolerances import CHANNEL_FLOAT64

ALL_MARKS = 40_000  # of a page; beyond, networks that are the same get a strip for all their pairs
NEAREST = 10
PROBLEMS = 20  # of a comparison

CHECKS = {
    EVAL: "every layer's output in evaluation mode",
    TRAIN: "every layer's output in training mode, then the running statistics",
    GRADIENTS: "the loss and its gradient, from the head back to the stem, then by the images",
    STEP: "parameters, running statistics and optimizer state after each of ten training steps",
}


def strips(comparisons: Sequence[Comparison], *, merged: bool = False) -> list[Strip]:
    """A strip for each comparison, in their order.

    `merged` makes one of all pairs that passed a check, with the worst pair of each tensor; what
    did not pass keeps a strip of its own.
    """
    if not merged:
        return [strip(comparison) for comparison in comparisons]
    found = []
    for check in dict.fromkeys(c.check for c in comparisons):
        of_check = [c for c in comparisons if c.check == check]
        passed = [c for c in of_check if c.passed]
        if passed:
            found.append(_worst_of(passed))
        found += [strip(c) for c in of_check if not c.passed]
    return found


def strip(comparison: Comparison) -> Strip:
    """Every tensor of a comparison."""
    c = comparison
    return Strip(
        title=f"{c.a} and {c.b}, {c.check}",
        marks=[_mark(row, c) for row in c.rows],
        tone=tone(c),
        verdict=said(c),
        scale=OVER_LIMIT if c.judged else ERROR,
        first=next((i for i, row in enumerate(c.rows) if row.name == c.first_divergence), None),
        about=_about(c),
        nearest=_nearest(c),
    )


def _worst_of(comparisons: Sequence[Comparison]) -> Strip:
    """One strip of pairs that passed the same check of one network."""
    marks = [
        max(
            (_mark(row, c, pair=True) for c, row in zip(comparisons, rows, strict=True)), key=_level
        )
        for rows in zip(*(c.rows for c in comparisons), strict=True)
    ]
    first, pairs = comparisons[0], len(comparisons)
    return Strip(
        title=f"{first.check}, the worst of {pairs} pairs" if pairs > 1 else f"{first.check}",
        marks=marks,
        tone=tone(first),
        verdict=said(first),
        scale=OVER_LIMIT if first.judged else ERROR,
        about=_about(first),
    )


def _level(mark: Mark) -> float:
    return mark.level


def tone(comparison: Comparison) -> Tone:
    """Good or bad, or measured where nothing limits it."""
    if not comparison.passed:
        return Tone.bad
    return Tone.good if comparison.judged else Tone.measured


def said(comparison: Comparison) -> str:
    """The verdict of a comparison in a word or two."""
    return {Tone.good: "✓ same", Tone.bad: "✗ differs"}.get(tone(comparison), "measured")


def parting(comparisons: Iterable[Comparison]) -> Table | None:
    """Where each comparison that failed parts first, and why; nothing where all passed."""
    rows = []
    for c in comparisons:
        if c.passed:
            continue
        row = next((row for row in c.rows if row.name == c.first_divergence), None)
        where = (c.preset, f"{c.a} and {c.b}", c.check, _layer(c.first_divergence or ""))
        numbers = (_figure(row.error), _figure(row.limit)) if row else ("", "")
        why = "; ".join(_reasons(c, row))
        rows.append([*map(Cell, (*where, *numbers, why))])
    columns = ("network", "pair", "check", "first at", "error", "limit", "what else")
    return Table(columns, rows, frozenset({"error", "limit"})) if rows else None


def _reasons(comparison: Comparison, row: Row | None) -> list[str]:
    reasons = list(comparison.problems[:PROBLEMS])
    if len(comparison.problems) > PROBLEMS:
        reasons.append(f"and {len(comparison.problems) - PROBLEMS} more")
    if row is not None and row.channel is not None and not row.channel.passed:
        reasons.append(
            f"channel {row.channel.number} differs by {_figure(row.channel.error)} of its own "
            f"largest value, limit {_figure(CHANNEL_FLOAT64)}"
        )
    beyond = sum(not row.passed for row in comparison.rows)
    if beyond:
        reasons.append(f"{beyond:,} of {comparison.tensors:,} tensors are beyond their limits")
    return reasons


def _mark(row: Row, comparison: Comparison, *, pair: bool = False) -> Mark:
    numbers = [f"error {_figure(row.error)}"]
    if row.limit is not None and _one_limit(comparison) is None:
        numbers.append(f"limit {_figure(row.limit)}")
    if row.channel is not None and not row.channel.passed:
        numbers.append(f"channel {row.channel.number} {_figure(row.channel.error)}")
    if any(own is not None for own in row.own):
        numbers.append("their own " + " and ".join(_figure(own) or "exact" for own in row.own))
    if pair:
        numbers.append(f"{comparison.a} and {comparison.b}")
    return Mark(_layer(row.name), ", ".join(numbers), _level_of(row), row.passed, _group(row.name))


def _level_of(row: Row) -> float:
    """Base-10 logarithm of what `Row.badness` is."""
    badness = row.badness
    if math.isnan(badness):
        return math.inf
    return math.log10(badness) if badness else -math.inf


def _group(key: str) -> str:
    """What a tensor stands under: its stage, or the step it was recorded after."""
    check, _, layer = key.partition("/")
    if check.startswith("step"):
        return f"step {check.removeprefix('step')}"
    if check in ("loss", "stats"):
        return {"loss": "loss", "stats": "statistics"}[check]
    path = layer.split(".")
    return ".".join(path[:2]) if path[0] == "stages" else path[0] if path[0] == "stem" else "head"


def _layer(key: str) -> str:
    """`eval/stem.conv1` is `stem.conv1` where the strip says which check it is of."""
    check, _, layer = key.partition("/")
    return layer if check in (EVAL, TRAIN) else key


def _one_limit(comparison: Comparison) -> float | None:
    """The limit of all tensors, where it is one."""
    limits = {comparison.rows[0].limit, comparison.rows[-1].limit} if comparison.rows else {None}
    return limits.pop() if len(limits) == 1 and comparison.dtype == "float64" else None


def _about(comparison: Comparison) -> str:
    """What the marks are, and what holds for all of them."""
    limit = _one_limit(comparison)
    text = f"{comparison.tensors:,} tensors: {CHECKS[comparison.check]}"
    if limit is not None:
        text += f"; limit {_figure(limit)} for each"
    equal = sum(row.error == 0 for row in comparison.rows)
    return f"{text}; {equal:,} equal bit for bit" if equal else text


def _nearest(comparison: Comparison) -> Table | None:
    """The tensors that come nearest to their limits or go furthest beyond them."""
    worst = sorted(comparison.rows, key=lambda row: -row.badness)[:NEAREST]
    rows = [
        [
            Cell(_layer(row.name)),
            Cell(_figure(row.error), Tone.plain if row.passed else Tone.bad),
            Cell(_figure(row.limit)),
        ]
        for row in worst
    ]
    words = "nearest to their limits" if comparison.judged else "largest"
    right = frozenset({"error", "limit"})
    title = f"The {len(rows)} {words}"
    return Table(("tensor", "error", "limit"), rows, right, title) if rows else None


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"
