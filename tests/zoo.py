"""What the short run leaves to `pytest -m zoo`, and that to `pytest -m exhaustive`."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def rest_in_zoo(
    values: Iterable[Any], short: Container[Any], zoo: Container[Any] | None = None
) -> list[Any]:
    """`values` as parameters of a test: those in `short` as they are, the others marked `zoo`,
    or where `zoo` is given and does not have them, `exhaustive`.

    Tuples are the values of several arguments. A case of `short` that is none of `values` would not
    be tested at all, and is an error.
    """
    values = list(values)
    if isinstance(short, Iterable):
        assert [case for case in short if case not in values] == []
    return [
        value
        if value in short
        else in_zoo(value)
        if zoo is None or value in zoo
        else _marked(value, pytest.mark.exhaustive)
        for value in values
    ]


def in_zoo(value: Any) -> Any:
    """A parameter that is tested in `pytest -m zoo` alone; a tuple is several arguments."""
    return _marked(value, pytest.mark.zoo)


def _marked(value: Any, mark: pytest.MarkDecorator) -> Any:
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=mark)
