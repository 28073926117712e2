"""Tests of datasets see none of the datasets that this machine has."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.datasets import places


@pytest.fixture(autouse=True)
def _bare_machine(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty home and an empty working directory; no system datasets, and no proxy before
    127.0.0.1.
    """
    bare = tmp_path_factory.mktemp("bare")
    for variable in (places.VARIABLE, "XDG_CACHE_HOME", "KERAS_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(bare))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(places, "SYSTEM", bare / "system")
    monkeypatch.chdir(bare)


@pytest.fixture
def home() -> Path:
    return Path.home()
