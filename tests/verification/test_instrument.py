"""The instrument's test can fail: a comparison that sees nothing is found out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from shared import Trace, get_spec, miniature, probe_images
from shared.frameworks import reference
from shared.verification import instrument
from shared.verification.comparison import compare
from shared.verification.recording import EVAL
from tests.probes import loaded


@pytest.fixture(scope="module")
def trace() -> Trace:
    model = loaded(reference, miniature(get_spec("cifar/resnet20")))
    return reference.trace(model, probe_images((2, 32, 32, 3), dtype="float64"))


def test_a_comparison_that_sees_is_sound(trace: Trace) -> None:
    found = instrument.examine(trace, EVAL)
    assert found.sound
    assert found.planted in trace.names
    assert found.why_not is None


def test_one_that_sees_nothing_is_not(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instrument, "compare", lambda a, b, check: compare(a, a, check=check))
    found = instrument.examine(trace, EVAL)
    assert not found.sound
    assert "is not seen" in (found.why_not or "")


def test_a_dead_layer_is_said(trace: Trace) -> None:
    name = "eval/stages.1.blocks.0.conv2"
    arrays = {n: np.zeros_like(trace[n]) if n == name else trace[n] for n in trace.names}
    found = instrument.examine(dataclasses.replace(trace, arrays=arrays), EVAL)
    assert not found.sound
    assert name in (found.why_not or "")
