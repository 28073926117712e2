"""One framework trains or evaluates: `python -m shared.frameworks.train_worker FRAMEWORK`.

Reads one JSON job from standard input and writes events to standard output, one JSON line each:

    {"task": "train", "recipe": {...}, "folder": ..., "data": folder or null, "dtype": "float32",
     "resume": false, "stop_after": steps or null, "checkpoint_every": steps or null,
     "workers": threads that decode images, or null}
    {"task": "evaluate", "spec": {...}, "weights": canonical file, "dataset": ..., "data": ...,
     "split": "test", "augmentation": {...}, "batch": 256, "dtype": "float32", "workers": null}

    {"event": "start", "step": 0, "total": 2814, "examples": 60000}
    {"event": "step", ...a line of steps.csv}
    {"event": "evaluation", "step": 469, "loss": ..., "accuracy": ..., "correct": 8613,
     "examples": 10000, "wrong": [indices of the images that are incorrectly classified]}
    {"event": "progress", "done": 512, "examples": 10000}
    {"event": "end", "step": 2814}
    {"event": "diverged", "step": 120, "loss": "nan"}
    {"event": "stopped", "step": 120}, with a checkpoint
    {"event": "interrupted"}, before the first step
    {"event": "error", "kind": ..., "error": ...}
"""

from __future__ import annotations

import json
import math
import platform
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np

from shared.architecture.plan import Plan, make_plan
from shared.architecture.spec import ResNetSpec
from shared.datasets import Batch, ImageSource, Pipeline, default_workers, open_split
from shared.errors import CheckpointError, FrameworkError, SpecError
from shared.frameworks.deployed import deployed
from shared.frameworks.devices import device, prepare
from shared.frameworks.registry import FRAMEWORKS, load_package
from shared.processes import answers, failure
from shared.training.augmentation import Augmentation
from shared.training.config import OptimizerConfig, Training, training_masks
from shared.training.recipes import Recipe, preprocessing_of
from shared.training.runs import WEIGHTS, RunWriter, read_run
from shared.verification.recording import ResumableTrainer
from shared.verification.trace import version_of
from shared.weights.canonical import read_weights, save_weights
from shared.weights.digests import digest

Emit = Callable[[dict[str, Any]], None]
EVALUATION_BATCH = 256
# SGD without momentum keeps nothing for a parameter: no further copy of the weights.
FORWARD_ONLY = Training(optimizer=OptimizerConfig(momentum=0.0))


class NotFiniteError(FrameworkError):
    """A network whose output is not a number, or infinite."""


def main() -> None:
    file = answers()

    def emit(event: dict[str, Any]) -> None:
        print(json.dumps(event), file=file)

    warnings.filterwarnings("ignore", module="PIL")  # remarks about what it reads all the same
    try:
        job = json.loads(sys.stdin.readline())
        package = load_package(FRAMEWORKS[sys.argv[1]])
        prepare(on_cpu=job["task"] != "train")
        {"train": train, "evaluate": evaluate}[job["task"]](package, sys.argv[1], job, emit)
    except KeyboardInterrupt:
        emit({"event": "interrupted"})
    except Exception as error:  # noqa: BLE001 - a framework may raise anything; the parent says it in one line
        emit({"event": "error", **failure(error, sys.argv[1])})


def train(package: ModuleType, framework: str, job: Mapping[str, Any], emit: Emit) -> None:
    """Run a recipe to its end, from its start or its last checkpoint."""
    recipe, data = Recipe.from_dict(job["recipe"]), Path(job["data"]) if job["data"] else None
    spec, dtype = recipe.make_spec(), job["dtype"]
    splits = {split: open_split(recipe.dataset, split, data) for split in ("train", "test")}
    _require_fit(spec, splits["train"], recipe.dataset, recipe)
    total = recipe.total_steps(len(splits["train"]))
    model = package.build(spec, seed=recipe.seed, dtype=dtype)
    about = _about(recipe, framework, dtype, splits, package.export_weights(model))
    with RunWriter(Path(job["folder"])) as run:
        done = run.start(about, resume=job["resume"])
        trainer = package.Trainer(model, recipe.training)
        if done:
            _restore(trainer, run.checkpoints()[-1][1])
        emit({"event": "start", "step": done, "total": total, "examples": len(splits["train"])})
        loop = _Loop(trainer, recipe, splits, run, emit, total, job.get("workers"))
        if loop.go(done, job.get("stop_after"), job.get("checkpoint_every")) == total:
            save_weights(
                run.folder / WEIGHTS, dict(trainer.weights()), spec, _provenance(recipe, run)
            )


def _restore(trainer: ResumableTrainer, folder: Path) -> None:
    try:
        trainer.restore(folder)
    except Exception as error:  # noqa: BLE001 - each framework raises its own kinds for a damaged file
        said = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{folder}: cannot be resumed from ({type(error).__name__}: {said}); remove this "
            "checkpoint to go on from the one before it"
        ) from None


def _provenance(recipe: Recipe, run: RunWriter) -> dict[str, str]:
    """What trained weights say about themselves: how they were made, what they see, and how good
    they are.
    """
    found = read_run(run.folder)
    about = {"recipe": json.dumps(recipe.to_dict()), "framework": found.framework}
    if found.evaluations:
        about["test_accuracy"] = str(found.evaluations[-1]["accuracy"])
    preprocessing = preprocessing_of(recipe)
    return about | ({"preprocessing": preprocessing} if preprocessing else {})


class _Loop:
    """Steps, logs, evaluations and checkpoints of one run."""

    def __init__(
        self,
        trainer: ResumableTrainer,
        recipe: Recipe,
        splits: dict[str, ImageSource],
        run: RunWriter,
        emit: Emit,
        total: int,
        workers: int | None,
    ):
        self.trainer, self.recipe, self.splits = trainer, recipe, splits
        self.run, self.emit, self.total, self.workers = run, emit, total, workers
        self.plan: Plan | None = None
        self.interrupted = False

    def go(self, done: int, stop_after: int | None, checkpoint_every: int | None) -> int:
        """The step that it came to."""
        recipe = self.recipe
        pipeline = Pipeline(
            self.splits["train"],
            batch=recipe.batch,
            seed=recipe.seed,
            augmentation=recipe.augmentation,
            training=True,
            start_step=done,
            workers=_threads(self.workers, self.splits["train"]),
        )
        each = pipeline.steps_per_epoch
        every = checkpoint_every or each
        last = min(self.total, stop_after or self.total)
        if done >= last:
            for row in read_run(self.run.folder).evaluations[-1:]:
                self.emit({"event": "evaluation", **row, "step": int(row["step"])})
            self.emit({"event": "end", "step": done})
            return done
        signal.signal(signal.SIGINT, self._interrupt)
        started, step = time.perf_counter(), done
        for batch in pipeline:
            step = batch.step + 1
            loss = self._step(batch, step)
            if not math.isfinite(loss):
                self._stop_diverged(step, loss)
            now = time.perf_counter()
            row = {
                "step": step,
                "epoch": batch.epoch,
                "learning_rate": recipe.schedule(step, self.total),
                "loss": loss,
                "accuracy": self.trainer.correct / len(batch.labels),
                "images_per_second": round(len(batch.labels) / (now - started), 1),
            }
            started = now
            self.run.step(row)
            self.emit({"event": "step", **row})
            if step % each == 0 or step == self.total:
                self._evaluate(step)
                started = time.perf_counter()
            if step % every == 0 or step == last or self.interrupted:
                self.run.checkpoint(step, self.trainer.save)
                started = time.perf_counter()
            if step == last or self.interrupted:
                break
        self.emit({"event": "stopped" if self.interrupted else "end", "step": step})
        return step

    def _interrupt(self, number: int, frame: object) -> None:
        """Ctrl-C lets the step end, so that its checkpoint is one of an undisturbed run."""
        self.interrupted = True

    def _step(self, batch: Batch, step: int) -> float:
        if self.plan is None:
            self.plan = make_plan(self.recipe.make_spec(), batch.images.shape[1:3])
        masks = training_masks(self.plan, len(batch.labels), step, self.recipe.seed)
        return self.trainer.step(
            batch.images, batch.labels, self.recipe.schedule(step, self.total), masks or None
        )

    def _stop_diverged(self, step: int, loss: float) -> NoReturn:
        self.emit({"event": "diverged", "step": step, "loss": str(loss)})
        raise SystemExit(0)

    def _evaluate(self, step: int) -> None:
        source, augmentation = self.splits["test"], self.recipe.augmentation
        try:
            found = measure(self.trainer.evaluate, source, augmentation, workers=self.workers)
        except NotFiniteError:
            self._stop_diverged(step, math.nan)
        self.run.evaluation({"step": step, "loss": found["loss"], "accuracy": found["accuracy"]})
        self.emit({"event": "evaluation", "step": step, **found})


def measure(
    run: Callable[[np.ndarray], np.ndarray],
    source: ImageSource,
    augmentation: Augmentation,
    batch: int = EVALUATION_BATCH,
    *,
    on_batch: Callable[[int], None] = lambda done: None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Loss (cross-entropy) and accuracy over all of a split, and the indices of the images that
    are incorrectly classified.

    `run` gives logits [batch, classes]. Raises `NotFiniteError` naming the first image whose
    logits are not finite.
    """
    pipeline = Pipeline(
        source,
        batch=batch,
        seed=0,
        augmentation=augmentation,
        training=False,
        epochs=1,
        workers=_threads(workers, source),
    )
    loss, seen = 0.0, 0
    wrong: list[int] = []
    for one in pipeline:
        logits = np.asarray(run(one.images), np.float64)
        if not np.isfinite(logits).all():
            first = seen + int(np.argmin(np.isfinite(logits).all(axis=1)))
            raise NotFiniteError(f"the outputs for image {first} are not finite numbers")
        top = logits.max(axis=1)
        norm = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        loss += float((norm - logits[np.arange(len(logits)), one.labels]).sum())
        wrong += (seen + np.flatnonzero(logits.argmax(axis=1) != one.labels)).tolist()
        seen += len(one.labels)
        on_batch(seen)
    correct = seen - len(wrong)
    return {
        "loss": loss / seen,
        "accuracy": correct / seen,
        "correct": correct,
        "examples": seen,
        "wrong": wrong,
    }


def _threads(workers: int | None, source: ImageSource) -> int:
    return default_workers(source) if workers is None else workers


def evaluate(package: ModuleType, framework: str, job: Mapping[str, Any], emit: Emit) -> None:
    """Accuracy of canonical weights on a split."""
    spec, data = ResNetSpec.from_dict(job["spec"]), Path(job["data"]) if job["data"] else None
    source = open_split(job["dataset"], job["split"], data)
    _require_fit(spec, source, job["dataset"])
    model = package.build(spec, dtype=job["dtype"])
    package.load_weights(model, read_weights(job["weights"], spec)[0])

    def on_batch(done: int) -> None:
        emit({"event": "progress", "done": done, "examples": len(source)})

    function = (
        deployed(package, model)
        if job.get("deployed")
        else package.Trainer(model, FORWARD_ONLY).evaluate
    )
    try:
        found = measure(
            function,
            source,
            Augmentation.from_dict(job["augmentation"]),
            job["batch"],
            on_batch=on_batch,
            workers=job.get("workers"),
        )
    except NotFiniteError as error:
        raise FrameworkError(f"{spec.name} in {framework}, {job['dtype']}: {error}") from None
    emit({"event": "evaluation", "step": 0, **found})


def _require_fit(
    spec: ResNetSpec, source: ImageSource, dataset: str, recipe: Recipe | None = None
) -> None:
    """Refuse data that the network was not made for, before anything is built."""
    image, _ = source[0]
    for field, ours, theirs in (
        ("in_channels", spec.in_channels, image.shape[2]),
        ("num_classes", spec.num_classes, source.num_classes),
    ):
        if ours != theirs:
            what = "input channels" if field == "in_channels" else "classes"
            where = f"recipe {recipe.name}: " if recipe else ""
            hint = f"; change spec.{field}" if recipe else "; choose another --dataset"
            raise SpecError(f"{where}{spec.name} has {ours} {what}, {dataset} has {theirs}{hint}")


def _about(
    recipe: Recipe,
    framework: str,
    dtype: str,
    splits: dict[str, ImageSource],
    start: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    packages = ("numpy", *FRAMEWORKS[framework].requires)
    return {
        "recipe": recipe.to_dict(),
        "framework": framework,
        "dtype": dtype,
        "data": {split: source.digest for split, source in splits.items()},
        "start": digest(start),
        "device": device(),
        "versions": {
            "python": platform.python_version(),
            **{package: version_of(package) for package in packages},
        },
    }


if __name__ == "__main__":
    main()
