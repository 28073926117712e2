"""What the tests against peers share: values for a peer's own tensors, files of ours, and our
networks' outputs.

Two directions. A peer's tensors are filled by their own names and shapes, without any table of
ours, saved by the peer, read by `open_checkpoint` and run with `outputs_in`. And `probe_checkpoint`
writes a file for the peer to load.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shared import ResNetSpec, probe_images, probe_weights
from shared.formats.checkpoint import Checkpoint, open_checkpoint
from shared.formats.convert import convert
from shared.verification.recording import EVAL, OUTPUT
from shared.weights.canonical import save_weights
from shared.weights.random import named_rng
from tests.parity.rendering import FRAMEWORKS, package

__all__ = [
    "FRAMEWORKS",
    "PEER_LIMIT",
    "SIZE",
    "outputs_in",
    "peer_images",
    "probe_checkpoint",
    "probe_tensor",
]

# Float64 outputs of one function: see `tests.architecture.test_peers.PEER_LIMIT`.
PEER_LIMIT = 1e-13

SIZE = (64, 65)  # padding conventions differ on even sides, ceil modes on odd ones

_SPREAD = ("running_var", "moving_variance", "var", "gamma", "scale")


def probe_tensor(
    name: str, shape: tuple[int, ...], dtype: str = "float64", *, channels_last: bool = False
) -> np.ndarray:
    """Values for a tensor that a peer calls `name`: variances and gammas in [0.5, 1.5], the others
    normal.

    Kernels are scaled so that a branch adds at most half of what it gets: nothing grows or fades
    with the depth.
    """
    rng = named_rng(name, seed=1)
    leaf = name.replace("/", ".").rpartition(".")[2]
    if leaf in _SPREAD or (leaf == "weight" and len(shape) == 1):
        return rng.uniform(0.5, 1.5, shape).astype(dtype)
    if len(shape) < 2:
        return rng.normal(0.0, 0.3, shape).astype(dtype)
    fan_in = int(np.prod(shape[:-1] if channels_last else shape[1:]))
    values = rng.standard_normal(shape, dtype=np.dtype(dtype).type)
    values *= fan_in**-0.5
    return values


def peer_images(
    channels: int = 3, size: tuple[int, int] = SIZE, dtype: str = "float64"
) -> np.ndarray:
    """Two images [batch, height, width, channels]."""
    return probe_images((2, *size, channels), dtype=dtype)


def outputs_in(
    framework: str, checkpoint: Checkpoint, images: np.ndarray, batch: int = 200
) -> np.ndarray:
    """What our network in `framework` makes of NHWC images with a file's weights, in the images'
    dtype.
    """
    rendering = package(framework)
    model = rendering.build(checkpoint.spec, dtype=images.dtype.name)
    rendering.load_weights(model, checkpoint.weights())
    parts = [images[start : start + batch] for start in range(0, len(images), batch)]
    return np.concatenate([rendering.trace(model, part)[f"{EVAL}/{OUTPUT}"] for part in parts])


def probe_checkpoint(
    spec: ResNetSpec, output: Path, to: str | None = None, dtype: str = "float64"
) -> Checkpoint:
    """Write the probe weights of `spec` to `output` in the format `to`; the canonical file that
    they came from.
    """
    canonical = output.with_name(f"{output.name}.canonical.safetensors")
    save_weights(canonical, probe_weights(spec, dtype=dtype), spec)
    source = open_checkpoint(canonical)
    convert(source, output, to)
    return source
