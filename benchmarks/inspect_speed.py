"""`rosetta inspect` as a whole process: on files of 100 MB, and on files of 16,000 names."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shared import get_spec, probe_weights, save_weights
from shared.formats.checkpoint import open_checkpoint
from shared.formats.convert import convert
from shared.weights.files import write_tensors

LARGE_BELOW, MANY_BELOW = 1.5, 3.0  # seconds
NAMES = 16_000
ROUNDS = 5
DEEP = {"depths": (100, 400, 100, 60), "widths": (8, 16, 32, 64), "stem.convs": ((7, 2, 8),)}


class Timed(NamedTuple):
    """A file, the median of the seconds that its inspection takes, and what these must be below."""

    what: str
    seconds: float
    below: float


def main() -> list[Timed]:
    with tempfile.TemporaryDirectory() as folder:
        return [
            Timed(what, statistics.median(_seconds(path) for _ in range(ROUNDS)), below)
            for what, path, below in _files(Path(folder))
        ]


def _seconds(path: Path) -> float:
    command = [sys.executable, "-m", "shared.cli.main", "inspect", str(path)]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _files(folder: Path) -> Iterator[tuple[str, Path, float]]:
    """What a file is, where it is, and the limit."""
    import torch

    spec = get_spec("torchvision/resnet50")
    save_weights(folder / "canonical.safetensors", probe_weights(spec), spec)
    source = open_checkpoint(folder / "canonical.safetensors")
    for to, name in (("torchvision", "plain.pth"), ("keras", "plain.weights.h5")):
        convert(source, folder / name, to)
        yield f"ResNet-50, {name.partition('.')[2]}", folder / name, LARGE_BELOW
    state = torch.load(folder / "plain.pth", weights_only=True)
    nested = {"epoch": 3, "state_dict": {f"module.{name}": t for name, t in state.items()}}
    torch.save(nested, folder / "nested.pth")
    yield "ResNet-50, nested and prefixed", folder / "nested.pth", LARGE_BELOW
    torch.save({"model": state, "model_ema": dict(state)}, folder / "twins.pth")
    yield "ResNet-50, and an equal average", folder / "twins.pth", LARGE_BELOW

    known = {name: np.asarray(tensor) for name, tensor in state.items()}
    write_tensors(folder / "many.safetensors", _filled(known), {})
    yield f"{NAMES:,} names, ResNet-50 among them", folder / "many.safetensors", MANY_BELOW
    deep = {
        name.replace("stages", "s").replace("blocks.", "").replace("conv", "c"): array
        for name, array in probe_weights(get_spec("torchvision/resnet50", **DEEP)).items()
    }
    write_tensors(folder / "deep.safetensors", _filled(deep), {})
    yield (
        f"{NAMES:,} names, a deep network by its structure",
        folder / "deep.safetensors",
        MANY_BELOW,
    )


def _filled(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With so many of something else that there are `NAMES`."""
    more = range(NAMES - len(tensors))
    return tensors | {f"other.{i}.weight": np.ones(2, np.float32) for i in more}
