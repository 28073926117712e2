"""`shared.frameworks.capacity` and `inputs`: what traces need, and images that are rounded once."""

from __future__ import annotations

import itertools
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from shared import CheckpointError, FrameworkError, Trace, get_spec, make_plan, miniature
from shared.frameworks import capacity, verify
from shared.frameworks.capacity import free_space, memory_for, plan_rounds, trace_bytes
from shared.frameworks.inputs import Inputs, save_images
from shared.frameworks.verify import iter_verdicts, take_trace
from shared.training.config import Training
from shared.verification.recording import CHECKS
from shared.weights.dtypes import float_dtype
from shared.weights.files import read_tensors
from tests.frameworks.here import Here
from tests.zoo import rest_in_zoo

SPEC = miniature(get_spec("torchvision/resnet18")).replace(depths=(1, 1))
SIZE = (33, 40)
PAIR = ("torch", "reference")
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch):
    """Let every folder have so many bytes free."""

    def leave(free: int, *, memory: bool = False) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(1 << 50, 0, free))
        monkeypatch.setattr(capacity, "in_memory", lambda folder: memory)

    return leave


def bytes_of(path: Path) -> int:
    found = Trace.load(path)
    return sum(found[name].nbytes for name in found.names)


TRACED = [*itertools.product(["float64", "float32", "bfloat16"], PAIR, ["sgd", "adamw"])]
# Each value of each, and each precision in PyTorch.
TRACED_SHORT = {
    *(("float64", "torch", "sgd"), ("float32", "torch", "adamw"), ("bfloat16", "torch", "sgd")),
    ("float64", "reference", "adamw"),
}


@pytest.mark.parametrize(("dtype", "framework", "kind"), rest_in_zoo(TRACED, TRACED_SHORT))
def test_the_bytes_of_a_trace_are_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, framework: str, kind: str
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(verify, "TraceWorker", Here)  # whose start takes longer than the trace
    checks = ("eval",) if dtype == "bfloat16" else CHECKS
    training = Training().replace({"optimizer.kind": kind})
    inputs = Inputs(dtype, image_size=SIZE, checks=checks, training=training, batch=3)
    take_trace(SPEC, framework, inputs, tmp_path / "t")
    expected = trace_bytes(make_plan(SPEC, SIZE), inputs, checks, framework)
    assert bytes_of(tmp_path / "t") == expected
    assert expected < (tmp_path / "t").stat().st_size < 1.2 * expected + (1 << 18)


def test_photographs_count_as_they_are() -> None:
    """Not the batch that random images would have."""
    plan, three = make_plan(SPEC, SIZE), np.zeros((3, *SIZE, 3))
    given, drawn = Inputs(images=three), Inputs(image_size=SIZE, batch=3)
    assert trace_bytes(plan, given, CHECKS, "torch") == trace_bytes(plan, drawn, CHECKS, "torch")
    assert memory_for(plan, given) == memory_for(plan, drawn)


def test_the_checks_lie_together_or_one_after_the_other_or_not_at_all(tmp_path: Path, room) -> None:
    plan, inputs = make_plan(SPEC, SIZE), Inputs(image_size=SIZE, checks=CHECKS)
    needs = {c: sum(trace_bytes(plan, inputs, [c], name) for name in PAIR) for c in CHECKS}
    room(sum(needs.values()))
    assert plan_rounds(plan, inputs, PAIR, tmp_path) == (CHECKS,)
    room(sum(needs.values()) - 1)
    assert plan_rounds(plan, inputs, PAIR, tmp_path) == tuple((check,) for check in CHECKS)
    room(max(needs.values()) - 1)
    with pytest.raises(FrameworkError) as refused:
        plan_rounds(plan, inputs, PAIR, tmp_path)
    for word in (str(tmp_path), SPEC.name, "GiB at a time", "are free", "TMPDIR"):
        assert word in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_in_memory_has_no_more_than_memory(
    tmp_path: Path, room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "free_memory", lambda: 1000)
    room(5000)
    assert free_space(tmp_path) == 5000
    room(5000, memory=True)
    assert free_space(tmp_path) == 1000
    with pytest.raises(FrameworkError, match="of memory, where it lies, are free"):
        plan_rounds(make_plan(SPEC, SIZE), Inputs(image_size=SIZE), PAIR, tmp_path)


def test_what_does_not_fit_is_refused_before_any_worker_starts(
    room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*arguments: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr("shared.frameworks.pool.TraceWorker", start)
    monkeypatch.setattr(verify, "TraceWorker", start)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    room(1000)
    inputs = Inputs(image_size=SIZE)
    with pytest.raises(FrameworkError, match="TMPDIR"):
        list(iter_verdicts([SPEC], PAIR, inputs))
    with pytest.raises(FrameworkError, match="write elsewhere"):
        take_trace(SPEC, "reference", inputs, tmp_path / "t")
    several = [SPEC, miniature(get_spec("cifar/resnet20"))]
    assert all("TMPDIR" in (v.failure or "") for v in iter_verdicts(several, PAIR, inputs))


@pytest.mark.zoo
def test_one_check_after_the_other_finds_the_same(room) -> None:
    pytest.importorskip("torch")
    spec, inputs = miniature(get_spec("cifar/resnet20")), Inputs(image_size=(16, 16), checks=CHECKS)
    steps: list[object] = []
    (together,) = iter_verdicts([spec], PAIR, inputs)
    plan = make_plan(spec, (16, 16))
    room(max(sum(trace_bytes(plan, inputs, [c], name) for name in PAIR) for c in CHECKS))
    (apart,) = iter_verdicts([spec], PAIR, inputs, steps.append)
    assert apart.passed
    assert apart.comparisons == together.comparisons
    assert [step.framework for step in apart.steps] == list(PAIR)
    assert len(steps) == len(PAIR)  # of a progress bar


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_images_are_rounded_once(tmp_path: Path, dtype: str) -> None:
    images = np.random.default_rng(0).normal(size=(2, 4, 5, 3))
    tensors, _ = read_tensors(save_images(images, dtype, tmp_path))
    assert tensors["images"].dtype == np.float64
    again = tensors["images"].astype(float_dtype(dtype)).astype(np.float64)
    np.testing.assert_array_equal(tensors["images"], again)
    np.testing.assert_array_equal(again, images.astype(float_dtype(dtype)).astype(np.float64))


def test_images_that_a_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    images = np.full((1, 2, 2, 3), 1e6)
    save_images(images, "bfloat16", tmp_path)
    with pytest.raises(CheckpointError, match="not finite in float16"), np.errstate(over="ignore"):
        save_images(images, "float16", tmp_path)
