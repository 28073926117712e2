"""Training in plain NumPy: the loss, the optimizers of `shared.training` in a few lines, and the `Trainer`.

No array is ever changed in place: a step puts new ones in the place of the old.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from shared.backward import backward, saved
from shared.checks import Gradients, check_state
from shared.ops import TRAINABLE
from shared.plan import make_plan
from shared.reference import Array, Reference, forward
from shared.training import BUFFER, FIRST, SECOND, Optimizer, Training, dropout_masks
from shared.weights import cast_exactly


def cross_entropy(logits: Array, labels: Array, label_smoothing: float) -> Array:
    """Mean over the batch of -sum(target * log softmax). An image's channels count, averaged over height and width.

    `logits` are [batch, classes] or [batch, height, width, classes], `labels` class numbers [batch].
    """
    target, log_softmax = _target_and_log_softmax(logits, labels, label_smoothing)
    return -(target * log_softmax).sum(axis=1).mean()


def cross_entropy_backward(logits: Array, labels: Array, label_smoothing: float) -> Array:
    """The gradient of `cross_entropy` by the logits: (softmax - target) / batch, spread over an image's pixels."""
    target, log_softmax = _target_and_log_softmax(logits, labels, label_smoothing)
    gradient = (np.exp(log_softmax) - target) / len(logits)
    if logits.ndim == 2:
        return gradient
    _, height, width, _ = logits.shape
    return np.broadcast_to(gradient[:, np.newaxis, np.newaxis] / (height * width), logits.shape)


def _target_and_log_softmax(logits: Array, labels: Array, label_smoothing: float) -> tuple[Array, Array]:
    """Both [batch, classes]."""
    if logits.ndim == 4:
        logits = logits.mean(axis=(1, 2))
    classes = logits.shape[1]
    target = (1 - label_smoothing) * np.eye(classes, dtype=logits.dtype)[labels] + label_smoothing / classes
    shifted = logits - logits.max(axis=1, keepdims=True)  # so that the exponentials do not overflow
    return target, shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def make_optimizer(model: Reference, optimizer: Optimizer, trained: tuple[str, ...] | None = None) -> SGD | Adam:
    """The optimizer of the canonical tensors `trained`, by default of all parameters."""
    if trained is None:
        trained = tuple(name for name in model.weights if name.rpartition(".")[2] in TRAINABLE)
    parameters = {name: model.weights[name] for name in trained}
    return SGD(optimizer, parameters) if optimizer.kind == "sgd" else Adam(optimizer, parameters)


class _Optimizer(ABC):
    """What the two have in common: `state` is `<slot>/<tensor>` -> array, `steps` counts the updates."""

    def __init__(self, optimizer: Optimizer, parameters: Mapping[str, Array]):
        self.optimizer = optimizer
        self.state = {
            f"{slot}/{name}": np.zeros_like(array) for slot in optimizer.slots for name, array in parameters.items()
        }
        self.steps = 0

    def update(
        self, weights: Mapping[str, Array], gradients: Mapping[str, Array], learning_rate: float
    ) -> dict[str, Array]:
        """The weights that have a gradient, after the step."""
        self.steps += 1
        return {name: self.updated(name, weights[name], g, float(learning_rate)) for name, g in gradients.items()}

    @abstractmethod
    def updated(self, name: str, w: Array, g: Array, lr: float) -> Array:
        """One tensor after the step."""


class SGD(_Optimizer):
    """v = momentum v + g, w = w - lr v; Nesterov's w = w - lr (g + momentum v). The decay is coupled."""

    def updated(self, name: str, w: Array, g: Array, lr: float) -> Array:
        momentum, nesterov = self.optimizer.momentum, self.optimizer.nesterov
        g = g + self.optimizer.decay_of(name, w.ndim) * w
        if not momentum:
            return w - lr * g
        v = self.state[f"{BUFFER}/{name}"] = momentum * self.state[f"{BUFFER}/{name}"] + g
        return w - lr * (g + momentum * v if nesterov else v)


class Adam(_Optimizer):
    """w = w - lr m' / (sqrt(v') + eps), with coupled decay (Adam) or with decoupled (AdamW)."""

    def updated(self, name: str, w: Array, g: Array, lr: float) -> Array:
        (beta1, beta2), eps = self.optimizer.betas, self.optimizer.eps
        decay = self.optimizer.decay_of(name, w.ndim)
        if self.optimizer.kind == "adamw":
            w = w - lr * decay * w
        else:
            g = g + decay * w
        m = self.state[f"{FIRST}/{name}"] = beta1 * self.state[f"{FIRST}/{name}"] + (1 - beta1) * g
        v = self.state[f"{SECOND}/{name}"] = beta2 * self.state[f"{SECOND}/{name}"] + (1 - beta2) * g**2
        m, v = m / (1 - beta1**self.steps), v / (1 - beta2**self.steps)
        return w - lr * m / (np.sqrt(v) + eps)


class Trainer:
    """`shared.checks.Trainer` of the reference; it changes the model's weights.

    Without masks, dropout draws those of the probe at the next step, so that training can be resumed.
    """

    def __init__(self, model: Reference, training: Training):
        self.model = model
        self.training = training
        self.trained = training.trainable(make_plan(model.spec))
        self.optimizer = make_optimizer(model, training.optimizer, self.trained)

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return self.optimizer.steps

    def gradients(self, images: Array, labels: Array, masks: Mapping[str, Array] | None = None) -> Gradients:
        """Of the loss, in training mode. Running statistics move; parameters do not."""
        images = self._cast(images)
        plan = make_plan(self.model.spec, (images.shape[1], images.shape[2]))
        if masks is None:
            masks = dropout_masks(plan, len(images), self.steps + 1)
        logits, tape = images, []
        moved: dict[str, Array] = {}
        for step in forward(plan, self.model.weights, images, self.training, masks):
            logits = step.output
            tape.append(saved(step))
            moved |= step.statistics
        self.model.weights = self.model.weights | moved
        smoothing = self.training.label_smoothing
        dlogits = cross_entropy_backward(logits, labels, smoothing)
        tensors, by_images = backward(tape, dlogits, frozen_norms=self.training.frozen_norms)
        return Gradients(
            loss=float(cross_entropy(logits, labels, smoothing)),
            unsmoothed=float(cross_entropy(logits, labels, 0.0)),
            tensors={name: tensors[name] for name in self.trained},
            images=by_images,
        )

    def step(
        self, images: Array, labels: Array, learning_rate: float, masks: Mapping[str, Array] | None = None
    ) -> float:
        """One step of the optimizer; the loss before it."""
        found = self.gradients(images, labels, masks)
        self.model.weights = self.model.weights | self.optimizer.update(
            self.model.weights, found.tensors, learning_rate
        )
        return found.loss

    def weights(self) -> dict[str, Array]:
        """All canonical tensors, running statistics among them; copies."""
        return {name: array.copy() for name, array in self.model.weights.items()}

    def state(self) -> dict[str, Array]:
        """`<slot>/<tensor>` for each slot of the optimizer and trained tensor; copies."""
        return {name: array.copy() for name, array in self.optimizer.state.items()}

    def load_state(self, state: Mapping[str, Array], steps: int) -> None:
        """Go on where `state()` was taken, after `steps` steps. Raises `CheckpointError`, and then changes nothing."""
        check_state({name: array.shape for name, array in self.optimizer.state.items()}, state)
        self.optimizer.state = cast_exactly({name: np.array(state[name]) for name in self.optimizer.state}, self._dtype)
        self.optimizer.steps = steps

    def evaluate(self, images: Array) -> Array:
        """What the network returns in evaluation mode, NHWC where it is an image."""
        output = images = self._cast(images)
        plan = make_plan(self.model.spec, (images.shape[1], images.shape[2]))
        for step in forward(plan, self.model.weights, images):
            output = step.output
        return output

    @property
    def _dtype(self) -> np.dtype:
        return next(iter(self.model.weights.values())).dtype

    def _cast(self, images: Array) -> Array:
        return np.asarray(images, self._dtype)
