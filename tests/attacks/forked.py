"""Forks that stand for sandboxed readers: confined as their processes are, and not started anew."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from typing import IO, Any

LIMIT = 20.0  # seconds for the end of one, unless given


def fork_readers() -> None:
    """From here on, this process forks itself where it would start a reader."""
    from shared.formats.containers import hdf5_reader

    hdf5_reader.prepare()
    with contextlib.suppress(ImportError):
        import tensorstore  # noqa: F401
    subprocess.Popen = ForkedReader  # type: ignore[misc,assignment]


class ForkedReader:
    """As `Popen` of `shared.processes.Process`, but a fork, which need not import anything."""

    def __init__(self, command: list[str], **options: Any):
        requests, replies = os.pipe(), os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            self._serve(command[-2:], requests, replies, options)
        os.close(requests[0])
        os.close(replies[1])
        self.stdin: IO[bytes] = os.fdopen(requests[1], "wb")
        self.stdout: IO[bytes] = os.fdopen(replies[0], "rb", buffering=0)

    def _serve(
        self,
        arguments: list[str],
        requests: tuple[int, int],
        replies: tuple[int, int],
        options: Any,
    ) -> None:
        code = 1
        try:
            from shared.formats.containers import sandbox

            # what the process before it has left to collect would end that one's children
            gc.freeze()
            os.dup2(requests[0], 0)
            os.dup2(replies[1], 1)
            for descriptor in (*requests, *replies):
                os.close(descriptor)
            os.chdir(options["cwd"])
            sys.argv = ["-c", *arguments]
            sandbox.serve()
            code = 0
        finally:
            os._exit(code)

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (LIMIT if timeout is None else timeout)
        while self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                raise subprocess.TimeoutExpired("fork", timeout or LIMIT)
            else:
                time.sleep(0.0005)
        return self.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)
