"""`rosetta export`: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared import get_spec, probe_weights, processes
from shared.architecture.presets import miniature
from shared.cli.options import DType
from shared.frameworks.exported import export as exporting
from shared.weights.canonical import save_weights
from tests.cli_runner import Rosetta

pytest.importorskip("torch")
SMALL = ("cifar/resnet20", "--miniature")


def test_a_program_of_torch_export(
    rosetta: Rosetta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written in this process, run and read back in others; the zoo has three of their own."""
    import torch

    def call(function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        writes = function is exporting.serve_write
        return function(*arguments) if writes else processes.call(function, *arguments, **more)

    monkeypatch.setattr(exporting, "call", call)

    spec = miniature(get_spec("cifar/resnet20"))
    weights, path = tmp_path / "weights.safetensors", tmp_path / "net.pt2"
    save_weights(weights, probe_weights(spec, 3, "float32"), spec)
    result = rosetta("export", weights, path, "--json", "-")
    assert (result.code, result.err) == (0, "")
    found = result.json
    assert found["passed"]
    assert found["read_back"]["equal"] == found["read_back"]["tensors"] == found["tensors"]
    assert found["input"] == {"layout": "NCHW", "shape": [None, 3, 32, 32], "multiple_of": None}
    assert found["preprocessing"]["inside"] is False
    assert [c["worst"]["limit"] < 1e-4 for c in found["comparisons"]] == [True, True]
    assert sorted(os.listdir(tmp_path)) == ["net.pt2", "weights.safetensors"]
    images = torch.zeros(5, 3, 32, 32)
    assert torch.export.load(path).module()(images).shape == (5, 10)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*SMALL, "net.xyz"), "say --to, one of torch-export (.pt2)"),
        ((*SMALL, "net.onnx", "--to", "onxx"), "unknown kind of export 'onxx'"),
        ((*SMALL, "net.onnx", "--to", "torch-export"), "ends in .pt2"),
        ((*SMALL, "net", "--to", "onnx"), "ends in .onnx"),
        ((*SMALL, "net.pt2", "--framework", "flax"), "is not written by flax; it is by torch"),
        ((*SMALL, "net.pt2", "--dtype", "bfloat16"), "run in float32 or float64"),
        ((*SMALL, "net.tflite", "--dtype", "float64"), "run in float32"),
        ((*SMALL, "net.pt2", "--image-size", "32", "--free-size"), "--free-size frees it"),
        ((*SMALL, "net.pt2", "--take", "encoder"), "--take is for checkpoints"),
        ((*SMALL, "nowhere/net.pt2"), "there is no folder"),
        (("resnet5", "net.pt2"), "unknown preset 'resnet5'"),
        (("resnet50.pth", "net.pt2"), "neither a file nor a preset"),
        (("file.npz", "net.pt2", "--miniature"), "is for presets"),
        ((*SMALL, "folder", "--to", "saved-model"), "is not replaced in one step"),
    ],
)
def test_refused(
    rosetta: Rosetta,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    np.savez(tmp_path / "file.npz", a=np.zeros(1))
    before = sorted(os.listdir(tmp_path))
    source, *rest = arguments
    output = next(word for word in rest if word.startswith(("net", "nowhere", "folder")))
    rest.remove(output)
    rosetta("export", source, output, *rest).refused(said)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_missing_runtime_is_named_with_its_extra(
    rosetta: Rosetta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shared import machine

    there = machine.importlib.util.find_spec
    monkeypatch.setattr(
        machine.importlib.util, "find_spec", lambda n: None if n == "onnxruntime" else there(n)
    )
    result = rosetta("export", *SMALL[:1], tmp_path / "net.onnx", "--miniature")
    result.refused("onnxruntime", "pip install 'resnet-rosetta[onnx]'")


@pytest.mark.zoo
def test_what_differs_is_not_left(
    rosetta: Rosetta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other weights in the file than were asked for: the answer is no, and the old file stays."""
    path = tmp_path / "net.pt2"
    path.write_text("the old one")
    save = exporting.save_weights

    def planted(place: Path, weights: dict, spec: object) -> None:
        changed = {n: a * 1.01 if n == "head.weight" else a for n, a in weights.items()}
        save(place, changed, spec)  # type: ignore[arg-type]

    monkeypatch.setattr(exporting, "save_weights", planted)
    result = rosetta("export", *SMALL[:1], path, "--miniature")
    assert result.code == 1
    assert "is not written: it does not compute the same as cifar/resnet20" in result.out
    assert os.listdir(tmp_path) == ["net.pt2"]
    assert path.read_text() == "the old one"


def test_precisions_are_those_of_the_options() -> None:
    from shared.frameworks.exported.kinds import KINDS

    known = {dtype.value for dtype in DType}
    assert {dtype for kind in KINDS.values() for dtype in kind.runtimes} <= known
