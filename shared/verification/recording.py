"""What a trace records beside the forward pass, for every framework: gradients and training steps.

A framework brings a `Trainer`; this module feeds it, names what comes out and puts it into order.
Keys, in the order of the computation, so that the first one that differs is where the difference
starts:

    eval        eval/<layer> …, eval/output
    train       train/<layer> …, train/output, stats/<running statistic> …
    gradients   loss, loss/unsmoothed, grad/<tensor> from the head back to the stem, grad/input
    steps       step1/loss, step1/<tensor> …, step1/momentum_buffer/<tensor> …,
                …, step5/output, …, step10/output

All steps but the last keep random-sign projections of the larger tensors instead of the tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shared.architecture.ops import Shape
from shared.architecture.plan import Plan, make_plan
from shared.architecture.spec import ResNetSpec
from shared.errors import SpecError
from shared.training.config import (
    STEPS,
    Training,
    dropout_masks,
    learning_rate,
    num_outputs,
    probe_labels,
    step_batch,
)
from shared.weights.canonical import raise_problems
from shared.weights.digests import digest
from shared.weights.dtypes import is_float

EVAL, TRAIN, GRADIENTS, STEP = CHECKS = ("eval", "train", "gradients", "steps")
OUTPUT = "output"
# How the keys of each check start.
PREFIXES = {
    EVAL: ("eval/",),
    TRAIN: ("train/", "stats/"),
    GRADIENTS: ("loss", "grad/"),
    STEP: ("step",),
}

EVALUATED = (STEPS // 2, STEPS)  # in the middle, too: evaluation must not change what follows
PROJECTED = 1024  # sums that stand for a larger tensor; see `projected`
PROJECTION = "2"  # which projection; traces of another one cannot be compared

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Gradients:
    """Of the loss in training mode, by canonical tensor and in canonical layout, and by the images
    (NHWC).
    """

    loss: float
    unsmoothed: float  # the same loss without label smoothing
    tensors: Mapping[str, np.ndarray]
    images: np.ndarray


def check_state(shapes: Mapping[str, Shape], state: Mapping[str, np.ndarray]) -> None:
    """Raise `CheckpointError` unless the optimizer's `state` has tensors of these shapes, all
    finite floats.
    """
    missing = [
        f"missing {name} {list(shape)}" for name, shape in shapes.items() if name not in state
    ]
    extra, misshaped, not_float, not_finite = [], [], [], []
    for name, array in state.items():
        if name not in shapes:
            extra.append(f"unexpected {name}")
        elif np.shape(array) != shapes[name]:
            misshaped.append(
                f"{name} has shape {list(np.shape(array))}, expected {list(shapes[name])}"
            )
        elif not is_float(np.asarray(array).dtype):
            not_float.append(f"{name} is {np.asarray(array).dtype}, expected a float type")
        elif not np.isfinite(array).all():
            not_finite.append(f"{name} has values that are not finite")
    problems = {"missing": missing, "unexpected": extra, "of another shape": misshaped}
    raise_problems("optimizer state", problems | {"not float": not_float, "not finite": not_finite})


class Trainer(Protocol):
    """A model and its optimizer in one framework. `images` are NHWC float arrays, `labels` class
    numbers [batch].

    The loss of a network without classifier takes its channels for classes, averaged over height
    and width where it returns an image. `masks` are what `shared.training.config.dropout_masks`
    gives; without them the framework draws its own.
    """

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, masks: Mapping[str, np.ndarray] | None = None
    ) -> Gradients:
        """Of the loss, in training mode. Running statistics move; parameters do not."""
        ...

    def step(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        learning_rate: float,
        masks: Mapping[str, np.ndarray] | None = None,
    ) -> float:
        """One step of the optimizer; the loss before it."""
        ...

    def weights(self) -> Mapping[str, np.ndarray]:
        """All canonical tensors, running statistics among them."""
        ...

    def state(self) -> Mapping[str, np.ndarray]:
        """`<slot>/<tensor>` for each slot of the optimizer and trained tensor, in
        canonical layout.
        """
        ...

    def evaluate(self, images: np.ndarray) -> np.ndarray:
        """What the network returns in evaluation mode, NHWC where it is an image."""
        ...


class ResumableTrainer(Trainer, Protocol):
    """What training by a recipe asks for beside."""

    correct: (
        int  # how many images of the last step's batch were correctly classified before the step
    )

    @property
    def steps(self) -> int:
        """How many the optimizer has made."""
        ...

    def load_state(self, state: Mapping[str, np.ndarray], steps: int) -> None:
        """Go on with the `state()` of a trainer of the same kind.

        Raises `CheckpointError`, and changes nothing.
        """
        ...

    def save(self, folder: Path) -> None:
        """Model and optimizer as files of the framework's own kind, for `restore`."""
        ...

    def restore(self, folder: Path) -> None:
        """Go on from what `save` wrote, bit for bit."""
        ...


def require_known(checks: Iterable[str]) -> tuple[str, ...]:
    """The checks in the order of computation.

    Raises `SpecError` for one that no rendering records.
    """
    wanted = tuple(checks)
    for check in wanted:
        if check not in CHECKS:
            raise SpecError(f"unknown check {check!r}; known are {', '.join(CHECKS)}")
    if not wanted:
        raise SpecError(f"no check is named; known are {', '.join(CHECKS)}")
    return tuple(check for check in CHECKS if check in wanted)


@dataclass(frozen=True)
class Recording:
    """What a trace records, and of what: the checks in order, with all that they need beside the
    model.
    """

    checks: tuple[str, ...]
    images: np.ndarray
    labels: np.ndarray
    plan: Plan
    training: Training

    @classmethod
    def of(
        cls,
        spec: ResNetSpec,
        images: np.ndarray,
        labels: Any,
        checks: Iterable[str],
        training: Training,
    ) -> Recording:
        """`labels` are class numbers [batch], the probe's if None.

        Raises `SpecError` for an unknown check.
        """
        plan = make_plan(spec, (images.shape[1], images.shape[2]))
        chosen = (
            probe_labels(len(images), num_outputs(plan), seed=0)
            if labels is None
            else np.asarray(labels)
        )
        return cls(require_known(checks), images, chosen, plan, training)

    @property
    def about(self) -> dict[str, str]:
        """What the metadata say of training, if any is recorded: the configuration, and a hash of
        the labels.
        """
        if self.checks == (EVAL,):
            return {}
        about = {"training": self.training.to_json(), "labels": digest([("labels", self.labels)])}
        return about | ({"projection": PROJECTION} if STEP in self.checks else {})

    def of_trainers(self, make_trainer: Callable[[], Trainer]) -> Arrays:
        """The checks `gradients` and `steps`, each with a new trainer of the same model."""
        arrays: Arrays = {}
        if GRADIENTS in self.checks:
            arrays |= record_gradients(
                make_trainer(), self.images, self.labels, self.plan, self.training
            )
        if STEP in self.checks:
            arrays |= record_steps(make_trainer(), self.images, self.labels, self.plan)
        return arrays


def widened(arrays: Arrays) -> Arrays:
    """Half precisions as float32, which holds them exactly and is known everywhere."""
    return {
        name: array.astype(np.float32) if array.itemsize < 4 else array
        for name, array in arrays.items()
    }


def record_gradients(
    trainer: Trainer, images: np.ndarray, labels: np.ndarray, plan: Plan, training: Training
) -> Arrays:
    """Losses and gradients of one batch."""
    found = trainer.gradients(images, labels, dropout_masks(plan, len(images), 0))
    arrays = {"loss": np.asarray(found.loss), "loss/unsmoothed": np.asarray(found.unsmoothed)}
    arrays |= {f"grad/{name}": found.tensors[name] for name in reversed(training.trainable(plan))}
    return {**arrays, "grad/input": found.images}


def record_steps(trainer: Trainer, images: np.ndarray, labels: np.ndarray, plan: Plan) -> Arrays:
    """Loss, parameters, statistics and optimizer state after every step; the output in evaluation
    mode now and then.
    """
    arrays: Arrays = {}
    for after in iter_steps(trainer, images, labels, plan):
        arrays |= after
    return arrays


def iter_steps(
    trainer: Trainer, images: np.ndarray, labels: np.ndarray, plan: Plan
) -> Iterator[Arrays]:
    """`record_steps`, one step after the other."""
    for step in range(1, STEPS + 1):
        batch = step_batch(images, labels, step, num_outputs(plan))
        size = make_plan(plan.spec, batch[0].shape[1:3])
        loss = trainer.step(*batch, learning_rate(step), dropout_masks(size, len(images), step))
        arrays: Arrays = {f"step{step}/loss": np.asarray(loss)}
        weights, state = trainer.weights(), trainer.state()
        after = {name: weights[name] for name in plan.tensors} | {
            name: state[name] for name in sorted(state)
        }
        for name, array in after.items():
            arrays[f"step{step}/{name}"] = array if step == STEPS else projected(array, step)
        if step in EVALUATED:
            arrays[f"step{step}/{OUTPUT}"] = trainer.evaluate(images)
        yield arrays


def projected(array: np.ndarray, step: int) -> np.ndarray:
    """A tensor of more than `PROJECTED` values as so many sums of values with random signs.

    A random-sign projection: one wrong value changes one sum by as much. Wrong values of one sum
    can cancel, so every step draws other signs: two that cancel do so in half of the steps, and
    the last step keeps the whole tensor.
    """
    if array.size <= PROJECTED:
        return np.asarray(array)
    rows = -(-array.size // PROJECTED)
    values = np.asarray(array, np.float64).reshape(-1)
    if missing := rows * PROJECTED - values.size:
        values = np.pad(values, (0, missing))  # a copy, which most kernels need not
    return _signs(rows, step) @ values.reshape(rows, PROJECTED)


def _signs(count: int, step: int) -> np.ndarray:
    """Random signs, the same on every machine and with every NumPy."""
    drawn = hashlib.shake_256(f"projection of step {step}".encode()).digest(-(-count // 8))
    return 1.0 - 2.0 * np.unpackbits(np.frombuffer(drawn, np.uint8), count=count)


def expected_shapes(check: str, plan: Plan, batch: int, training: Training) -> dict[str, Shape]:
    """Key -> shape of everything that a check records, in order.

    `plan` is that of the images' size.
    """
    if check in (EVAL, TRAIN):
        shapes: dict[str, Shape] = {
            f"{check}/{row.name}": (batch, *row.output) for row in plan.layers
        }
        shapes[f"{check}/{OUTPUT}"] = (batch, *plan.output)
        if check == TRAIN:
            shapes |= {
                f"stats/{name}": shape
                for name, shape in plan.tensors.items()
                if ".running_" in name
            }
        return shapes
    trained = training.trainable(plan)
    if check == GRADIENTS:
        shapes = {"loss": (), "loss/unsmoothed": ()}
        shapes |= {f"grad/{name}": plan.tensors[name] for name in reversed(trained)}
        return {**shapes, "grad/input": (batch, *plan.image_size, plan.spec.in_channels)}
    shapes = {}
    slots = sorted(f"{slot}/{name}" for slot in training.optimizer.slots for name in trained)
    for step in range(1, STEPS + 1):
        shapes[f"step{step}/loss"] = ()
        for name in (*plan.tensors, *slots):
            shape = plan.tensors[name.partition("/")[2] or name]
            whole = step == STEPS or int(np.prod(shape)) <= PROJECTED
            shapes[f"step{step}/{name}"] = shape if whole else (PROJECTED,)
        if step in EVALUATED:
            shapes[f"step{step}/{OUTPUT}"] = (batch, *plan.output)
    return shapes
