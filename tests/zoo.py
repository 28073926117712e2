"""What the short run leaves to `pytest -m zoo`."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def rest_in_zoo(values: Iterable[Any], short: Container[Any]) -> list[Any]:
    """`values` as parameters of a test, those marked `zoo` that are not in `short`.

    Tuples are the values of several arguments.
    """
    return [value if value in short else in_zoo(value) for value in values]


def in_zoo(value: Any) -> Any:
    """A parameter that is tested in `pytest -m zoo` alone; a tuple is several arguments."""
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.zoo)
