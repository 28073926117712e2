"""A map whose function runs in threads, ahead of the caller."""

from __future__ import annotations

import threading

import pytest

from shared.formats.containers.prefetch import AHEAD, BATCH, map_prefetched


@pytest.mark.parametrize(
    "sizes",
    [[], [1], [BATCH], [1, BATCH, BATCH, 2, 3, BATCH, 5 * BATCH, 4], [BATCH // 4] * 30 + [BATCH]],
)
def test_in_order(sizes: list[int]) -> None:
    items = list(enumerate(sizes))
    found = list(map_prefetched(lambda item: item[0] ** 2, items, lambda item: item[1]))
    assert found == [i**2 for i, _ in items]


def test_not_too_far_ahead() -> None:
    """Else a whole file would be in memory."""
    started: list[int] = []
    for taken, _ in enumerate(map_prefetched(started.append, range(20), lambda item: BATCH), 1):
        assert len(started) <= taken + AHEAD


def test_small_items_share_a_thread() -> None:
    threads = [
        thread
        for thread in map_prefetched(
            lambda item: threading.get_ident(), range(64), lambda item: BATCH // 64
        )
    ]
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


@pytest.mark.parametrize("size", [1, BATCH])
def test_what_goes_wrong_is_raised(size: int) -> None:
    def fail(item: int) -> None:
        if item == 3:
            raise KeyError(item)

    with pytest.raises(KeyError, match="3"):
        list(map_prefetched(fail, range(9), lambda item: size))


def test_who_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    for _ in map_prefetched(lambda item: item, range(9), lambda item: BATCH):
        break
    assert threading.active_count() == before
