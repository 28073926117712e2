"""`shared.training.runs`: what a run leaves behind, how it is continued, and what is refused."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from shared import CheckpointError, RosettaError, SpecError
from shared.training.runs import CHECKPOINTS, KEPT, RUN, STEPS, RunWriter, read_run
from tests.cli_runner import Rosetta, run_python
from tests.training.makers import RECIPE, about, make_run, row
from tests.training.mutations import DEEP, VALUES, as_json, mutated, places


def save(folder: Path) -> None:
    (folder / "model").write_text("weights")


def test_a_run_is_read_back(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", [2.5, 1 / 3]))
    assert (run.recipe, run.framework) == (RECIPE, "torch")
    assert [r["loss"] for r in run.steps] == [2.5, 1 / 3]  # to the last bit
    assert run.evaluations == [{"step": 2, "loss": 1.0, "accuracy": 0.9}]
    assert list((tmp_path / "a").glob("events.out.*"))


def test_the_log_for_tensorboard_does_without_pytorch(tmp_path: Path) -> None:
    """tensorboardX imports it if it can, which takes a second; and later it can be imported."""
    if not (find_spec("tensorboardX") and find_spec("torch")):
        pytest.skip("not installed")
    code = (
        "import importlib.util, pathlib, sys\n"
        "from tests.training.makers import make_run\n"
        f"make_run(pathlib.Path({str(tmp_path / 'a')!r}), [2.0, 1.0])\n"
        "print('tensorboardX' in sys.modules, 'torch' in sys.modules)\n"
        "print(importlib.util.find_spec('torch') is not None)"
    )
    assert run_python(code) == "True False\nTrue"
    (log,) = (tmp_path / "a").glob("events.out.*")
    assert log.read_bytes().count(b"train/loss") == 2


def test_a_folder_with_a_run_is_not_written_over(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [1.0])
    with RunWriter(tmp_path / "a") as run, pytest.raises(SpecError, match="--resume"):
        run.start(about(), resume=False)
    assert len(read_run(tmp_path / "a").steps) == 1


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [1.0])
    with RunWriter(tmp_path / "a") as run, pytest.raises(SpecError, match="another framework"):
        run.start(about("flax"), resume=True)


def test_a_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    """What was logged after it is logged again, a line that a killed process left unfinished is no
    line.
    """
    with RunWriter(tmp_path / "a") as run:
        run.start(about(), resume=False)
        for step in range(1, 6):
            run.step(row(step, 1 / step))
            if step == 3:
                run.checkpoint(step, save)
    with (tmp_path / "a" / "steps.csv").open("a") as file:
        file.write("6,0,0.1,0.1")
    with RunWriter(tmp_path / "a") as run:
        assert run.start(about(), resume=True) == 3
        run.step(row(4, 0.5))
    assert [r["step"] for r in read_run(tmp_path / "a").steps] == [1, 2, 3, 4]
    assert read_run(tmp_path / "a").steps[-1]["loss"] == 0.5


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    def failing(folder: Path) -> None:
        save(folder)
        raise OSError(28, "No space left on device")

    with RunWriter(tmp_path / "a") as run:
        run.start(about(), resume=False)
        for step in range(1, 5):
            run.checkpoint(step, save)
        assert [step for step, _ in run.checkpoints()] == [3, 4]
        assert len(run.checkpoints()) == KEPT
        with pytest.raises(CheckpointError, match="No space left"):
            run.checkpoint(5, failing)
        assert [path.name for path in sorted((tmp_path / "a" / "checkpoints").iterdir())] == [
            "3",
            "4",
        ]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": "resnet-rosetta-run"}'])
def test_what_is_no_run_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"run\.json"):
        read_run(tmp_path)
    with pytest.raises(CheckpointError, match="no training run"):
        read_run(tmp_path / "absent")


def test_a_run_without_a_step_is_begun_anew(tmp_path: Path) -> None:
    """A network that could not be built, or that did not fit into memory, leaves nothing to
    resume.
    """
    with RunWriter(tmp_path / "a") as run:
        run.start(about(), resume=False)
    changed = {**about(), "recipe": RECIPE.replace({"batch": 64}).to_dict()}
    for resume in (False, True):
        with RunWriter(tmp_path / "a") as run:
            assert run.start(changed, resume=resume) == 0
    assert read_run(tmp_path / "a").recipe.batch == 64


def test_the_versions_of_every_resume_are_kept(tmp_path: Path) -> None:
    for version, step in (("1", 2), ("2", 5), ("2", 6)):
        with RunWriter(tmp_path / "a") as run:
            run.start({**about(), "versions": {"numpy": version}}, resume=True)
            run.step(row(step, 1.0))
            run.checkpoint(step, save)
    assert read_run(tmp_path / "a").about["versions"] == [
        {"from_step": 0, "numpy": "1"},
        {"from_step": 2, "numpy": "2"},
        {"from_step": 5, "numpy": "2"},
    ]


def test_versions_of_an_older_file_are_kept(tmp_path: Path) -> None:
    """They were one object."""
    path = make_run(tmp_path / "a", [1.0]) / RUN
    path.write_text(json.dumps({**json.loads(path.read_text()), "versions": {"numpy": "1"}}))
    with RunWriter(tmp_path / "a") as run:
        run.start({**about(), "versions": {"numpy": "2"}}, resume=True)
    found = read_run(tmp_path / "a").about["versions"]
    assert found == [{"numpy": "1"}, {"from_step": 0, "numpy": "2"}]


KILLED = """
import os, sys
from pathlib import Path
from shared.training.runs import RunWriter
from shared.weights.files import replacing
from tests.training.makers import about, row

folder = Path(sys.argv[1])
with RunWriter(folder) as run:
    run.start(about(), resume=False)
    run.step(row(1, 1.0))
    run.checkpoint(1, lambda into: (into / "model").write_text("weights"))
    with replacing(folder / "steps.csv"), replacing(folder / "run.json"):
        run.checkpoint(2, lambda into: os._exit(9))
"""


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    (folder / CHECKPOINTS / ".7.abc").mkdir(parents=True)  # as older versions called them
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False, timeout=60)
    assert done.returncode == 9
    kept = {".lock", STEPS, RUN, "evaluations.csv", CHECKPOINTS}
    left = {path.name for path in folder.iterdir()} - kept
    assert len([name for name in left if name.endswith(".tmp")]) == 2
    assert len(list((folder / CHECKPOINTS).glob(".2.*"))) == 1
    with RunWriter(folder) as run:
        assert run.start(about(), resume=True) == 1
        found = {path.name for path in folder.iterdir() if not path.name.startswith("events.out")}
        assert found == kept
        assert [path.name for path in (folder / CHECKPOINTS).iterdir()] == ["1"]


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "a") as run:
        run.start(about(), resume=False)
        for resume in (True, False):
            with (
                RunWriter(tmp_path / "a") as other,
                pytest.raises(SpecError, match="another process is training in this folder"),
            ):
                other.start(about(), resume=resume)
        run.step(row(1, 1.0))
    with RunWriter(tmp_path / "a") as run:
        assert run.start(about(), resume=True) == 0


@pytest.mark.parametrize(
    "line",
    ["x", "1", "1,0,0.1,nan,0.5,1.0", "1,0,0.1,1e999,0.5,1.0", "1.5,0,0.1,1,0.5,1", "1,0,,1,0.5,1"],
)
def test_a_table_that_is_damaged_is_refused(tmp_path: Path, line: str) -> None:
    path = make_run(tmp_path / "a", [1.0]) / STEPS
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(CheckpointError, match=r"steps\.csv: line 3 is not step, epoch"):
        read_run(tmp_path / "a")


@pytest.mark.parametrize("data", [b"\xff\xfe\n", b"\0\n\0\n", b"a" * 200_000 + b"\n" + b"b\n"])
def test_a_table_of_other_bytes_is_refused(tmp_path: Path, data: bytes) -> None:
    path = make_run(tmp_path / "a", [1.0]) / STEPS
    path.write_bytes(path.read_bytes() + data)
    with pytest.raises(CheckpointError, match=r"steps\.csv: line"):
        read_run(tmp_path / "a")


def test_a_folder_in_the_place_of_a_table_is_refused(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a", [1.0]) / STEPS
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_run(tmp_path / "a")


# Small mutations of a run.json: whatever it holds, there is an answer or one line.


@pytest.mark.parametrize("path", list(places(about())), ids=lambda path: ".".join(path) or "all")
def test_a_changed_description_is_read_or_refused(
    rosetta: Rosetta, tmp_path: Path, path: tuple
) -> None:
    good = make_run(tmp_path / "good", [2.0, 1.0])
    folder = make_run(tmp_path / "a", [2.0, 1.0])
    data = json.loads((folder / RUN).read_text())
    for value in VALUES:
        (folder / RUN).write_text(as_json(mutated(data, path, value)))
        with contextlib.suppress(RosettaError):
            read_run(folder)
        with contextlib.suppress(RosettaError), RunWriter(folder) as run:
            run.start(about(), resume=True)
    (folder / RUN).write_text(as_json(mutated(data, path, DEEP)))
    result = rosetta("curves", good, folder, "-o", tmp_path / "a.png")
    assert result.code in (0, 2)
    assert "this is a bug" not in result.err
