"""A `shared.frameworks.train_worker` seen from outside: a job goes in, events come out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from shared.errors import CheckpointError, DatasetError, FrameworkError, RosettaError, SpecError
from shared.frameworks.registry import get_framework

_ERRORS: dict[str, type[RosettaError]] = {
    error.__name__: error for error in (SpecError, CheckpointError, FrameworkError, DatasetError)
}


def run_events(framework: str, job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Do a job in a process of its own and yield its events. Raises the error that it raised.

    Who stops listening, stops the process. So does Ctrl-C, but for training: the first one asks it
    to write a checkpoint after the step that it is in, and to end.
    """
    chosen = get_framework(framework)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "shared.frameworks.train_worker", chosen.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **chosen.environment},
            cwd=Path(__file__).parents[
                2
            ],  # not the user's folder, whose files could pose as modules
        )
        try:
            with _interrupts_passed_on(process, job["task"] == "train"):
                yield from _events(process, job, chosen.name)
        finally:
            if process.poll() is None:
                process.kill()
            code = process.wait()
        if code < 0:
            raise FrameworkError(
                f"{chosen.name}: its process was stopped by {signal.Signals(-code).name}"
            )
        if code:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            raise FrameworkError(
                f"{chosen.name}: its process ended with code {code}: {lines[-1] if lines else ''}"
            )


@contextmanager
def _interrupts_passed_on(process: subprocess.Popen[bytes], wanted: bool) -> Iterator[None]:
    """The first Ctrl-C goes to the process, wherever it was sent; the second is ours again."""
    before = signal.getsignal(signal.SIGINT)
    if (
        not wanted
        or not callable(before)
        or threading.current_thread() is not threading.main_thread()
    ):
        yield  # nobody listens to it, or only the main thread could
        return

    def pass_on(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        process.send_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _events(
    process: subprocess.Popen[bytes], job: Mapping[str, Any], name: str
) -> Iterator[dict[str, Any]]:
    if process.stdin is None or process.stdout is None:
        raise FrameworkError(f"{name}: its process has no pipes")
    try:
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.close()
    except BrokenPipeError:
        return
    for line in process.stdout:
        if line.endswith(b"\n"):  # else it is what a dying process left unfinished
            event = json.loads(line)
            if event["event"] == "interrupted":
                raise KeyboardInterrupt
            if event["event"] == "error":
                raise _ERRORS.get(event["kind"], FrameworkError)(event["error"])
            yield event
    process.wait()


def _thread_limits(threads: int | None) -> dict[str, str]:
    """Environment for processes that share the cores: pools of more threads wait for each other by
    spinning.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
    return dict.fromkeys(names, str(threads)) if threads else {}


class Worker:
    """A process that takes traces in one framework, one job after the other.

    `threads` limits its pools, unless the user's environment says otherwise. A job and its answer
    are one JSON line each way. What the framework prints goes to a file, shown only when the
    process dies.
    """

    def __init__(self, name: str, threads: int | None = None):
        self.framework = get_framework(name)
        self.name = self.framework.name
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "shared.frameworks.trace_worker", self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**_thread_limits(threads), **os.environ, **self.framework.environment},
            cwd=Path(__file__).parents[
                2
            ],  # not the user's folder, whose files could pose as modules
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def run(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Do one job (see `shared.frameworks.trace_worker`) and return its report.

        Raises the error that it raised.
        """
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
            return f"was stopped by {name}" + (
                ", probably out of memory" if name == "SIGKILL" else ""
            )
        self._log.seek(0)
        lines = [
            line.strip()
            for line in self._log.read().decode(errors="replace").splitlines()
            if line.strip()
        ]
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
