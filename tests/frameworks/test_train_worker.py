"""`shared.frameworks.train_worker` in this process, with a rendering that computes nothing."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from shared import SpecError, get_spec, probe_weights, save_weights
from shared.frameworks import train_worker
from shared.training.recipes import get_recipe
from shared.training.runs import read_run
from tests.datasets.makers import array_source, write_fashion_mnist

SPEC = get_spec("cifar/resnet20", in_channels=1, depths=(1, 1, 1))
CHANGES = {"spec.depths": [1, 1, 1], "batch": 4, "steps": 2}


class Rendering(ModuleType):
    """Every image is of class 3; `made` are the trainers."""

    def __init__(self) -> None:
        super().__init__("rendering")
        self.made: list[Any] = []
        rendering = self

        class Trainer:
            correct = 0

            def __init__(self, model: object, training: Any):
                self.training = training
                rendering.made.append(self)

            def evaluate(self, images: np.ndarray) -> np.ndarray:
                return np.eye(10)[np.full(len(images), 3)]

        self.Trainer = Trainer

    def build(self, spec: object, *, seed: int = 0, dtype: str) -> object:
        return object()

    def export_weights(self, model: object) -> dict[str, np.ndarray]:
        return {"weight": np.ones(3, np.float32)}

    def load_weights(self, model: object, weights: object) -> None:
        pass


@pytest.fixture
def rendering() -> Rendering:
    return Rendering()


def test_evaluation_keeps_no_state_of_an_optimizer(rendering: Rendering, tmp_path: Path) -> None:
    """No more than the weights lies in memory, however large they are."""
    save_weights(tmp_path / "w.safetensors", probe_weights(SPEC), SPEC)
    job = {
        "spec": SPEC.to_dict(),
        "weights": str(tmp_path / "w.safetensors"),
        "dataset": "fashion-mnist",
        "data": str(write_fashion_mnist(tmp_path / "data")),
        "split": "test",
        "batch": 2,
        "augmentation": {},
        "dtype": "float32",
    }
    events: list[dict[str, Any]] = []
    train_worker.evaluate(rendering, "torch", job, events.append)
    (trainer,) = rendering.made
    assert trainer.training.optimizer.slots == ()
    assert [event["event"] for event in events] == ["progress"] * 3 + ["evaluation"]
    assert events[-1]["examples"] == 5


def train(rendering: Rendering, folder: Path, **job: Any) -> list[dict[str, Any]]:
    recipe = get_recipe("fashion-mnist/resnet20", CHANGES)
    usual = {
        "recipe": recipe.to_dict(),
        "folder": str(folder / "run"),
        "dtype": "float32",
        "data": str(write_fashion_mnist(folder / "data")),
        "resume": False,
    }
    events: list[dict[str, Any]] = []
    train_worker.train(rendering, "torch", usual | job, events.append)
    return events


@pytest.mark.parametrize("part", ["build", "Trainer"])
def test_a_network_that_cannot_be_built_leaves_no_run(
    rendering: Rendering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def fail(*arguments: object, **keywords: object) -> object:
        raise MemoryError

    monkeypatch.setattr(rendering, part, fail)
    for _ in range(2):  # the second does not hear that there is a run already
        with pytest.raises(MemoryError):
            train(rendering, tmp_path)


def test_an_evaluation_that_is_not_finite_is_a_divergence(
    rendering: Rendering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not written to the tables, which hold numbers."""
    monkeypatch.setattr(
        rendering.Trainer, "evaluate", lambda self, images: np.full((len(images), 10), np.nan)
    )
    monkeypatch.setattr(rendering.Trainer, "step", lambda *arguments: 1.0, raising=False)
    with pytest.raises(SystemExit):
        train(rendering, tmp_path)
    assert read_run(tmp_path / "run").evaluations == []
    assert len(read_run(tmp_path / "run").steps) == 2


def test_what_is_measured() -> None:
    source = array_source(20, (4, 4, 1))
    how = get_recipe("fashion-mnist/resnet20").augmentation
    found = train_worker.measure(lambda images: np.eye(10)[np.full(len(images), 3)], source, how, 8)
    right = source.labels == 3
    assert found["wrong"] == np.flatnonzero(~right).tolist()
    assert (found["correct"], found["examples"]) == (right.sum(), 20)
    odds = np.exp(np.eye(10)[3]) / np.exp(np.eye(10)[3]).sum()
    assert found["loss"] == pytest.approx(-np.log(odds[source.labels]).mean())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_image_that_is_not_finite_is_named(value: float) -> None:
    def run(images: np.ndarray) -> np.ndarray:
        logits = np.zeros((len(images), 10))
        logits[-1, 2] = value
        return logits

    how = get_recipe("fashion-mnist/resnet20").augmentation
    with pytest.raises(train_worker.NotFiniteError, match="for image 7 are not finite"):
        train_worker.measure(run, array_source(20, (4, 4, 1)), how, 8)


def test_a_network_of_other_channels_is_refused(rendering: Rendering, tmp_path: Path) -> None:
    recipe = get_recipe("fashion-mnist/resnet20", CHANGES | {"spec.in_channels": 3})
    with pytest.raises(SpecError, match="has 3 input channels, fashion-mnist has 1; change spec"):
        train(rendering, tmp_path, recipe=recipe.to_dict())
