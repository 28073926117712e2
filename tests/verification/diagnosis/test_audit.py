"""What a check cannot see is said, and why; and a check that sees everything is told so."""

from __future__ import annotations

import numpy as np
import pytest

from shared import ResNetSpec, initial_weights, probe_images, probe_weights
from shared.verification.diagnosis.audit import Audit, audit
from tests.probes import small

SPEC = small("cifar/resnet20", (1, 1))
PADDED = small("torchvision/resnet18", **{"init.zero_residual": True})


def audited(spec: ResNetSpec, weights, images=None, **more) -> Audit:
    if images is None:
        images = probe_images((2, 8, 8, spec.in_channels))
    return audit(weights, spec, images, **more)


@pytest.fixture(scope="module")
def fresh() -> Audit:
    return audited(PADDED, initial_weights(PADDED))


def words(found: Audit) -> str:
    return " | ".join(found.why_blind)


def unseen(found: Audit) -> set[str]:
    return {planted.what for planted in found.unseen}


def test_fresh_weights_hide_what_is_in_the_branches(fresh: Audit) -> None:
    """mlcommons/algorithmic-efficiency's check of its ResNet-50: SAME in the blocks, and a last
    gamma of zero.
    """
    assert "the last gamma of each block is zero" in words(fresh)
    assert "statistics of 6 of 6 norms are fresh" in words(fresh)
    assert "stages.1.blocks.0.norm1: gamma and beta exchanged" in unseen(fresh)
    assert 0 < fresh.score < 0.5


def test_padding_in_a_dead_branch_is_not_seen(fresh: Audit) -> None:
    settings = {planted.set: planted.visible for planted in fresh.mistakes if planted.set}
    assert settings["stem.padding=same"] is True
    assert settings["block.padding=same"] is False


def test_probe_weights_hide_nothing() -> None:
    found = audited(SPEC, probe_weights(SPEC, dtype="float64"), tolerance=1e-12)
    assert unseen(found) == set()
    assert found.score == 1.0
    assert found.why_blind == ()
    assert len(found.mistakes) > 200


def test_a_tolerance_hides_small_mistakes() -> None:
    found = audited(SPEC, probe_weights(SPEC), tolerance=1e-2)
    assert any("epsilon" in what for what in unseen(found))
    assert "the tolerance of 0.01 lets" in words(found)


@pytest.mark.parametrize(
    ("images", "said", "kept"),
    [
        (np.ones((2, 8, 8, 3)), "all pixels of the images are alike", "left to right"),
        (np.repeat(probe_images((2, 8, 8, 1)), 3, axis=3), "the images are grey", "BGR for RGB"),
        (probe_images((1, 8, 8, 3)), "there is one image", "in reverse order"),
    ],
    ids=["ones", "grey", "one"],
)
def test_images_hide_mistakes(images: np.ndarray, said: str, kept: str) -> None:
    found = audited(SPEC, probe_weights(SPEC), images)
    assert said in words(found)
    assert any(kept in what for what in unseen(found))


def test_layers_beside_the_output_show_more(fresh: Audit) -> None:
    every_layer = ("stages.1.blocks.0.conv1", "stages.1.blocks.0.norm1")
    more = audited(PADDED, initial_weights(PADDED), layers=every_layer)
    assert len(unseen(more)) < len(unseen(fresh))
    settings = {planted.set: planted.visible for planted in more.mistakes if planted.set}
    assert settings["block.padding=same"] is True
