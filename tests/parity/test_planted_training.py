"""The proof of training can fail: every planted mistake is caught, in the check and at the tensor
where it starts.

That the same networks pass without the mistake is `test_training.py`.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest

from shared import Trace, compare, probe_images, probe_weights
from shared.frameworks import reference
from shared.training.config import PROBE, probe_labels
from shared.verification.recording import CHECKS, EVAL, TRAIN
from tests.parity.planted_training import MISTAKES, Mistake
from tests.parity.rendering import FRAMEWORKS, package
from tests.zoo import rest_in_zoo

IDS = [mistake.name.replace(" ", "-") for mistake in MISTAKES]


def test_there_are_as_many_mistakes_as_is_said() -> None:
    said = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    assert f"{len({mistake.name for mistake in MISTAKES})} planted training mistakes" in said


def arguments(mistake: Mistake):
    spec = mistake.spec
    size = min(
        64, spec.image_size
    )  # smaller last feature maps have variances that rounding shows in
    return probe_images((4, size, size, spec.in_channels), dtype="float64"), probe_labels(
        4, spec.num_classes, 0
    )


@pytest.fixture(scope="module")
def truth():
    """The reference's trace, taken once for each spec, check and configuration."""
    known: dict = {}

    def take(mistake: Mistake) -> Trace:
        key = mistake.spec, mistake.check, mistake.right
        if key not in known:
            model = reference.build(mistake.spec)
            reference.load_weights(model, probe_weights(mistake.spec, dtype="float64"))
            known[key] = reference.trace(
                model, *arguments(mistake), checks=(mistake.check,), training=mistake.right
            )
        return known[key]

    return take


CASES = [(mistake, framework) for mistake in MISTAKES for framework in FRAMEWORKS]
# In PyTorch: in Keras and Flax a step takes seconds to compile, and the comparison is the same.
SHORT = [(mistake, "torch") for mistake in MISTAKES]
ZOO = [(mistake, ("keras", "flax")[i % 2]) for i, mistake in enumerate(MISTAKES)]


@pytest.mark.parametrize(
    ("mistake", "framework"),
    rest_in_zoo(CASES, SHORT, ZOO),
    ids=[f"{IDS[MISTAKES.index(m)]}-{f}" for m, f in CASES],
)
def test_mistake_is_caught_and_located(
    mistake: Mistake, framework: str, truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendering = package(framework)
    trace = importlib.import_module(f"{rendering.__name__}.trace")
    weights = probe_weights(mistake.spec, dtype="float64")
    images, labels = arguments(mistake)
    port = mistake.wrong(weights, images)
    for change in port.trainers:
        monkeypatch.setattr(trace, "Trainer", change(trace.Trainer, rendering.load_weights))
    if port.training_masks:
        right, change_masks = trace.dropout_masks, port.training_masks
        monkeypatch.setattr(
            trace, "dropout_masks", lambda *a: change_masks(right(*a), mistake.spec)
        )
    model = rendering.build(port.training_spec or port.spec, dtype="float64")
    rendering.load_weights(model, weights)
    wrong = rendering.trace(model, images, labels, checks=(mistake.check,), training=port.training)
    # The side that is wrong believes that it trained the right network in the right way.
    about = {**wrong.about, "training": mistake.right.to_json()}
    comparison = compare(
        dataclasses.replace(wrong, spec=mistake.spec, about=about),
        truth(mistake),
        check=mistake.check,
    )
    assert not comparison.passed
    assert comparison.first_divergence == mistake.where


def test_a_mistake_in_training_alone_passes_the_other_checks() -> None:
    """Whoever compares inference only, as others do, sees none of the statistics' mistakes."""
    mistake = next(m for m in MISTAKES if m.name == "running variance biased")
    found = []
    weights = probe_weights(mistake.spec, dtype="float64")
    for spec in (mistake.spec, mistake.wrong(weights, arguments(mistake)[0]).spec):
        model = reference.build(spec)
        reference.load_weights(model, weights)
        trace = reference.trace(model, *arguments(mistake), checks=(EVAL, TRAIN), training=PROBE)
        found.append(dataclasses.replace(trace, spec=mistake.spec))
    assert compare(*found, check=EVAL).passed
    assert not compare(*found, check=TRAIN).passed
    assert all(check in {m.check for m in MISTAKES} for check in CHECKS if check != EVAL)
