"""The proof can fail: every planted mistake is caught, and located at the layer where it starts.

That the same networks pass without the mistake is `test_parity.py`.
"""

from __future__ import annotations

import dataclasses

import pytest

from shared import Trace, compare, probe_images, probe_weights
from shared.frameworks import reference
from tests.parity.planted import MISTAKES, Mistake
from tests.parity.rendering import FRAMEWORKS, package
from tests.zoo import rest_in_zoo

IDS = [mistake.name.replace(" ", "-") for mistake in MISTAKES]
CASES = [(mistake, framework) for mistake in MISTAKES for framework in FRAMEWORKS]
# Each mistake in two frameworks, by turns.
SHORT = [
    (mistake, framework)
    for i, mistake in enumerate(MISTAKES)
    for k, framework in enumerate(FRAMEWORKS)
    if k != i % len(FRAMEWORKS)
]


def test_there_are_enough_mistakes():
    assert len({mistake.name for mistake in MISTAKES}) >= 24


@pytest.fixture(scope="module")
def truth():
    """The reference's trace of a spec, taken once."""
    known: dict = {}

    def take(mistake: Mistake) -> Trace:
        spec = mistake.spec
        if spec not in known:
            model = reference.build(spec)
            known[spec] = reference.trace(model, _images(mistake))
        return known[spec]

    return take


def _images(mistake: Mistake):
    return probe_images((2, mistake.size, mistake.size, mistake.spec.in_channels), dtype="float64")


@pytest.mark.parametrize(
    ("mistake", "framework"),
    rest_in_zoo(CASES, SHORT),
    ids=[f"{IDS[MISTAKES.index(m)]}-{f}" for m, f in CASES],
)
def test_mistake_is_caught_and_located(mistake: Mistake, framework: str, truth):
    rendering = package(framework)
    weights = probe_weights(mistake.spec, dtype="float64")
    model = rendering.build(mistake.wrong_spec, dtype="float64")
    rendering.load_weights(model, mistake.wrong_weights(weights))
    wrong = rendering.trace(model, _images(mistake))
    # The side that is wrong believes that it built the right network.
    comparison = compare(dataclasses.replace(wrong, spec=mistake.spec), truth(mistake))
    assert not comparison.passed
    assert comparison.first_divergence == f"eval/{mistake.where}"
