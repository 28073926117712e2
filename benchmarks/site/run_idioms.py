"""Runs the listings of the idioms, and keeps how far each is from plain NumPy."""

from __future__ import annotations

import contextlib
import json
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.site.idioms import IDIOMS, Idiom

FOLDER = Path(__file__).parents[2] / "docs" / "idioms"
MEASURED = FOLDER / "measured.json"


def listing(idiom: str, framework: str) -> str:
    """The text of a listing's file."""
    return (FOLDER / idiom / f"in_{framework}.py").read_text("utf-8")


def errors(idiom: Idiom, framework: str) -> tuple[float, float]:
    """Of `right` and of `wrong`, against NumPy: the largest absolute difference over the largest
    absolute value, or over 1 where that is zero.
    """
    inputs = idiom.inputs(np.random.default_rng(7))
    truth = np.asarray(idiom.expected(**inputs), np.float64)
    functions = runpy.run_path(str(FOLDER / idiom.name / f"in_{framework}.py"))
    found = []
    for name in ("right", "wrong"):
        with tempfile.TemporaryDirectory() as folder, _float64(framework):
            given = {key: _to(framework, key, value) for key, value in inputs.items()}
            if idiom.name == "checkpoints":
                given["folder"] = Path(folder)
            output = _from(framework, functions[name](**given))
        if output.shape != truth.shape:
            raise ValueError(f"{idiom.name}, {framework}: {output.shape}, not {truth.shape}")
        scale = float(np.abs(truth).max()) or 1.0
        found.append(float(np.abs(output.astype(np.float64) - truth).max()) / scale)
    return found[0], found[1]


@contextlib.contextmanager
def _float64(framework: str) -> Any:
    """JAX is asked for float64; new layers of the others draw alike."""
    if framework == "flax":
        import jax

        with jax.enable_x64(True):
            yield
    elif framework == "keras":
        import keras

        keras.utils.set_random_seed(0)
        yield
    else:
        import torch

        torch.manual_seed(0)
        yield


def _to(framework: str, name: str, array: np.ndarray) -> Any:
    if framework == "torch":
        import torch

        axes = {"images": (0, 3, 1, 2), "kernel": (3, 2, 0, 1)}.get(name)
        moved = array if axes is None else array.transpose(axes)
        return torch.from_numpy(np.array(moved, order="C"))  # a copy: steps are taken in place
    if framework == "keras":
        import keras

        return keras.ops.convert_to_tensor(array)
    import jax.numpy as jnp

    return jnp.asarray(array)


def _from(framework: str, found: Any) -> np.ndarray:
    if framework == "torch":
        array = found.detach().numpy()
        return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
    if framework == "keras":
        import keras

        return np.asarray(keras.ops.convert_to_numpy(found))
    return np.asarray(found)


def measure(framework: str) -> dict[str, dict[str, float]]:
    """The errors of every listing of a framework."""
    found = {}
    for idiom in IDIOMS:
        right, wrong = errors(idiom, framework)
        found[idiom.name] = {"right": float(f"{right:.1e}"), "wrong": float(f"{wrong:.1e}")}
    return found


def load() -> dict[str, dict[str, dict[str, float]]]:
    """What the last run of `measure` found, by framework."""
    return json.loads(MEASURED.read_text("utf-8"))


def main(frameworks: list[str]) -> None:
    """Print the errors of frameworks as JSON; one with Keras alone has to be told its backend."""
    print(json.dumps({name: measure(name) for name in frameworks}))


if __name__ == "__main__":
    main(sys.argv[1:])
