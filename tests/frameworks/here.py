"""What stands in for a worker where a process of its own is not what is tested."""

from __future__ import annotations

import time
from types import ModuleType

import pytest

from shared.frameworks import pool, predict, reference, verify
from shared.frameworks.trace_worker import _peak_bytes, run_job
from tests.parity.rendering import package


class Here:
    """A framework in this process, instead of a worker."""

    def __init__(self, name: str, threads: int | None = None):
        self.name = name

    def package(self) -> ModuleType:
        return reference if self.name == "reference" else package(self.name)

    def run(self, job: dict) -> dict:
        started = time.perf_counter()
        run_job(self.package(), job)
        return {"seconds": time.perf_counter() - started, "peak_bytes": _peak_bytes()}

    def kill(self) -> None:
        pass

    def close(self) -> None:
        pass

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class ReferenceHere(Here):
    """The reference in this process, under whatever name."""

    def package(self) -> ModuleType:
        return reference


def no_processes(monkeypatch: pytest.MonkeyPatch, worker: type[Here] = Here) -> None:
    """Let whatever would start workers have these."""
    for module in (pool, predict, verify):
        monkeypatch.setattr(module, "TraceWorker", worker)
