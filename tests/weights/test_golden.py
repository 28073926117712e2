"""What is drawn at random is the same with every NumPy and on every machine.

Traces taken in other years, and the pages in `docs/`, are of these values, and NumPy promises no
stream of `Generator` (NEP 19). Where a release changes one, the values have to be kept, not these
digests.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from shared import get_spec, make_plan, miniature, probe_images, probe_weights
from shared.training.config import dropout_masks, probe_labels
from shared.weights.digests import digest
from shared.weights.initial import initial_weights

# Name and seed -> half of the SHA-256 of names, shapes and float64 values.
WEIGHTS = {
    ("cifar/resnet20", 0): "9b9988dfce4afcb514649998fb5a04f5",
    ("cifar/resnet20", 1): "f8e5ac5bcdd4f07a3302412ee8bcd60f",
    ("torchvision/resnet18", 0): "ba048b59724b9fb3940a5d86983f5f40",
    ("bit/r50x1", 0): "d14a4b6278a2e5346ce12ec737846008",
    ("ablation/resnet110_exclusive_gate_b6", 0): "9259bd1570d726378938329b44566375",
}
INITIAL = {
    ("torchvision/resnet18", 0): "9213ac7c4246404ab7bd54698a1d6ce5",
    ("torchvision/resnet18", 7): "e8971b275945b5d83515e0ff0ef1e19c",
    ("keras/resnet50v2", 0): "32155e31f7e2ca149bebc75edd26622c",
    ("d2l/resnet18", 0): "08b47f945d9ce6d16057ea3a8dc1dca3",
    ("ablation/resnet110_exclusive_gate_b6", 0): "59bcfb7274be671ecffdfc0913876560",
}
IMAGES = {
    ((2, 224, 224, 3), 0): "22577d0921414056abf30ca7e09cee57",
    ((4, 32, 37, 1), 1): "6206cba7d48cc4f7b65508341c97af3e",
}
LABELS = {
    (10, 0): "e977ebb3a3d57f7e93f98ff490c30db5",
    (1000, 1): "64abbd54e85b372dc63e5c7cc49d9abc",
}
MASKS = {(0, 0): "745fb8240aa1b34950fbb3f6c8a226df", (3, 1): "9e1274b67f55ec883567273f27505819"}


def half_digest(arrays: Mapping[str, np.ndarray]) -> str:
    return digest(arrays)[:32]


def ids(golden: Mapping[tuple, str]) -> list[str]:
    return ["-".join(map(str, key)) for key in golden]


@pytest.mark.parametrize(("key", "expected"), WEIGHTS.items(), ids=ids(WEIGHTS))
def test_probe_weights(key: tuple[str, int], expected: str) -> None:
    preset, seed = key
    assert half_digest(probe_weights(miniature(get_spec(preset)), seed, "float64")) == expected


@pytest.mark.parametrize(("key", "expected"), INITIAL.items(), ids=ids(INITIAL))
def test_initial_weights(key: tuple[str, int], expected: str) -> None:
    preset, seed = key
    assert half_digest(initial_weights(miniature(get_spec(preset)), seed, "float64")) == expected


@pytest.mark.parametrize(("key", "expected"), IMAGES.items(), ids=ids(IMAGES))
def test_probe_images(key: tuple[tuple[int, int, int, int], int], expected: str) -> None:
    shape, seed = key
    assert half_digest({"images": probe_images(shape, seed, "float64")}) == expected


@pytest.mark.parametrize(("key", "expected"), LABELS.items(), ids=ids(LABELS))
def test_probe_labels(key: tuple[int, int], expected: str) -> None:
    classes, seed = key
    assert half_digest({"labels": probe_labels(1000, classes, seed)}) == expected


@pytest.mark.parametrize(("key", "expected"), MASKS.items(), ids=ids(MASKS))
def test_dropout_masks(key: tuple[int, int], expected: str) -> None:
    step, seed = key
    plan = make_plan(miniature(get_spec("ablation/resnet110_dropout_shortcut")), 32)
    assert half_digest(dropout_masks(plan, 4, step, seed)) == expected
