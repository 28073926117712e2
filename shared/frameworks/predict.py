"""What a network sees in a photograph, in one framework or in all of them side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import SpecError
from shared.formats.checkpoint import Checkpoint
from shared.formats.convert import write_canonical
from shared.frameworks.inputs import save_images
from shared.frameworks.workers import TraceWorker
from shared.verification.recording import EVAL, OUTPUT
from shared.verification.trace import Trace


@dataclass(frozen=True)
class Guess:
    """One class, its name where there is one, and its probability."""

    index: int
    label: str | None
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one image in one framework."""

    image: Path
    framework: str
    top: tuple[Guess, ...]

    def to_dict(self) -> dict[str, Any]:
        top = [{"class": g.index, "label": g.label, "probability": g.probability} for g in self.top]
        return {"image": str(self.image), "framework": self.framework, "top": top}


def predict(
    checkpoint: Checkpoint,
    images: np.ndarray,
    paths: Sequence[Path],
    frameworks: Sequence[str],
    labels: Sequence[str] = (),
    *,
    dtype: str = "float32",
    deployed: bool = False,
    top: int = 5,
    on_step: Callable[[str], None] = lambda framework: None,
) -> list[Prediction]:
    """The `top` classes of every image in every framework.

    Args:
        checkpoint: weights of a network with a classifier.
        images: preprocessed, [batch, height, width, channels], one for each of `paths`.
        labels: class names, as many as there are classes, or none.
        deployed: as each framework deploys the network: batch norms folded, compiled.
        on_step: called with each framework that is done.

    Raises `SpecError` for a network without a classifier or labels of another number.
    """
    spec = checkpoint.spec
    if not spec.num_classes:
        raise SpecError(
            f"{spec.name} in {checkpoint.path} has no classifier, so it names no classes"
        )
    if labels and len(labels) != spec.num_classes:
        raise SpecError(
            f"{len(labels)} class names for {spec.num_classes} classes; choose others, or none, "
            "with --labels"
        )
    found = []
    with tempfile.TemporaryDirectory(prefix="rosetta-") as name:
        folder = Path(name)
        weights = write_canonical(checkpoint, folder / "weights.safetensors", dtype)
        pixels = save_images(images, dtype, folder)
        for framework in frameworks:
            logits = _logits(checkpoint, framework, dtype, images.shape, weights, pixels, deployed)
            for path, row in zip(paths, logits, strict=True):
                found.append(Prediction(path, framework, _top(row, labels, top)))
            on_step(framework)
    return found


def _logits(
    checkpoint: Checkpoint,
    framework: str,
    dtype: str,
    shape: tuple[int, ...],
    weights: Path,
    images: Path,
    deployed: bool,
) -> np.ndarray:
    output = images.with_name("trace.safetensors")
    with TraceWorker(framework) as worker:
        worker.run(
            {
                "spec": checkpoint.spec.to_dict(),
                "dtype": dtype,
                "seed": 0,
                "batch": shape[0],
                "image_size": shape[1:3],
                "weights": str(weights),
                "images": str(images),
                "output": str(output),
                "durable": False,
                "budget": False,
                "deployed": deployed,
                "only": [f"{EVAL}/{OUTPUT}"],
            }
        )
    return np.asarray(Trace.load(output)[f"{EVAL}/{OUTPUT}"], np.float64)


def _top(logits: np.ndarray, labels: Sequence[str], count: int) -> tuple[Guess, ...]:
    odds = np.exp(logits - logits.max())
    probabilities = odds / odds.sum()
    order = np.argsort(-probabilities, kind="stable")[:count]
    return tuple(
        Guess(int(i), labels[i] if labels else None, float(probabilities[i])) for i in order
    )
