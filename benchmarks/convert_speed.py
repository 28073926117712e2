"""Converting ResNet-152 (241 MB), against reading and writing the same bytes with the formats' own
libraries.

`rosetta convert` checks every value, hashes, flushes to the disk, reads the target back and
compares it; the libraries read once and write once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import Result, race
from shared import get_spec, probe_weights
from shared.formats.checkpoint import open_checkpoint
from shared.formats.convert import convert
from shared.weights.canonical import to_channels_last

PRESET = "torchvision/resnet152"
ROUNDS = 5

TARGETS = {
    "canonical safetensors": ("canonical", "target.safetensors"),
    "Keras .weights.h5": ("keras", "target.weights.h5"),
    "Linen msgpack": ("linen", "target.msgpack"),
}


def make_source(folder: Path, target: str) -> Path:
    """A torchvision checkpoint; for Linen one of its own padding, which torchvision
    cannot express.
    """
    from shared.weights.canonical import save_weights

    preset = "flax/resnet152" if target == "Linen msgpack" else PRESET
    spec = get_spec(preset)
    save_weights(folder / "canonical.safetensors", probe_weights(spec), spec)
    source = folder / "source.pth"
    convert(open_checkpoint(folder / "canonical.safetensors"), source, "torch")
    return source


def ours(source: Path, folder: Path, target: str) -> None:
    to, name = TARGETS[target]
    preset = "flax/resnet152" if to == "linen" else PRESET
    convert(open_checkpoint(source, preset=preset), folder / name, to)


def read_with_torch(source: Path) -> dict[str, np.ndarray]:
    import torch

    state = torch.load(source, weights_only=True)
    return {name: tensor.numpy() for name, tensor in state.items()}


def write_safetensors(arrays: dict[str, np.ndarray], folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file(arrays, folder / "peer.safetensors")


def write_h5(arrays: dict[str, np.ndarray], folder: Path) -> None:
    import h5py

    with h5py.File(folder / "peer.h5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(
                name.replace(".", "/"), data=np.ascontiguousarray(to_channels_last(name, array))
            )


def write_msgpack(arrays: dict[str, np.ndarray], folder: Path) -> None:
    from flax import serialization

    tree = {
        name: np.ascontiguousarray(to_channels_last(name, array)) for name, array in arrays.items()
    }
    (folder / "peer.msgpack").write_bytes(serialization.msgpack_serialize(tree))


WRITERS: dict[str, Callable[[dict[str, np.ndarray], Path], None]] = dict(
    zip(TARGETS, (write_safetensors, write_h5, write_msgpack), strict=True)
)


def main() -> list[Result]:
    results = []
    for target, write in WRITERS.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            source = make_source(folder, target)

            def convert_it(
                source: Path = source, folder: Path = folder, target: str = target
            ) -> None:
                ours(source, folder, target)

            def copy_it(source: Path = source, folder: Path = folder, write: Any = write) -> None:
                write(read_with_torch(source), folder)

            results.append(
                race(
                    f"to {target}",
                    "torch.load and the target's library",
                    convert_it,
                    copy_it,
                    ROUNDS,
                )
            )
    return results


def peaks() -> dict[str, float]:
    """Peak memory of each conversion over the imports, in sizes of the file; each in a process of
    its own.
    """
    found = {}
    for target in TARGETS:
        with tempfile.TemporaryDirectory() as name:
            source = make_source(Path(name), target)
            command = [sys.executable, "-m", "benchmarks.convert_speed", str(source), target]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[target] = json.loads(done.stdout) / source.stat().st_size
    return found


def _peak(source: Path, target: str) -> int:
    """Bytes that the conversion adds to the peak of this process."""
    import shared.formats.containers.hdf5_file
    import shared.formats.containers.msgpack_file
    import shared.formats.containers.safetensors_file
    import shared.formats.containers.torch_file  # noqa: F401

    before = _high_water()
    ours(source, source.parent, target)
    return _high_water() - before


def _high_water() -> int:
    """Peak resident bytes of this program.

    `getrusage` would count what the parent had before it started this.
    """
    status = Path("/proc/self/status").read_text()
    return (
        next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
        * 1024
    )


if __name__ == "__main__":
    print(_peak(Path(sys.argv[1]), sys.argv[2]))
