"""docs/evidence.md: the rows of `python -m benchmarks evidence` as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shared.verification.evidence import (
    CLEAR,
    GROWTH,
    NEAR,
    PREPROCESSING_FIELD,
    STRONG,
    TIE,
    TIE_OTHERWISE,
)

KINDS = ("photographs", "its dataset")
OUTCOMES = ("right", "wrong", "no evidence")

INTRODUCTION = """# What running statistics tell

Written by `python -m benchmarks evidence`: how often `rosetta inspect --evidence` is right, on
networks whose settings are known.

A batch norm stores the mean and the variance of its input over the training set. `--evidence`
runs the network with every value of every field that no tensor tells, over a few images, and
compares the statistics that arise with those that are stored: per channel the Kullback-Leibler
divergence of two normal distributions, the median over a norm's channels, the mean over the
norms. The value with the smallest divergence is the likeliest. Values within a factor of it fit
as well: {tie:g} times for the preprocessing, {eps:g} for eps, {strides:g} for strides, {rest:g}
for the others. The evidence is *strong* where all other values are {strong:g} times as far off,
*clear* at {clear:g} times, else *weak*; for eps and strides it is never more than weak. Where
every value fits, there is *no evidence*.

Images that are unlike the training set mislead: with a mean divergence d of the network as it
is taken, all of these factors grow (d / {near:g}) ** {growth:g} times, where d is above
{near:g}. Where strong or clear evidence is against a field, the others are judged again with
the value that it says, because one wrong field makes others look wrong.

It is no proof. The factors were set on these networks, those that are held out excepted, so
that no true value is ruled out; on others some will be.

*Right*: the true value is not ruled out and another one is. *Wrong*: the true value is ruled
out. *Photographs* are 16 crops of the four that are bundled; *its dataset* are 64 test images
of what the network was trained on.
""".format(
    tie=TIE[PREPROCESSING_FIELD],
    eps=TIE["norm.eps"],
    strides=TIE["strides"],
    rest=TIE_OTHERWISE,
    strong=STRONG,
    clear=CLEAR,
    near=NEAR,
    growth=GROWTH,
)


@dataclass(frozen=True)
class Row:
    """What was said of one field of one network."""

    network: str
    trained_here: bool
    images: str
    field: str
    truth: str
    assumed: str
    value: str
    strength: str
    outcome: str
    as_likely: list[str]
    scores: dict[str, float]


def page(rows: Sequence[Row]) -> str:
    return "\n".join(
        [INTRODUCTION, *_by_field(rows), *_changed(rows), *_wrong(rows), *_networks(rows)]
    )


def _by_field(rows: Sequence[Row]) -> Iterator[str]:
    yield "## By field\n"
    yield from _table(
        ("field", *(f"{kind}: {outcome}" for kind in KINDS for outcome in OUTCOMES)),
        [
            (
                f"`{name}`",
                *(
                    str(_count(rows, name, kind, outcome) or "")
                    for kind in KINDS
                    for outcome in OUTCOMES
                ),
            )
            for name in dict.fromkeys(row.field for row in rows)
        ],
    )
    told = [row for row in rows if row.outcome != "no evidence" and row.strength != "weak"]
    weak = [row for row in rows if row.strength == "weak"]
    yield (f"\nStrong or clear evidence was right {_share(told)}, weak evidence {_share(weak)}.\n")


def _count(rows: Sequence[Row], name: str, kind: str, outcome: str) -> int:
    return sum((row.field, row.images, row.outcome) == (name, kind, outcome) for row in rows)


def _share(rows: Sequence[Row]) -> str:
    return f"{sum(row.outcome == 'right' for row in rows)} times of {len(rows)}"


def _changed(rows: Sequence[Row]) -> Iterator[str]:
    yield "## Where the assumption is wrong\n"
    yield "Networks of which one setting is not what a file of their kind is taken for.\n"
    changed = [row for row in rows if row.truth != row.assumed]
    names = dict.fromkeys((row.network, row.field, row.assumed, row.truth) for row in changed)
    yield from _table(
        ("network", "field", "assumed", "true", *KINDS),
        [
            (
                network,
                f"`{name}`",
                assumed,
                truth,
                *(
                    "; ".join(
                        _verdict(row)
                        for row in changed
                        if (row.network, row.field, row.images) == (network, name, kind)
                    )
                    for kind in KINDS
                ),
            )
            for network, name, assumed, truth in names
        ],
    )
    yield ""


def _verdict(row: Row) -> str:
    """What a user is told."""
    if row.outcome == "no evidence":
        return "no evidence"
    others = f" (or {', '.join(row.as_likely)})" if row.as_likely else ""
    return f"{row.value}{others}: {row.strength}" + (
        ", **wrong**" if row.outcome == "wrong" else ""
    )


def _wrong(rows: Sequence[Row]) -> Iterator[str]:
    wrong = [row for row in rows if row.outcome == "wrong"]
    yield "## Where it is wrong\n"
    if not wrong:
        yield "Nowhere, in these rows.\n"
        return
    yield from _table(
        ("network", "images", "field", "true", "said", "times as far off as the best"),
        [
            (
                row.network,
                row.images,
                f"`{row.field}`",
                row.truth,
                _verdict(row),
                f"{row.scores[row.truth] / min(row.scores.values()):.2f}"
                if row.truth in row.scores
                else "not tried",
            )
            for row in wrong
        ],
    )
    yield ""


def _networks(rows: Sequence[Row]) -> Iterator[str]:
    yield "## The networks\n"
    real = dict.fromkeys(row.network for row in rows if not row.trained_here)
    here = dict.fromkeys(row.network for row in rows if row.trained_here)
    yield f"Real ones: {'; '.join(real)}.\n"
    yield (
        "Trained for this by `rosetta train`, 300 steps of 64 on Fashion-MNIST, widths 16, 32, 64, "
        f"one block a stage unless two are said: {'; '.join(here)}.\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
