"""What the `rosetta` command refuses: in one line, with exit code 2, nothing written, and no work
begun.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from shared import get_spec, miniature, probe_weights, processes, save_weights
from shared.weights.files import TensorFile
from tests.cli_runner import Rosetta

PRESET = "cifar/resnet20"
SPEC = miniature(get_spec(PRESET))


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker may start: what is refused is refused before any work."""

    def start(*arguments: object, **keywords: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(processes.subprocess, "Popen", start)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, with a few files in it."""
    Image.new("RGB", (40, 40), (1, 2, 3)).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("no image, and no tensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Arguments.


Refusal = tuple[tuple[str, ...], tuple[str, ...]]

REFUSALS: dict[str, Refusal] = {
    "unknown command": (
        ("verif",),
        ("No such command 'verif'", "Did you mean 'verify'", "rosetta --help"),
    ),
    "unknown option": (
        ("show", "resnet50", "--sett", "a=1"),
        ("No such option", "--sett", "rosetta show --help"),
    ),
    "no preset": (("show",), ("Missing argument 'PRESET'", "rosetta show --help")),
    "unknown preset": (
        ("show", "resnet51"),
        ("unknown preset 'resnet51'", "nearest", "resnet50", "rosetta list"),
    ),
    "unknown preset of verify": (
        ("verify", "resnet50", "torchvison/resnet50"),
        ("unknown preset", "torchvision/resnet50"),
    ),
    "impossible spec": (
        ("show", "resnet50", "--set", "depths=[0,1,1,1]"),
        ("depths", "[0, 1, 1, 1]", "at least one"),
    ),
    "impossible groups": (
        ("show", "resnet18", "--set", "block.groups=2"),
        ("block.groups = 2", "bottleneck"),
    ),
    "unknown field": (
        ("show", "resnet50", "--set", "num_clases=3"),
        ("num_clases", "nearest", "num_classes"),
    ),
    "no value": (("show", "resnet50", "--set", "num_classes"), ("'num_classes'", "key=value")),
    "wrong type": (
        ("show", "resnet50", "--set", "num_classes=ten"),
        ("num_classes", "expected int", "'ten'"),
    ),
    "wrong choice": (
        ("show", "resnet50", "--set", "stem.pool=avg"),
        ("stem.pool", "'avg'", "none, max"),
    ),
    "size is no number": (
        ("show", "resnet50", "--image-size", "big"),
        ("--image-size 'big'", "HEIGHTxWIDTH"),
    ),
    "size is too long": (
        ("show", "resnet50", "--image-size", "9" * 5000),
        ("--image-size", "HEIGHTxWIDTH"),
    ),
    "size of nothing": (("show", "resnet50", "--image-size", "0"), ("image size 0 x 0", "from 1")),
    "batch of nothing": (("verify", "resnet50", "--batch", "0"), ("--batch", "1")),
    "unknown precision": (
        ("verify", "resnet50", "--dtype", "float8"),
        ("--dtype", "float8", "bfloat16"),
    ),
    "unknown framework": (
        ("verify", "resnet50", "--framework", "torch,jaxx"),
        ("unknown framework 'jaxx'", "keras:jax"),
    ),
    "one framework": (("verify", "resnet50", "--framework", "reference"), ("two sides",)),
    "one framework twice": (
        ("verify", "resnet50", "--framework", "reference,reference"),
        ("two sides",),
    ),
    "all and some": (("verify", "resnet50", "--all"), ("--all", "not both")),
    "weights of several": (
        ("verify", "resnet18", "resnet50", "--weights", "w"),
        ("--weights", "one preset"),
    ),
    "no weights": (
        ("verify", "resnet18", "--weights", "none.safetensors"),
        ("none.safetensors", "No such file"),
    ),
    "no photograph": (("verify", "resnet18", "--image", "none.png"), ("none.png", "No such file")),
    "no image": (("verify", "resnet18", "--image", "text.png"), ("text.png", "not an image")),
    "truncated image": (
        ("verify", "resnet18", "--image", "cut.png"),
        ("cut.png", "cannot be read as an image"),
    ),
    "image and batch": (
        ("verify", "resnet18", "--image", "good.png", "--batch", "3"),
        ("--batch",),
    ),
    "image of two sides": (
        ("verify", "resnet18", "--image", "good.png", "--image-size", "32x40"),
        ("one side",),
    ),
    "image for five channels": (
        ("verify", "resnet18", "--set", "in_channels=5", "--image", "good.png"),
        ("in_channels = 5",),
    ),
    "one trace": (("compare", "a.safetensors"), ("two traces",)),
    "no trace": (
        ("compare", "none.safetensors", "none.safetensors"),
        ("none.safetensors", "No such file"),
    ),
    "text for a trace": (
        ("compare", "text.png", "text.png"),
        ("text.png", "not a safetensors file"),
    ),
    "no output": (("trace", "resnet18"), ("--output", "rosetta trace --help")),
}


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("case", REFUSALS)
def test_refusal(rosetta: Rosetta, folder: Path, case: str) -> None:
    arguments, said = REFUSALS[case]
    before = sorted(folder.iterdir())
    rosetta(*arguments).refused(*said)
    assert sorted(folder.iterdir()) == before


TRACEBACKS: dict[str, Refusal] = {
    "infinite number": (
        ("show", "resnet50", "--set", "norm.eps=1e999", "--json", "-"),
        ("norm.eps",),
    ),
    "infinite list": (
        ("show", "resnet18", "--set", "shortcut.scales=1e999,1", "--json", "-"),
        ("shortcut.scales",),
    ),
    "deep value": (("show", "resnet50", "--set", f"depths={'[' * 50000}"), ("depths",)),
    "long value": (("show", "resnet50", "--set", f"num_classes={'9' * 5000}"), ("num_classes",)),
    "field named as an argument": (
        ("show", "resnet50", "--set", "self=1"),
        ("spec has no field 'self'",),
    ),
    "no groups": (
        ("show", "resnet50", "--set", "norm.kind=group", "--set", "norm.groups=0"),
        ("norm.groups = 0",),
    ),
}


@pytest.mark.parametrize("case", TRACEBACKS)
def test_refusal_of_what_nobody_means(rosetta: Rosetta, case: str) -> None:
    arguments, said = TRACEBACKS[case]
    rosetta(*arguments).refused(*said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--check", "backward"), "unknown check 'backward'"),
        (
            ("--check", "train", "--dtype", "bfloat16"),
            "training is compared in float64 and float32",
        ),
        (("--check", "eval", "--training", "label_smoothing=0"), "name one of them with --check"),
        (("--training", "optimizer.kid=adam"), "nearest: optimizer.kind"),
        (("--training", "optimizer.momentum=1.5"), "must be in [0, 1)"),
    ],
)
def test_impossible_checks_are_refused(
    rosetta: Rosetta, arguments: tuple[str, ...], said: str
) -> None:
    rosetta("verify", PRESET, "--miniature", "--framework", "torch,reference", *arguments).refused(
        said
    )


OUTPUTS: dict[str, tuple[str, ...]] = {
    "list --json": ("list", "--json"),
    "show --json": ("show", "resnet18", "--json"),
    "verify --json": ("verify", PRESET, "--json"),
    "verify --markdown": ("verify", PRESET, "--markdown"),
    "verify --html": ("verify", PRESET, "--html"),
    "verify --model-explorer": ("verify", PRESET, "--model-explorer"),
    "show --model-explorer": ("show", PRESET, "--model-explorer"),
    "trace -o": ("trace", PRESET, "--framework", "reference", "-o"),
    "compare --json": ("compare", "none", "none", "--json"),
    "compare --html": ("compare", "none", "none", "--html"),
    "compare --markdown": ("compare", "none", "none", "--markdown"),
    "compare --model-explorer": ("compare", "none", "none", "--model-explorer"),
    "curves --html": ("curves", "none", "--html"),
    "curves --markdown": ("curves", "none", "--markdown"),
}


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("command", OUTPUTS)
@pytest.mark.parametrize(
    ("place", "said"), [("no/such/folder/x", "there is no folder"), (".", "is a folder")]
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    rosetta: Rosetta, folder: Path, command: str, place: str, said: str
) -> None:
    before = sorted(folder.iterdir())
    rosetta(*OUTPUTS[command], place).refused("cannot be written", said)
    assert sorted(folder.iterdir()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
@pytest.mark.usefixtures("idle")
def test_a_folder_without_permission_is_refused(rosetta: Rosetta, folder: Path) -> None:
    (folder / "locked").mkdir(mode=0o555)
    rosetta("trace", PRESET, "-o", "locked/t.safetensors").refused("locked", "not writable")


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("command", [("verify", PRESET), ("trace", PRESET, "-o", "t.safetensors")])
@pytest.mark.parametrize("name", ["torch", "keras:jax", "flax"])
def test_a_framework_that_is_not_installed_is_refused(
    rosetta: Rosetta,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    name: str,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    before = sorted(folder.iterdir())
    rosetta(*command, "--framework", name).refused(
        f"{name} needs", "not installed", "pip install 'resnet-rosetta["
    )
    assert sorted(folder.iterdir()) == before


def test_without_frameworks_verify_says_what_is_missing(
    rosetta: Rosetta, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    rosetta("verify", PRESET).refused(
        "no framework is installed", "pip install 'resnet-rosetta[torch]'"
    )


# Weights that are not what they should be.


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def pickle_instead(path: Path) -> None:
    path.write_bytes(b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x8c\x06system\x93")


def other_preset(path: Path) -> None:
    other = miniature(get_spec("cifar/preresnet20"))
    save_weights(path, probe_weights(other), other)


def altered(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Path], None]:
    def alter(path: Path) -> None:
        tensors = load_file(path)
        metadata = {k: v for k, v in TensorFile(path).metadata.items() if k != "sha256"}
        change(tensors)
        save_file(tensors, path, metadata)

    return alter


def several_at_once(tensors: dict[str, np.ndarray]) -> None:
    del tensors["stem.conv1.weight"]
    tensors["stem.conv9.weight"] = np.zeros(3, np.float32)
    tensors["head.bias"] = np.zeros(7, np.float32)


def not_finite_and_negative(tensors: dict[str, np.ndarray]) -> None:
    tensors["head.bias"][2] = np.nan
    tensors["stem.conv1.weight"][:] = np.inf
    tensors["stem.norm1.running_var"][:3] = -1


def not_float(tensors: dict[str, np.ndarray]) -> None:
    tensors["stem.norm1.bias"] = tensors["stem.norm1.bias"].astype(np.int32)


def one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)


BAD_WEIGHTS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "truncated": (truncate, ("damaged",)),
    "pickle": (pickle_instead, ("not a safetensors file",)),
    "of another preset": (other_preset, ("missing", "unexpected", "cifar/resnet20")),
    "several problems": (
        altered(several_at_once),
        (
            "1 missing: stem.conv1.weight [8, 3, 3, 3]",
            "1 unexpected: stem.conv9.weight (nearest: stem.conv1.weight)",
            "1 of another shape: head.bias has shape [7], expected [10]",
        ),
    ),
    "values": (
        altered(not_finite_and_negative),
        (
            "2 not finite: head.bias has 1 values that are not finite; stem.conv1.weight has",
            "1 negative: stem.norm1.running_var has 3 negative variances",
        ),
    ),
    "not float": (altered(not_float), ("1 not float: stem.norm1.bias is int32",)),
    "one bit": (one_bit, ("1 damaged", "does not match its SHA-256")),
}


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_bad_weights_are_refused(rosetta: Rosetta, folder: Path, case: str) -> None:
    harm, said = BAD_WEIGHTS[case]
    path = folder / "w.safetensors"
    save_weights(path, probe_weights(SPEC), SPEC)
    harm(path)
    before = sorted(folder.iterdir())
    command = (
        "trace",
        PRESET,
        "--miniature",
        "--framework",
        "reference",
        "--weights",
        "w.safetensors",
    )
    rosetta(*command, "-o", "t.safetensors").refused("w.safetensors", *said)
    assert sorted(folder.iterdir()) == before


@pytest.mark.usefixtures("idle")
def test_names_from_a_file_do_not_reach_the_terminal_raw(rosetta: Rosetta, folder: Path) -> None:
    path = folder / "w.safetensors"
    save_weights(path, probe_weights(SPEC), SPEC)
    altered(lambda tensors: tensors.update({"\x1b]0;owned\x07\u202e": np.zeros(1, np.float32)}))(
        path
    )
    result = rosetta(
        "trace", PRESET, "--miniature", "--framework", "reference", "--weights", path, "-o", "t"
    )
    result.refused(r"a tensor named '\x1b]0;owned\x07\u202e'")
