"""What the tests of training share: a batch and its masks, what a trace records, and states that
are refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared import ResNetSpec, make_plan, probe_images
from shared.training.config import Training, dropout_masks, num_outputs, probe_labels
from shared.verification.recording import expected_shapes

BATCH, SIDE = 4, 32
BIASED, UNBIASED, DROPOUT = (
    "keras/resnet50v2",
    "torchvision/resnet18",
    "ablation/resnet110_dropout_shortcut",
)
FROZEN = Training(label_smoothing=0.1, frozen_norms=True)


def batch_for(spec: ResNetSpec, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Float64 images and labels."""
    labels = probe_labels(BATCH, num_outputs(make_plan(spec, side)), 0)
    return probe_images((BATCH, side, side, spec.in_channels), dtype="float64"), labels


def masks_for(spec: ResNetSpec, step: int = 0) -> dict[str, np.ndarray]:
    return dropout_masks(make_plan(spec, SIDE), BATCH, step)


def expected_arrays(
    spec: ResNetSpec, checks: Sequence[str], training: Training
) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of what a trace of a batch records, in order."""
    plan = make_plan(spec, SIDE)
    return [
        item for check in checks for item in expected_shapes(check, plan, BATCH, training).items()
    ]


# What is done to a state of Adam in float32, and what is said of it.
REFUSED_STATES = {
    "missing": (lambda s: s.pop("exp_avg/head.bias"), "missing"),
    "unexpected": (
        lambda s: s.update({"exp_avg/head.scale": s["exp_avg/head.bias"]}),
        "unexpected",
    ),
    "another-slot": (
        lambda s: s.update({"momentum_buffer/head.bias": s["exp_avg/head.bias"]}),
        "unexpected",
    ),
    "mis-shaped": (
        lambda s: s.update({"exp_avg/head.bias": s["exp_avg/head.bias"][:-1]}),
        "of another shape",
    ),
    "not-finite": (
        lambda s: s.update({"exp_avg/head.bias": np.full_like(s["exp_avg/head.bias"], np.inf)}),
        "not finite",
    ),
    "integer": (
        lambda s: s.update({"exp_avg/head.bias": s["exp_avg/head.bias"].astype(int)}),
        "int64, expected a float",
    ),
    "not-exact": (
        lambda s: s.update(
            {"exp_avg/head.bias": s["exp_avg/head.bias"].astype(np.float64) + 1e-12}
        ),
        "exact",
    ),
}
