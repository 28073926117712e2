"""`map` with threads that work ahead of the caller: reading, hashing and copying of arrays run
without Python's lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

THREADS = 2
AHEAD = 3  # batches that are in work or wait for the caller
BATCH = 1 << 20  # bytes; a thread for each small tensor would take longer than reading it

T = TypeVar("T")
R = TypeVar("R")


def map_prefetched(
    function: Callable[[T], R], items: Iterable[T], nbytes: Callable[[T], int]
) -> Iterator[R]:
    """`map(function, items)`, in order, computed by threads a few batches ahead.

    `nbytes` is the size of an item: small ones go to a thread together, and no more than `AHEAD`
    batches of `BATCH` bytes, or of one larger item, are in memory.
    """

    def run(batch: list[T]) -> list[R]:
        return [function(item) for item in batch]

    batches = _batches(items, nbytes)
    with ThreadPoolExecutor(THREADS) as pool:
        pending: deque[Future[list[R]]] = deque()
        while True:
            pending.extend(
                pool.submit(run, batch) for batch in islice(batches, AHEAD - len(pending))
            )
            if not pending:
                return
            yield from pending.popleft().result()


def _batches(items: Iterable[T], nbytes: Callable[[T], int]) -> Iterator[list[T]]:
    batch: list[T] = []
    size = 0
    for item in items:
        batch.append(item)
        size += nbytes(item)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
