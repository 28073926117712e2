"""Two hypotheses that are worth trying together, because their changes do not add up: what each
explains alone says nothing of both.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from shared.verification.hypotheses.hypothesis import Hypothesis, Port

Pair = tuple[Hypothesis, Hypothesis]

# Where a network strides and pads, and what its blocks are.
STRUCTURE = (
    "strides",
    "block.stride_block",
    "block.padding",
    "stem.pool_padding",
    "dilate",
    "block.stride_conv",
    "depths",
    "stem.padding",
    "stem.convs",
    "block.order",
    "shortcut.projection",
    "shortcut.pool",
    "anti_alias",
    "shortcut.preact",
)


def of_fields(tried: Iterable[tuple[float, Hypothesis]]) -> Iterator[Pair]:
    """Of the hypotheses of `STRUCTURE`, each with the distance that it leaves: every two that
    change other fields. Of those of the same distance, which have the same effect, only the first.
    """
    different: dict[float, Hypothesis] = {}
    for distance, hypothesis in tried:
        if hypothesis.set.keys() & set(STRUCTURE):
            different.setdefault(round(distance, 9), hypothesis)
    ordered = sorted(different.values(), key=lambda h: STRUCTURE.index(next(iter(h.set))))
    for first, second in itertools.combinations(ordered, 2):
        if not first.set.keys() & second.set.keys():
            yield first, second


def of_images(port: Port, hypotheses: Iterable[Hypothesis]) -> Iterator[Pair]:
    """One that arranges the pixels otherwise and one that changes their values, in both orders: a
    preparation after the channels have changed places is another one.
    """
    pixels = np.sort(port.images, axis=None)
    arranged: list[Hypothesis] = []
    valued: list[Hypothesis] = []
    for hypothesis in hypotheses:
        if hypothesis.kind != "surroundings" or hypothesis.rank > 0:
            continue
        changed = hypothesis(port)
        if changed is not None and changed.images is not port.images:
            same = np.array_equal(np.sort(changed.images, axis=None), pixels)
            (arranged if same else valued).append(hypothesis)
    for pair in itertools.product(arranged, valued):
        yield from (pair, pair[::-1])


def together(first: Hypothesis, second: Hypothesis) -> Hypothesis:
    """The second behind the first, as one hypothesis."""

    def change(port: Port) -> Port | None:
        changed = first(port)
        return None if changed is None else second(changed)

    return dataclasses.replace(
        first,
        name=f"{first.name} + {second.name}",
        what=f"{first.what} and {second.what}",
        change=change,
        set={**first.set, **second.set} if first.set and second.set else {},
        whole_batch=first.whole_batch or second.whole_batch,
    )
