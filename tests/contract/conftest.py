"""Every test here is one of every framework's trainer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.sides import SIDES, Side


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    made = SIDES[request.param]()
    with made.precision("float64"):
        yield made
