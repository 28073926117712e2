"""Files of `rosetta source`, run in a process that has nothing of ours, against the reference."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from shared import ResNetSpec, make_plan, probe_images, probe_weights
from shared.frameworks import reference
from shared.source.write import source
from shared.training.config import OptimizerConfig, Training, probe_labels
from shared.weights.files import write_tensors
from tests.probes import SIZE, loaded, relative_error

BATCH, RATE = 4, 0.1
PLAIN = Training(optimizer=OptimizerConfig(momentum=0.0, weight_decay=0.0), label_smoothing=0.0)
ENVIRONMENT = {
    "torch": {},
    "keras": {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"},
    # Networks this small run in no time: what takes long is to make the program fast.
    "flax": {
        "JAX_ENABLE_X64": "1",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    },
}
TOOLS = "tools"  # a file in a network's folder: the framework's compilers and formats take it, too


def errors(
    framework: str,
    specs: Sequence[ResNetSpec],
    folder: Path,
    write: Callable[[ResNetSpec, str], str] = source,
    *,
    tools: Sequence[str] = (),
) -> dict[str, float]:
    """By network, the largest error of its output and of its tensors after a step.

    The networks in `tools` are compiled and saved by the framework as well, and compared with
    themselves: the process fails where a value differs.
    """
    places = [folder / str(k) for k in range(len(specs))]
    for spec, place in zip(specs, places, strict=True):
        place.mkdir()
        if spec.name in tools:
            (place / TOOLS).touch()
        (place / "network.py").write_text(write(spec, framework), "utf-8")
        write_tensors(place / "weights.safetensors", probe_weights(spec, dtype="float64"), {})
        images, labels = batch(spec)
        np.savez(place / "batch.npz", images=images, labels=labels, rate=RATE)
    run(f"bare_{framework}.py", framework, places)
    return {
        spec.name: error(spec, place / "found.npz")
        for spec, place in zip(specs, places, strict=True)
    }


def run(script: str, framework: str, places: Sequence[Path]) -> None:
    """A script beside this file, in a process that cannot import anything of ours."""
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, Path(__file__).with_name(script), *places],
        check=True,
        cwd=places[0],
        env=environment | ENVIRONMENT[framework],
    )


def batch(spec: ResNetSpec) -> tuple[np.ndarray, np.ndarray]:
    classes = make_plan(spec, SIZE).output[-1]
    images = probe_images((BATCH, *SIZE, spec.in_channels), dtype="float64")
    return images, probe_labels(BATCH, classes, 0)


def error(spec: ResNetSpec, path: Path) -> float:
    found = dict(np.load(path))
    expected = truth(spec.replace(name="any"))
    counters = {name for name in found if name.endswith("num_batches_tracked")}
    assert found.keys() - counters == expected.keys()
    return max(relative_error(found[name], array) for name, array in expected.items())


@functools.cache
def truth(spec: ResNetSpec) -> dict[str, np.ndarray]:
    """The output of the NumPy network, and its tensors after a step."""
    images, labels = batch(spec)
    model = loaded(reference, spec)
    output = reference.trace(model, images)["eval/output"]
    trainer = reference.Trainer(model, PLAIN)
    trainer.step(images, labels, RATE)
    return {"output": output, **reference.export_weights(model)}
