"""Small changes of a JSON value, each at one place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

DEEP = "DEEP"  # stands for a list in a list in a list …, which json cannot write
VALUES = (
    *(None, True, 0, -1, 1.5, 1e308, -1e308, 10**400, "abc", "", "../../evil", DEEP),
    *([], [[]], [1, 2, 3], [1e308, 0.5], {}, {"a": 1}),
)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value in it."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))


def mutated(data: Any, path: tuple, value: Any) -> Any:
    """A copy of `data` with another value at a place."""
    if not path:
        return value
    first, *rest = path
    return {**data, first: mutated(data[first], tuple(rest), value)}


def as_json(data: Any) -> str:
    return json.dumps(data).replace(f'"{DEEP}"', "[" * 5000 + "]" * 5000)
