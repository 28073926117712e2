"""Exported networks: every kind of file and of structure, read back and run by its own runtime."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shared import get_spec, probe_images, probe_weights
from shared.architecture.presets import miniature
from shared.errors import CheckpointError, FrameworkError
from shared.frameworks.exported.export import export, plan_export
from shared.frameworks.exported.kinds import KINDS, Wanted
from shared.frameworks.exported.read_back import expected_spec, judged
from shared.frameworks.exported.runtimes import opened, run
from shared.frameworks.exported.witness import KEY, exact_trace, file_trace
from shared.frameworks.inputs import Inputs
from shared.frameworks.readers import file_reader
from shared.frameworks.registry import EXPORTED, get_framework, load_package
from shared.frameworks.verify import verify
from shared.graphs.verdict import Read, identify_graph
from shared.machine import missing_packages
from shared.verification.comparison import compare
from tests.graphs.presets import SHORT, side
from tests.zoo import rest_in_zoo

SPEC = miniature(get_spec("cifar/resnet20"))
STRUCTURES = sorted(SHORT)
EVERY = [(kind.name, writer) for kind in KINDS.values() for writer in kind.writers]


def wanted_for(kind: str, writer: str, dtype: str, fold: bool, size: int | None) -> Wanted:
    missing = missing_packages(
        (*get_framework(writer).requires, *KINDS[kind].requires, *KINDS[kind].needs.get(writer, ()))
    )
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    return Wanted(KINDS[kind], writer, dtype, size, fold)


def read(kind: str, path: Path) -> Read:
    """The reader of a file, in this process: programs of PyTorch are not confined here."""
    if kind == "torch-export":
        from resnet_torch.read import load, read_graph

        program = load(str(path))
        return lambda size: read_graph(program, size)
    return file_reader(path)


CASES = [(name, *way) for name in STRUCTURES for way in EVERY]
IN_ZOO = [(name, *EVERY[i % len(EVERY)]) for i, name in enumerate(STRUCTURES)]  # by turns


@pytest.mark.parametrize(("name", "kind", "writer"), rest_in_zoo(CASES, (), IN_ZOO))
def test_every_structure_in_every_kind(name: str, kind: str, writer: str, tmp_path: Path) -> None:
    """Whole and folded; in float64 where something runs that."""
    spec = miniature(get_spec(name))
    size = side(spec)
    for fold in (False, True):
        dtype = "float64" if "float64" in KINDS[kind].runtimes and not fold else "float32"
        if kind == "onnx" and writer != "torch":
            dtype = "float32"  # as Keras says of its exporter
        wanted = wanted_for(kind, writer, dtype, fold, size)
        weights = probe_weights(spec, 1, dtype)
        path = tmp_path / f"network{fold}{KINDS[kind].suffix}"
        with jax_in_float64(writer):
            package = load_package(get_framework(writer))
            model = package.build(spec, dtype=dtype)
            package.load_weights(model, weights)
            exporter = importlib.import_module(f"{package.__name__}.export")
            exporter.export(package.fold(model) if fold else model, path, kind, wanted.size)
            images = probe_images((3, size, size, 3), 2, dtype)
            found = run(opened(kind, path, dtype), wanted.layout, images, dtype)
        exact = exact_trace(spec, weights, images)
        trace = file_trace("file", kind, spec, weights, images, found, dtype, folded=fold)
        comparison = compare(trace, exact)
        assert comparison.passed, comparison.to_dict()
        answer = identify_graph(read(kind, path), size, expected_spec(spec, wanted))
        back = judged(answer.to_dict(), answer.weights, spec, weights, wanted)
        assert back.passed, back
        assert back.equal == back.tensors > 0 or wanted.folds


@contextlib.contextmanager
def jax_in_float64(writer: str) -> Iterator[None]:
    if writer != "flax":
        yield
        return
    import jax

    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    ("kind", "free"),
    rest_in_zoo(
        [(kind, free) for kind in KINDS for free in (0, 1)],
        (),
        [(kind, i % 2) for i, kind in enumerate(KINDS)],
    ),
)
def test_the_whole_way(kind: str, free: bool, tmp_path: Path) -> None:
    """In processes of their own; and for images of any size."""
    writer, dtype = KINDS[kind].writers[0], next(iter(KINDS[kind].runtimes))
    wanted = wanted_for(kind, writer, dtype, False, None if free else 64)
    spec = miniature(get_spec("torchvision/resnet18")).replace(image_size=64)
    path = tmp_path / f"network{KINDS[kind].suffix}"
    found = export(spec, probe_weights(spec, 1, dtype), path, wanted)
    assert found.passed, [found.read, *(c.to_dict() for c in found.comparisons)]
    assert found.images.count(None) == (3 if free else 1)
    assert path.exists()
    assert not list(tmp_path.glob(".*"))
    again = {"to": kind, "framework": None, "dtype": dtype, "image_size": None, "fold": False}
    if not path.is_file() or KINDS[kind].companion:
        with pytest.raises(CheckpointError, match="not replaced in one step"):
            plan_export(path, **again)


# The limits.


def outputs(change: float = 0.0, dtype: str = "float64", kind: str = "torch-export", **how):
    """The comparison of what a file would have computed with the reference."""
    weights = probe_weights(SPEC, 0, dtype)
    images = probe_images((2, 32, 32, 3), 0, dtype)
    exact = exact_trace(SPEC, weights, images)
    own = (exact[KEY] * (1 + change)).astype(dtype)
    trace = file_trace("file", kind, SPEC, weights, images, own, dtype, **how)
    return compare(trace, exact)


@pytest.mark.parametrize(
    ("change", "dtype", "kind", "passed"),
    [
        (1e-13, "float64", "torch-export", True),
        (1e-11, "float64", "torch-export", False),
        (2e-12, "float64", "onnx", True),  # its epsilon is a float32
        (1e-10, "float64", "onnx", False),
        (1e-6, "float32", "litert", True),
        (1e-3, "float32", "litert", False),  # bfloat16, say
        (1e-4, "float32", "openvino", False),  # TF32, say
        (np.nan, "float32", "openvino", False),
    ],
)
def test_a_file_has_a_limit(change: float, dtype: str, kind: str, passed: bool) -> None:
    comparison = outputs(change, dtype, kind)
    assert [row.name for row in comparison.rows] == [KEY]
    assert comparison.passed is passed


def test_a_file_of_other_weights_is_not_compared() -> None:
    weights, others = (probe_weights(SPEC, seed, "float64") for seed in (0, 1))
    images = probe_images((2, 32, 32, 3), 0, "float64")
    exact = exact_trace(SPEC, weights, images)
    trace = file_trace("file", "onnx", SPEC, others, images, exact[KEY], "float64")
    assert any("weights" in problem for problem in compare(trace, exact).problems)


# Sides of `verify`.


@pytest.mark.parametrize("name", [*EXPORTED, *KINDS])
def test_sides_have_names(name: str) -> None:
    with pytest.raises(FrameworkError, match="unknown framework"):
        get_framework(name)
    if not EXPORTED.get(name, EXPORTED["torch:export"]).missing:
        framework = get_framework(name, exported=True)
        assert name in (framework.name, framework.kind)


@pytest.mark.parametrize(
    ("sides", "inputs", "said"),
    [
        (["torch", "litert"], Inputs(), "is run in float32, not in float64"),
        (["torch", "torch:export"], Inputs(checks=("train",)), "the forward pass alone"),
        (["torch", "torch:export"], Inputs(dtype="bfloat16"), "not in bfloat16"),
        (["torch", "torch:exprt"], Inputs(), "nearest: torch:export"),
    ],
)
def test_sides_that_cannot_be(sides: list[str], inputs: Inputs, said: str) -> None:
    with pytest.raises(FrameworkError, match=said):
        verify(SPEC, sides, inputs)


@pytest.mark.zoo  # the short run has the command that exports and verifies one
def test_a_program_is_a_side() -> None:
    pytest.importorskip("torch")
    inputs = Inputs(checks=("eval", "train"), image_size=(20, 25))
    (verdict,) = verify(SPEC, ["torch:export", "reference"], inputs)
    assert verdict.passed
    assert [(c.a, c.b, c.check, c.tensors) for c in verdict.comparisons] == [
        ("torch:export", "reference", "eval", 1)
    ]


@pytest.mark.zoo
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_side(dtype: str) -> None:
    sides = [
        name
        for name, framework in EXPORTED.items()
        if dtype in KINDS[framework.kind].runtimes
        and not framework.missing
        and (dtype == "float32" or name != "keras:onnx")
    ]
    assert len(sides) > 3
    (verdict,) = verify(SPEC, [*sides, "reference"], Inputs(dtype=dtype))
    assert verdict.passed, [c.to_dict() for c in verdict.comparisons if not c.passed]
    assert verdict.failure is None
