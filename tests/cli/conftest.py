"""Fixtures of the tests of the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.frameworks import identify


@pytest.fixture
def identified_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Users' models are identified in this process, whose PyTorch has been imported."""

    def call(function: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
        return json.loads(json.dumps(function(*arguments)))

    monkeypatch.setattr(identify, "call", call)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name, module in [*sys.modules.items()]:
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
