"""What `rosetta inspect --evidence` shows a person."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from rich.text import Text

from shared.architecture.preprocessing import PREPROCESSING
from shared.cli.tables import Column, Table
from shared.verification.evidence import NEAR, PREPROCESSING_FIELD, ROUNDING, Evidence, shown


def summary(why_none: str | None, how: str) -> Text:
    """What was done, or why nothing was."""
    text = Text("  evidence  ", style="dim")
    if why_none:
        return text.append(f"none: {why_none}", style="not dim")
    return text.append(
        f"what the norms' running statistics make likely, which is no proof: {how}", style="not dim"
    )


def evidence_table(found: Sequence[Evidence]) -> Table:
    """A row a field: what is likeliest, how clearly, and how far off the other values are."""
    table = Table(
        Column("field"),
        Column("likeliest"),
        Column("evidence"),
        Column("fit as well"),
        Column("times as far off", cut=True),
    )
    for evidence in found:
        told = evidence.strength != "none"
        likeliest = shown(evidence.value) if told else "not told"
        if evidence.instead_of is not None:
            likeliest += f", not {shown(evidence.instead_of)}"
        as_likely = evidence.as_likely if told else (shown(evidence.value), *evidence.as_likely)
        table.row(
            evidence.field,
            Text(likeliest, "bold yellow" if evidence.instead_of is not None else ""),
            evidence.strength if told else "no evidence",
            "; ".join(as_likely),
            "; ".join(f"{value} {_times(factor)}" for value, factor in _farther(evidence)),
        )
    return table


def _farther(evidence: Evidence) -> list[tuple[str, float]]:
    """The values that are ruled out, and how many times the best one's divergence they have."""
    best = max(min([evidence.score, *evidence.other_scores.values()]), ROUNDING)
    return sorted(
        (
            (value, score / best)
            for value, score in evidence.other_scores.items()
            if value not in evidence.as_likely
        ),
        key=lambda ruled_out: ruled_out[1],
    )


def _times(factor: float) -> str:
    return f"{factor:.1f}" if factor < 10 else f"{factor:,.0f}" if factor < 1e5 else "> 100,000"


def notes(found: Sequence[Evidence]) -> Iterator[Text]:
    """What follows from evidence against what was assumed, and from images that do not fit."""
    if found[0].fit > NEAR:
        yield Text(
            f"\nThe images are unlike those that the network was trained on, or it is another "
            f"network (divergence {found[0].fit:.2g}; {NEAR:g} is near): some dozens of its own "
            "with --image tell more",
            "dim",
        )
    against = {e.field: e.value for e in found if e.instead_of is not None}
    how = against.pop(PREPROCESSING_FIELD, None)
    if against:
        settings = " ".join(f"--set {field}={shown(value)}" for field, value in against.items())
        yield Text(f"\nAgainst what is assumed; to take the likeliest: {settings}", "yellow")
    if how in PREPROCESSING:
        option = f"--preprocessing {shlex.quote(how)}"
        yield Text(f"\nAgainst the assumed preprocessing; `predict` takes {option}", "yellow")
    elif how is not None:
        yield Text(
            f"\nAgainst the assumed preprocessing: {how}, which `predict` does not know", "yellow"
        )
