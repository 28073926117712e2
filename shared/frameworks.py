"""The one door to the frameworks. Nothing here imports one until it is asked to.

A trace is taken in a process of its own (`Worker`): thread pools do not fight, Keras backends can
be mixed, and a framework that crashes takes nothing with it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any

from shared.errors import CheckpointError, FrameworkError, RosettaError, SpecError, nearest


@dataclass(frozen=True)
class Framework:
    """A way to run the specification: its package, what must be installed, and its environment."""

    name: str
    package: str
    requires: tuple[str, ...]
    extra: str = ""  # of `pip install resnet-rosetta[...]`
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(name for name in self.requires if importlib.util.find_spec(name) is None)


# Quiet, and the same numbers in every run. None of this touches the calling process.
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "GRPC_VERBOSITY": "ERROR"}
_X64 = {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}


def _keras(backend: str, *modules: str) -> Framework:
    environment = {"KERAS_BACKEND": backend, **_QUIET, **(_X64 if backend == "jax" else {})}
    return Framework(f"keras:{backend}", "resnet_keras", ("keras", *modules), "keras", environment)


FRAMEWORKS = {
    framework.name: framework
    for framework in (
        Framework("torch", "resnet_torch", ("torch",), "torch"),
        _keras("tensorflow", "tensorflow"),
        _keras("jax", "jax"),
        _keras("torch", "torch"),
        Framework("flax", "resnet_flax", ("flax", "jax"), "flax", {**_QUIET, **_X64}),
        Framework("reference", "shared.reference", ()),
    )
}
KERAS_BACKENDS = ("tensorflow", "jax", "torch")  # in the order of preference


def get_framework(name: str) -> Framework:
    """The framework of a name; `keras` is Keras on the first backend that is installed.

    Raises `FrameworkError` when it is unknown, or not installed.
    """
    if name == "keras":
        chosen = [FRAMEWORKS[f"keras:{backend}"] for backend in KERAS_BACKENDS]
        framework = next((f for f in chosen if not f.missing), chosen[0])
    elif name in FRAMEWORKS:
        framework = FRAMEWORKS[name]
    else:
        known = ["keras", *FRAMEWORKS]
        raise FrameworkError(f"unknown framework {name!r}{nearest(name, known)}; known are {', '.join(known)}")
    if framework.missing:
        raise FrameworkError(
            f"{name} needs {' and '.join(framework.missing)}, which {'is' if len(framework.missing) == 1 else 'are'} "
            f"not installed; pip install 'resnet-rosetta[{framework.extra}]'"
        )
    return framework


def installed() -> list[str]:
    """The frameworks that are there, Keras once, and the reference, which always is."""
    found = []
    for name in ("torch", "keras", "flax", "reference"):
        with contextlib.suppress(FrameworkError):
            get_framework(name)
            found.append(name)
    return found


def load_package(framework: Framework) -> ModuleType:
    """Import the package that renders the specification in this framework, in this process."""
    try:
        return importlib.import_module(framework.package)
    except ImportError as error:
        raise FrameworkError(f"{framework.name} cannot be imported: {error}") from None


_ERRORS: dict[str, type[RosettaError]] = {
    "SpecError": SpecError,
    "CheckpointError": CheckpointError,
    "FrameworkError": FrameworkError,
}


def _thread_limits(threads: int | None) -> dict[str, str]:
    """Environment for processes that share the cores: pools of more threads wait for each other by spinning."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
    return dict.fromkeys(names, str(threads)) if threads else {}


class Worker:
    """A process that takes traces in one framework, one job after the other.

    `threads` limits its pools, unless the user's environment says otherwise. A job and its answer are
    one JSON line each way. What the framework prints goes to a file,
    shown only when the process dies.
    """

    def __init__(self, name: str, threads: int | None = None):
        self.framework = get_framework(name)
        self.name = self.framework.name
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "shared.worker", self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**_thread_limits(threads), **os.environ, **self.framework.environment},
            cwd=Path(__file__).parent.parent,  # not the user's folder, whose files could pose as modules
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def run(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Do one job (see `shared.worker`) and return its report. Raises the error that it raised."""
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        assert self._process.stdout is not None  # noqa: S101
        try:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):  # nothing, or what a dying process left unfinished
            raise FrameworkError(f"{self.name}: its process {self._death()}")
        answer = json.loads(line)
        if "error" in answer:
            raise _ERRORS.get(answer["kind"], FrameworkError)(answer["error"])
        return answer

    def _death(self) -> str:
        code = self._process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            return f"was stopped by {name}" + (", probably out of memory" if name == "SIGKILL" else "")
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return f"ended with code {code}: {lines[-1] if lines else 'it said nothing'}"

    def kill(self) -> None:
        """Stop the process in the middle of its job."""
        self._process.kill()

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()
