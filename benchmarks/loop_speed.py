"""The training loop of `rosetta train` around its step, and the input pipeline, all in one run.

The loop is the real one, in a process of its own: `shared.frameworks.train_worker` on the recipe's
data, with its logs and events, which this process reads and shows as `rosetta train` does. Its
trainer takes the time of every step, so that what the loop adds is known without comparing two
measurements. It also stops the clock now and then, for steps on a batch at hand and for an epoch of
the pipeline: three speeds in turn, on a machine whose own speed may drift. Evaluations and
checkpoints are not in the time.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from shared.cli.report_training import TrainProgress
from shared.datasets import ArraySource, Batch, ImageSource, Pipeline, open_split
from shared.datasets.catalogue import Split, get_dataset
from shared.errors import DatasetError, FrameworkError
from shared.frameworks import train_worker
from shared.frameworks.registry import get_framework, load_package
from shared.training.recipes import get_recipe

RECIPE = "fashion-mnist/resnet20"


@dataclass(frozen=True)
class Length:
    """How much is measured: `rounds` of so many steps, and as many batches of the
    pipeline alone.
    """

    rounds: int = 12
    steps: int = 20
    batches: int = 468  # an epoch of the recipe, whose shuffling counts
    warmup: int = 20

    @property
    def total(self) -> int:
        """Steps of the loop; the start of the last one ends the last round."""
        return self.warmup + self.rounds * self.steps + 1


QUICK = Length(rounds=2, steps=3, batches=8, warmup=3)


@dataclass
class Seconds:
    """What a round took."""

    loop: list[float] = field(default_factory=list)  # steps of the loop, with what is around them
    inside: list[float] = field(default_factory=list)  # those steps alone
    bare: list[float] = field(default_factory=list)  # as many steps on a batch at hand
    pipeline: list[float] = field(default_factory=list)  # `Length.batches` batches


@dataclass(frozen=True)
class Result:
    """Images a second, each the median over the rounds, and what the loop adds to its steps."""

    framework: str
    pipeline: float
    step: float
    loop: float
    ratio: float  # pipeline / step, of the same round
    added: float  # seconds around the steps / seconds inside of them, over all rounds
    noise: bool  # instead of the dataset

    @classmethod
    def of(cls, framework: str, noise: bool, batch: int, length: Length, taken: Seconds) -> Result:
        pipeline = [length.batches * batch / seconds for seconds in taken.pipeline]
        step = [length.steps * batch / seconds for seconds in taken.bare]
        return cls(
            framework,
            pipeline=statistics.median(pipeline),
            step=statistics.median(step),
            loop=statistics.median(length.steps * batch / seconds for seconds in taken.loop),
            ratio=statistics.median(p / s for p, s in zip(pipeline, step, strict=True)),
            added=sum(taken.loop) / sum(taken.inside) - 1,
            noise=noise,
        )


class Meter:
    """The clock in the loop's trainer: it is told of every step, and stops for what is measured in
    turn.
    """

    def __init__(self, length: Length, batches: Iterator[Batch], report: Callable[[Seconds], None]):
        self.length, self.batches, self.report = length, batches, report
        self.taken = Seconds()
        self.number = 0  # of the steps that have begun
        self.began = self.inside = 0.0

    def step(self, step: Callable[[], float], bare: Callable[[], float]) -> float:
        """Do a step of the loop; before it, at the end of a round, the rest of what belongs to the
        round.
        """
        done, self.number = self.number - self.length.warmup, self.number + 1
        if done >= 0 and done % self.length.steps == 0:
            self._turn(done, bare)
        start = time.perf_counter()
        loss = step()
        self.inside += time.perf_counter() - start
        return loss

    def _turn(self, done: int, bare: Callable[[], float]) -> None:
        if done:
            self.taken.loop.append(time.perf_counter() - self.began)
            self.taken.inside.append(self.inside)
            self.taken.bare.append(_seconds(bare, self.length.steps))
            self.taken.pipeline.append(_seconds(lambda: next(self.batches), self.length.batches))
            if len(self.taken.loop) == self.length.rounds:
                self.report(self.taken)
        self.began, self.inside = time.perf_counter(), 0.0


def _seconds(function: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        function()
    return time.perf_counter() - start


def metered(package: ModuleType, meter: Meter) -> Any:
    """The package as the training worker needs it, with the meter in its trainer."""
    parent: Any = package.Trainer

    class Trainer(parent):
        def step(
            self, images: np.ndarray, labels: np.ndarray, learning_rate: float, masks: Any = None
        ) -> float:
            step = super().step
            # At rate 0 a step costs the same, and the loss stays finite.
            return meter.step(
                lambda: step(images, labels, learning_rate, masks),
                lambda: step(images, labels, 0.0, masks),
            )

    return SimpleNamespace(**{**vars(package), "Trainer": Trainer})


def open_or_invent(name: str, split: Split, folder: Path | None = None) -> ImageSource:
    """The dataset where it lies; else noise of its shape, as fast to read. Nothing is
    downloaded.
    """
    try:
        return open_split(name, split, folder, download=False)
    except DatasetError:
        dataset = get_dataset(name)
        if dataset.image_shape is None or dataset.num_classes is None:
            raise
        rng = np.random.default_rng(0)
        images = rng.integers(
            256, size=(dataset.examples[split], *dataset.image_shape), dtype=np.uint8
        )
        return ArraySource(
            images, rng.integers(dataset.num_classes, size=len(images)), dataset.num_classes
        )


def work(output: Path, length: Length) -> None:
    """What `python -m shared.frameworks.train_worker FRAMEWORK` does, with a meter; the result goes
    to the file `output`.
    """
    recipe = get_recipe(RECIPE)
    source = open_or_invent(recipe.dataset, "train")
    batches = iter(
        Pipeline(
            source, batch=recipe.batch, seed=1, augmentation=recipe.augmentation, training=True
        )
    )
    noise = source.published is None

    def report(taken: Seconds) -> None:
        result = Result.of(sys.argv[1], noise, recipe.batch, length, taken)
        output.write_text(json.dumps(asdict(result)), encoding="utf-8")

    meter = Meter(length, batches, report)
    setattr(train_worker, "open_split", open_or_invent)  # noqa: B010 - mypy takes the assignment for a mistake
    setattr(train_worker, "load_package", lambda framework: metered(load_package(framework), meter))  # noqa: B010
    train_worker.main()


def measure(name: str, quick: bool, console: Any) -> Result:
    """One framework, in a process of its own whose events are read and shown as `rosetta train`
    does.
    """
    framework, length = get_framework(name), QUICK if quick else Length()
    with (
        tempfile.TemporaryDirectory(prefix="rosetta-loop-") as folder,
        tempfile.TemporaryFile() as log,
    ):
        output = Path(folder) / "result.json"
        job = {
            "task": "train",
            "recipe": get_recipe(RECIPE).to_dict(),
            "folder": str(Path(folder) / "run"),
            "data": None,
            "dtype": "float32",
            "resume": False,
            "stop_after": length.total,
            "checkpoint_every": length.total,
        }
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.loop_speed",
                framework.name,
                str(output),
                json.dumps(asdict(length)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **framework.environment},
        )
        try:
            if process.stdin is None or process.stdout is None:
                raise FrameworkError(f"{framework.name}: its process has no pipes")
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.close()
            with TrainProgress(console, framework.name) as progress:
                for line in process.stdout:
                    event = json.loads(line)
                    if event["event"] == "error":
                        raise FrameworkError(event["error"])
                    progress.show(event)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        if not output.exists():
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()
            raise FrameworkError(
                f"{framework.name}: no result: {said[-1] if said else 'it said nothing'}"
            )
        return Result(**json.loads(output.read_text(encoding="utf-8")))


if __name__ == "__main__":
    work(Path(sys.argv[2]), Length(**json.loads(sys.argv[3])))
