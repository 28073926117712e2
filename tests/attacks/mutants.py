"""The process in which mutants are opened, one after the other, and the forks that stand for
sandboxed readers.

It is started anew when it dies or hangs, so a mutant that kills it is known by its number.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

LIMIT = 20.0  # seconds, after which the process is ended


class Seen(NamedTuple):
    """What opening a mutant led to; `new` are files that were not there before."""

    kind: str
    message: str
    seconds: float
    new: list[str]


class Mutants:
    """Opens one mutant of `path` at a time."""

    def __init__(self, path: Path):
        self._path = path
        self._process = self._start()

    def _start(self) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.attacks.mutants", str(self._path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def open(self, files: dict[str, bytes]) -> Seen:
        """Open the checkpoint with these files in the place of its own."""
        encoded = {name: base64.b64encode(data).decode() for name, data in files.items()}
        self._process.stdin.write(json.dumps(encoded).encode() + b"\n")  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]
        ready, _, _ = select.select([self._process.stdout], [], [], LIMIT)
        line = self._process.stdout.readline() if ready else b""  # type: ignore[union-attr]
        if line:
            return Seen(*json.loads(line))
        self.close(kill=True)
        self._process = self._start()
        return Seen("died" if ready else "hung", "", 0 if ready else LIMIT, [])

    def close(self, *, kill: bool = False) -> None:
        if kill:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait(30)
        self._process.stdout.close()  # type: ignore[union-attr]


@contextlib.contextmanager
def mutating(path: Path) -> Iterator[Mutants]:
    mutants = Mutants(path)
    try:
        yield mutants
    finally:
        with contextlib.suppress(BrokenPipeError):
            mutants.close()


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


def serve(path: Path) -> None:
    """Open the mutants that come in, by the same door as anyone."""
    from shared.formats.containers import hdf5_reader
    from tests.attacks.check import snapshot
    from tests.attacks.watch import attempt

    hdf5_reader.prepare()
    with contextlib.suppress(ImportError):
        import tensorstore  # noqa: F401
    attempt(path)  # in a process of its own, as ever: everything else is imported
    subprocess.Popen = ForkedReader  # type: ignore[misc,assignment]
    before = set(snapshot(path.parent))
    for line in sys.stdin.buffer:
        files = {name: base64.b64decode(data) for name, data in json.loads(line).items()}
        kept = {name: (path / name).read_bytes() for name in files}
        for name, data in files.items():
            (path / name).write_bytes(data)
        start = time.perf_counter()
        kind, message = attempt(path)
        seconds = time.perf_counter() - start
        new = sorted(set(snapshot(path.parent)) - before)
        for name, data in kept.items():
            (path / name).write_bytes(data)
        print(json.dumps([kind, message[:100_000], seconds, new]), flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
