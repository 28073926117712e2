"""`shared.frameworks.verify`: the main job, with real frameworks in processes of their own."""

from __future__ import annotations

import io
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from shared import (
    CheckpointError,
    FrameworkError,
    SpecError,
    Trace,
    compare,
    get_spec,
    list_presets,
    miniature,
    probe_weights,
)
from shared import save_weights as save
from shared.architecture.plan import make_plan
from shared.cli import report_verify as report
from shared.cli.pages import verify_markdown
from shared.frameworks import pool as pool_module
from shared.frameworks import verify as verify_module
from shared.frameworks.inputs import Inputs
from shared.frameworks.registry import installed
from shared.frameworks.verify import (
    DEFAULT_PRESETS,
    TraceTaken,
    Verdict,
    iter_verdicts,
    take_trace,
    verify,
)
from shared.verification.tolerances import DTYPES, EVAL_FLOAT64
from tests.frameworks.here import ReferenceHere, no_processes
from tests.zoo import rest_in_zoo

pytest.importorskip("torch")

SPECS = [miniature(get_spec(name)) for name in ("cifar/resnet20", "timm/resnetv2_50d_gn")]
SIZE = (32, 45)
PAIR = ("torch", "reference")


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory):
    """The folder that temporary files go to."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder


# The exact one, and the one whose budget is the largest.
@pytest.fixture(scope="module", params=rest_in_zoo(DTYPES, ("float64", "bfloat16")))
def run(
    request: pytest.FixtureRequest, temporary: Path
) -> tuple[str, list[Verdict], list[TraceTaken]]:
    """Both `SPECS` verified in one precision, for float64 in processes of their own: (precision,
    verdicts, steps).
    """
    steps: list[TraceTaken] = []
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "float64":
            no_processes(patch)
        inputs = Inputs(dtype=request.param, image_size=SIZE)
        verdicts = list(verify(SPECS, PAIR, inputs, steps.append))
    return request.param, verdicts, steps


def test_torch_is_the_reference_within_the_budget(run) -> None:
    dtype, verdicts, _ = run
    for verdict in verdicts:
        assert verdict.passed
        (comparison,) = verdict.comparisons
        assert (comparison.a, comparison.b, comparison.dtype) == (*PAIR, dtype)
        assert comparison.tensors == len(verdict.plan.layers) + 1


def test_the_limits_are_those_of_the_precision(run) -> None:
    dtype, verdicts, _ = run
    limits = {row.limit for verdict in verdicts for row in verdict.comparisons[0].rows}
    assert (limits == {EVAL_FLOAT64}) == (dtype == "float64")
    assert max(limits) < {"float64": 1e-11, "float32": 1e-4, "float16": 0.1, "bfloat16": 0.5}[dtype]


def test_low_precisions_are_really_computed_in_them(run) -> None:
    """Their errors are far above float64's, and above the smallest step of the precision's
    mantissa.
    """
    dtype, verdicts, _ = run
    worst = max(row.error for verdict in verdicts for row in verdict.comparisons[0].rows)
    bounds = {
        "float64": (0.0, 1e-12),
        "float32": (1e-8, 1e-4),
        "float16": (1e-4, 1e-1),
        "bfloat16": (1e-3, 0.5),
    }
    low, high = bounds[dtype]
    assert low < worst < high


def test_verdicts_come_in_order_with_their_versions(run) -> None:
    _, verdicts, _ = run
    assert [verdict.spec for verdict in verdicts] == SPECS
    assert verdicts[0].plan == make_plan(SPECS[0], SIZE)
    assert set(verdicts[0].versions) >= {"python", "numpy", "torch"}
    assert all(verdict.seconds > 0 for verdict in verdicts)


def test_every_trace_is_a_step(run) -> None:
    _, verdicts, steps = run
    expected = {(spec.name, framework) for spec in SPECS for framework in PAIR}
    assert {(step.preset, step.framework) for step in steps} == expected
    assert len(steps) == len(expected)
    assert all(step.seconds > 0 and step.peak_bytes > 10 << 20 for step in steps)
    assert [step.framework for step in verdicts[0].steps] == list(
        PAIR
    )  # in this order, whoever was first


def test_nothing_is_left_behind(run, temporary: Path) -> None:
    assert list(temporary.iterdir()) == []


@pytest.mark.zoo
def test_all_installed_frameworks_agree_in_float32() -> None:
    """The budgets of different frameworks fit each other, and all pairs are compared."""
    names = installed()
    if len(names) < 3:
        pytest.skip("only one framework is installed")
    (verdict,) = verify(SPECS[:1], names, Inputs(dtype="float32", image_size=SIZE))
    assert len(verdict.comparisons) == len(names) * (len(names) - 1) // 2
    assert verdict.passed


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    no_processes(monkeypatch, ReferenceHere)


@pytest.mark.usefixtures("here")
def test_a_caller_who_stops_early_leaves_nothing_behind(temporary: Path) -> None:
    verdicts = iter_verdicts(SPECS, PAIR, Inputs(image_size=SIZE))
    next(verdicts)
    assert len(list(temporary.iterdir())) == 1
    verdicts.close()
    assert list(temporary.iterdir()) == []


@pytest.mark.usefixtures("here")
def test_networks_are_named_in_any_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """One or several, presets or specs; and the frameworks are those that are installed."""
    monkeypatch.setattr(verify_module, "installed", lambda: list(PAIR))
    inputs = Inputs(image_size=SIZE)
    (alone,) = verify(SPECS[0], inputs=inputs)
    assert [step.framework for step in alone.steps] == list(PAIR)
    assert verify(SPECS[:1], PAIR, inputs)[0].comparisons[0].to_dict() == (
        alone.comparisons[0].to_dict()
    )
    with pytest.raises(SpecError, match="unknown preset 'resnet2000'"):
        verify(["cifar/resnet20", "resnet2000"], PAIR, inputs)
    assert [verdict.spec.name for verdict in verify("cifar/resnet20", PAIR, inputs)] == [
        "cifar/resnet20"
    ]


@pytest.mark.usefixtures("here")
def test_a_framework_that_fails_leaves_nothing_behind(temporary: Path) -> None:
    inputs = Inputs(image_size=SIZE, weights=Path("/nowhere/w.safetensors"))
    with pytest.raises(CheckpointError, match="/nowhere/w"):
        list(verify(SPECS, PAIR, inputs))
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("room", "workers", "at_once"),
    [(3.0, 3, 2), (2.5, 6, 2), (1.5, 6, 1), (0.5, 6, 1)],
    ids=["all stay", "two at a time", "one at a time", "it is tried all the same"],
)
def test_workers_stay_only_where_memory_holds_them_all(
    monkeypatch: pytest.MonkeyPatch, room: float, workers: int, at_once: int
) -> None:
    """One that has ended a large network keeps its memory, and the next framework's was the one to
    be killed.
    """
    lock, running, most, ended = threading.Lock(), 0, 0, []
    began: list[str] = []

    class Counted(ReferenceHere):
        def __init__(self, name: str, threads: int | None = None):
            super().__init__(name, threads)
            began.append(name)

        def run(self, job: dict) -> dict:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.05)
            report = super().run(job)
            with lock:
                running -= 1
            return report

        def close(self) -> None:
            ended.append(self.name)

    monkeypatch.setattr(pool_module, "TraceWorker", Counted)
    monkeypatch.setattr(verify_module, "memory_for", lambda *_: 1 << 30)
    monkeypatch.setattr(pool_module, "free_memory", lambda: int(room * (1 << 30)))
    monkeypatch.setattr(pool_module, "processors", lambda: 2)
    verdicts = list(verify(SPECS, (*PAIR, "reference"), Inputs(image_size=SIZE)))
    assert all(verdict.passed for verdict in verdicts)
    assert (len(began), most) == (workers, at_once)
    assert sorted(ended) == sorted(began)


@pytest.mark.parametrize("room", [3 << 30, 2 << 30], ids=["workers that stay", "workers that end"])
def test_when_one_framework_fails_nobody_waits_for_the_others(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    killed = []

    class Quick(ReferenceHere):
        """Fails at once, or works until it is killed."""

        def __init__(self, name: str, threads: int | None = None):
            super().__init__(name, threads)
            self.stop = threading.Event()

        def run(self, job: dict) -> dict:
            if self.name == "reference":
                killed.append(self.stop.wait(timeout=30))
            raise FrameworkError(f"{self.name} fails")

        def kill(self) -> None:
            self.stop.set()

    monkeypatch.setattr(pool_module, "TraceWorker", Quick)
    monkeypatch.setattr(verify_module, "memory_for", lambda *_: 1 << 30)
    monkeypatch.setattr(pool_module, "free_memory", lambda: room)
    monkeypatch.setattr(pool_module, "processors", lambda: 2)
    with pytest.raises(FrameworkError, match="torch fails"):
        list(verify(SPECS[:1], (*PAIR, "reference"), Inputs(image_size=SIZE)))
    assert all(killed)  # none, if no turn has come


@pytest.mark.usefixtures("here")
def test_a_mistake_of_one_framework_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the workers saved is really read and compared: alter one file in between."""
    original = ReferenceHere.run

    def altering(self: ReferenceHere, job: dict) -> dict:
        report = original(self, job)
        if self.name == "torch":
            found = Trace.load(job["output"])
            arrays = {name: np.array(found[name]) for name in found.names}
            arrays["eval/stages.1.blocks.0.conv2"] *= 1 + 1e-9
            Trace(found.spec, found.framework, found.dtype, arrays, found.about).save(job["output"])
        return report

    monkeypatch.setattr(ReferenceHere, "run", altering)
    (verdict,) = verify(SPECS[:1], PAIR, Inputs(image_size=SIZE))
    assert not verdict.passed
    assert verdict.comparisons[0].first_divergence == "eval/stages.1.blocks.0.conv2"


@pytest.mark.parametrize("names", [[], ["reference"], ["reference", "reference"]])
def test_one_framework_is_no_comparison(names: list[str]) -> None:
    with pytest.raises(FrameworkError, match="two sides"):
        list(verify(SPECS, names))


def test_images_that_are_not_finite_are_refused(temporary: Path) -> None:
    images = np.full((1, 8, 8, 3), np.nan)
    with pytest.raises(CheckpointError, match="not finite"):
        list(verify(SPECS, PAIR, Inputs(images=images)))
    assert list(temporary.iterdir()) == []


def test_given_weights_and_images_are_what_is_computed(tmp_path: Path) -> None:
    spec, size = SPECS[0], (8, 9)
    weights = probe_weights(spec, seed=5)
    save(tmp_path / "w.safetensors", weights, spec)
    images = np.random.default_rng(3).normal(size=(3, *size, 3))
    given = Inputs(weights=tmp_path / "w.safetensors", images=images)
    take_trace(spec, "reference", given, tmp_path / "given.safetensors")
    take_trace(spec, "reference", Inputs(image_size=size, seed=5), tmp_path / "probe.safetensors")
    found, probe = (Trace.load(tmp_path / f"{name}.safetensors") for name in ("given", "probe"))
    assert found.about["image_shape"] == "3x8x9x3"
    assert found.about["weights_source"] == str(tmp_path / "w.safetensors")
    comparison = compare(found, probe)
    assert not comparison.passed
    assert {problem.split(" of ")[0] for problem in comparison.problems} >= {
        "the images",
        "the weights",
    }


def test_take_trace_cleans_up_and_reports(tmp_path: Path, temporary: Path) -> None:
    step = take_trace(SPECS[0], "reference", Inputs(image_size=SIZE), tmp_path / "t.safetensors")
    assert (step.preset, step.framework) == ("cifar/resnet20", "reference")
    assert list(tmp_path.iterdir()) == [tmp_path / "t.safetensors"]
    assert list(temporary.iterdir()) == []


def test_the_telling_presets_have_every_kind_of_block_and_shortcut() -> None:
    def traits(name: str) -> set[object]:
        spec = get_spec(name)
        kinds = {block.kind for _, block in make_plan(spec).blocks()}
        return {
            *kinds,
            ("norm", spec.norm.kind),
            ("stem pool", spec.stem.pool != "none" and spec.stem.pool_padding),
            ("padding", spec.block.padding),
            ("stride", spec.block.kind, spec.block.stride_conv),
            ("stride block", spec.block.stride_block),
            ("shortcut pool", spec.shortcut.pool),
            ("bias", spec.block.bias, spec.block.last_bias),
            ("never", spec.shortcut.projection == "never"),
            ("standardised", spec.weight_std_eps is not None),
        }

    assert set(DEFAULT_PRESETS) <= set(list_presets())
    told = set[object]().union(*(traits(name) for name in DEFAULT_PRESETS))
    assert told >= set[object]().union(*(traits(name) for name in list_presets()))


def test_what_is_only_measured_is_not_called_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several networks' training in float32: no table, page or line says `same` of what nothing has
    judged.
    """
    no_processes(monkeypatch)
    inputs = Inputs(dtype="float32", image_size=(16, 16), checks=("gradients",))
    verdicts = list(verify(SPECS[:2], PAIR, inputs))
    assert all(verdict.passed and not verdict.judged for verdict in verdicts)
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    console.print(report.verdict_table(verdicts))
    page = verify_markdown(verdicts, inputs, "rosetta verify")
    for said in (shown.getvalue(), page, report.conclusion(verdicts, 1.0).plain):
        assert "measured" in said
        assert "✓" not in said
        assert "| same |" not in said


@pytest.mark.usefixtures("here")
def test_a_network_that_a_framework_gives_up_on_does_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = verify_module._run

    def give_up_on_the_first(worker, spec, *args, **kwargs):
        if spec.name == SPECS[0].name and worker.name == "torch":
            raise FrameworkError(
                "torch: its process was stopped by SIGKILL, probably out of memory"
            )
        return run(worker, spec, *args, **kwargs)

    monkeypatch.setattr(verify_module, "_run", give_up_on_the_first)
    failed, passed = verify(SPECS, PAIR, Inputs(image_size=SIZE))
    assert not failed.passed
    assert "out of memory" in (failed.failure or "")
    assert passed.passed
    page = verify_markdown([failed, passed], Inputs(), "rosetta verify")
    assert "1 presets differ or were not run" in page
    assert "**not run**" in page
    assert "1 of which did not run" in report.conclusion([failed, passed], 1.0).plain
    with pytest.raises(FrameworkError, match="out of memory"):
        list(verify(SPECS[:1], PAIR, Inputs(image_size=SIZE)))
