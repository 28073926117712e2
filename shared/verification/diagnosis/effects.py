"""Which two mistakes together make a difference, from what each makes alone: an order for the
search, no proof.

Two small changes of a network add up, nearly. Of those that have been run, the pairs whose effects
explain most of the difference as a sum are run first.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from shared.verification.hypotheses.hypothesis import Array, Hypothesis

VALUES = 4096  # of a tensor that are looked at
APART = 1e-6  # of the product of the squares: two effects that are nearer are one


class Effects:
    """What hypotheses change in one tensor.

    Args:
        difference: what was observed there less what the port computes.
    """

    def __init__(self, difference: Array):
        self._step = max(1, difference.size // VALUES)
        self._difference = self._sketch(difference)
        self._hypotheses: list[Hypothesis] = []
        self._rows: list[Array] = []
        self._seen: set[tuple[int, int]] = set()

    def _sketch(self, change: Array) -> Array:
        return np.asarray(change, np.float64).ravel()[:: self._step]

    def add(self, hypothesis: Hypothesis, change: Array) -> None:
        """`change` is what the port with the hypothesis computes less what it does without."""
        self._hypotheses.append(hypothesis)
        self._rows.append(self._sketch(change))

    def pairs(self, most: int) -> Iterator[tuple[Hypothesis, Hypothesis]]:
        """The likeliest pairs that have not been given yet; what explains more alone is first."""
        if len(self._rows) < 2:
            return
        rows = np.stack(self._rows)
        sizes = np.linalg.norm(rows, axis=1)
        rows = rows / np.where(sizes == 0, 1, sizes)[:, None]
        alone = rows @ self._difference
        i, j = np.triu_indices(len(rows), 1)
        alike = (rows @ rows.T)[i, j]
        apart = 1 - alike**2
        explained = alone[i] ** 2 + alone[j] ** 2 - 2 * alone[i] * alone[j] * alike
        explained = np.where(apart > APART, explained / np.maximum(apart, APART), 0.0)
        for place in np.argsort(-explained, kind="stable")[: most + len(self._seen)]:
            pair = int(i[place]), int(j[place])
            if pair in self._seen or most == 0:
                continue
            self._seen.add(pair)
            first, second = (self._hypotheses[k] for k in pair)
            if first.set.keys() & second.set.keys():
                continue
            most -= 1
            stronger = abs(alone[pair[0]]) >= abs(alone[pair[1]])
            yield (first, second) if stronger else (second, first)
