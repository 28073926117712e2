"""Whether two networks' accuracies differ by more than chance: McNemar's test on the images of one
test split.

Most images are correctly classified by both or by neither, and say nothing about which is better.
Each of those that only one classifies correctly is a coin toss if the two are equally good
(McNemar 1947; recommended for a single test split by Dietterich 1998,
https://doi.org/10.1162/089976698300017197).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PairedComparison:
    """Two networks on the same images."""

    a: str
    b: str
    only_a: int  # images that a classifies correctly and b does not
    only_b: int
    examples: int

    @property
    def difference(self) -> float:
        """Accuracy of a minus that of b, in points (hundredths)."""
        return 100 * (self.only_a - self.only_b) / self.examples

    @property
    def p_value(self) -> float:
        """How likely so large a difference is if both are equally good; exact, two-sided, above 0
        and at most 1.
        """
        tosses, fewer = self.only_a + self.only_b, min(self.only_a, self.only_b)
        tail = sum(math.comb(tosses, k) for k in range(fewer + 1))
        return min(1.0, 2 * tail / 2**tosses)


def paired_comparisons(
    wrong: Mapping[str, Collection[int]], examples: int
) -> list[PairedComparison]:
    """Every pair of networks, from the images that each classifies incorrectly, of `examples` in
    all.
    """
    found = {name: set(images) for name, images in wrong.items()}
    return [
        PairedComparison(a, b, len(found[b] - found[a]), len(found[a] - found[b]), examples)
        for a, b in itertools.combinations(found, 2)
    ]


def short_names(paths: Collection[str]) -> list[str]:
    """Paths without the folders at their beginning and the names at their end that all of them
    share.
    """
    parts = [path.split("/") for path in paths]
    if len(parts) < 2:
        return list(paths)
    shortest = min(map(len, parts)) - 1  # something must be left
    start = next((k for k in range(shortest) if len({p[k] for p in parts}) > 1), shortest)
    end = next(
        (k for k in range(shortest - start) if len({p[-1 - k] for p in parts}) > 1),
        shortest - start,
    )
    return ["/".join(p[start : len(p) - end]) for p in parts]
