"""`rosetta train`, `evaluate` and `curves`, from end to end on a small dataset in the published
layout.

What is the command's own (going on, stopping, refusing) is tested with the NumPy reference, which
starts at once; the zoo does the same in every framework.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared import get_spec, probe_weights, read_weights, save_weights
from shared.training.runs import read_run
from shared.verification.recording import STEPS
from tests.cli_runner import Rosetta, listening
from tests.datasets.makers import write_fashion_mnist, write_images
from tests.parity.rendering import FRAMEWORKS
from tests.zoo import in_zoo

SMALL = (
    "--set",
    "spec.depths=1,1,1",
    "--set",
    "spec.widths=4,8,8",
    "--set",
    "spec.stem.convs=[[3,1,4]]",
    "--set",
    "batch=16",
    "--set",
    "schedule.warmup=2",
    "--set",
    "schedule.rate=0.02",
)
FLOAT64_CURVES = 1e-9  # of the losses, after a few steps


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fashion_mnist(tmp_path_factory.mktemp("data"), train=80, test=20)


def command(data: Path, output: Path, framework: str, *more: str) -> list[str]:
    return [
        "train",
        "fashion-mnist/resnet20",
        "--framework",
        framework,
        "--data",
        str(data),
        "--output",
        str(output),
        *SMALL,
        *more,
    ]


def folder_of(output: Path, framework: str) -> Path:
    (found,) = (output / "fashion-mnist" / "resnet20").glob(f"{framework}*")
    return found


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_run(folder).steps]


@pytest.mark.zoo  # the short run compares curves where a run was interrupted
@pytest.mark.parametrize("sides", [("torch", "reference"), FRAMEWORKS], ids=["torch", "all"])
def test_frameworks_draw_one_curve(
    rosetta: Rosetta, data: Path, tmp_path: Path, sides: tuple[str, ...]
) -> None:
    """In float64, from one start and on the same augmented batches; and their weights give equal
    answers.
    """
    result = rosetta(
        *command(
            data,
            tmp_path,
            ",".join(sides),
            "--dtype",
            "float64",
            "--set",
            f"steps={STEPS}",
            "--json",
            "-",
        )
    )
    assert [(r["step"], r["stopped"], r["diverged"]) for r in result.json] == [
        (STEPS, False, None)
    ] * len(sides)
    folders = [folder_of(tmp_path, framework) for framework in sides]
    assert len(set(losses(folders[0]))) == STEPS
    for folder in folders:
        assert losses(folder) == pytest.approx(losses(folders[0]), rel=FLOAT64_CURVES)
    tests = [read_run(folder).evaluations for folder in folders]
    assert tests[0][-1]["step"] == STEPS
    assert len({test[-1]["accuracy"] for test in tests}) == 1
    picture = tmp_path / "curves.png"
    (first, *_) = rosetta("curves", *folders, "-o", picture, "--json", "-").json
    assert picture.stat().st_size > 10_000
    assert first["largest"] < FLOAT64_CURVES
    weights, spec = read_weights(folders[1] / "weights.safetensors")
    assert (spec.depths, weights["head.weight"].dtype.name) == ((1, 1, 1), "float64")
    found = rosetta(
        "evaluate",
        folders[1] / "weights.safetensors",
        "--data",
        data,
        "--framework",
        ",".join({"torch", sides[-1]}),
        "--dtype",
        "float64",
        "--json",
        "-",
    ).json
    assert {r["accuracy"] for r in found} == {tests[0][-1]["accuracy"]}
    assert {r["examples"] for r in found} == {20}


@pytest.mark.parametrize("framework", ["reference", *map(in_zoo, FRAMEWORKS)])
def test_a_killed_run_goes_on_to_the_same_numbers(
    rosetta: Rosetta, data: Path, tmp_path: Path, framework: str
) -> None:
    """`kill -9` in the middle, then `--resume`: every loss and the weights are those of an
    undisturbed run.
    """
    more = ("--set", "steps=12", "--checkpoint-every", "3")
    whole = command(data, tmp_path / "whole", framework, *more, "--json", "-")
    first, again = (rosetta(*whole, *resume).json for resume in ((), ("--resume",)))
    assert [r["accuracy"] for r in first] == [r["accuracy"] for r in again] != [None]
    assert [r["step"] for r in again] == [12]  # a run that has ended is told again
    program = [
        sys.executable,
        "-m",
        "shared.cli.main",
        *command(data, tmp_path / "killed", framework, *more),
    ]
    process = subprocess.Popen(
        program,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoints = tmp_path / "killed" / "fashion-mnist" / "resnet20"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("*/checkpoints/[36]")) and process.poll() is None:
        assert time.monotonic() < deadline, "no checkpoint in two minutes"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder_of(tmp_path / "killed", framework) / "weights.safetensors").exists()
    rosetta(*command(data, tmp_path / "killed", framework, *more, "--resume", "--json", "-"))
    whole, resumed = (folder_of(tmp_path / name, framework) for name in ("whole", "killed"))
    assert losses(resumed) == losses(whole)
    assert read_run(resumed).evaluations == read_run(whole).evaluations
    a, b = (read_weights(folder / "weights.safetensors")[0] for folder in (whole, resumed))
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


@pytest.mark.parametrize(
    "to_all", [True, in_zoo(False)], ids=["as a terminal does", "to the command alone"]
)
@pytest.mark.parametrize(
    ("framework", "following"), [("reference", "torch"), in_zoo(("torch", "keras"))]
)
def test_an_interrupted_run_goes_on_where_it_stopped(
    rosetta: Rosetta, data: Path, tmp_path: Path, framework: str, following: str, to_all: bool
) -> None:
    """Ctrl-C lets the step end and writes its checkpoint; nothing is lost, and no other framework
    begins. When both have trained, their curves are one.
    """
    both = command(
        data, tmp_path, f"{framework},{following}", "--dtype", "float64", "--set", "steps=400"
    )
    program = listening(*both, "--checkpoint-every", "400", "--json", tmp_path / "result.json")
    runs = tmp_path / "fashion-mnist" / "resnet20"
    steps = runs / framework / "steps.csv"
    deadline = time.monotonic() + 120
    with subprocess.Popen(
        program,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        while process.poll() is None and (
            not steps.exists() or len(steps.read_text().splitlines()) < 3
        ):
            assert time.monotonic() < deadline, "no step in two minutes"
            time.sleep(0.01)
        (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    (result,) = json.loads((tmp_path / "result.json").read_text())
    assert result["stopped"]
    assert f"{framework} stopped after step {result['step']} of 400; --resume continues" in out
    assert len(losses(steps.parent)) == result["step"]
    assert [path.name for path in (steps.parent / "checkpoints").iterdir()] == [str(result["step"])]
    assert not (steps.parent / "weights.safetensors").exists()
    assert [folder.name for folder in runs.iterdir()] == [framework]
    first, stop = losses(steps.parent), str(result["step"] + 2)
    rosetta(*both, "--resume", "--stop-after", stop)
    again, other = losses(steps.parent), losses(folder_of(tmp_path, following))
    assert again[:-2] == first
    assert len(other) == len(again)
    assert other[:STEPS] == pytest.approx(again[:STEPS], rel=FLOAT64_CURVES)


def test_a_run_that_diverges_says_so(rosetta: Rosetta, data: Path, tmp_path: Path) -> None:
    result = rosetta(
        *command(data, tmp_path, "reference", "--set", "steps=30", "--set", "schedule.rate=1e30")
    )
    assert result.code == 1
    assert "diverged" in result.out
    assert not (folder_of(tmp_path, "reference") / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--set", "spec.in_channels=3"), "has 3 input channels"),
        (("--set", "spec.num_classes=12"), "12 classes"),
        (("--set", "batch=100"), "a batch of 100 from 80 examples"),
        (("--resume",), "no run to resume"),
        (("--framework", "numpy"), "unknown framework 'numpy'"),
        (("--set", "epoch=3"), "nearest: epochs"),
        (("--dtype", "float16"), "float32 or float64"),
        (("--set", "batch=1.5"), "batch: expected int, found 1.5"),
        (("--set", "seed=abc"), "seed: expected int, found 'abc'"),
        (("--set", "dataset=5"), "dataset: expected str, found 5"),
        (("--set", "name=../../evil"), "name = '../../evil'"),
        (("--set", "spec.preset=1"), "spec has no field 'preset'"),
        (("--set", "training=[]"), "training: expected an object"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    rosetta: Rosetta, data: Path, tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    rosetta(*command(data, tmp_path / "runs", "reference", *more)).refused(said)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("steps.csv"))


def test_data_that_is_not_there_is_one_line(rosetta: Rosetta, tmp_path: Path) -> None:
    rosetta(*command(tmp_path, tmp_path / "runs", "reference")).refused("holds no Fashion")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "fashion-mnist/resnet20", "--framework", "all"),
        ("train", "fashion-mnist/resnet20", "--framework", "all", "--resume"),
        ("evaluate", "rosetta:fashion-mnist/resnet20"),
        ("evaluate", "rosetta:fashion-mnist/resnet20", "--framework", "all"),
    ],
)
def test_without_frameworks_nothing_is_trained(
    rosetta: Rosetta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    rosetta(*arguments).refused("no framework is installed", "pip install 'resnet-rosetta[torch]'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "recipe", ["[]", "[" * 5000 + "]" * 5000, "{", "{}", '{"name": "a", "batch": 1.5}', "null"]
)
def test_weights_with_a_damaged_recipe_are_refused(
    rosetta: Rosetta, tmp_path: Path, recipe: str
) -> None:
    spec = get_spec("cifar/resnet20", depths=(1, 1, 1), num_classes=10)
    save_weights(tmp_path / "w.safetensors", probe_weights(spec), spec, {"recipe": recipe})
    result = rosetta("evaluate", tmp_path / "w.safetensors", "--framework", "reference")
    result.refused("w.safetensors: the recipe in its metadata cannot be read")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"in_channels": 1, "num_classes": 1000}, "has 1000 classes, fashion-mnist has 10"),
        ({"in_channels": 3}, "has 3 input channels, fashion-mnist has 1"),
    ],
)
def test_a_network_is_not_evaluated_on_what_it_was_not_made_for(
    rosetta: Rosetta, data: Path, tmp_path: Path, changes: dict[str, int], said: str
) -> None:
    spec = get_spec("cifar/resnet20", depths=(1, 1, 1), **changes)
    save_weights(tmp_path / "w.safetensors", probe_weights(spec), spec)
    arguments = ("--framework", "reference", "--dataset", "fashion-mnist", "--data", data)
    rosetta("evaluate", tmp_path / "w.safetensors", *arguments).refused(said)


@pytest.mark.parametrize("framework", ["reference", *map(in_zoo, ("torch", "keras", "flax"))])
def test_a_network_is_evaluated_as_it_is_deployed(
    rosetta: Rosetta, data: Path, tmp_path: Path, framework: str
) -> None:
    spec = get_spec("cifar/resnet20", depths=(1, 1, 1), in_channels=1, num_classes=10)
    save_weights(tmp_path / "w.safetensors", probe_weights(spec), spec)
    arguments = ("--framework", framework, "--dataset", "fashion-mnist", "--data", data)
    command = ("evaluate", tmp_path / "w.safetensors", *arguments)
    assert "as deployed: norms folded, compiled" in rosetta(*command, "--deployed").out
    (plain,), (folded,) = (
        rosetta(*command, *more, "--json", "-").json for more in ((), ("--deployed",))
    )
    assert (plain.pop("deployed"), folded.pop("deployed")) == (False, True)
    assert folded.pop("loss") == pytest.approx(plain.pop("loss"), rel=1e-5)
    assert folded == plain


def test_outputs_that_are_not_finite_are_no_accuracy(
    rosetta: Rosetta, data: Path, tmp_path: Path
) -> None:
    spec = get_spec("cifar/resnet20", depths=(1, 1, 1), in_channels=1)
    weights = probe_weights(spec)
    weights["head.weight"][:] = 3e38
    weights["head.bias"][:] = -3e38
    save_weights(tmp_path / "w.safetensors", weights, spec)
    arguments = ("--framework", "reference", "--dataset", "fashion-mnist", "--data", data)
    result = rosetta("evaluate", tmp_path / "w.safetensors", *arguments, "--json", "-")
    result.refused("the outputs for image 0 are not finite numbers", "float32")


@pytest.mark.zoo  # `tests/datasets` has a short one of the pipeline
@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_workers_changes_no_number(
    rosetta: Rosetta, tmp_path: Path, threads: int
) -> None:
    """Photographs of several sizes, decoded in the training and by threads beside it."""
    photographs = write_images(tmp_path / "data", each=10)
    command = ("train", "imagenet/resnet50-torchvision", "--framework", "reference", "--data")
    changes = {
        "dataset": "folder",
        "preset": "cifar/resnet20",
        "spec.depths": "1,1,1",
        "spec.num_classes": "2",
        "augmentation.random_resized_crop": "16",
        "augmentation.eval_resize": "20",
        "augmentation.center_crop": "16",
        "batch": "4",
        "epochs": "2",
        "schedule.rate": "0.01",
    }
    settings = [text for key, value in changes.items() for text in ("--set", f"{key}={value}")]
    found = []
    for workers in (0, threads):
        output = tmp_path / str(workers)
        result = rosetta(
            *command, photographs, *settings, "--workers", workers, "-o", output, "--json", "-"
        )
        assert (result.code, result.err) == (0, "")
        (run,) = output.glob("imagenet/*/reference")
        weights = run / "weights.safetensors"
        arguments = ("--framework", "reference", "--data", photographs, "--workers", workers)
        measured = rosetta("evaluate", weights, *arguments, "--json", "-").json
        steps = read_run(run).steps
        assert len(steps) == 10
        losses = [(row["loss"], row["accuracy"]) for row in steps]
        kept = {key: measured[0][key] for key in ("loss", "wrong", "examples")}
        found.append((losses, read_run(run).evaluations, kept))
    assert found[0] == found[1]
