"""`rosetta inspect --evidence`: what a person and a program get, and when there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from safetensors.numpy import save_file

from shared import get_spec, miniature, probe_weights, save_weights
from shared.architecture.spec import ResNetSpec
from shared.cli.report_evidence import evidence_table, notes
from shared.verification.evidence import Evidence
from tests.cli_runner import Rosetta
from tests.verification.test_evidence import SIDE, trained_on_the_samples

BUNDLED = "rosetta:fashion-mnist/resnet20"
MINIATURE = miniature(get_spec("torchvision/resnet50"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def other_stride(tmp_path: Path) -> Path:
    """A file that tells nothing beside its tensors, of a network that strides in the 1x1."""
    path = tmp_path / "weights.safetensors"
    weights = trained_on_the_samples(MINIATURE.replace(block_stride_conv=1))
    save_file({name: array.astype(np.float32) for name, array in weights.items()}, path)
    return path


def test_for_a_person_and_a_program(rosetta: Rosetta, other_stride: Path, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    arguments = ("inspect", other_stride, "--evidence", "--image-size", SIDE, "--json", file)
    result = rosetta(*arguments)
    assert (result.code, result.err) == (0, "")
    lines = {line.split("  ")[0]: line for line in result.out.splitlines()}
    assert "which is no proof" in result.out
    assert f"16 crops of 4 bundled photographs, {SIDE} x {SIDE} pixels" in result.out
    assert "1, not 2" in lines["block.stride_conv"]
    assert "to take the likeliest: --set block.stride_conv=1" in result.out
    found = json.loads(file.read_text("utf-8"))["evidence"]
    stride = {evidence["field"]: evidence for evidence in found}["block.stride_conv"]
    assert (stride["value"], stride["instead_of"]) == (1, 2)
    assert stride["other_scores"].keys() == {"2"}
    assert stride["score"] < stride["other_scores"]["2"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (miniature(get_spec("bit/r50x1")), "group norms, which keep no running statistics"),
        (MINIATURE.replace(in_channels=13), "takes 13 channels"),
    ],
    ids=["group norm", "13 channels"],
)
def test_none(rosetta: Rosetta, tmp_path: Path, spec: ResNetSpec, said: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, probe_weights(spec), spec)
    result = rosetta("inspect", path, "--evidence")
    assert (result.code, result.err) == (0, "")
    (line,) = [line for line in result.out.splitlines() if line.startswith("  evidence")]
    assert "none: " in line
    assert said in line
    assert rosetta("inspect", path, "--evidence", "--json", "-").json["evidence"] is None


def test_none_of_a_fresh_network(rosetta: Rosetta, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    weights = probe_weights(MINIATURE)
    for name in weights:
        if name.endswith(("running_mean", "running_var")):
            weights[name] = np.full_like(weights[name], name.endswith("var"))
    save_weights(path, weights, MINIATURE)
    result = rosetta("inspect", path, "--evidence")
    assert "none: every running mean is 0 and every running variance 1" in result.out


def test_none_unless_asked(rosetta: Rosetta) -> None:
    assert rosetta("inspect", BUNDLED, "--json", "-").json["evidence"] is None
    assert "\n  evidence" not in rosetta("inspect", BUNDLED).out


def test_own_images(rosetta: Rosetta, photo: Path) -> None:
    result = rosetta("inspect", BUNDLED, "--evidence", "--image", photo, "--image", photo)
    assert (result.code, result.err) == (0, "")
    assert "2 images of 28 x 28 pixels" in result.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--image", "PHOTO"], "--image is for --evidence"),
        (["--image-size", "64"], "--image-size is for --evidence"),
        (["--evidence", "--image", "NOTHING"], "NOTHING: cannot be read"),
        (["--evidence", "--image-size", "64x32"], "one side"),
        (["--evidence", *["--image", "PHOTO"] * 513], "at most 512"),
    ],
    ids=["no evidence", "size alone", "no image", "two sides", "too many"],
)
def test_refused(rosetta: Rosetta, photo: Path, arguments: list[str], said: str) -> None:
    given = [str(photo) if argument == "PHOTO" else argument for argument in arguments]
    rosetta("inspect", BUNDLED, *given).refused(said)


def an_evidence(**changes: Any) -> Evidence:
    return Evidence(
        **{
            "field": "preprocessing",
            "value": "half",
            "instead_of": "imagenet",
            "strength": "strong",
            "score": 0.1,
            "other_scores": {"imagenet": 0.9, "unit": 0.2, "caffe": 1e6},
            "as_likely": ("unit",),
            "fit": 0.01,
            **changes,
        }
    )


def test_no_evidence_is_said_in_words() -> None:
    nothing = an_evidence(
        instead_of=None, strength="none", other_scores={"unit": 0.1}, as_likely=("unit",)
    )
    row = shown_table(nothing).splitlines()[2]
    assert "not told" in row
    assert "no evidence" in row
    assert "half; unit" in row


def shown_table(evidence: Evidence) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(evidence_table([evidence]))
    return capture.get()


def test_the_farther_off_come_with_their_factors() -> None:
    table = shown_table(an_evidence())
    assert "half, not imagenet" in table
    assert "imagenet 9.0; caffe > 100,000" in table


def test_images_that_do_not_fit_are_noted() -> None:
    (note,) = notes([an_evidence(instead_of=None, fit=0.4)])
    assert "unlike those that the network was trained on" in note.plain
    assert list(notes([an_evidence(instead_of=None)])) == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("half", "--preprocessing half"),
        ("0 to 255", "--preprocessing '0 to 255'"),
        ("imagenet in BGR", "imagenet in BGR, which `predict` does not know"),
    ],
)
def test_another_preprocessing_is_noted(value: str, said: str) -> None:
    (note,) = notes([an_evidence(value=value)])
    assert said in note.plain
