"""`--deployed`: each framework's `inference`, as a function of NumPy images."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from shared import ResNetSpec, get_spec, probe_images, probe_weights
from shared.frameworks import reference
from shared.frameworks.deployed import deployed
from shared.verification.distance import relative_error
from shared.verification.tolerances import EVAL_FLOAT64
from tests.parity.rendering import package
from tests.zoo import in_zoo, rest_in_zoo

SPEC = get_spec("cifar/resnet20", depths=(1, 1, 1), num_classes=7)
FEATURE_MAP = SPEC.replace(**{"num_classes": 0, "head.pool": "none"})
CASES = [
    (side, spec) for side in ("reference", "keras", "flax", "torch") for spec in (SPEC, FEATURE_MAP)
]
# Inductor, which runs PyTorch's, needs tens of seconds to start.
SHORT = [*((side, SPEC) for side in ("reference", "keras", "flax")), ("reference", FEATURE_MAP)]


def module(side: str) -> ModuleType:
    return reference if side == "reference" else package(side)


@pytest.mark.parametrize(("side", "spec"), rest_in_zoo(CASES, SHORT))
def test_a_deployed_network_is_the_same_function(side: str, spec: ResNetSpec) -> None:
    rendering = module(side)
    model = rendering.build(spec, dtype="float64")
    rendering.load_weights(model, probe_weights(spec, dtype="float64"))
    images = probe_images((2, 24, 32, 3), dtype="float64")
    before = rendering.export_weights(model)
    found = deployed(rendering, model)(images)
    expected = rendering.trace(model, images)["eval/output"]
    assert found.shape == expected.shape
    assert 0 < relative_error(found, expected) < EVAL_FLOAT64  # it is folded: not bit for bit
    after = rendering.export_weights(model)
    assert all(np.array_equal(after[name], array) for name, array in before.items())


@pytest.mark.parametrize("side", ["keras", "flax", in_zoo("torch")])
def test_half_precision_widens(side: str) -> None:
    rendering = module(side)
    model = rendering.build(SPEC, dtype="bfloat16")
    found = deployed(rendering, model)(probe_images((1, 32, 32, 3), dtype="float32"))
    assert found.dtype == np.float32
