"""Runs that were never trained."""

from __future__ import annotations

from pathlib import Path

from shared.training.recipes import get_recipe
from shared.training.runs import RunWriter

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
