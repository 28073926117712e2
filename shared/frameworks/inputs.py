"""What `rosetta verify` and `trace` give every framework alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError
from shared.training.config import PROBE, Training
from shared.verification.recording import EVAL
from shared.weights.dtypes import float_dtype
from shared.weights.files import write_tensors

BATCH = 2  # a single image hides mistakes that mix up the batch


@dataclass(frozen=True)
class Inputs:
    """Weights and images, made from the seed unless given, and what is recorded of them.

    >>> Inputs(dtype="float32", image_size=(64, 64), checks=("eval",)).batch
    2
    """

    dtype: str = "float64"
    seed: int = 0
    batch: int = BATCH
    image_size: tuple[int, int] | None = None
    weights: Path | None = None
    images: np.ndarray | None = None  # [batch, height, width, channels]
    weights_name: str | None = None  # what the user called the weights
    checks: tuple[str, ...] = (EVAL,)
    training: Training = PROBE
    isolated: bool = False  # also every layer by itself

    @property
    def images_in_batch(self) -> int:
        return self.batch if self.images is None else len(self.images)

    def size_for(self, spec: ResNetSpec) -> tuple[int, int]:
        """Height and width of the images that the network gets."""
        if self.images is not None:
            return self.images.shape[1], self.images.shape[2]
        return self.image_size or (spec.image_size, spec.image_size)


def save_images(images: np.ndarray, dtype: str, folder: Path) -> Path:
    """Images for the workers of `dtype`: rounded to it, once for all of them, and held in float64,
    which every framework takes.

    Raises `CheckpointError` where one is not finite.
    """
    rounded = images.astype(float_dtype(dtype)).astype(np.float64)
    if not np.isfinite(rounded).all():
        raise CheckpointError(f"the images hold values that are not finite in {dtype}")
    path = folder / "images.safetensors"
    write_tensors(path, {"images": rounded}, {}, durable=False)
    return path
