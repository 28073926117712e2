"""The main job: build a network in every framework, carry the weights, run, and compare
all pairs.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shared.architecture.plan import Plan, make_plan
from shared.architecture.presets import get_spec
from shared.architecture.spec import InitSpec, ResNetSpec
from shared.errors import CheckpointError, FrameworkError
from shared.frameworks.processes import Worker
from shared.frameworks.registry import get_framework, installed
from shared.training.config import PROBE, Training
from shared.verification.comparison import Comparison, compare
from shared.verification.recording import EVAL
from shared.verification.trace import Trace
from shared.weights.files import write_tensors

# Presets that between them have every kind of block, shortcut, stem, norm and padding, and are
# quick: what `rosetta verify` checks when no preset is named.
DEFAULT_PRESETS = (
    "torchvision/resnet18",
    "torchvision/resnet50",
    "keras/resnet50v2",
    "flax/resnet50",
    "he/resnet50",
    "timm/resnet50d",
    "bit/r50x1",
    "fb/preresnet18",
    "cifar/resnet20",
    "cifar/preresnet164",
    "d2l/resnet18",
    "ablation/resnet110_exclusive_gate_b6",
    "ablation/resnet110_dropout_shortcut",
    "ablation/resnet110_norm_after_add",
)

BATCH = 2  # a single image hides mistakes that mix up the batch


@dataclass(frozen=True)
class Inputs:
    """What goes into every framework alike.

    Weights and images are made from the seed unless given.

    >>> Inputs(dtype="float32", image_size=(64, 64), checks=("eval",)).batch
    2
    """

    dtype: str = "float64"
    seed: int = 0
    batch: int = BATCH
    image_size: tuple[int, int] | None = None
    weights: Path | None = None
    images: np.ndarray | None = None  # [batch, height, width, channels]
    weights_name: str | None = None  # what the user called the weights
    checks: tuple[str, ...] = (EVAL,)
    training: Training = PROBE


@dataclass(frozen=True)
class TraceTaken:
    """Something that happened, for a progress bar."""

    preset: str
    framework: str
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Verdict:
    """All comparisons of one network, and what each framework needed for it."""

    spec: ResNetSpec
    plan: Plan
    comparisons: tuple[Comparison, ...]
    steps: tuple[TraceTaken, ...]
    versions: Mapping[str, str]
    seconds: float
    same_as: str | None = None  # the preset whose verdict this is, because it is the same network
    failure: str | None = (
        None  # why there is nothing to compare: a framework gave up on this network
    )

    @property
    def passed(self) -> bool:
        return bool(self.comparisons) and all(comparison.passed for comparison in self.comparisons)

    @property
    def judged(self) -> bool:
        """Whether any comparison had limits; else it was measured, and nothing could fail but the
        structure.
        """
        return any(comparison.judged for comparison in self.comparisons)


def verify(
    networks: str | ResNetSpec | Sequence[str | ResNetSpec],
    frameworks: Sequence[str] | None = None,
    inputs: Inputs | None = None,
    on_step: Callable[[TraceTaken], None] = lambda step: None,
) -> list[Verdict]:
    """A `Verdict` for each network: every framework's trace compared with every other's.

    >>> from shared import get_spec, miniature
    >>> spec = miniature(get_spec("cifar/resnet20"))
    >>> (verdict,) = verify(spec, ["torch", "reference"], Inputs(checks=("eval",)))
    >>> verdict.passed
    True

    Args:
        networks: presets or specs, one or several.
        frameworks: two or more of `FRAMEWORKS`, each in a process of its own; all that are
            installed and the reference when None.
        inputs: dtype, images, weights and checks; float64 and the forward pass when None.
        on_step: called after each trace.

    Raises what `iter_verdicts` raises, and `SpecError` for a preset that does not exist.
    """
    several = [networks] if isinstance(networks, str | ResNetSpec) else networks
    specs = [get_spec(one) if isinstance(one, str) else one for one in several]
    return list(iter_verdicts(specs, frameworks or installed(), inputs, on_step))


def iter_verdicts(
    specs: Sequence[ResNetSpec],
    frameworks: Sequence[str],
    inputs: Inputs | None = None,
    on_step: Callable[[TraceTaken], None] = lambda step: None,
) -> Iterator[Verdict]:
    """`verify`, one network after the other.

    A network that several specs name is run once. Of several specs, one that a framework cannot run
    (out of memory, say) is a verdict with a `failure`, and the others are still verified.

    Raises `FrameworkError` when there are fewer than two frameworks, one is not installed, or one
    fails on the only spec.
    """
    inputs = inputs or Inputs()
    if len(set(frameworks)) < 2:
        raise FrameworkError(
            "a comparison needs two sides; name another framework, or the reference"
        )
    for name in frameworks:
        get_framework(name)
    with tempfile.TemporaryDirectory(prefix="rosetta-") as folder, _WorkerPool(frameworks) as crew:
        images = _save_images(inputs, Path(folder))
        known: dict[ResNetSpec, Verdict] = {}
        for spec in specs:
            function = _function(spec)
            if function in known:
                yield _again(known[function], spec)
            else:
                started = time.perf_counter()
                try:
                    known[function] = _verify_one(spec, crew, inputs, images, Path(folder), on_step)
                except FrameworkError as error:
                    if len(specs) == 1:
                        raise
                    crew.leave()
                    plan = make_plan(spec, _image_size(spec, inputs))
                    seconds = time.perf_counter() - started
                    known[function] = Verdict(spec, plan, (), (), {}, seconds, failure=str(error))
                yield known[function]


def count_networks(specs: Sequence[ResNetSpec]) -> int:
    """How many different networks `verify` has to run for these specs."""
    return len({_function(spec) for spec in specs})


def _function(spec: ResNetSpec) -> ResNetSpec:
    """The spec without what does not change the function.

    Presets that differ in that alone are one network.
    """
    return spec.replace(name="", init=InitSpec())


def _again(verdict: Verdict, spec: ResNetSpec) -> Verdict:
    """The verdict of a network under another of its names."""
    comparisons = tuple(replace(comparison, preset=spec.name) for comparison in verdict.comparisons)
    return replace(
        verdict, spec=spec, comparisons=comparisons, same_as=verdict.spec.name, seconds=0.0
    )


def take_trace(spec: ResNetSpec, framework: str, inputs: Inputs, output: Path) -> TraceTaken:
    """One framework's trace, saved to `output`."""
    with tempfile.TemporaryDirectory(prefix="rosetta-") as folder, Worker(framework) as worker:
        return _run(worker, spec, inputs, _save_images(inputs, Path(folder)), output, durable=True)


class _WorkerPool:
    """A worker for each framework, kept from one network to the next where memory holds them all.

    A worker that has ended a network keeps what that took, for the next. Of larger networks, each
    framework gets a worker that ends with its job, as many at a time as there is memory for.
    """

    def __init__(self, frameworks: Sequence[str]):
        self.frameworks = frameworks
        self._workers: list[Worker] = []
        self._room = _free_memory()  # without any worker

    def __enter__(self) -> _WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.leave()

    def leave(self) -> None:
        """End all workers; the next network starts new ones."""
        for worker in self._workers:
            worker.close()
        self._workers.clear()

    def map(
        self, job: Callable[[Worker, Path], TraceTaken], files: Sequence[Path], need: int
    ) -> tuple[TraceTaken, ...]:
        """Do the job, which takes `need` bytes, in every framework, each with its own file."""
        cores = os.cpu_count() or 1
        stay = need * len(self.frameworks) <= self._room
        if not stay:
            self.leave()
            self._room = _free_memory()
        at_once = max(1, min(cores, self._room // need))
        if stay and not self._workers:
            threads = max(1, cores // len(self.frameworks))
            self._workers.extend(Worker(name, threads) for name in self.frameworks)

        failed = threading.Event()

        def alone(name: str, file: Path) -> TraceTaken:
            with Worker(name, cores // at_once) as worker:
                self._workers.append(worker)
                if failed.is_set():  # in between: nobody else would end this one
                    worker.kill()
                return job(worker, file)

        with ThreadPoolExecutor(at_once) as pool:
            try:
                if stay:
                    return tuple(pool.map(job, self._workers, files))
                return tuple(pool.map(alone, self.frameworks, files))
            except (
                BaseException
            ):  # interrupted, or one has failed: nobody waits minutes for the others
                failed.set()
                for worker in self._workers:
                    worker.kill()
                raise
            finally:
                if not stay:
                    self._workers.clear()  # each ends with its job


def _verify_one(
    spec: ResNetSpec,
    crew: _WorkerPool,
    inputs: Inputs,
    images: Path | None,
    folder: Path,
    on_step: Callable[[TraceTaken], None],
) -> Verdict:
    started = time.perf_counter()
    plan = make_plan(spec, _image_size(spec, inputs))
    files = [folder / f"{i}.safetensors" for i in range(len(crew.frameworks))]

    def job(worker: Worker, file: Path) -> TraceTaken:
        step = _run(worker, spec, inputs, images, file)
        on_step(step)
        return step

    steps = crew.map(job, files, _memory_for(plan, inputs))
    traces = [Trace.load(file) for file in files]
    comparisons = tuple(
        compare(a, b, check=check)
        for check in inputs.checks
        for a, b in itertools.combinations(traces, 2)
    )
    versions: dict[str, str] = {}
    for trace in traces:
        versions |= trace.versions
    for file in files:
        file.unlink()
    return Verdict(spec, plan, comparisons, steps, versions, time.perf_counter() - started)


def _run(
    worker: Worker,
    spec: ResNetSpec,
    inputs: Inputs,
    images: Path | None,
    output: Path,
    *,
    durable: bool = False,
) -> TraceTaken:
    job: dict[str, Any] = {
        "spec": spec.to_dict(),
        "dtype": inputs.dtype,
        "seed": inputs.seed,
        "batch": inputs.batch,
        "image_size": _image_size(spec, inputs),
        "weights": str(inputs.weights.resolve()) if inputs.weights else None,
        "images": str(images) if images else None,
        "output": str(output.resolve()),
        "durable": durable,
        "checks": inputs.checks,
        "training": inputs.training.to_json(),
    }
    report = worker.run(job)
    return TraceTaken(spec.name, worker.name, report["seconds"], report["peak_bytes"])


def _image_size(spec: ResNetSpec, inputs: Inputs) -> tuple[int, int]:
    if inputs.images is not None:
        return inputs.images.shape[1], inputs.images.shape[2]
    return inputs.image_size or (spec.image_size, spec.image_size)


def _save_images(inputs: Inputs, folder: Path) -> Path | None:
    if inputs.images is None:
        return None
    if not np.isfinite(inputs.images).all():
        raise CheckpointError("the images hold values that are not finite")
    path = folder / "images.safetensors"
    write_tensors(path, {"images": inputs.images}, {})
    return path


def _memory_for(plan: Plan, inputs: Inputs) -> int:
    """Bytes that one framework takes for a network, roughly.

    Weights count three times and activations twice; with training (gradients, optimizer state, a
    copy of the model, and what is kept of the last step) eleven times and eight times: 12.9 GiB for
    ResNet-152, measured 12.7.
    """
    copies, kept = (3, 2) if inputs.checks == (EVAL,) else (11, 8)
    activations = sum(int(np.prod(row.output)) for row in plan.layers) * inputs.batch
    return 8 * (copies * plan.params + kept * activations) + (1 << 30)


def _free_memory() -> int:
    """Bytes that new processes may take, the disk's cache among them; a guess where the system does
    not say.
    """
    with contextlib.suppress(OSError, ValueError):
        fields = dict(
            line.split(":")
            for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        )
        if "MemAvailable" in fields:
            return int(fields["MemAvailable"].split()[0]) << 10  # kB
    with contextlib.suppress(OSError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 8 << 30
