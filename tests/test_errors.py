"""Errors name every problem and search for the nearest names of a few."""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
import pytest

from shared import CheckpointError, check_weights, get_spec, make_plan, probe_weights
from shared.errors import HINTS, with_hints
from shared.formats.checkpoint import Wanted, identify
from shared.formats.containers.archive import Archive, Entry

SPEC = get_spec("cifar/resnet56")  # 285 tensors
FEW, MANY = 200, 3000


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that difflib has been asked about."""
    asked: list[str] = []
    search = difflib.get_close_matches

    def count(word: str, *arguments: object, **options: object) -> list[str]:
        asked.append(word)
        return search(word, *arguments, **options)  # type: ignore[arg-type, call-overload]

    monkeypatch.setattr(difflib, "get_close_matches", count)
    return asked


def test_only_the_first_names_get_a_hint(searches: list[str]) -> None:
    names = {f"stem.conv1.weight{i:04}" for i in range(MANY)}
    found = with_hints(names, ["stem.conv1.weight", "head.bias"])
    assert len(found) == MANY
    assert found[0] == "stem.conv1.weight0000 (nearest: stem.conv1.weight)"
    assert found[HINTS:] == sorted(names)[HINTS:]
    assert len(searches) == HINTS


def _loaded() -> None:
    unexpected = {f"stem.conv1.weight{i}": np.zeros(1, np.float32) for i in range(MANY)}
    check_weights(make_plan(SPEC), probe_weights(SPEC) | unexpected)


def _read() -> None:
    float32 = np.dtype(np.float32)
    shapes: dict[str, tuple[int, ...]] = dict(make_plan(SPEC).tensors)
    shapes |= {f"stem.conv1.weight{i}": (1,) for i in range(FEW)}
    entries = {name: Entry(shape, float32, np.empty) for name, shape in shapes.items()}
    identify(Path("file"), Archive("safetensors", entries), Wanted("canonical"))


def test_every_unexpected_tensor_is_reported_and_few_are_searched_for(searches: list[str]) -> None:
    with pytest.raises(CheckpointError, match=f"{MANY} unexpected") as caught:
        _loaded()
    assert len(caught.value.problems) == MANY
    assert len(searches) <= HINTS


def test_tensors_of_a_file_that_belong_to_no_network_are_counted_and_few_are_searched_for(
    searches: list[str],
) -> None:
    with pytest.raises(CheckpointError, match=f"{FEW} tensors belong to no ResNet: stem; "):
        _read()
    assert len(searches) <= HINTS
