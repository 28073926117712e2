"""A `shared.train_worker` seen from outside: a job goes in, events come out."""

from __future__ import annotations

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
from typing import Any

from shared.errors import CheckpointError, DatasetError, FrameworkError, RosettaError, SpecError
from shared.frameworks import get_framework

_ERRORS: dict[str, type[RosettaError]] = {
    error.__name__: error for error in (SpecError, CheckpointError, FrameworkError, DatasetError)
}


def run_events(framework: str, job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Do a job in a process of its own and yield its events. Raises the error that it raised.

    Who stops listening, stops the process. So does Ctrl-C, but for training: the first one asks it to write a
    checkpoint after the step that it is in, and to end.
    """
    chosen = get_framework(framework)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "shared.train_worker", chosen.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **chosen.environment},
            cwd=Path(__file__).parent.parent,  # not the user's folder, whose files could pose as modules
        )
        try:
            with _interrupts_passed_on(process, job["task"] == "train"):
                yield from _events(process, job, chosen.name)
        finally:
            if process.poll() is None:
                process.kill()
            code = process.wait()
        if code < 0:
            raise FrameworkError(f"{chosen.name}: its process was stopped by {signal.Signals(-code).name}")
        if code:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            raise FrameworkError(f"{chosen.name}: its process ended with code {code}: {lines[-1] if lines else ''}")


@contextmanager
def _interrupts_passed_on(process: subprocess.Popen[bytes], wanted: bool) -> Iterator[None]:
    """The first Ctrl-C goes to the process, wherever it was sent; the second is ours again."""
    before = signal.getsignal(signal.SIGINT)
    if not wanted or not callable(before) or threading.current_thread() is not threading.main_thread():
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


def _events(process: subprocess.Popen[bytes], job: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
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
