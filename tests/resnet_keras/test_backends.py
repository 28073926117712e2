"""The other backends of Keras: the same networks and the same training, each backend in a process
of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras")

import numpy as np

from tests.keras_backend_parity import TRAINED, training_trace
from tests.probes import relative_error
from tests.resnet_keras.test_model import FLOAT64_LIMIT
from tests.zoo import in_zoo

# Two backends after ten steps of a small network: worst 2e-13.
TRAINED_LIMIT = 1e-12


@pytest.mark.parametrize("backend", ["torch", in_zoo("jax")])
def test_other_backends(backend: str, tmp_path: Path) -> None:
    """Parity, the same training, and no change of global state, from import to trace: all in one
    process, most of whose time is its start.
    """
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_ENABLE_X64": "1"}
    file = tmp_path / "trace.npz"
    command = [sys.executable, "-m", "tests.keras_backend_parity", str(file)]
    root = Path(__file__).parents[2]
    run = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    assert {
        name: error for name, error in report["errors"].items() if not error <= FLOAT64_LIMIT
    } == {}
    assert report["changed"] == {"by networks": [], "by training": []}
    assert report.get("refuses float64", True)
    with np.load(file) as found:
        for preset in TRAINED:
            expected = training_trace(preset)
            errors = {
                n: relative_error(found[f"{preset}/{n}"], expected[n]) for n in expected.names
            }
            assert {n: error for n, error in errors.items() if not error <= TRAINED_LIMIT} == {}
