"""The processes in which a framework works, seen from outside: a job goes in, answers come out."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from shared.errors import FrameworkError
from shared.frameworks.registry import get_framework
from shared.processes import Process

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")


class TraceWorker(Process):
    """A process that takes traces in one framework, one job after the other, on the CPU.

    `threads` limits its pools, unless the user's environment says otherwise: pools that share the
    cores and have more threads than cores wait for each other by spinning. What the framework
    prints is shown only when the process dies.
    """

    def __init__(self, name: str, threads: int | None = None):
        framework = get_framework(name, exported=True)
        limits = {limit: str(threads) for limit in _THREADS if threads and limit not in os.environ}
        super().__init__(
            framework.name,
            ["-m", "shared.frameworks.trace_worker", framework.name],
            limits | framework.on_cpu,
        )

    def run(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Do one job (see `shared.frameworks.trace_worker`) and return its report.

        Raises the error that it raised.
        """
        return self.ask(job)


def run_events(framework: str, job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Do a job of `shared.frameworks.train_worker` in a process of its own and yield its events.

    Training runs where the framework puts it, evaluation on the CPU. The process is stopped when
    the caller takes no more events. Ctrl-C stops it as well, but for training: the first one asks
    it to write a checkpoint after the step that it is in, and to end. Raises the error that the job
    raised.
    """
    chosen = get_framework(framework)
    training = job["task"] == "train"
    process = Process(
        chosen.name,
        ["-m", "shared.frameworks.train_worker", chosen.name],
        chosen.environment if training else chosen.on_cpu,
    )
    try:
        with _interrupts_passed_on(process, training):
            process.send(job)
            while (event := process.receive()) is not None:
                if event["event"] == "interrupted":
                    raise KeyboardInterrupt
                yield event
            death = process.death()
        if process.code != 0:
            raise FrameworkError(f"{chosen.name}: its process {death}")
    finally:
        process.end()


@contextmanager
def _interrupts_passed_on(process: Process, wanted: bool) -> Iterator[None]:
    """The first Ctrl-C goes to the process, wherever it was sent; the second is ours again."""
    before = signal.getsignal(signal.SIGINT)
    if (
        not wanted
        or not callable(before)
        or threading.current_thread() is not threading.main_thread()
    ):
        yield  # it is ignored here, or only the main thread could receive it
        return

    def pass_on(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        process.interrupt()

    signal.signal(signal.SIGINT, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
