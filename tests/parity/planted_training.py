"""Training mistakes that real ports have made, each planted in one framework only.

A mistake changes the spec or the training configuration of the side that gets it wrong, or puts
something in the place of its loss, its masks or its `Trainer`. `check` and `where` say where the
two sides must be seen to part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from shared import ResNetSpec, get_spec, miniature
from shared.training.config import PROBE, Training
from shared.verification.recording import GRADIENTS, STEP, TRAIN, Gradients

Patch = Callable[
    [ModuleType, ModuleType], dict[str, Any]
]  # (package.train, package.trace) -> "module.name": value
LAYER = "stages.1.blocks.0.conv2"


@dataclass(frozen=True)
class Mistake:
    """`changes` to the spec, `training` changes, or `patches` of the side that gets it wrong."""

    name: str
    check: str
    where: str  # a key of the trace
    changes: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    trainer: Callable[[type, ModuleType], type] | None = (
        None  # what takes the place of the package's Trainer
    )
    loss: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None  # … of its cross_entropy
    masks: Callable[[Mapping[str, np.ndarray], ResNetSpec], Mapping[str, np.ndarray]] | None = None
    given: Mapping[str, Any] = field(default_factory=dict)  # training configuration of both sides
    preset: str = "torchvision/resnet18"

    @property
    def spec(self) -> ResNetSpec:
        return miniature(get_spec(self.preset))

    @property
    def right(self) -> Training:
        return PROBE.replace(self.given)

    @property
    def wrong(self) -> Training:
        return self.right.replace(self.training)


ADAM = {"optimizer.kind": "adam"}


def scaled_loss(cross_entropy: Callable[..., Any]) -> Callable[..., Any]:
    """Summed over the batch of 4 instead of averaged."""
    return lambda *arguments: cross_entropy(*arguments) * 4.0


def smoothing_over_the_others(cross_entropy: Callable[..., Any]) -> Callable[..., Any]:
    """s / (K - 1) for the other classes and 1 - s for the right one: the same as s K / (K - 1) over
    all.
    """
    return lambda logits, labels, s: cross_entropy(logits, labels, s * 10 / 9)


def unscaled_masks(masks: Mapping[str, np.ndarray], spec: ResNetSpec) -> Mapping[str, np.ndarray]:
    """x * mask, without 1 / (1 - rate)."""
    return {name: mask * (1 - spec.shortcut.dropout) for name, mask in masks.items()}


def after_step(change: Callable[[Any, dict, dict, dict, float, int], Mapping[str, np.ndarray]]):
    """A trainer whose weights after each step are what `change(trainer, before, after, state, rate,
    step)` says.
    """

    def make(trainer: type, package: ModuleType) -> type:
        class Wrong(trainer):  # type: ignore[valid-type, misc]
            count = 0

            def step(self, images, labels, learning_rate, masks=None):
                before = {name: np.array(array) for name, array in self.weights().items()}
                loss = super().step(images, labels, learning_rate, masks)
                self.count += 1
                after = {name: np.array(array) for name, array in self.weights().items()}
                changed = change(self, before, after, dict(self.state()), learning_rate, self.count)
                package.load_weights(self.model, {**after, **changed})
                return loss

        return Wrong

    return make


def _missing(trainer, before, after, state, rate, step):
    return {f"{LAYER}.weight": before[f"{LAYER}.weight"]}


def _no_statistics(trainer, before, after, state, rate, step):
    return {name: array for name, array in before.items() if ".running_" in name}


def _adam(update: Callable[[np.ndarray, np.ndarray, float, int], np.ndarray]):
    """Another update than Adam's, from its averages m and v."""

    def change(trainer, before, after, state, rate, step):
        names = [name.removeprefix("exp_avg/") for name in state if name.startswith("exp_avg/")]
        return {
            name: before[name]
            - update(state[f"exp_avg/{name}"], state[f"exp_avg_sq/{name}"], rate, step)
            for name in names
        }

    return change


def _root(m, v, rate, step):
    return rate * (m / (1 - 0.9**step)) / np.sqrt(v / (1 - 0.999**step) + 1e-8)


def _no_correction(m, v, rate, step):
    return rate * m / (np.sqrt(v) + 1e-8)


def velocity_with_rate(trainer: type, package: ModuleType) -> type:
    """u = momentum u + lr g and w = w - u: the velocity keeps the old learning rate."""

    class Wrong(trainer):  # type: ignore[valid-type, misc]
        last: float | None = None

        def step(self, images, labels, learning_rate, masks=None):
            if self.last is not None:
                state = {
                    name: np.asarray(a) * (self.last / learning_rate)
                    for name, a in self.state().items()
                }
                self.load_state(state, self.steps)
            self.last = learning_rate
            return super().step(images, labels, learning_rate, masks)

    return Wrong


def shuffled(trainer: type, package: ModuleType) -> type:
    """The images of a batch in another order than its labels."""

    class Wrong(trainer):  # type: ignore[valid-type, misc]
        def gradients(self, images, labels, masks=None):
            return super().gradients(images[::-1], labels, masks)

    return Wrong


def late_rate(trainer: type, package: ModuleType) -> type:
    """Every step with the learning rate of the step before."""

    class Wrong(trainer):  # type: ignore[valid-type, misc]
        last: float | None = None

        def step(self, images, labels, learning_rate, masks=None):
            rate, self.last = self.last or learning_rate, learning_rate
            return super().step(images, labels, rate, masks)

    return Wrong


def stopped_gradient(trainer: type, package: ModuleType) -> type:
    """A layer that no gradient reaches."""

    class Wrong(trainer):  # type: ignore[valid-type, misc]
        def gradients(self, images, labels, masks=None):
            found = super().gradients(images, labels, masks)
            name = f"{LAYER}.weight"
            tensors = {**found.tensors, name: np.zeros_like(found.tensors[name])}
            return Gradients(found.loss, found.unsmoothed, tensors, found.images)

    return Wrong


def statistics_in_eval(trainer: type, package: ModuleType) -> type:
    """Evaluation in which the running statistics move."""

    class Wrong(trainer):  # type: ignore[valid-type, misc]
        def evaluate(self, images):
            output = super().evaluate(images)
            weights = {name: np.array(array) for name, array in self.weights().items()}
            moved = {
                name: 0.9 * array + 0.1 for name, array in weights.items() if ".running_" in name
            }
            package.load_weights(self.model, {**weights, **moved})
            return output

    return Wrong


FIRST = "stem.norm1"
MISTAKES = (
    Mistake(
        "momentum of the statistics swapped",
        TRAIN,
        f"stats/{FIRST}.running_mean",
        {"norm.momentum": 0.1},
    ),
    Mistake(
        "running variance biased",
        TRAIN,
        f"stats/{FIRST}.running_var",
        {"norm.running_var": "biased"},
    ),
    Mistake("eps in the training branch only", TRAIN, f"train/{FIRST}", {"norm.eps": 1e-3}),
    Mistake(
        "learning rate inside the velocity",
        STEP,
        "step2/stem.conv1.weight",
        trainer=velocity_with_rate,
    ),
    Mistake(
        "decoupled for coupled decay",
        STEP,
        "step1/stem.conv1.weight",
        training={"optimizer.kind": "adamw"},
        given={**ADAM, "optimizer.weight_decay": 0.1},
    ),
    Mistake(
        "decay on norms",
        STEP,
        f"step1/{FIRST}.weight",
        given={"optimizer.decay_norms": False},
        training={"optimizer.decay_norms": True},
    ),
    Mistake(
        "decay left out", STEP, "step1/stem.conv1.weight", training={"optimizer.weight_decay": 0.0}
    ),
    Mistake(
        "Adam's eps inside the root",
        STEP,
        "step1/stem.conv1.weight",
        trainer=after_step(_adam(_root)),
        given=ADAM,
    ),
    Mistake(
        "bias correction dropped",
        STEP,
        "step1/stem.conv1.weight",
        trainer=after_step(_adam(_no_correction)),
        given=ADAM,
    ),
    Mistake(
        "betas swapped",
        STEP,
        "step1/exp_avg/head.bias",
        given=ADAM,
        training={"optimizer.betas": [0.999, 0.9]},
    ),
    Mistake(
        "Nesterov for plain momentum",
        STEP,
        "step1/stem.conv1.weight",
        training={"optimizer.nesterov": True},
    ),
    Mistake(
        "momentum forgotten", STEP, "step2/stem.conv1.weight", training={"optimizer.momentum": 1e-9}
    ),
    Mistake("loss summed instead of averaged", GRADIENTS, "loss", loss=scaled_loss),
    Mistake("label smoothing over K-1", GRADIENTS, "loss", loss=smoothing_over_the_others),
    Mistake("label smoothing forgotten", GRADIENTS, "loss", training={"label_smoothing": 0.0}),
    Mistake(
        "gradient of a layer stopped", GRADIENTS, f"grad/{LAYER}.weight", trainer=stopped_gradient
    ),
    Mistake(
        "statistics updated in eval",
        STEP,
        f"step6/{FIRST}.running_mean",
        trainer=statistics_in_eval,
    ),
    Mistake(
        "statistics not updated in train",
        STEP,
        f"step1/{FIRST}.running_mean",
        trainer=after_step(_no_statistics),
    ),
    Mistake("shuffled batch", GRADIENTS, "loss", trainer=shuffled),
    Mistake(
        "dropout scaled wrongly",
        TRAIN,
        "train/stages.0.blocks.0",
        masks=unscaled_masks,
        preset="ablation/resnet110_dropout_shortcut",
    ),
    Mistake(
        "parameter missing from the optimizer",
        STEP,
        f"step1/{LAYER}.weight",
        trainer=after_step(_missing),
    ),
    Mistake("schedule one step late", STEP, "step2/stem.conv1.weight", trainer=late_rate),
    Mistake("norms frozen", TRAIN, f"train/{FIRST}", training={"frozen_norms": True}),
)
