"""What a file that was read back proves of its weights, where its exporter has folded norms."""

from __future__ import annotations

import numpy as np
import pytest

from shared import get_spec, probe_weights
from shared.architecture.presets import miniature
from shared.architecture.spec import ResNetSpec
from shared.frameworks.exported.kinds import KINDS, Wanted
from shared.frameworks.exported.read_back import ReadBack, judged
from shared.graphs.verdict import SAME_FUNCTION
from tests.frameworks.folded import folded

FOUND = {"spec": {"name": "custom"}, "departures": [], "verdict": SAME_FUNCTION, "recognised": True}
WANTED = Wanted(KINDS["litert"], "keras:tensorflow", "float32", 32)
# Norms behind convolutions alone; in front of them, too; and behind a convolution of the stem.
SPECS = [
    miniature(get_spec(name)) for name in ("cifar/resnet20", "keras/resnet50v2", "wrn/wrn16_4")
]


def back(spec: ResNetSpec, change: float = 0.0, name: str = "stem.conv1.weight") -> ReadBack:
    weights = probe_weights(spec, 1, "float32")
    tensors = folded(spec, weights)
    assert set(tensors) == set(weights)
    array = tensors[name].astype(np.float64)
    array.flat[0] += change * np.abs(array).max()
    return judged(FOUND, tensors | {name: array}, spec, weights, WANTED)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_norms_that_are_folded_are_those_of_the_weights(spec: ResNetSpec) -> None:
    found = back(spec)
    assert (found.passed, found.same_spec) == (True, True)
    assert found.apart is not None
    assert found.apart < 3e-7
    assert 0 < found.equal < found.tensors


@pytest.mark.parametrize("name", ["stem.conv1.weight", "stages.1.blocks.0.norm1.bias"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_one_element_of_another_value_is_seen(spec: ResNetSpec, name: str) -> None:
    found = back(spec, 1e-4, name)
    assert not found.passed
    assert found.apart is not None
    assert 3e-5 < found.apart < 3e-4
    assert "tensors are not the same" in found.why
