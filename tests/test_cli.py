"""The `rosetta` command: what it prints, what it writes, how it ends, and how it refuses."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from safetensors.numpy import load_file, save_file

from shared import Trace, frameworks, get_spec, list_presets, make_plan, miniature, probe_weights, save_weights
from shared import verify as verify_module
from shared.files import TensorFile
from shared.tables import Column, Styled, Table, plan_table, printable
from tests.cli_runner import Rosetta, run_program, run_python

PRESET = "cifar/resnet20"
SPEC = miniature(get_spec(PRESET))
LAYER = "eval/stages.1.blocks.0.conv2"

COMPARISON_KEYS = {"preset", "a", "b", "dtype", "check", "tensors", "passed", "worst", "first_divergence"}


@pytest.fixture
def rosetta(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Rosetta:
    monkeypatch.delenv("COLUMNS", raising=False)
    return Rosetta(capsys, monkeypatch)


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker may start: what is refused is refused before any work."""

    def start(*arguments: object, **keywords: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(frameworks.subprocess, "Popen", start)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three traces as `rosetta trace` writes them: two alike, and one with a layer that is a little off."""
    folder = tmp_path_factory.mktemp("traces")
    files = {name: folder / f"{name}.safetensors" for name in ("one", "same", "off")}
    for name in ("one", "same"):
        done = run_program(
            "trace", PRESET, "--miniature", "--image-size", "33x40", "--framework", "reference", "-o", files[name]
        )
        assert (done.code, done.err) == (0, "")
    old = TensorFile(files["one"])
    tensors = load_file(files["one"])
    tensors[LAYER] = tensors[LAYER] * (1 + 1e-9)
    save_file(tensors, files["off"], old.metadata)
    return files


# What the commands print and write.


def test_list_for_a_person(rosetta: Rosetta) -> None:
    result = rosetta("list")
    assert (result.code, result.err) == (0, "")
    rows = {line.split()[0]: line for line in result.out.splitlines() if "/" in line.partition(" ")[0]}
    assert list(rows) == list_presets()
    assert rows["torchvision/resnet50"].split()[1:] == ["25,557,032", "4.089", "G", "224", "1000"]


def test_list_for_a_program(rosetta: Rosetta) -> None:
    result = rosetta("list", "--json", "-")
    assert (result.code, result.err) == (0, "")
    assert [entry["name"] for entry in result.json] == list_presets()
    for entry in result.json:
        assert set(entry) >= {"name", "family", "params", "macs", "image_size", "num_classes"}
        assert entry["name"].startswith(entry["family"] + "/")
    by_name = {entry["name"]: entry for entry in result.json}
    assert by_name["torchvision/resnet18"]["params"] == 11_689_512
    assert by_name["cifar/resnet20"]["num_classes"] == 10


def test_json_file_and_table_together(rosetta: Rosetta, tmp_path: Path) -> None:
    result = rosetta("show", "resnet18", "--json", tmp_path / "plan.json")
    assert result.code == 0
    assert "stages.3.blocks.1" in result.out
    assert json.loads((tmp_path / "plan.json").read_text())["name"] == "torchvision/resnet18"


def test_show_for_a_program(rosetta: Rosetta) -> None:
    shown = rosetta("show", "resnet50_v2", "--json", "-").json
    plan = make_plan(get_spec("resnet50_v2"))
    assert set(shown) >= {"name", "spec", "params", "macs", "image_size", "layers", "tensors"}
    assert (shown["params"], shown["macs"], shown["image_size"]) == (plan.params, plan.macs, [224, 224])
    assert shown["spec"] == plan.spec.to_dict()
    assert [layer["name"] for layer in shown["layers"]] == [row.name for row in plan.layers]
    assert all(set(layer) >= {"name", "op", "output", "params", "macs"} for layer in shown["layers"])
    assert {name: tuple(shape) for name, shape in shown["tensors"].items()} == plan.tensors
    assert sum(layer["macs"] for layer in shown["layers"]) == shown["macs"]


def test_show_with_changes(rosetta: Rosetta) -> None:
    arguments = (
        "--set",
        "num_classes=10",
        "--set",
        "norm.eps=1e-3",
        "--set",
        "stem.pool=none",
        "--image-size",
        "96x65",
    )
    shown = rosetta("show", "resnet18", *arguments, "--json", "-").json
    assert shown["image_size"] == [96, 65]
    assert (shown["spec"]["num_classes"], shown["spec"]["norm"]["eps"]) == (10, 1e-3)
    assert "stem.pool" not in [layer["name"] for layer in shown["layers"]]
    assert shown["layers"][-1]["output"] == [10]


def test_help_without_arguments(rosetta: Rosetta) -> None:
    result = rosetta()
    assert (result.code, result.err) == (0, "")
    assert all(command in result.out for command in ("list", "show", "verify", "trace", "compare"))


@pytest.mark.parametrize("command", ["list", "show", "verify", "trace", "compare"])
def test_help_of_every_command(rosetta: Rosetta, command: str) -> None:
    result = rosetta(command, "--help")
    assert (result.code, result.err) == (0, "")
    assert f"Usage: rosetta {command}" in result.out


def test_trace_is_a_file_that_says_where_it_comes_from(traces: dict[str, Path]) -> None:
    found = Trace.load(traces["one"])
    assert (found.spec, found.framework, found.dtype) == (SPEC, "reference", "float64")
    assert found.about["image_shape"] == "2x33x40x3"
    assert found.names[0] == "eval/stem.conv1"
    assert found.names[-1] == "step10/output"  # every check, unless others are asked for


def test_compare_equal(rosetta: Rosetta, traces: dict[str, Path]) -> None:
    result = rosetta("compare", traces["one"], traces["same"])
    assert (result.code, result.err) == (0, "")
    assert "✓ same" in result.out
    assert f"reference ({traces['one']})" in result.out  # one framework: told apart by the files


def test_compare_a_planted_mismatch(rosetta: Rosetta, traces: dict[str, Path]) -> None:
    result = rosetta("compare", traces["one"], traces["same"], traces["off"], "--json", "-")
    assert (result.code, result.err) == (1, "")
    assert set(result.json) >= {"passed", "environment", "comparisons"}
    assert result.json["passed"] is False
    assert result.json["environment"]["numpy"] == np.__version__
    assert [c["check"] for c in result.json["comparisons"][:4]] == ["eval", "train", "gradients", "steps"]
    assert all(set(comparison) >= COMPARISON_KEYS for comparison in result.json["comparisons"])
    assert all(c["passed"] for c in result.json["comparisons"] if c["check"] != "eval")
    found = [c for c in result.json["comparisons"] if c["check"] == "eval"]
    assert [c["passed"] for c in found] == [True, False, False]
    assert found[1]["first_divergence"] == LAYER
    assert found[1]["worst"] == {"name": LAYER, "error": pytest.approx(1e-9), "limit": 1e-12}


def test_compare_names_the_layer_to_a_person(rosetta: Rosetta, traces: dict[str, Path]) -> None:
    result = rosetta("compare", traces["one"], traces["off"], "--layers")
    assert (result.code, result.err) == (1, "")
    assert "first at stages.1.blocks.0.conv2" in result.out
    assert sum(line.endswith("✗ differs") for line in result.out.splitlines()) == 2  # the layer, and the pair
    assert "stem.conv1" in result.out


def test_verify_for_a_program(rosetta: Rosetta, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    result = rosetta(
        "verify", PRESET, "--miniature", "--image-size", "33", "--framework", "torch, reference",
        "--json", "-", "--markdown", tmp_path / "table.md",
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert result.json["passed"] is True
    assert set(result.json["environment"]) >= {"python", "numpy", "torch"}
    comparison, *others = result.json["comparisons"]
    assert [c["check"] for c in others] == ["train", "gradients", "steps"]
    assert set(comparison) >= COMPARISON_KEYS
    assert (comparison["preset"], comparison["a"], comparison["b"]) == (PRESET, "torch", "reference")
    assert comparison["tensors"] == len(make_plan(SPEC).layers) + 1
    assert comparison["worst"]["error"] <= comparison["worst"]["limit"]
    page = (tmp_path / "table.md").read_text()
    assert page.startswith("# 1 presets, 1 networks\n")
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len(table) == 3
    assert len({line.count("|") for line in table}) == 1
    assert "| same |" in table[2]


class FromFile:
    """A worker whose traces are there already: the first is as it should be, the second is `off`."""

    files: dict[str, Path]

    def __init__(self, name: str, threads: int | None = None):
        self.name = name

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        source = self.files["one" if self.name == "reference" else "off"]
        Path(job["output"]).write_bytes(source.read_bytes())
        return {"seconds": 1.0, "peak_bytes": 1 << 30}

    def kill(self) -> None:
        pass

    def close(self) -> None:
        pass

    def __enter__(self) -> FromFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@pytest.fixture
def disagreeing(monkeypatch: pytest.MonkeyPatch, traces: dict[str, Path]) -> None:
    monkeypatch.setattr(FromFile, "files", traces, raising=False)
    monkeypatch.setattr(verify_module, "Worker", FromFile)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


@pytest.mark.usefixtures("disagreeing")
def test_verify_ends_with_1_on_a_mismatch(rosetta: Rosetta) -> None:
    result = rosetta("verify", PRESET, "--miniature", "--framework", "torch,reference", "--json", "-")
    assert result.code == 1
    assert result.json["passed"] is False
    assert result.json["comparisons"][0]["first_divergence"] == LAYER


@pytest.mark.usefixtures("disagreeing")
def test_verify_names_the_layer_to_a_person(rosetta: Rosetta) -> None:
    result = rosetta("verify", PRESET, "--miniature", "--framework", "torch,reference")
    assert result.code == 1
    assert "first at stages.1.blocks.0.conv2" in result.out
    assert "✗ cifar/resnet20 is not the same function" in result.out


@pytest.mark.usefixtures("disagreeing")
def test_verify_of_several_says_which_failed(rosetta: Rosetta) -> None:
    result = rosetta("verify", PRESET, PRESET, "--miniature", "--framework", "torch,reference")
    assert result.code == 1
    assert "first at stages.1.blocks.0.conv2" in result.err  # as soon as it is known
    assert "✗ 2 of 2 presets differ" in result.out


# Refusals: one line, exit code 2, nothing written, no work begun.


Refusal = tuple[tuple[str, ...], tuple[str, ...]]

REFUSALS: dict[str, Refusal] = {
    "unknown command": (("verif",), ("No such command 'verif'", "Did you mean 'verify'", "rosetta --help")),
    "unknown option": (("show", "resnet50", "--sett", "a=1"), ("No such option", "--sett", "rosetta show --help")),
    "no preset": (("show",), ("Missing argument 'PRESET'", "rosetta show --help")),
    "unknown preset": (("show", "resnet51"), ("unknown preset 'resnet51'", "nearest", "resnet50", "rosetta list")),
    "unknown preset of verify": (
        ("verify", "resnet50", "torchvison/resnet50"),
        ("unknown preset", "torchvision/resnet50"),
    ),
    "impossible spec": (("show", "resnet50", "--set", "depths=[0,1,1,1]"), ("depths", "[0, 1, 1, 1]", "at least one")),
    "impossible groups": (("show", "resnet18", "--set", "block.groups=2"), ("block.groups = 2", "bottleneck")),
    "unknown field": (("show", "resnet50", "--set", "num_clases=3"), ("num_clases", "nearest", "num_classes")),
    "no value": (("show", "resnet50", "--set", "num_classes"), ("'num_classes'", "key=value")),
    "wrong type": (("show", "resnet50", "--set", "num_classes=ten"), ("num_classes", "expected int", "'ten'")),
    "wrong choice": (("show", "resnet50", "--set", "stem.pool=avg"), ("stem.pool", "'avg'", "none, max")),
    "size is no number": (("show", "resnet50", "--image-size", "big"), ("--image-size 'big'", "HEIGHTxWIDTH")),
    "size is too long": (("show", "resnet50", "--image-size", "9" * 5000), ("--image-size", "HEIGHTxWIDTH")),
    "size of nothing": (("show", "resnet50", "--image-size", "0"), ("image size 0 x 0", "from 1")),
    "batch of nothing": (("verify", "resnet50", "--batch", "0"), ("--batch", "1")),
    "unknown precision": (("verify", "resnet50", "--dtype", "float8"), ("--dtype", "float8", "bfloat16")),
    "unknown framework": (
        ("verify", "resnet50", "--framework", "torch,jaxx"),
        ("unknown framework 'jaxx'", "keras:jax"),
    ),
    "one framework": (("verify", "resnet50", "--framework", "reference"), ("two sides",)),
    "one framework twice": (("verify", "resnet50", "--framework", "reference,reference"), ("two sides",)),
    "all and some": (("verify", "resnet50", "--all"), ("--all", "not both")),
    "weights of several": (("verify", "resnet18", "resnet50", "--weights", "w"), ("--weights", "one preset")),
    "no weights": (("verify", "resnet18", "--weights", "none.safetensors"), ("none.safetensors", "No such file")),
    "no photograph": (("verify", "resnet18", "--image", "none.png"), ("none.png", "No such file")),
    "no image": (("verify", "resnet18", "--image", "text.png"), ("text.png", "not an image")),
    "truncated image": (("verify", "resnet18", "--image", "cut.png"), ("cut.png", "cannot be read as an image")),
    "image and batch": (("verify", "resnet18", "--image", "good.png", "--batch", "3"), ("--batch",)),
    "image of two sides": (("verify", "resnet18", "--image", "good.png", "--image-size", "32x40"), ("one side",)),
    "image for five channels": (
        ("verify", "resnet18", "--set", "in_channels=5", "--image", "good.png"),
        ("in_channels = 5",),
    ),
    "one trace": (("compare", "a.safetensors"), ("two traces",)),
    "no trace": (("compare", "none.safetensors", "none.safetensors"), ("none.safetensors", "No such file")),
    "text for a trace": (("compare", "text.png", "text.png"), ("text.png", "not a safetensors file")),
    "no output": (("trace", "resnet18"), ("--output", "rosetta trace --help")),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, with a few files in it."""
    Image.new("RGB", (40, 40), (1, 2, 3)).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("no image, and no tensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("case", REFUSALS)
def test_refusal(rosetta: Rosetta, folder: Path, case: str) -> None:
    arguments, said = REFUSALS[case]
    before = sorted(folder.iterdir())
    rosetta(*arguments).refused(*said)
    assert sorted(folder.iterdir()) == before


TRACEBACKS: dict[str, Refusal] = {
    "infinite number": (("show", "resnet50", "--set", "norm.eps=1e999", "--json", "-"), ("norm.eps",)),
    "infinite list": (("show", "resnet18", "--set", "shortcut.scales=1e999,1", "--json", "-"), ("shortcut.scales",)),
    "deep value": (("show", "resnet50", "--set", f"depths={'[' * 50000}"), ("depths",)),
    "long value": (("show", "resnet50", "--set", f"num_classes={'9' * 5000}"), ("num_classes",)),
    "no groups": (("show", "resnet50", "--set", "norm.kind=group", "--set", "norm.groups=0"), ("norm.groups = 0",)),
}


@pytest.mark.parametrize("case", TRACEBACKS)
def test_refusal_of_what_nobody_means(rosetta: Rosetta, case: str) -> None:
    arguments, said = TRACEBACKS[case]
    rosetta(*arguments).refused(*said)


@pytest.mark.parametrize("versions", ["{", "[1]"])
def test_damaged_versions_in_a_trace(rosetta: Rosetta, traces: dict[str, Path], folder: Path, versions: str) -> None:
    metadata = {**TensorFile(traces["one"]).metadata, "versions": versions}
    save_file(load_file(traces["one"]), folder / "t.safetensors", metadata)
    rosetta("compare", traces["same"], "t.safetensors").refused("t.safetensors", "versions")


OUTPUTS: dict[str, tuple[str, ...]] = {
    "list --json": ("list", "--json"),
    "show --json": ("show", "resnet18", "--json"),
    "verify --json": ("verify", PRESET, "--json"),
    "verify --markdown": ("verify", PRESET, "--markdown"),
    "trace -o": ("trace", PRESET, "--framework", "reference", "-o"),
    "compare --json": ("compare", "none", "none", "--json"),
}


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("command", OUTPUTS)
@pytest.mark.parametrize(("place", "said"), [("no/such/folder/x", "there is no folder"), (".", "is a folder")])
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
    rosetta: Rosetta, folder: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], name: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    before = sorted(folder.iterdir())
    rosetta(*command, "--framework", name).refused(f"{name} needs", "not installed", "pip install 'resnet-rosetta[")
    assert sorted(folder.iterdir()) == before


def test_without_frameworks_verify_says_what_is_missing(rosetta: Rosetta, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    rosetta("verify", PRESET).refused("no framework is installed", "pip install 'resnet-rosetta[torch]'")


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
            "2 not finite: head.bias has 1 such values; stem.conv1.weight has",
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
    command = ("trace", PRESET, "--miniature", "--framework", "reference", "--weights", "w.safetensors")
    rosetta(*command, "-o", "t.safetensors").refused("w.safetensors", *said)
    assert sorted(folder.iterdir()) == before


@pytest.mark.usefixtures("idle")
def test_names_from_a_file_do_not_reach_the_terminal_raw(rosetta: Rosetta, folder: Path) -> None:
    path = folder / "w.safetensors"
    save_weights(path, probe_weights(SPEC), SPEC)
    altered(lambda tensors: tensors.update({"\x1b]0;owned\x07\u202e": np.zeros(1, np.float32)}))(path)
    result = rosetta("trace", PRESET, "--miniature", "--framework", "reference", "--weights", path, "-o", "t")
    result.refused(r"a tensor named '\x1b]0;owned\x07\u202e'")


# As a program.


def test_one_line_and_nothing_on_standard_output_from_a_process(tmp_path: Path) -> None:
    run_program("verify", "resnet51", "--json", "-").refused("unknown preset")
    run_program("trace", PRESET, "--framework", "reference", "--set", "norm.eps=0", "-o", tmp_path / "t").refused(
        "norm.eps"
    )
    assert list(tmp_path.iterdir()) == []


def test_only_json_on_standard_output(traces: dict[str, Path]) -> None:
    done = run_program("compare", traces["one"], traces["same"], "--json", "-", env={"FORCE_COLOR": "1"})
    assert (done.code, done.err) == (0, "")
    assert done.json["passed"] is True


def test_a_reader_who_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m shared.cli list | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)  # noqa: S607
    assert done.stdout.startswith("preset")
    assert done.stderr == ""


def test_a_terminal_without_unicode_gets_question_marks(traces: dict[str, Path]) -> None:
    done = run_program("compare", traces["one"], traces["same"], env={"PYTHONIOENCODING": "ascii"})
    assert (done.code, done.err) == (0, "")
    assert "? same" in done.out


@pytest.mark.parametrize("to_all", [True, False], ids=["from the keyboard", "to the process"])
def test_an_interrupt_ends_it_quietly_and_soon(to_all: bool, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    arguments = ("verify", "resnet152", "--framework", "torch,reference", "--json", tmp_path / "v.json")
    command = [sys.executable, "-m", "shared.cli", *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:  # fmt: skip
        while not list(tmp_path.iterdir()):  # its temporary folder
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(1)  # the workers are at work, for minutes
        (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "but"),
    [
        ("import shared", ("numpy", "typer", "rich", "safetensors", "PIL")),
        ("import shared.cli", ("numpy", "rich", "safetensors", "PIL")),
        ("from shared.cli import main; import sys; sys.argv = ['rosetta', 'list']", ("numpy", "PIL", "safetensors")),
        ("from shared.cli import main; import sys; sys.argv = ['rosetta', 'show', 'resnet18']", ("numpy", "PIL")),
        ("from shared.cli import main; import sys; sys.argv = ['rosetta', '--help']", ("numpy", "PIL")),
        ("import shared.verify, shared.report, shared.worker, shared.comparison", ("PIL",)),
    ],
    ids=["import", "cli", "list", "show", "help", "everything"],
)
def test_what_is_not_imported(code: str, but: tuple[str, ...]) -> None:
    """Frameworks never; NumPy, and what draws tables, where it is needed."""
    heavy = ("torch", "tensorflow", "keras", "jax", "flax", *but)
    run = (
        "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main()"
    )
    body = f"{code}\n{run if 'main' in code else ''}\nimport sys\nprint([m for m in {heavy!r} if m in sys.modules])"
    assert run_python(body) == "[]"


def test_every_public_name_can_be_used() -> None:
    assert run_python("import shared\nprint(all(getattr(shared, name) for name in shared.__all__))") == "True"


# Tables on terminals of different widths.


def on_terminal(width: int, *arguments: object) -> str:
    """What a person sees on a terminal of `width` characters, with its colours taken off."""
    master, slave = pty.openpty()
    env = {**os.environ, "COLUMNS": str(width), "TERM": "dumb"}
    command = [sys.executable, "-m", "shared.cli", *map(str, arguments)]
    with subprocess.Popen(command, stdout=slave, stderr=slave, env=env) as process:
        os.close(slave)
        shown = b""
        try:
            while block := os.read(master, 1 << 16):
                shown += block
        except OSError:  # the other side is closed
            pass
        process.wait(timeout=60)
    os.close(master)
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_plan_fits_the_terminal_and_keeps_every_name_whole(width: int) -> None:
    shown = on_terminal(width, "show", "timm/resnet50d").splitlines()
    assert max(map(len, shown)) <= width
    first = [line.split()[0] for line in shown if line]
    assert set(first) >= {row.name for row in make_plan(get_spec("timm/resnet50d")).layers}


def lines(table: Table, width: int = 200, color: bool = False) -> list[str]:
    console = Console(width=width, force_terminal=color, color_system="standard" if color else None)
    with console.capture() as capture:
        console.print(table, soft_wrap=True)
    return capture.get().splitlines()


def test_table_aligns_its_columns() -> None:
    table = Table(Column("name"), Column("n", right=True), title="title")
    table.row("a", "1")
    table.section("more")
    table.row("long", "1,234")
    assert lines(table) == [
        "title", "", "name      n", "────  ─────", "a         1", "", "more", "long  1,234",
    ]  # fmt: skip


def test_narrow_table_drops_columns_in_order_and_then_cuts() -> None:
    table = Table(Column("name"), Column("text", cut=True), Column("last", drop=2), Column("first", drop=1))
    table.row("n" * 12, "t" * 20, "l" * 10, "f" * 10)
    headings = {width: lines(table, width)[0].split() for width in (60, 58, 50, 40, 30, 10)}
    assert headings == {
        60: ["name", "text", "last", "first"],
        58: ["name", "text", "last", "first"],
        50: ["name", "text", "last"],
        40: ["name", "text"],
        30: ["name", "text"],
        10: ["name", "text"],
    }
    assert lines(table, 30)[2] == "n" * 12 + "  " + "t" * 15 + "…"
    assert lines(table, 10)[2] == "n" * 12 + "  " + "t" * 9 + "…"  # names stay whole, whatever it takes


def test_table_styles_are_for_terminals_only() -> None:
    table = Table(Column("name"))
    table.row(Styled("x", "bold red"))
    assert lines(table)[2] == "x"
    assert lines(table, color=True)[2] == "\x1b[1;31mx\x1b[0m"


def test_table_cells_hold_no_markup_and_no_control_characters() -> None:
    table = Table(Column("name"))
    table.row("[bold]\x1b[31m")
    assert lines(table)[2] == "[bold]?[31m"
    assert printable("a\nb\tc") == "a?b?c"
    assert printable("✓ ok") == "✓ ok"


def test_plan_table_totals() -> None:
    plan = make_plan(get_spec("resnet50"))
    shown = lines(plan_table(plan))
    assert shown[0] == "torchvision/resnet50 on 224 x 224 x 3"
    assert shown[-1].split() == ["total", "1000", "25,557,032", "4.089", "G"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--check", "backward"), "unknown check 'backward'"),
        (("--check", "train", "--dtype", "float32"), "training is compared in float64"),
        (("--check", "eval", "--training", "label_smoothing=0"), "name one of them with --check"),
        (("--training", "optimizer.kid=adam"), "nearest: optimizer.kind"),
        (("--training", "optimizer.momentum=1.5"), "must be in [0, 1)"),
    ],
)
def test_impossible_checks_are_refused(rosetta: Rosetta, arguments: tuple[str, ...], said: str) -> None:
    rosetta("verify", PRESET, "--miniature", "--framework", "torch,reference", *arguments).refused(said)


def test_checks_can_be_chosen(rosetta: Rosetta) -> None:
    pytest.importorskip("torch")
    result = rosetta("verify", PRESET, "--miniature", "--image-size", "33", "--framework", "torch,reference", "--check",
                     "gradients,eval", "--training", "label_smoothing=0", "--json", "-")  # fmt: skip
    assert result.code == 0
    assert [c["check"] for c in result.json["comparisons"]] == ["eval", "gradients"]
