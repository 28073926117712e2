"""Which workers run at the same time, and how long they live."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from shared.frameworks.workers import TraceWorker
from shared.machine import free_memory, processors

R = TypeVar("R")


class WorkerPool:
    """A worker for each framework, kept from one network to the next where memory holds them all.

    A worker that has ended a network keeps the memory that it took, for the next one. For larger
    networks, each framework gets a worker that ends with its job, as many at a time as there is
    memory for.
    """

    def __init__(self, frameworks: Sequence[str]):
        self.frameworks = frameworks
        self._workers: list[TraceWorker] = []
        self._room = free_memory()  # without any worker

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers; the next network starts new ones."""
        for worker in self._workers:
            worker.close()
        self._workers.clear()

    def map(
        self,
        job: Callable[[TraceWorker, Path], R],
        files: Sequence[Path],
        need: int,
        written: int = 0,
    ) -> tuple[R, ...]:
        """Do the job in every framework, each with its own file.

        Each takes `need` bytes of memory; the files, if they lie in memory, take `written` bytes.
        """
        cores = processors()
        stay = need * len(self.frameworks) + written <= self._room
        if not stay:
            self.close()
            self._room = free_memory()
        at_once = max(1, min(cores, (self._room - written) // need))
        if stay and not self._workers:
            threads = max(1, cores // len(self.frameworks))
            self._workers.extend(TraceWorker(name, threads) for name in self.frameworks)

        failed = threading.Event()

        def alone(name: str, file: Path) -> R:
            with TraceWorker(name, cores // at_once) as worker:
                self._workers.append(worker)
                if failed.is_set():  # in between: no other code would end this one
                    worker.kill()
                return job(worker, file)

        with ThreadPoolExecutor(at_once) as pool:
            try:
                if stay:
                    return tuple(pool.map(job, self._workers, files))
                return tuple(pool.map(alone, self.frameworks, files))
            except BaseException:  # interrupted, or one has failed: the others need not go on
                failed.set()
                for worker in self._workers:
                    worker.kill()
                raise
            finally:
                if not stay:
                    self._workers.clear()  # each ends with its job
