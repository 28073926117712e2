"""Entries that threads load ahead, and that are looked at on the way."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from shared.formats.containers import safetensors_file
from shared.formats.containers.ahead import AT_ONCE, SMALL, WINDOW, OnFirstLoad, each
from shared.formats.containers.archive import Archive, Entry

FLOAT32 = np.dtype(np.float32)
LARGE = SMALL // 4 + 1  # elements


def entries_of(sizes: list[int]) -> dict[str, Entry]:
    return {
        str(i): Entry((size,), FLOAT32, lambda i=i, size=size: np.full(size, i, FLOAT32))
        for i, size in enumerate(sizes)
    }


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [1],
        [LARGE],
        [1, LARGE, LARGE, 2, 3, LARGE, LARGE, LARGE, LARGE, 4],
        [SMALL // 4] * (WINDOW // SMALL + 3) + [LARGE],
    ],
)
def test_in_order(sizes: list[int]) -> None:
    entries = entries_of(sizes)
    found = list(each(lambda name, entry: (name, entry.load()[0]), entries))
    assert found == [(name, (name, float(name))) for name in entries]


def test_not_too_far_ahead() -> None:
    """Else a whole file would be in memory."""
    started: list[str] = []
    lock = threading.Lock()

    def note(name: str, entry: Entry) -> str:
        with lock:
            started.append(name)
        return name

    for taken, _ in enumerate(each(note, entries_of([LARGE] * 20)), 1):
        assert len(started) <= taken + AT_ONCE + 1


@pytest.mark.parametrize("size", [1, LARGE])
def test_what_goes_wrong_is_raised(size: int) -> None:
    def fail(name: str, entry: Entry) -> None:
        if name == "3":
            raise KeyError(name)

    with pytest.raises(KeyError, match="3"):
        list(each(fail, entries_of([size] * 9)))


def test_who_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    for _ in each(lambda name, entry: name, entries_of([LARGE] * 9)):
        break
    assert threading.active_count() == before


def test_looked_at_once_and_all_in_the_end() -> None:
    seen: list[str] = []
    watched = OnFirstLoad(
        entries_of([1, LARGE, 3]), lambda name, array: seen.append(name) or float(array[0])
    )
    watched.entries["1"].load()
    watched.entries["1"].load()
    assert seen == ["1"]
    assert watched.finish() == {"0": 0.0, "1": 1.0, "2": 2.0}
    assert sorted(seen) == ["0", "1", "2"]


def test_a_header_of_another_length_is_not_written(tmp_path: Path) -> None:
    path, entries = tmp_path / "a.safetensors", entries_of([2, 3])
    safetensors_file.write(path, Archive("safetensors", entries, {"a": "0000"}))
    safetensors_file.rewrite_header(path, Archive("safetensors", entries, {"a": "1234"}))
    again = safetensors_file.read(path)
    assert again.metadata == {"a": "1234"}
    assert all(
        np.array_equal(again.entries[name].load(), entry.load()) for name, entry in entries.items()
    )
    before = path.read_bytes()
    with pytest.raises(ValueError, match="another length"):
        safetensors_file.rewrite_header(
            path, Archive("safetensors", entries, {"a": "longer than it was"})
        )
    assert path.read_bytes() == before


def test_a_system_that_takes_less_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    true = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda file, data, position: true(file, data[:70000], position)
    )
    monkeypatch.delattr(os, "posix_fallocate", raising=False)  # nor does every system reserve
    path, entries = tmp_path / "a.safetensors", entries_of([1, LARGE, 5, 3 * LARGE])
    safetensors_file.write(path, Archive("safetensors", entries))
    again = safetensors_file.read(path)
    assert all(
        np.array_equal(again.entries[name].load(), entry.load()) for name, entry in entries.items()
    )
