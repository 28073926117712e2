"""What the tests of several files share."""

from __future__ import annotations

import pytest


@pytest.fixture(params=("zip", "legacy"))
def layout(request: pytest.FixtureRequest) -> str:
    """Both layouts of `torch.save`."""
    return request.param
