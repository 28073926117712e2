"""The process in which mutants are opened, one after the other; forks stand for sandboxed readers.

It is started anew when it dies or hangs, so a mutant that kills it is known by its number.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.attacks.forked import fork_readers

LIMIT = 20.0  # seconds, after which the process is ended


class Seen(NamedTuple):
    """What opening a mutant led to; `new` are files that were not there before."""

    kind: str
    message: str
    seconds: float
    new: list[str]


class Mutants:
    """Opens one mutant at a time; the process is started with the first."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def _start(self) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.attacks.mutants"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def open(self, path: Path, files: dict[str, bytes]) -> Seen:
        """Open the checkpoint `path` with these files in the place of its own."""
        encoded = {name: base64.b64encode(data).decode() for name, data in files.items()}
        process = self._process = self._process or self._start()
        process.stdin.write(json.dumps([str(path), encoded]).encode() + b"\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        ready, _, _ = select.select([process.stdout], [], [], LIMIT)
        line = process.stdout.readline() if ready else b""  # type: ignore[union-attr]
        if line:
            return Seen(*json.loads(line))
        self.close(kill=True)
        return Seen("died" if ready else "hung", "", 0 if ready else LIMIT, [])

    def close(self, *, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # type: ignore[union-attr]
        process.wait(30)
        process.stdout.close()  # type: ignore[union-attr]


@contextlib.contextmanager
def mutating() -> Iterator[Mutants]:
    mutants = Mutants()
    try:
        yield mutants
    finally:
        mutants.close()


def serve() -> None:
    """Open the mutants that come in, by the same door as anyone."""
    from tests.attacks.check import snapshot
    from tests.attacks.watch import attempt

    fork_readers()
    before: dict[Path, set[str]] = {}
    for line in sys.stdin.buffer:
        place, encoded = json.loads(line)
        path = Path(place)
        if path not in before:
            attempt(path)  # which imports what its format needs
            before[path] = set(snapshot(path.parent))
        files = {name: base64.b64decode(data) for name, data in encoded.items()}
        kept = {name: (path / name).read_bytes() for name in files}
        for name, data in files.items():
            (path / name).write_bytes(data)
        start = time.perf_counter()
        kind, message = attempt(path)
        seconds = time.perf_counter() - start
        new = sorted(set(snapshot(path.parent)) - before[path])
        for name, data in kept.items():
            (path / name).write_bytes(data)
        print(json.dumps([kind, message[:100_000], seconds, new]), flush=True)


if __name__ == "__main__":
    serve()
