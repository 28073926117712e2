"""The main job: build a network in every framework, carry the weights, run, and compare
all pairs.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from shared.architecture.plan import Plan, make_plan
from shared.architecture.presets import get_spec
from shared.architecture.spec import InitSpec, ResNetSpec
from shared.errors import FrameworkError
from shared.frameworks.capacity import memory_for, plan_rounds, require_space, trace_bytes
from shared.frameworks.diagnose import causes, isolated_layers
from shared.frameworks.exported.kinds import KINDS
from shared.frameworks.inputs import Inputs, save_images
from shared.frameworks.pool import WorkerPool
from shared.frameworks.registry import EXPORTED, get_framework, installed
from shared.frameworks.workers import TraceWorker
from shared.machine import in_memory
from shared.verification.comparison import Comparison, compare
from shared.verification.diagnosis.diagnose import Diagnosis
from shared.verification.diagnosis.isolated import Alone
from shared.verification.recording import EVAL
from shared.verification.trace import Trace
from shared.weights.canonical import read_weights

# Presets that between them have every kind of block, shortcut, stem, norm and padding, and are
# quick: what `rosetta verify` checks when no preset is named.
DEFAULT_PRESETS = (
    "torchvision/resnet18",
    "torchvision/resnet50",
    "keras/resnet50v2",
    "flax/resnet50",
    "keras2/resnet50_valid_pool",
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


@dataclass(frozen=True)
class TraceTaken:
    """Something that happened, for a progress bar."""

    preset: str
    framework: str
    seconds: float
    peak_bytes: int

    def and_then(self, other: TraceTaken) -> TraceTaken:
        """Both, one after the other, as one."""
        return replace(
            self,
            seconds=self.seconds + other.seconds,
            peak_bytes=max(self.peak_bytes, other.peak_bytes),
        )


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
    # Framework -> why it is not as the reference, where a comparison failed; see `causes`.
    causes: Mapping[str, Diagnosis | str] = field(default_factory=dict)
    # Every layer by itself, where `Inputs.isolated` asks for it: (framework, check, its layers).
    isolated: tuple[tuple[str, str, list[Alone]], ...] = ()

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
    chosen = installed() if frameworks is None else frameworks
    return list(iter_verdicts(specs, chosen, inputs, on_step))


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
    inputs = possible_inputs(frameworks, inputs)
    with tempfile.TemporaryDirectory(prefix="rosetta-") as folder, WorkerPool(frameworks) as pool:
        images = _save_images(inputs, Path(folder))
        known: dict[ResNetSpec, Verdict] = {}
        for spec in specs:
            function = _function(spec)
            if function in known:
                yield _again(known[function], spec)
            else:
                started = time.perf_counter()
                try:
                    known[function] = _verify_one(spec, pool, inputs, images, Path(folder), on_step)
                except FrameworkError as error:
                    if len(specs) == 1:
                        raise
                    pool.close()
                    plan = make_plan(spec, inputs.size_for(spec))
                    seconds = time.perf_counter() - started
                    known[function] = Verdict(spec, plan, (), (), {}, seconds, failure=str(error))
                yield known[function]


def possible_inputs(names: Sequence[str], inputs: Inputs) -> Inputs:
    """The inputs, with the forward pass alone where no two sides have more.

    Raises `FrameworkError` for a side that is not installed, or does not run in the precision or do
    any of the checks.
    """
    sides = [get_framework(name, exported=True) for name in names]
    for side in sides:
        if side.kind and inputs.dtype not in (runs := KINDS[side.kind].runtimes):
            raise FrameworkError(
                f"{side.name} is run in {' or '.join(runs)}, not in {inputs.dtype}; say --dtype"
            )
    if EVAL not in inputs.checks and any(side.kind for side in sides):
        raise FrameworkError(
            "what a framework exports has the forward pass alone; say --check eval, or leave "
            f"{', '.join(side.name for side in sides if side.kind)} out"
        )
    if sum(not side.kind for side in sides) < 2 and any(side.kind for side in sides):
        return replace(inputs, checks=(EVAL,))
    return inputs


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
    """One framework's trace, saved to `output`.

    Raises `FrameworkError` when there is no room for it, or the framework fails.
    """
    place, name = output.absolute().parent, get_framework(framework, exported=True).name
    if name in EXPORTED:
        inputs = possible_inputs([name], inputs)
    need = trace_bytes(make_plan(spec, inputs.size_for(spec)), inputs, inputs.checks, name)
    require_space(
        place, need, f"the tensors of {spec.name}", "write elsewhere, or say fewer --check"
    )
    with tempfile.TemporaryDirectory(prefix="rosetta-") as folder, TraceWorker(name) as worker:
        return _run(worker, spec, inputs, _save_images(inputs, Path(folder)), output, durable=True)


def _verify_one(
    spec: ResNetSpec,
    pool: WorkerPool,
    inputs: Inputs,
    images: Path | None,
    folder: Path,
    on_step: Callable[[TraceTaken], None],
) -> Verdict:
    started = time.perf_counter()
    plan = make_plan(spec, inputs.size_for(spec))
    rounds = plan_rounds(plan, inputs, pool.frameworks, folder)
    steps: list[TraceTaken] = []
    comparisons: list[Comparison] = []
    versions: dict[str, str] = {}
    why: dict[str, Diagnosis | str] = {}
    isolated: list[tuple[str, str, list[Alone]]] = []
    for checks in rounds:
        wanted = replace(inputs, checks=checks)
        found = _compare_all(
            plan, pool, wanted, images, folder, on_step if checks == rounds[-1] else None
        )
        steps = (
            [a.and_then(b) for a, b in zip(steps, found.steps, strict=True)]
            if steps
            else found.steps
        )
        comparisons += found.comparisons
        versions |= found.versions
        isolated += found.isolated
        why |= {name: reason for name, reason in found.causes.items() if name not in why}
    seconds = time.perf_counter() - started
    return Verdict(
        spec,
        plan,
        tuple(comparisons),
        tuple(steps),
        versions,
        seconds,
        causes=why,
        isolated=tuple(isolated),
    )


class _Compared(NamedTuple):
    """What came of one round of checks."""

    steps: list[TraceTaken]
    comparisons: list[Comparison]
    versions: dict[str, str]
    causes: dict[str, Diagnosis | str]
    isolated: list[tuple[str, str, list[Alone]]]


def _compare_all(
    plan: Plan,
    pool: WorkerPool,
    inputs: Inputs,
    images: Path | None,
    folder: Path,
    on_step: Callable[[TraceTaken], None] | None,
) -> _Compared:
    """Every framework's trace with every other's, which versions took them, and why any failed."""
    files = [folder / f"{i}.safetensors" for i in range(len(pool.frameworks))]
    written = sum(trace_bytes(plan, inputs, inputs.checks, name) for name in pool.frameworks)

    def job(worker: TraceWorker, file: Path) -> TraceTaken:
        checks = tuple(check for check in inputs.checks if _records(worker.name, check))
        step = TraceTaken(plan.spec.name, worker.name, 0.0, 0)
        if checks:
            step = _run(worker, plan.spec, replace(inputs, checks=checks), images, file)
        if on_step:
            on_step(step)
        return step

    steps = pool.map(job, files, memory_for(plan, inputs), written if in_memory(folder) else 0)
    traces = [Trace.load(file) for file in files if file.exists()]
    comparisons = [
        compare(a, b, check=check)
        for check in inputs.checks
        for a, b in itertools.combinations(traces, 2)
        if _records(a.framework, check) and _records(b.framework, check)
    ]
    why: dict[str, Diagnosis | str] = {}
    passed = all(comparison.passed for comparison in comparisons)
    weights = None
    if inputs.weights and (inputs.isolated or not passed):
        weights = read_weights(inputs.weights, plan.spec)[0]
    if not passed:
        why = causes(traces, comparisons, weights, inputs.images)
    alone = ("reference", *EXPORTED)  # what exported files have is no layers
    others = [trace for trace in traces if trace.framework not in alone]
    isolated = isolated_layers(others, weights, inputs.images) if inputs.isolated else []
    for file in files:
        file.unlink(missing_ok=True)
    versions = {name: version for trace in traces for name, version in trace.versions.items()}
    return _Compared(list(steps), comparisons, versions, why, isolated)


def _records(side: str, check: str) -> bool:
    """Whether a side does a check: what a framework exports cannot be trained."""
    return check == EVAL or side not in EXPORTED


def _run(
    worker: TraceWorker,
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
        "image_size": inputs.size_for(spec),
        "weights": str(inputs.weights.resolve()) if inputs.weights else None,
        "images": str(images) if images else None,
        "output": str(output.resolve()),
        "durable": durable,
        "checks": inputs.checks,
        "training": inputs.training.to_json(),
    }
    report = worker.run(job)
    return TraceTaken(spec.name, worker.name, report["seconds"], report["peak_bytes"])


def _save_images(inputs: Inputs, folder: Path) -> Path | None:
    return None if inputs.images is None else save_images(inputs.images, inputs.dtype, folder)
