"""Exported networks: every kind of file and of structure, read back and run by its own runtime."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from shared import get_spec, probe_images, probe_weights
from shared.architecture.presets import miniature
from shared.errors import FrameworkError
from shared.frameworks.exported.export import export, plan_export
from shared.frameworks.exported.kinds import KINDS
from shared.frameworks.exported.witness import KEY, exact_trace, file_trace
from shared.frameworks.inputs import Inputs
from shared.frameworks.registry import EXPORTED, get_framework
from shared.frameworks.verify import verify
from shared.machine import missing_packages
from shared.verification.comparison import compare
from tests.graphs.presets import SHORT, side

SPEC = miniature(get_spec("cifar/resnet20"))
STRUCTURES = sorted(SHORT)
# What a structure or an option cannot be exported to, and the words that say so.
EVERY = [(kind, writer) for kind in KINDS.values() for writer in kind.writers]
FREE = ("torch-export", "saved-model", "stablehlo")


def run(
    name: str, kind: str, writer: str, folder: Path, *, dtype: str, fold: bool, free: bool = False
):
    missing = missing_packages(KINDS[kind].requires)
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    spec = miniature(get_spec(name))
    path = folder / f"network{KINDS[kind].suffix}"
    wanted = plan_export(path, kind, writer, dtype, None if free else side(spec), fold)
    spec = spec.replace(image_size=side(spec))
    return export(spec, probe_weights(spec, 1, dtype), path, wanted)


def assert_good(found, folder: Path) -> None:
    assert found.passed, [found.read, *(c.to_dict() for c in found.comparisons)]
    assert found.path.exists()
    assert not list(folder.glob(".*"))
    if found.wanted.kind.readable:
        assert found.read.same_spec
        assert found.read.equal == found.read.tensors > 0


@pytest.mark.zoo
@pytest.mark.parametrize("fold", [False, True], ids=["whole", "folded"])
@pytest.mark.parametrize(("kind", "writer"), [(k.name, w) for k, w in EVERY])
@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure_in_every_kind(
    name: str, kind: str, writer: str, fold: bool, tmp_path: Path
) -> None:
    dtype = "float64" if "float64" in KINDS[kind].runtimes and not fold else "float32"
    if dtype == "float64" and kind == "onnx" and writer != "torch":
        dtype = "float32"  # Keras says that its exporter to ONNX wants float32
    assert_good(run(name, kind, writer, tmp_path, dtype=dtype, fold=fold), tmp_path)


@pytest.mark.zoo
@pytest.mark.parametrize("kind", FREE)
@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnetaa50", "bit/r50x1"])
def test_images_of_any_size(name: str, kind: str, tmp_path: Path) -> None:
    writer = KINDS[kind].writers[0]
    found = run(name, kind, writer, tmp_path, dtype="float64", fold=False, free=True)
    assert_good(found, tmp_path)
    assert found.images.count(None) == 3


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
    try:
        framework = get_framework(name, exported=True)
    except FrameworkError as error:
        assert "pip install" in str(error)
    else:
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
    assert dataclasses.replace(verdict).failure is None
