"""What a framework exports, as one of the sides of `rosetta verify`."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np

from shared.architecture.spec import ResNetSpec
from shared.frameworks.exported.kinds import KINDS, layout_of
from shared.frameworks.exported.runtimes import opened, run
from shared.frameworks.exported.witness import file_trace
from shared.frameworks.registry import Framework
from shared.verification.trace import Trace
from shared.weights.canonical import Weights


def trace_file(
    side: Framework,
    package: ModuleType,
    spec: ResNetSpec,
    weights: Weights,
    images: np.ndarray,
    dtype: str,
) -> Trace:
    """Export the network, run the file, and keep its output.

    `images` are [N, H, W, C] in float64, of values of `dtype`; the file is for images of their
    size. The digest is that of the weights that went through the framework.
    """
    model = package.build(spec, dtype=dtype)
    package.load_weights(model, weights)
    kind = KINDS[side.kind]
    exporter = importlib.import_module(f"{package.__name__}.export")
    layout = layout_of(side.name.partition(":")[0])
    with tempfile.TemporaryDirectory(prefix="rosetta-") as folder:
        path = Path(folder) / f"network{kind.suffix}"
        exporter.export(model, path, kind.name, images.shape[1:3])
        outputs = run(opened(kind.name, path, dtype), layout, images.astype(dtype), dtype)
    own, packages = package.export_weights(model), kind.run_by(dtype)
    return file_trace(side.name, kind.name, spec, own, images, outputs, dtype, packages=packages)
