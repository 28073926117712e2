"""`shared.training.runs` and `shared.training.curves`: what a run leaves behind, and where two of
them part.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from shared import CheckpointError, SpecError
from shared.training.curves import THRESHOLDS, divergences, draw
from shared.training.recipes import get_recipe
from shared.training.runs import KEPT, RunWriter, read_run
from tests.cli_runner import Rosetta

RECIPE = get_recipe("fashion-mnist/resnet20")


def about(framework: str = "torch") -> dict:
    return {
        "recipe": RECIPE.to_dict(),
        "framework": framework,
        "dtype": "float32",
        "data": {},
        "start": "0",
    }


def row(step: int, loss: float) -> dict:
    return {
        "step": step,
        "epoch": 0,
        "learning_rate": 0.1,
        "loss": loss,
        "accuracy": 0.5,
        "images_per_second": 1.0,
    }


def make_run(folder: Path, losses: list[float], framework: str = "torch") -> Path:
    with RunWriter(folder) as run:
        assert run.start(about(framework), resume=False) == 0
        for step, loss in enumerate(losses, start=1):
            run.step(row(step, loss))
        run.evaluation({"step": len(losses), "loss": 1.0, "accuracy": 0.9})
    return folder


def save(folder: Path) -> None:
    (folder / "model").write_text("weights")


def test_a_run_is_read_back(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", [2.5, 1 / 3]))
    assert (run.recipe, run.framework) == (RECIPE, "torch")
    assert [r["loss"] for r in run.steps] == [2.5, 1 / 3]  # to the last bit
    assert run.evaluations == [{"step": 2, "loss": 1.0, "accuracy": 0.9}]
    assert list((tmp_path / "a").glob("events.out.*"))


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


def test_where_runs_part(tmp_path: Path) -> None:
    first = [1.0, 1.0, 1.0, 1.0]
    second = [1.0, 1.0 + 1e-12, 1.0 + 1e-5, 2.0]
    runs = [
        read_run(make_run(tmp_path / n, losses, n))
        for n, losses in (("torch", first), ("flax", second))
    ]
    (divergence,) = divergences(runs)
    assert dict(zip(THRESHOLDS, divergence.first, strict=True)) == {
        0.0: 2,
        1e-9: 3,
        1e-6: 3,
        1e-3: 4,
        1e-2: 4,
    }
    assert (divergence.largest, divergence.steps, divergence.accuracy) == (1.0, 4, (0.9, 0.9))
    (same,) = divergences([runs[0], runs[0]])
    assert same.first == (None,) * len(THRESHOLDS)


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    from PIL import Image

    runs = [
        read_run(make_run(tmp_path / n, [1 / (i + 1) for i in range(30)], n))
        for n in ("torch", "flax")
    ]
    draw(runs, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[0] > 1000
    with pytest.raises(SpecError, match="a picture is"):
        draw(runs, tmp_path / "a.txt")


def test_one_run_alone_has_nothing_to_part_from(rosetta: Rosetta, tmp_path: Path) -> None:
    run, picture = make_run(tmp_path / "a", [2.0, 1.0]), tmp_path / "a.png"
    result = rosetta("curves", run, "-o", picture)
    assert (result.code, result.out) == (0, f"{picture}: 1 run\n")
