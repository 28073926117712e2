"""Every layer by itself: two mistakes are two wrong layers, and nothing behind them is."""

from __future__ import annotations

import numpy as np
import pytest

from shared.frameworks.diagnose import KIT
from shared.verification.diagnosis.isolated import Alone, isolated, isolated_gradients
from shared.verification.diagnosis.passes import Passes
from shared.verification.recording import EVAL, GRADIENTS, TRAIN
from tests.verification.diagnosis.ports import diagnosed, observed, right, small, with_mistakes

TWO = (
    "stages.0.blocks.1.norm1: gamma and beta exchanged",
    "stages.2.blocks.0.conv2: flipped in height and width",
)


def wrong_layers(rows: list[Alone]) -> list[str]:
    return [row.name for row in rows if row.wrong]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_all_wrong_layers_are_named_and_no_other(dtype: str) -> None:
    base = right(small())
    seen = observed(with_mistakes(base, TWO), base, layers=None, dtype=dtype)
    rows = isolated(base, seen.values, dtype)
    assert wrong_layers(rows) == ["stages.0.blocks.1.norm1", "stages.2.blocks.0.conv2"]
    assert len(rows) == len(base.plan.layers)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_right_port_has_no_wrong_layer(dtype: str) -> None:
    base = right(small())
    seen = observed(base, base, layers=None, dtype=dtype)
    assert wrong_layers(isolated(base, seen.values, dtype)) == []


def test_in_training_too() -> None:
    base = right(small(), 4)
    port = with_mistakes(base, ["norm.eps=0.001 in training only"])
    seen = observed(port, base, dtype="float64", checks=[EVAL, TRAIN])
    rows = isolated(base, seen.values, "float64", TRAIN)
    norms = [row.name for row in base.plan.layers if row.op == "batch_norm"]
    assert wrong_layers(rows) == norms


def test_diagnose_says_so() -> None:
    found = diagnosed(TWO, layers=None)
    assert found.isolated == ("stages.0.blocks.1.norm1", "stages.2.blocks.0.conv2")
    assert any("wrong by themselves" in line for line in found.look)


def test_a_wrong_value_in_one_place_is_seen() -> None:
    base = right(small())
    seen = observed(base, base, layers=None, dtype="float64")
    values = dict(seen.values)
    name = "eval/stages.1.blocks.0.conv1"
    values[name] = values[name].copy()
    values[name][0, 0, 0, 0] += 1e-9 * np.abs(values[name]).max()
    assert wrong_layers(isolated(base, values, "float64"))[0] == name.removeprefix("eval/")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("preset", ["torchvision/resnet18", "cifar/preresnet20"])
def test_gradients_of_the_right_port_are_right(preset: str, dtype: str) -> None:
    base = right(small(preset), 4)
    seen = observed(base, base, dtype=dtype, checks=[EVAL, TRAIN, GRADIENTS])
    rows = isolated_gradients(base, seen.values, seen.labels, dtype)
    assert wrong_layers(rows) == []
    assert len(rows) == len(base.training.trainable(base.plan)) + 1


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_gradient_that_is_stopped_is_wrong_and_no_other(dtype: str) -> None:
    base = right(small(), 4)
    port = with_mistakes(base, ["gradient of stages.1.blocks.1.conv1.weight stopped"])
    seen = observed(port, base, dtype=dtype, checks=[EVAL, TRAIN, GRADIENTS])
    rows = isolated_gradients(base, seen.values, seen.labels, dtype)
    assert wrong_layers(rows) == ["stages.1.blocks.1.conv1.weight"]


def test_gradients_in_front_of_a_wrong_kernel_are_right() -> None:
    """Though all of them differ from what the reference has on its own activations."""
    base = right(small(), 4)
    port = with_mistakes(base, ["stages.2.blocks.0.conv2: flipped in width"])
    seen = observed(port, base, dtype="float64", checks=[EVAL, TRAIN, GRADIENTS])
    wrong = wrong_layers(isolated_gradients(base, seen.values, seen.labels))
    assert wrong[0] == "stages.2.blocks.0.norm1.bias"
    own = Passes(base, kit=KIT, labels=seen.labels)
    assert all(
        np.abs(own.get(key) - array).max() > 1e-6 * np.abs(array).max()
        for key, array in seen.values.items()
        if key.startswith("grad/")
    )
