"""What stands in for a worker where a process of its own is not what is tested."""

from __future__ import annotations

from types import ModuleType

from shared.frameworks import reference
from shared.frameworks.trace_worker import run_job
from tests.parity.rendering import package


class Here:
    """A framework in this process, instead of a worker."""

    def __init__(self, name: str, threads: int | None = None):
        self.name = name

    def package(self) -> ModuleType:
        return reference if self.name == "reference" else package(self.name)

    def run(self, job: dict) -> dict:
        run_job(self.package(), job)
        return {"seconds": 0.0, "peak_bytes": 0}

    def kill(self) -> None:
        pass

    def close(self) -> None:
        pass

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
