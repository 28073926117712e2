"""The dropout masks of a training run: their rate, and that nothing else decides them than layer,
step and seed.
"""

from __future__ import annotations

import numpy as np
import pytest

from shared import Plan, get_spec, make_plan, miniature
from shared.training.config import dropout_masks, training_masks
from shared.weights.digests import digest

# How many standard deviations the share of a fair draw may be off: one in two million is.
DEVIATIONS = 5


def plan(rate: float = 0.5) -> Plan:
    spec = miniature(get_spec("ablation/resnet110_dropout_shortcut"))
    return make_plan(spec.replace(**{"shortcut.dropout": rate}), 32)


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.1, 0.9, 1e-3])
def test_masks_keep_what_the_rate_leaves(rate: float) -> None:
    """In every layer, for even and odd positions and for each bit of a word alike."""
    masks = training_masks(plan(rate), 8, 1, seed=0)
    assert masks
    for mask in masks.values():
        for part in (mask.reshape(-1), *mask.reshape(64, -1), *mask.reshape(-1, 64).T):
            off = abs(part.mean() - (1 - rate))
            assert off <= DEVIATIONS * (rate * (1 - rate) / part.size) ** 0.5


def test_masks_have_the_shapes_of_the_probes() -> None:
    probe, masks = dropout_masks(plan(), 3, 1), training_masks(plan(), 3, 1, seed=0)
    assert {n: (m.shape, m.dtype) for n, m in masks.items()} == {
        n: (m.shape, m.dtype) for n, m in probe.items()
    }


@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_layer_step_and_seed_decide_a_mask(rate: float) -> None:
    first = training_masks(plan(rate), 8, 1, seed=0)
    again = training_masks(plan(rate), 8, 1, seed=0)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    one, two, *_ = first.values()
    different = [two]
    for step, seed in ((2, 0), (1, 1)):
        different.append(next(iter(training_masks(plan(rate), 8, step, seed).values())))
    for other in different:
        agree, expected = (one == other).mean(), rate**2 + (1 - rate) ** 2
        assert abs(agree - expected) <= DEVIATIONS * (expected * (1 - expected) / one.size) ** 0.5


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0.5, "259e33a9faa5ceab57b31f09f3306979"), (0.1, "20f24e626762077561d6191ecea9f583")],
)
def test_masks_are_the_same_on_every_machine(rate: float, expected: str) -> None:
    """A run that goes on elsewhere, or with another NumPy, goes on as it would have."""
    assert digest(training_masks(plan(rate), 4, 3, seed=1))[:32] == expected
