"""The `rosetta` command: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shared import Trace, get_spec, list_presets, make_plan, miniature
from shared.frameworks import pool
from shared.weights.files import TensorFile
from tests.cli_runner import Rosetta, listening, run_program, run_python
from tests.frameworks.here import ReferenceHere, no_processes
from tests.zoo import in_zoo

PRESET = "cifar/resnet20"
SPEC = miniature(get_spec(PRESET))
LAYER = "eval/stages.1.blocks.0.conv2"

COMPARISON_KEYS = {
    "preset",
    "a",
    "b",
    "dtype",
    "check",
    "tensors",
    "passed",
    "worst",
    "first_divergence",
}


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trace as `rosetta trace` writes it, its copy, and one with a layer that is a little off."""
    folder = tmp_path_factory.mktemp("traces")
    files = {name: folder / f"{name}.safetensors" for name in ("one", "same", "off")}
    network = (PRESET, "--miniature", "--image-size", "33x40")
    done = run_program("trace", *network, "--framework", "reference", "-o", files["one"])
    assert (done.code, done.err) == (0, "")
    shutil.copy(files["one"], files["same"])
    old = TensorFile(files["one"])
    tensors = load_file(files["one"])
    tensors[LAYER] = tensors[LAYER] * (1 + 1e-9)
    save_file(tensors, files["off"], old.metadata)
    return files


# What the commands print and write.


def test_list_for_a_person(rosetta: Rosetta) -> None:
    result = rosetta("list")
    assert (result.code, result.err) == (0, "")
    rows = {
        line.split()[0]: line for line in result.out.splitlines() if "/" in line.partition(" ")[0]
    }
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
    assert (shown["params"], shown["macs"], shown["image_size"]) == (
        plan.params,
        plan.macs,
        [224, 224],
    )
    assert shown["spec"] == plan.spec.to_dict()
    assert [layer["name"] for layer in shown["layers"]] == [row.name for row in plan.layers]
    assert all(
        set(layer) >= {"name", "op", "output", "params", "macs"} for layer in shown["layers"]
    )
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
    assert [c["check"] for c in result.json["comparisons"][:4]] == [
        "eval",
        "train",
        "gradients",
        "steps",
    ]
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
    assert (
        sum(line.endswith("✗ differs") for line in result.out.splitlines()) == 2
    )  # the layer, and the pair
    assert "stem.conv1" in result.out


@pytest.mark.parametrize("versions", ["{", "[1]"])
def test_damaged_versions_in_a_trace(
    rosetta: Rosetta, traces: dict[str, Path], tmp_path: Path, versions: str
) -> None:
    metadata = {**TensorFile(traces["one"]).metadata, "versions": versions}
    save_file(load_file(traces["one"]), tmp_path / "t.safetensors", metadata)
    rosetta("compare", traces["same"], tmp_path / "t.safetensors").refused(
        "t.safetensors", "versions"
    )


def test_verify_for_a_program(rosetta: Rosetta, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    result = rosetta(
        "verify",
        PRESET,
        "--miniature",
        "--image-size",
        "33",
        "--framework",
        "torch, reference",
        "--json",
        "-",
        "--markdown",
        tmp_path / "table.md",
    )
    assert (result.code, result.err) == (0, "")
    assert result.json["passed"] is True
    assert set(result.json["environment"]) >= {"python", "numpy", "torch"}
    comparison, *others = result.json["comparisons"]
    assert [c["check"] for c in others] == ["train", "gradients", "steps"]
    assert set(comparison) >= COMPARISON_KEYS
    assert (comparison["preset"], comparison["a"], comparison["b"]) == (
        PRESET,
        "torch",
        "reference",
    )
    assert comparison["tensors"] == len(make_plan(SPEC).layers) + 1
    assert comparison["worst"]["error"] <= comparison["worst"]["limit"]
    page = (tmp_path / "table.md").read_text()
    assert page.startswith("# 1 presets, 1 networks\n")
    networks, pairs = page.split("\n## Pairs\n")
    assert pairs.count("| ✓ same |") == len(result.json["comparisons"])
    table = [line for line in networks.splitlines() if line.startswith("|")]
    assert len(table) == 3
    assert len({line.count("|") for line in table}) == 1
    assert "| same |" in table[2]


def test_checks_can_be_chosen(rosetta: Rosetta, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    no_processes(monkeypatch, ReferenceHere)
    result = rosetta(
        "verify",
        PRESET,
        "--miniature",
        "--image-size",
        "33",
        "--framework",
        "torch,reference",
        "--check",
        "gradients,eval",
        "--training",
        "label_smoothing=0",
        "--json",
        "-",
    )
    assert result.code == 0
    assert [c["check"] for c in result.json["comparisons"]] == ["eval", "gradients"]


class FromFile:
    """A worker whose traces are there already: the first is as it should be, the second
    is `off`.
    """

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
    monkeypatch.setattr(pool, "TraceWorker", FromFile)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


@pytest.mark.usefixtures("disagreeing")
def test_verify_ends_with_1_on_a_mismatch(rosetta: Rosetta) -> None:
    result = rosetta(
        "verify", PRESET, "--miniature", "--framework", "torch,reference", "--json", "-"
    )
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


# As a program.


def test_one_line_and_nothing_on_standard_output_from_a_process(tmp_path: Path) -> None:
    run_program("verify", "resnet51", "--json", "-").refused("unknown preset")
    run_program(
        "trace", PRESET, "--framework", "reference", "--set", "norm.eps=-1", "-o", tmp_path / "t"
    ).refused("norm.eps")
    assert list(tmp_path.iterdir()) == []


def test_only_json_on_standard_output(traces: dict[str, Path]) -> None:
    done = run_program(
        "compare", traces["one"], traces["same"], "--json", "-", env={"FORCE_COLOR": "1"}
    )
    assert (done.code, done.err) == (0, "")
    assert done.json["passed"] is True


def test_a_reader_who_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m shared.cli.main list | head -1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("preset")
    assert done.stderr == ""


def test_a_terminal_without_unicode_gets_question_marks(traces: dict[str, Path]) -> None:
    done = run_program("compare", traces["one"], traces["same"], env={"PYTHONIOENCODING": "ascii"})
    assert (done.code, done.err) == (0, "")
    assert "? same" in done.out


@pytest.mark.parametrize(
    "to_all", [True, in_zoo(False)], ids=["from the keyboard", "to the process"]
)
def test_an_interrupt_ends_it_quietly_and_soon(to_all: bool, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    arguments = (
        "verify",
        "resnet152",
        "--framework",
        "torch,reference",
        "--json",
        tmp_path / "v.json",
    )
    command = listening(*arguments)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
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
        ("import shared.cli.main", ("numpy", "rich", "safetensors", "PIL")),
        (
            "from shared.cli.main import main; import sys; sys.argv = ['rosetta', 'list']",
            ("numpy", "PIL", "safetensors"),
        ),
        (
            "from shared.cli.main import main; import sys; sys.argv = ['rosetta', 'show', "
            "'resnet18']",
            ("numpy", "PIL"),
        ),
        (
            "from shared.cli.main import main; import sys; sys.argv = ['rosetta', '--help']",
            ("numpy", "PIL"),
        ),
        (
            "import shared.frameworks.verify, shared.cli.report_verify, "
            "shared.frameworks.trace_worker, shared.verification.comparison",
            ("PIL",),
        ),
    ],
    ids=["import", "cli", "list", "show", "help", "everything"],
)
def test_what_is_not_imported(code: str, but: tuple[str, ...]) -> None:
    """Frameworks never; NumPy, and what draws tables, where it is needed."""
    heavy = ("torch", "tensorflow", "keras", "jax", "flax", *but)
    run = (
        "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()), "
        "contextlib.suppress(SystemExit): main()"
    )
    body = (
        f"{code}\n{run if 'import main' in code else ''}\nimport sys\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    assert run_python(body) == "[]"


def test_every_public_name_can_be_used() -> None:
    assert (
        run_python("import shared\nprint(all(getattr(shared, name) for name in shared.__all__))")
        == "True"
    )


def test_the_version_is_printed(rosetta: Rosetta) -> None:
    result = rosetta("--version")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("rosetta ")


def test_without_a_preset_miniatures_of_a_small_set_are_verified(
    rosetta: Rosetta, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from shared.frameworks import verify

    no_processes(monkeypatch, ReferenceHere)
    monkeypatch.setattr(verify, "DEFAULT_PRESETS", ("torchvision/resnet18", "cifar/resnet20"))
    pair = ("--framework", "torch,reference", "--check", "eval", "--image-size", "32")
    page = tmp_path / "page.md"
    result = rosetta("verify", *pair, "--markdown", page)
    assert result.code == 0, result.err
    assert "2 presets are the same function" in result.out
    assert "miniatures, shallow and narrow" in result.out
    assert f"--markdown {page} --miniature" in page.read_text("utf-8")
    assert rosetta("verify", *pair, "--json", "-").json["miniature"] is True
    full = rosetta("verify", "cifar/resnet20", *pair)
    assert "miniatures" not in full.out
