"""Tensors that are loaded in threads, and looked at on the way: reading, hashing and copying leave
Python to itself.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from shared.formats.containers.archive import Entry

AT_ONCE = 2  # threads
# Bytes. Threads that read small tensors spend more time on Python's lock than on reading, so that
# the caller's reads these, and has no more than a window of them in memory.
SMALL, WINDOW = 1 << 18, 4 << 20

R = TypeVar("R")


def each(
    function: Callable[[str, Entry], R], entries: Mapping[str, Entry]
) -> Iterator[tuple[str, R]]:
    """What `function` makes of every entry, in their order; threads are a few large ones ahead of
    whoever takes it.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for window in _windows(entries):
            large = iter([name for name in window if entries[name].nbytes > SMALL])
            ahead: deque[Future[R]] = deque()

            def start(
                count: int, large: Iterator[str] = large, ahead: deque[Future[R]] = ahead
            ) -> None:
                ahead.extend(
                    pool.submit(function, name, entries[name])
                    for name in itertools.islice(large, count)
                )

            start(AT_ONCE + 1)
            small = {
                name: function(name, entries[name])
                for name in window
                if entries[name].nbytes <= SMALL
            }
            for name in window:
                if name in small:
                    yield name, small.pop(name)
                else:
                    found = ahead.popleft().result()
                    start(1)
                    yield name, found


def _windows(entries: Mapping[str, Entry]) -> Iterator[list[str]]:
    window: list[str] = []
    size = 0
    for name, entry in entries.items():
        window.append(name)
        size += entry.nbytes if entry.nbytes <= SMALL else 0
        if size > WINDOW:
            yield window
            window, size = [], 0
    if window:
        yield window


class OnFirstLoad(Generic[R]):
    """Entries whose values are looked at when they are loaded for the first time; `found` is what
    was seen.
    """

    def __init__(self, entries: Mapping[str, Entry], look: Callable[[str, np.ndarray], R]):
        self.found: dict[str, R] = {}
        self._look = look
        self.entries = {
            name: Entry(entry.shape, entry.dtype, partial(self._load, name, entry))
            for name, entry in entries.items()
        }

    def _load(self, name: str, entry: Entry) -> np.ndarray:
        array = entry.load()
        if name not in self.found:
            self.found[name] = self._look(name, array)
        return array

    def finish(self) -> dict[str, R]:
        """What was seen of every entry; those that nobody has loaded are loaded now."""
        for name in self.entries.keys() - self.found.keys():
            self.entries[name].load()
        return {name: self.found[name] for name in self.entries}
