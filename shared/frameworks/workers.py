"""The processes in which a framework works, seen from outside: a job goes in, answers come out."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shared.errors import FrameworkError
from shared.frameworks.registry import Framework, get_framework
from shared.machine import user_cache
from shared.processes import Process

XLA_CACHE_BYTES = 1 << 30  # of a large network, the programs take some megabytes
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
            limits | compiled_programs(framework) | framework.on_cpu,
        )

    def run(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Do one job (see `shared.frameworks.trace_worker`) and return its report.

        Raises the error that it raised.
        """
        return self.ask(job)


def compiled_programs(framework: Framework) -> dict[str, str]:
    """The environment in which JAX keeps the programs that it compiles, in the user's cache: to
    compile the layers of a network takes a quarter of its side of a verification.

    JAX's key of a program holds its version, its flags and the kind of processor. The user's own
    variables stand: JAX_ENABLE_COMPILATION_CACHE=false is the switch. Where the folder cannot be
    made and written, nothing is kept; one that has grown beyond `XLA_CACHE_BYTES` is emptied.
    """
    if "jax" not in framework.requires:
        return {}
    kept = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # a layer takes less than a second
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            folder = user_cache("xla")
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            _empty_if_large(folder)
        except (OSError, RuntimeError):  # a home that is not writable, or none
            return {}
        kept["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    return {name: value for name, value in kept.items() if name not in os.environ}


def _empty_if_large(folder: Path) -> None:
    """The programs of other versions, and of networks that are no more, go with the others."""
    files = list(folder.iterdir())
    if sum(file.stat().st_size for file in files) > XLA_CACHE_BYTES:
        for file in files:
            with suppress(OSError):  # another process may have been first
                file.unlink()


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
