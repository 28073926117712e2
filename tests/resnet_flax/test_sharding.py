"""Flax' networks over several devices, with the means that JAX has for that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flax")

LIMIT = 1e-12  # of the loss and of weights after a step, in float64


@pytest.mark.zoo
def test_a_network_over_a_mesh_is_the_network() -> None:
    """Eight devices: images over four, the channels of every layer over two."""
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "JAX_ENABLE_X64": "1",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(root),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    script = Path(__file__).with_name("sharded.py")
    run = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    said = dict(line.rsplit(" ", 1) for line in run.stdout.splitlines())
    found = {name: float(value) for name, value in said.items()}
    assert found["devices"] == found["devices after a load and a step"] == 8
    assert found["share"] == 0.5
    assert found["loss"] <= LIMIT
    assert found["weights"] <= LIMIT
