"""Settings of the test process, made before NumPy and the frameworks are imported."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli_runner import Rosetta

_keras_home = tempfile.mkdtemp(prefix="keras-home-")
atexit.register(shutil.rmtree, _keras_home, ignore_errors=True)

os.environ.update(
    {
        "CUDA_VISIBLE_DEVICES": "",  # the tier that passes or fails is the CPU
        "HF_HUB_OFFLINE": "1",
        "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "tensorflow"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "KERAS_HOME": _keras_home,  # a person's ~/.keras/keras.json may change dtype and layout
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # Networks this small run in no time: what takes long is to make their programs fast.
        "XLA_FLAGS": os.environ.get(
            "XLA_FLAGS",
            "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        ),
        "TF_ENABLE_ONEDNN_OPTS": "0",  # oneDNN orders its sums by the number of threads
        # Tensors are so small here that a second thread costs more than it brings: on a busy
        # machine with two cores, the parity tests of PyTorch took twenty times as long with two.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
)

XLA_CACHE_BYTES = 1 << 30  # a whole run's programs take a tenth of it


DESELECTED = pytest.StashKey[list[pytest.Item]]()


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Remember what the short run leaves to the zoo, for `test_short_run.py`."""
    for item in items:
        item.config.stash.setdefault(DESELECTED, []).append(item)


def pytest_collection_finish() -> None:
    """Leave what the imports made alone: there is no garbage in it, and looking takes time."""
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    """Keep XLA's programs between runs: compiling them is most of what a small network takes.

    JAX' key of a program holds its version, its flags and the kind of processor. The processes of
    the tests, and those that they start, inherit the folder's name.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_xla_cache(config))


def _xla_cache(config: pytest.Config) -> Path:
    """The folder in pytest's cache, or where there is none, one that goes with this process."""
    cache = getattr(config, "cache", None)
    if cache is None or not os.access(config.rootpath, os.W_OK):
        folder = Path(tempfile.mkdtemp(prefix="xla-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder
    folder = cache.mkdir("xla")
    if sum(file.stat().st_size for file in folder.iterdir()) > XLA_CACHE_BYTES:
        shutil.rmtree(folder)  # programs of other versions, and of tests that are no more
    return folder


@pytest.fixture
def rosetta(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Rosetta:
    """The `rosetta` command in this process, on a terminal of the usual width."""
    from tests.cli_runner import Rosetta

    monkeypatch.delenv("COLUMNS", raising=False)
    return Rosetta(capsys, monkeypatch)


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 in JAX for the length of a test."""
    import jax

    with jax.enable_x64(True):
        yield
