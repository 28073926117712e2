"""Training mistakes that real ports have made, each planted in one framework only.

What is wrong is a hypothesis of `shared.verification.hypotheses`, by its name there. `check` and
`where` say where the two sides must be seen to part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared import ResNetSpec, get_spec, miniature
from shared.training.config import PROBE, Training
from shared.verification.hypotheses.hypothesis import Port
from shared.verification.hypotheses.listing import named
from shared.verification.recording import GRADIENTS, STEP, TRAIN

LAYER = "stages.1.blocks.0.conv2"


@dataclass(frozen=True)
class Mistake:
    """A hypothesis of the side that gets it wrong; `given` changes what both sides train with."""

    name: str
    check: str
    where: str  # a key of the trace
    planted: str  # the hypothesis's name
    given: Mapping[str, Any] = field(default_factory=dict)
    preset: str = "torchvision/resnet18"

    @property
    def spec(self) -> ResNetSpec:
        return miniature(get_spec(self.preset))

    @property
    def right(self) -> Training:
        return PROBE.replace(self.given)

    def wrong(self, weights: Mapping[str, np.ndarray], images: np.ndarray) -> Port:
        """The side that gets it wrong."""
        port = Port(self.spec, weights, images, training=self.right)
        changed = named(self.planted, self.spec, self.right)(port)
        assert changed is not None, f"{self.planted} is not possible"
        return changed


ADAM = {"optimizer.kind": "adam"}
FIRST = "stem.norm1"
MISTAKES = (
    Mistake(
        "momentum of the statistics swapped",
        TRAIN,
        f"stats/{FIRST}.running_mean",
        "norm.momentum=0.1",
    ),
    Mistake(
        "running variance biased", TRAIN, f"stats/{FIRST}.running_var", "norm.running_var=biased"
    ),
    Mistake(
        "eps in the training branch only",
        TRAIN,
        f"train/{FIRST}",
        "norm.eps=0.001 in training only",
    ),
    Mistake(
        "learning rate inside the velocity",
        STEP,
        "step2/stem.conv1.weight",
        "learning rate inside the velocity",
    ),
    Mistake(
        "decoupled for coupled decay",
        STEP,
        "step1/stem.conv1.weight",
        "optimizer.kind=adamw",
        given={**ADAM, "optimizer.weight_decay": 0.1},
    ),
    Mistake(
        "decay on norms",
        STEP,
        f"step1/{FIRST}.weight",
        "optimizer.decay_norms=true",
        given={"optimizer.decay_norms": False},
    ),
    Mistake("decay left out", STEP, "step1/stem.conv1.weight", "optimizer.weight_decay=0.0"),
    Mistake(
        "Adam's eps inside the root",
        STEP,
        "step1/stem.conv1.weight",
        "Adam's eps inside the root",
        given=ADAM,
    ),
    Mistake(
        "Adam's eps without correction",
        STEP,
        "step1/stem.conv1.weight",
        "Adam's eps without correction",
        given=ADAM,
    ),
    Mistake(
        "bias correction dropped",
        STEP,
        "step1/stem.conv1.weight",
        "bias correction dropped",
        given=ADAM,
    ),
    Mistake(
        "betas swapped", STEP, "step1/exp_avg/head.bias", "optimizer.betas=0.999,0.9", given=ADAM
    ),
    Mistake(
        "Nesterov for plain momentum", STEP, "step1/stem.conv1.weight", "optimizer.nesterov=true"
    ),
    Mistake("momentum forgotten", STEP, "step2/stem.conv1.weight", "optimizer.momentum=1e-09"),
    Mistake("loss summed instead of averaged", GRADIENTS, "loss", "loss summed"),
    Mistake("label smoothing over K-1", GRADIENTS, "loss", "label smoothing over K-1"),
    Mistake("label smoothing forgotten", GRADIENTS, "loss", "label_smoothing=0.0"),
    Mistake(
        "gradient of a layer stopped",
        GRADIENTS,
        f"grad/{LAYER}.weight",
        f"gradient of {LAYER}.weight stopped",
    ),
    Mistake(
        "statistics updated in eval",
        STEP,
        f"step6/{FIRST}.running_mean",
        "statistics updated in eval",
    ),
    Mistake(
        "statistics not updated in train",
        STEP,
        f"step1/{FIRST}.running_mean",
        "statistics not updated in train",
    ),
    Mistake("shuffled batch", GRADIENTS, "loss", "shuffled batch"),
    Mistake(
        "dropout scaled wrongly",
        TRAIN,
        "train/stages.0.blocks.0",
        "dropout unscaled",
        preset="ablation/resnet110_dropout_shortcut",
    ),
    Mistake(
        "parameter missing from the optimizer",
        STEP,
        f"step1/{LAYER}.weight",
        f"{LAYER}.weight missing from the optimizer",
    ),
    Mistake("schedule one step late", STEP, "step2/stem.conv1.weight", "schedule one step late"),
    Mistake("norms frozen", TRAIN, f"train/{FIRST}", "frozen_norms=true"),
)
