"""The processes of an export: one in which a framework writes, another in which the file's own
runtime runs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared.architecture.spec import ResNetSpec
from shared.errors import FrameworkError
from shared.frameworks.devices import prepare
from shared.frameworks.exported.kinds import KINDS
from shared.frameworks.exported.runtimes import opened, run
from shared.frameworks.registry import FRAMEWORKS, load_package
from shared.verification.trace import version_of
from shared.weights.canonical import read_weights


def serve_write(
    framework: str,
    spec: dict[str, Any],
    weights: str,
    output: str,
    kind: str,
    size: tuple[int, int] | None,
    dtype: str,
    fold: bool,
) -> None:
    """Build the network, load a canonical file's weights, and let the framework export it.

    Raises `FrameworkError` for a network that its exporter cannot express.
    """
    package = load_package(FRAMEWORKS[framework])  # which computes nothing here: no `prepare`
    network = ResNetSpec.from_dict(spec)
    model = package.build(network, dtype=dtype)
    package.load_weights(model, read_weights(weights, network)[0])
    exporter = importlib.import_module(f"{package.__name__}.export")
    exporter.export(package.fold(model) if fold else model, Path(output), kind, size)


def serve_run(
    kind: str, file: str, layout: str, dtype: str, images: Sequence[str], outputs: Sequence[str]
) -> dict[str, str]:
    """Run a file on batches of images [N, H, W, C], one after the other, and save what comes out.

    Returns the versions of what ran it.
    """
    prepare(on_cpu=True)
    function = opened(kind, Path(file), dtype)
    for source, target in zip(images, outputs, strict=True):
        found = run(function, layout, np.load(source), dtype)
        if not np.isfinite(found).all():
            raise FrameworkError("the file computes values that are not finite")
        np.save(target, found)
    return {package: version_of(package) for package in KINDS[kind].run_by(dtype)}
