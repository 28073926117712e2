"""The NumPy reference as one of the frameworks: `build`, `load_weights`, `export_weights`, `trace`
and `Trainer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.architecture.ops import TRAINABLE
from shared.architecture.plan import make_plan
from shared.reference.backward import backward, saved
from shared.reference.forward import Array, Computed, forward
from shared.reference.loss import cross_entropy, cross_entropy_backward, pooled
from shared.reference.network import Reference, build, export_weights, load_weights
from shared.reference.optimizers import adam, sgd
from shared.training.config import (
    BUFFER,
    FIRST,
    PROBE,
    SECOND,
    OptimizerConfig,
    Training,
    dropout_masks,
)
from shared.verification.recording import (
    EVAL,
    OUTPUT,
    TRAIN,
    Arrays,
    Gradients,
    Recording,
    check_state,
    widened,
)
from shared.verification.trace import Trace, provenance
from shared.weights.canonical import cast_exactly
from shared.weights.files import read_tensors, write_tensors
from shared.weights.folding import fold_norms

CHECKPOINT = "checkpoint.safetensors"

__all__ = ["Reference", "Trainer", "build", "export_weights", "inference", "load_weights", "trace"]


def trace(
    model: Reference,
    images: Array,
    labels: Any = None,
    *,
    checks: tuple[str, ...] = (EVAL,),
    training: Training = PROBE,
) -> Trace:
    """Run `images` [batch, height, width, channels] and keep what the `checks` record (see
    `shared.verification.recording`).

    `labels` are class numbers [batch], by default the probe's. The model is left as it was.
    """
    recording = Recording.of(model.spec, images, labels, checks, training)
    plan, dtype = recording.plan, next(iter(model.weights.values())).dtype
    about = provenance(model.weights.items(), images) | recording.about
    images = np.asarray(images, dtype)
    arrays: Arrays = {}
    if EVAL in recording.checks:
        arrays |= _layers(EVAL, forward(plan, model.weights, images))[0]
    if TRAIN in recording.checks:
        masks = dropout_masks(plan, len(images), 0)
        layers, moved = _layers(
            TRAIN,
            forward(
                plan,
                model.weights,
                images,
                train=True,
                frozen_norms=training.frozen_norms,
                masks=masks,
            ),
        )
        after = {**model.weights, **moved}
        arrays |= layers | {
            f"stats/{name}": after[name] for name in plan.tensors if ".running_" in name
        }
    arrays |= recording.of_trainers(
        lambda: Trainer(Reference(model.spec, export_weights(model)), training)
    )
    return Trace(model.spec, "reference", str(dtype), widened(arrays), about)


def _layers(check: str, steps: Iterator[Computed]) -> tuple[Arrays, Arrays]:
    """Outputs of the named layers and of the network, by their keys; running statistics
    that moved.
    """
    layers: Arrays = {}
    moved: Arrays = {}
    for step in steps:
        if step.node.row:
            layers[f"{check}/{step.node.name}"] = step.output
        moved |= step.statistics
    return {**layers, f"{check}/{OUTPUT}": step.output}, moved


class ReferenceOptimizer:
    """The optimizer that a configuration names; `state` is `<slot>/<tensor>` -> array, `steps`
    counts the updates.
    """

    def __init__(self, config: OptimizerConfig, parameters: Mapping[str, Array]):
        self.config = config
        self.state = {
            f"{slot}/{name}": np.zeros_like(array)
            for slot in config.slots
            for name, array in parameters.items()
        }
        self.steps = 0

    def update(
        self, weights: Mapping[str, Array], gradients: Mapping[str, Array], learning_rate: float
    ) -> dict[str, Array]:
        """The weights that have a gradient, after the step."""
        self.steps += 1
        return {
            name: self._updated(name, weights[name], g, float(learning_rate))
            for name, g in gradients.items()
        }

    def _updated(self, name: str, w: Array, g: Array, learning_rate: float) -> Array:
        config, state = self.config, self.state
        decay = config.decay_of(name, w.ndim)
        if config.kind == "sgd":
            slot = f"{BUFFER}/{name}"
            w, velocity = sgd(
                w,
                g,
                state.get(slot),
                learning_rate=learning_rate,
                momentum=config.momentum,
                nesterov=config.nesterov,
                decay=decay,
            )
            if velocity is not None:
                state[slot] = velocity
            return w
        w, state[f"{FIRST}/{name}"], state[f"{SECOND}/{name}"] = adam(
            w,
            g,
            state[f"{FIRST}/{name}"],
            state[f"{SECOND}/{name}"],
            step=self.steps,
            learning_rate=learning_rate,
            betas=config.betas,
            eps=config.eps,
            decay=decay,
            decoupled=config.kind == "adamw",
        )
        return w


def make_optimizer(
    model: Reference, config: OptimizerConfig, trained: tuple[str, ...] | None = None
) -> ReferenceOptimizer:
    """The optimizer of the canonical tensors `trained`, by default of all parameters."""
    if trained is None:
        trained = tuple(name for name in model.weights if name.rpartition(".")[2] in TRAINABLE)
    return ReferenceOptimizer(config, {name: model.weights[name] for name in trained})


class Trainer:
    """`shared.verification.recording.Trainer` of the reference; it changes the model's weights.

    Without masks, dropout draws those of the probe at the next step, so that training can be
    resumed.
    """

    def __init__(self, model: Reference, training: Training):
        self.model = model
        self.training = training
        self.trained = training.trainable(make_plan(model.spec))
        self.optimizer = make_optimizer(model, training.optimizer, self.trained)
        self.correct = 0

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return self.optimizer.steps

    def gradients(
        self, images: Array, labels: Array, masks: Mapping[str, Array] | None = None
    ) -> Gradients:
        """Of the loss, in training mode. Running statistics move; parameters do not."""
        images = self._cast(images)
        plan = make_plan(self.model.spec, (images.shape[1], images.shape[2]))
        if masks is None:
            masks = dropout_masks(plan, len(images), self.steps + 1)
        logits, tape = images, []
        moved: dict[str, Array] = {}
        for step in forward(
            plan,
            self.model.weights,
            images,
            train=True,
            frozen_norms=self.training.frozen_norms,
            masks=masks,
        ):
            logits = step.output
            tape.append(saved(step))
            moved |= step.statistics
        self.model.weights = self.model.weights | moved
        self.correct = int((pooled(logits).argmax(axis=-1) == labels).sum())
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
        self,
        images: Array,
        labels: Array,
        learning_rate: float,
        masks: Mapping[str, Array] | None = None,
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
        """Go on where `state()` was taken, after `steps` steps.

        Raises `CheckpointError`, and then changes nothing.
        """
        check_state({name: array.shape for name, array in self.optimizer.state.items()}, state)
        self.optimizer.state = cast_exactly(
            {name: np.array(state[name]) for name in self.optimizer.state}, _dtype(self.model)
        )
        self.optimizer.steps = steps

    def save(self, folder: Path) -> None:
        """The model's weights and the optimizer's state, in one safetensors file."""
        tensors = {f"model/{name}": array for name, array in self.model.weights.items()}
        tensors |= {f"optimizer/{name}": array for name, array in self.optimizer.state.items()}
        write_tensors(folder / CHECKPOINT, tensors, {"steps": str(self.steps)})

    def restore(self, folder: Path) -> None:
        """Go on from what `save` wrote, bit for bit."""
        tensors, about = read_tensors(folder / CHECKPOINT)
        found: dict[str, dict[str, Array]] = {"model": {}, "optimizer": {}}
        for name, array in tensors.items():
            part, _, rest = name.partition("/")
            found[part][rest] = array
        load_weights(self.model, found["model"])
        self.load_state(found["optimizer"], int(about["steps"]))

    def evaluate(self, images: Array) -> Array:
        """What the network returns in evaluation mode, NHWC where it is an image."""
        return _output(self.model, images)

    def _cast(self, images: Array) -> Array:
        return np.asarray(images, _dtype(self.model))


def inference(model: Reference) -> Callable[[Array], Array]:
    """The network as a function of images [N, H, W, C], its batch norms folded into the
    convolutions in front of them; the weights are those of now.
    """
    spec, weights = fold_norms(model.spec, model.weights)
    folded = build(spec, dtype=_dtype(model).name)
    load_weights(folded, weights)
    return lambda images: _output(folded, images)


def _output(model: Reference, images: Array) -> Array:
    output = images = np.asarray(images, _dtype(model))
    plan = make_plan(model.spec, (images.shape[1], images.shape[2]))
    for step in forward(plan, model.weights, images):
        output = step.output
    return output


def _dtype(model: Reference) -> np.dtype:
    return next(iter(model.weights.values())).dtype
