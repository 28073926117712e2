"""Files with a narrow ResNet somewhere in them, and what has to be read of it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from shared import get_spec, probe_weights
from shared.architecture.presets import miniature
from shared.formats.containers.archive import Entry
from shared.formats.render import choose_scheme, render
from shared.naming.schemes import FORMATS

Arrays = dict[str, np.ndarray]
SPEC = miniature(get_spec("torchvision/resnet50"))
FEATURES = SPEC.widths[-1] * SPEC.expansion


@functools.cache
def weights(seed: int, classes: int) -> Mapping[str, np.ndarray]:
    return probe_weights(SPEC.replace(num_classes=classes), seed)


def net(seed: int = 0, classes: int = 5) -> Arrays:
    """A narrow ResNet-50 in torchvision's names."""
    spec = SPEC.replace(num_classes=classes)
    entries = {name: Entry.of(array) for name, array in weights(seed, classes).items()}
    target = FORMATS["timm"]
    found = render(spec, entries, target, choose_scheme(spec, target), "torch").entries
    return {name: entry.load() for name, entry in found.items()}


def under(prefix: str, tensors: Arrays) -> Arrays:
    return {prefix + name: array for name, array in tensors.items()}


def ones(**shapes: tuple[int, ...]) -> Arrays:
    """`a__b` is `a.b`."""
    return {n.replace("__", "."): np.ones(s, np.float32) for n, s in shapes.items()}


def save(tmp_path: Path, tensors: Arrays) -> Path:
    save_file(tensors, tmp_path / "file.safetensors")
    return tmp_path / "file.safetensors"


def truth(seed: int, classes: int) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in weights(seed, classes).items()}


def bits(path: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in load_file(path).items()}
