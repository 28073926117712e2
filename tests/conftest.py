"""Settings of the test process, made before any framework is imported, and what test files share."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

_keras_home = tempfile.mkdtemp(prefix="keras-home-")
atexit.register(shutil.rmtree, _keras_home, ignore_errors=True)

os.environ.update(
    {
        "CUDA_VISIBLE_DEVICES": "",  # the tier that passes or fails is the CPU
        "HF_HUB_OFFLINE": "1",
        "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "tensorflow"),
        "KERAS_HOME": _keras_home,  # a person's ~/.keras/keras.json may change dtype and layout
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",  # oneDNN reorders sums by the number of threads
        # Tensors are so small here that a second thread costs more than it brings, many times more
        # on a machine that is busy.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
)

import numpy as np
import pytest

from shared import ResNetSpec, Trace, get_spec, list_presets, make_plan, probe_images, probe_weights, reference
from shared.presets import miniature
from shared.spec import Init

PROBE_SIZE = (32, 45)  # one even and one odd side: SAME padding differs from symmetric on the even one
PROBE_BATCH = 2


def function_of(spec: ResNetSpec) -> ResNetSpec:
    """`spec` without what does not change the function that it computes: equal nets become equal specs."""
    return spec.replace(name="any", image_size=224, init=Init())


@pytest.fixture(params=list_presets())
def preset(request: pytest.FixtureRequest) -> str:
    """Every preset's name."""
    return request.param


@pytest.fixture(scope="session")
def reference_trace():
    """The float64 reference trace of a spec under probe weights; equal functions are run once."""
    traces: dict[ResNetSpec, Trace] = {}

    def run(spec: ResNetSpec) -> Trace:
        key = function_of(spec)
        if key not in traces:
            model = reference.build(key)
            traces[key] = reference.trace(model, probe_input(key))
        return traces[key]

    return run


def probe_input(spec: ResNetSpec, size: tuple[int, int] = PROBE_SIZE, dtype: str = "float64") -> np.ndarray:
    """Random images [batch, height, width, channels] that fit `spec`."""
    return probe_images((PROBE_BATCH, *size, spec.in_channels), dtype=dtype)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute value of `expected`; infinite for another shape."""
    if found.shape != expected.shape:
        return float("inf")
    scale = np.abs(expected).max()
    return float(np.abs(np.asarray(found, np.float64) - expected).max() / (scale or 1.0))
