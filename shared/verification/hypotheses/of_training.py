"""Mistakes that only training shows: the loss, the gradients, the statistics, the optimizer.

A change of the configuration says itself as `--training` does. The others are put in the place of
the class that trains, whichever framework it is of (`shared.verification.recording.Trainer`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from shared.architecture.ops import Dropout
from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.training.config import BUFFER, FIRST, SECOND, Training, num_outputs
from shared.verification.hypotheses.hypothesis import (
    Array,
    Hypothesis,
    Port,
    TrainerChange,
    setting,
)
from shared.verification.hypotheses.of_spec import in_training_only, of_spec
from shared.verification.recording import Gradients

Load = Callable[[Any, Mapping[str, Array]], None]
# (trainer, weights before, weights after, state, learning rate, step) -> weights that are other
StepChange = Callable[[Any, dict, dict, dict, float, int], Mapping[str, Array]]

SMOOTHING = (0.0, 0.1)
DECAYS = (0.0, 1e-4, 5e-4, 1e-3)
ADAM_EPS = (1e-8, 1e-7, 1e-6, 1e-3)


def of_training(spec: ResNetSpec, training: Training) -> Iterator[Hypothesis]:
    """Every mistake in training a network with a configuration."""
    yield from _of_configuration(spec, training)
    yield from _of_loss(spec, training)
    yield from _of_steps(spec, training)
    for hypothesis in of_spec(spec):
        if set(hypothesis.set) == {"norm.eps"}:
            yield in_training_only(hypothesis)


def _training(name: str, what: str, change: Any, rank: int = 1, **more: Any) -> Hypothesis:
    return Hypothesis("training", name, what, change, rank=rank, shows_in="training", **more)


def configured(training: Training, changes: Mapping[str, Any], what: str) -> Hypothesis:
    """Another configuration, as `Training.replace` takes it."""

    def change(port: Port) -> Port | None:
        new = port.training.replace(changes)
        return None if new == port.training else dataclasses.replace(port, training=new)

    name = " ".join(setting(key, value) for key, value in changes.items())
    return _training(name, what, change, training_set=changes)


def _of_configuration(spec: ResNetSpec, training: Training) -> Iterator[Hypothesis]:
    optimizer = training.optimizer
    for smoothing in SMOOTHING:
        what = "forgotten" if not smoothing else f"{smoothing:g}"
        yield configured(training, {"label_smoothing": smoothing}, f"the label smoothing is {what}")
    yield configured(training, {"frozen_norms": True}, "the norms are frozen")
    yield configured(training, {"frozen_norms": False}, "the norms are not frozen")
    for decay in DECAYS:
        what = "left out" if not decay else f"{decay:g}"
        yield configured(training, {"optimizer.weight_decay": decay}, f"the weight decay is {what}")
    yield configured(training, {"optimizer.decay_norms": True}, "norms and biases are decayed, too")
    yield configured(training, {"optimizer.decay_norms": False}, "norms and biases are not decayed")
    if optimizer.kind == "sgd":
        yield configured(
            training, {"optimizer.nesterov": True}, "the momentum is Nesterov's, not the plain one"
        )
        yield configured(
            training, {"optimizer.nesterov": False}, "the momentum is the plain one, not Nesterov's"
        )
        # A momentum of 0 has no buffers, and a trace would show that before any number.
        for momentum in (1e-9, round(1 - optimizer.momentum, 9), 0.9, 0.99):
            what = "forgotten" if momentum < 1e-6 else f"{momentum:g}"
            yield configured(
                training, {"optimizer.momentum": momentum}, f"the optimizer's momentum is {what}"
            )
        return
    kind, other = ("adamw", "coupled") if optimizer.kind == "adam" else ("adam", "decoupled")
    new = {"coupled": "decoupled", "decoupled": "coupled"}[other]
    yield configured(training, {"optimizer.kind": kind}, f"the weight decay is {new}, not {other}")
    beta1, beta2 = optimizer.betas
    yield configured(training, {"optimizer.betas": [beta2, beta1]}, "Adam's betas are exchanged")
    for eps in ADAM_EPS:
        yield configured(training, {"optimizer.eps": eps}, f"Adam's epsilon is {eps:g}")


def with_trainer(name: str, what: str, change: TrainerChange, rank: int = 1) -> Hypothesis:
    """Something in the place of the class that trains."""
    return _training(
        name, what, lambda port: dataclasses.replace(port, trainers=(*port.trainers, change)), rank
    )


def after_step(change: StepChange) -> TrainerChange:
    """A trainer whose weights after each step are what `change` says."""

    def make(trainer: type, load_weights: Load) -> type:
        class Wrong(trainer):
            count = 0

            def step(self, images, labels, learning_rate, masks=None):
                before = {name: np.array(array) for name, array in self.weights().items()}
                loss = super().step(images, labels, learning_rate, masks)
                self.count += 1
                after = {name: np.array(array) for name, array in self.weights().items()}
                changed = change(self, before, after, dict(self.state()), learning_rate, self.count)
                load_weights(self.model, {**after, **changed})
                return loss

        return Wrong

    return make


def on_gradients(change: Callable[[Gradients], Gradients]) -> TrainerChange:
    """A trainer whose gradients and losses are what `change` makes of them."""

    def make(trainer: type, load_weights: Load) -> type:
        class Wrong(trainer):
            def gradients(self, images, labels, masks=None):
                return change(super().gradients(images, labels, masks))

        return Wrong

    return make


def summed(trainer: type, load_weights: Load) -> type:
    """The loss summed over the batch instead of averaged."""

    class Wrong(trainer):
        def gradients(self, images, labels, masks=None):
            found, n = super().gradients(images, labels, masks), len(labels)
            tensors = {name: np.asarray(array) * n for name, array in found.tensors.items()}
            images = np.asarray(found.images) * n
            return Gradients(found.loss * n, found.unsmoothed * n, tensors, images)

    return Wrong


def shuffled(trainer: type, load_weights: Load) -> type:
    """The images of a batch in another order than its labels."""

    class Wrong(trainer):
        def gradients(self, images, labels, masks=None):
            return super().gradients(images[::-1], labels, masks)

    return Wrong


def _of_loss(spec: ResNetSpec, training: Training) -> Iterator[Hypothesis]:
    yield with_trainer(
        "loss summed", "the loss is summed over the batch instead of averaged", summed
    )
    classes = num_outputs(make_plan(spec))
    if training.label_smoothing and classes > 1:
        smoothing = training.label_smoothing * classes / (classes - 1)
        yield dataclasses.replace(
            configured(
                training,
                {"label_smoothing": smoothing},
                "the label smoothing is spread over the other classes (K - 1), not over all",
            ),
            name="label smoothing over K-1",
            training_set={},
        )
    yield with_trainer(
        "shuffled batch", "the images of a batch are in another order than its labels", shuffled
    )
    if spec.drops:
        yield _training(
            "dropout unscaled",
            "dropout keeps values as they are, without 1 / (1 - rate)",
            lambda port: dataclasses.replace(port, training_masks=_unscaled),
        )


def _unscaled(masks: Mapping[str, Array], spec: ResNetSpec) -> Mapping[str, Array]:
    """x * mask, without 1 / (1 - rate)."""
    rates = {n.name: n.op.rate for n in make_plan(spec).nodes() if isinstance(n.op, Dropout)}
    return {name: mask * (1 - rates[name]) for name, mask in masks.items()}


def velocity_with_rate(trainer: type, load_weights: Load) -> type:
    """u = momentum u + lr g and w = w - u: the velocity keeps the old learning rate."""

    class Wrong(trainer):
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


def late_rate(trainer: type, load_weights: Load) -> type:
    """Every step with the learning rate of the step before."""

    class Wrong(trainer):
        last: float | None = None

        def step(self, images, labels, learning_rate, masks=None):
            rate, self.last = self.last or learning_rate, learning_rate
            return super().step(images, labels, rate, masks)

    return Wrong


def statistics_in_eval(momentum: float) -> TrainerChange:
    """Evaluation in which the running statistics move."""

    def make(trainer: type, load_weights: Load) -> type:
        class Wrong(trainer):
            def evaluate(self, images):
                output = super().evaluate(images)
                weights = {name: np.array(array) for name, array in self.weights().items()}
                moved = {
                    name: momentum * array + (1 - momentum)
                    for name, array in weights.items()
                    if ".running_" in name
                }
                load_weights(self.model, {**weights, **moved})
                return output

        return Wrong

    return make


def _no_statistics(trainer, before, after, state, rate, step):
    return {name: array for name, array in before.items() if ".running_" in name}


def _adam(update: Callable[[Array, Array, float, int], Array]) -> StepChange:
    """Another update than Adam's, from its averages m and v."""

    def change(trainer, before, after, state, rate, step):
        names = [name.removeprefix(f"{FIRST}/") for name in state if name.startswith(f"{FIRST}/")]
        return {
            name: before[name]
            - update(state[f"{FIRST}/{name}"], state[f"{SECOND}/{name}"], rate, step)
            for name in names
        }

    return change


def _of_steps(spec: ResNetSpec, training: Training) -> Iterator[Hypothesis]:
    optimizer = training.optimizer
    if optimizer.kind == "sgd" and optimizer.momentum:
        yield with_trainer(
            "learning rate inside the velocity",
            f"the learning rate is inside the velocity ({BUFFER}), as Keras has it",
            velocity_with_rate,
        )
    elif optimizer.kind != "sgd":
        (beta1, beta2), eps = optimizer.betas, optimizer.eps

        def root(m: Array, v: Array, rate: float, step: int) -> Array:
            return rate * (m / (1 - beta1**step)) / np.sqrt(v / (1 - beta2**step) + eps)

        def hat(m: Array, v: Array, rate: float, step: int) -> Array:
            scale = np.sqrt(1 - beta2**step) / (1 - beta1**step)
            return rate * scale * m / (np.sqrt(v) + eps)

        def no_correction(m: Array, v: Array, rate: float, step: int) -> Array:
            return rate * m / (np.sqrt(v) + eps)

        for name, what, update in (
            ("Adam's eps inside the root", "Adam's epsilon is inside the root", root),
            (
                "Adam's eps without correction",
                "Adam's epsilon is added before the bias correction (epsilon hat), as in Keras",
                hat,
            ),
            ("bias correction dropped", "Adam's bias correction is left out", no_correction),
        ):
            yield with_trainer(name, what, after_step(_adam(update)))
    yield with_trainer(
        "schedule one step late", "every step has the learning rate of the step before", late_rate
    )
    if spec.norm.kind == "batch":
        yield with_trainer(
            "statistics not updated in train",
            "the running statistics do not move in training",
            after_step(_no_statistics),
        )
        yield with_trainer(
            "statistics updated in eval",
            "the running statistics move in evaluation, too",
            statistics_in_eval(spec.norm.momentum),
        )
    for name in make_plan(spec).tensors:
        if ".running_" not in name:
            yield stopped(name)
            yield missing(name)


def stopped(tensor: str) -> Hypothesis:
    """No gradient reaches a tensor."""

    def change(found: Gradients) -> Gradients:
        if tensor not in found.tensors:
            return found
        tensors = {**found.tensors, tensor: np.zeros_like(found.tensors[tensor])}
        return Gradients(found.loss, found.unsmoothed, tensors, found.images)

    return with_trainer(
        f"gradient of {tensor} stopped", f"no gradient reaches {tensor}", on_gradients(change), 3
    )


def missing(tensor: str) -> Hypothesis:
    """The optimizer does not know a tensor."""
    return with_trainer(
        f"{tensor} missing from the optimizer",
        f"{tensor} is missing from the optimizer",
        after_step(functools.partial(_kept, tensor=tensor)),
        3,
    )


def _kept(trainer, before, after, state, rate, step, tensor):
    return {tensor: before[tensor]}
