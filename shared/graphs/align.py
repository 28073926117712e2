"""Two networks in one order, paired node by node with as few departures as there are: an edit
distance, so that an operator more or less shifts nothing behind it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from shared.graphs.compare import alike, cost
from shared.graphs.net import Node

Pair = tuple[Node | None, Node | None]  # ours and theirs; None where the other side has no such

BAND = 64  # how far apart two nodes of a pair may stand, beside what the lengths differ by
GAP = 1.0
OPENING = 0.01  # the start of a gap: what is inserted stays together


def pairs_of(ours: Sequence[Node], theirs: Sequence[Node]) -> list[Pair]:
    """Pair two orders. Those of equal operators are paired one by one."""
    if len(ours) == len(theirs):
        unlike = [cost(a, b) for a, b in zip(ours, theirs, strict=True) if not alike(a, b)]
        if len(unlike) <= 2 and all(c <= 1.2 for c in unlike):
            return list(zip(ours, theirs, strict=True))
    return _aligned(ours, theirs)


def at_least(ours: Sequence[Node], theirs: Sequence[Node]) -> float:
    """What pairing costs at least, by the operators' counts alone."""
    mine, its = Counter(n.op for n in ours), Counter(n.op for n in theirs)
    missing, extra = (mine - its).total(), (its - mine).total()
    return GAP * max(missing, extra)


def _key(node: Node) -> tuple[object, ...]:
    """What the cost of a pair depends on."""
    shown = {k: v for k, v in node.attrs.items() if k not in ("pads", "computed", "filter")}
    return (node.op, node.channels, str(shown))


def _aligned(ours: Sequence[Node], theirs: Sequence[Node]) -> list[Pair]:
    """Needleman and Wunsch within a band around the diagonal."""
    m, n = len(ours), len(theirs)
    band = BAND + abs(m - n)
    left, right = [_key(node) for node in ours], [_key(node) for node in theirs]
    known: dict[tuple[object, object], float] = {}
    infinite = float("inf")
    best = [[infinite] * (n + 1) for _ in range(m + 1)]
    move = [[0] * (n + 1) for _ in range(m + 1)]  # 0: a pair, 1: only ours, 2: only theirs
    best[0][0] = 0.0
    for i in range(m + 1):
        low, high = max(0, i - band), min(n, i + band)
        row, above = best[i], best[i - 1] if i else None
        for j in range(low, high + 1):
            if i == j == 0:
                continue
            value, step = infinite, 0
            if above is not None and j:
                pair = (left[i - 1], right[j - 1])
                price = known.get(pair)
                if price is None:
                    price = known[pair] = cost(ours[i - 1], theirs[j - 1])
                value = above[j - 1] + price
            if above is not None:
                other = above[j] + GAP + (0.0 if move[i - 1][j] == 1 else OPENING)
                if other < value:
                    value, step = other, 1
            if j:
                other = row[j - 1] + GAP + (0.0 if move[i][j - 1] == 2 else OPENING)
                if other < value:
                    value, step = other, 2
            row[j], move[i][j] = value, step
    return _walked_back(ours, theirs, move)


def _walked_back(
    ours: Sequence[Node], theirs: Sequence[Node], move: Sequence[Sequence[int]]
) -> list[Pair]:
    i, j = len(ours), len(theirs)
    found: list[Pair] = []
    while i or j:
        step = move[i][j] if i and j else 1 if i else 2
        if step == 0:
            i, j = i - 1, j - 1
            found.append((ours[i], theirs[j]))
        elif step == 1:
            i -= 1
            found.append((ours[i], None))
        else:
            j -= 1
            found.append((None, theirs[j]))
    return found[::-1]
