"""Importing the peers that the definitions are checked against."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from benchmarks import peers


def import_torchvision() -> ModuleType:
    """`torchvision`, also where its C extension does not fit the installed torch; skips where it is
    missing.
    """
    pytest.importorskip("torch")
    try:
        return peers.import_torchvision()
    except ModuleNotFoundError as error:
        pytest.skip(f"torchvision is not installed ({error})")


def import_timm() -> ModuleType:
    """`timm`, which imports torchvision; skips where it is missing."""
    import_torchvision()
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        pytest.skip(f"timm is not installed ({error})")
