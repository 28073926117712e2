"""The process in which attacks are opened and watched: each in a fork of its own that has imported
everything.

`Watcher` is the test's side. A fork starts with the memory of the process before it and counts from
there, so one process serves all attacks and none of them spoils the next one's figures.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.attacks.attack import SECRET
from tests.attacks.forked import fork_readers

UNIT = 1 if sys.platform == "darwin" else 1024
TIMEOUT = 30.0  # seconds, after which the fork is ended


class Outcome(NamedTuple):
    """What happened to one path."""

    kind: str  # the class of the error; "read", "leaked", "hung", "died"
    message: str
    seconds: float
    own: int  # bytes over the start
    children: int  # bytes of the largest process that it started
    events: list[str]  # what it should not have done


class Watcher:
    """Starts the process; `open` gives the outcome of a path.

    `forked`: forks stand for sandboxed readers, which else are started for each path.
    """

    def __init__(self, warm: list[Path], forked: bool = False):
        root = Path(__file__).parent.parent.parent
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.attacks.watch", *["forked"] * forked, *map(str, warm)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def open(self, path: Path) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(str(path)) + "\n")
        self._process.stdin.flush()
        return Outcome(*json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


# The process's side.

_FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "pty.",
    "socket.",
    "ctypes.",
    "pickle.find_class",
    "webbrowser.",
    "urllib.",
    "ftplib.",
    "http.",
    "marshal.loads",
    "code.__new__",
    "shutil.",
    "os.link",
    "os.symlink",
)
_CODE = tuple(
    str(Path(place))
    for place in {sys.prefix, sys.base_prefix, str(Path(__file__).parent.parent.parent)}
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Guard:
    """An audit hook, which cannot be taken off: it notes while it is `on`."""

    def __init__(self) -> None:
        self.on, self.events = False, []  # type: bool, list[str]
        self.folder = ""  # what may not be written to nor left
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and (said := self._wrong(event, arguments)):
            self.events.append(f"{event} {said}"[:200])

    def _wrong(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        if event.startswith(_FORBIDDEN) and not self._temporary(arguments):
            return str(arguments)
        if event == "subprocess.Popen":
            command = arguments[1]
            ours = arguments[
                0
            ] == sys.executable and "shared.formats.containers.sandbox" in " ".join(
                map(str, command)
            )
            return None if ours else str(command)
        if event in ("exec", "compile"):
            where = arguments[0].co_filename if event == "exec" else arguments[1]
            where = os.fsdecode(where) if isinstance(where, str | bytes) else str(where)
            return None if where.startswith((*_CODE, "<frozen")) else where
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.fsdecode(arguments[0])
            writing = (
                isinstance(arguments[1], str) and set(arguments[1]) & set("wxa+")
            ) or arguments[2] & _WRITING
            if writing and "rosetta-" not in path and path != os.devnull:
                return f"{path} for writing"
            if "/outside/" in os.path.realpath(path):
                return f"{path} outside"
        return None

    def _temporary(self, arguments: tuple[Any, ...]) -> bool:
        """Of the private folder for a Keras archive's weights, which its reader makes
        and removes.
        """
        return bool(arguments) and "rosetta-" in str(arguments[0])


def attempt(path: Path) -> tuple[str, str]:
    """Open a checkpoint and read all of it; of what is a network alone, its graph."""
    from shared.errors import RosettaError
    from shared.formats.checkpoint import open_checkpoint
    from shared.frameworks.readers import file_reader
    from shared.graphs.normal import normalise

    try:
        leaked = False
        if path.suffix in (".xml", ".tflite"):
            graph = file_reader(path)(None)
            normalise(graph)
            values = [node.value.tobytes() for node in graph.nodes if node.value is not None]
            return ("leaked" if any(SECRET in value for value in values) else "read"), ""
        for _, array in open_checkpoint(path).arrays():
            leaked = leaked or SECRET in array.tobytes()
    except RosettaError as error:
        return type(error).__name__, str(error)
    except BaseException as error:  # noqa: BLE001 - which is what is looked for
        return f"{type(error).__module__}.{type(error).__name__}", str(error)
    return ("leaked" if leaked else "read"), ""


def _watched(path: Path, guard: Guard) -> Outcome:
    """The outcome, found by a fork."""
    reader, writer = os.pipe()
    start = time.perf_counter()
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.perf_counter()
        guard.on = True
        kind, message = attempt(path)
        guard.on = False
        seconds = time.perf_counter() - begin
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        found = Outcome(kind, message[:100_000], seconds, own * UNIT, children * UNIT, guard.events)
        with os.fdopen(writer, "wb") as reply:
            reply.write(json.dumps(found).encode())
        os._exit(0)
    os.close(writer)
    data = b""
    while select.select([reader], [], [], max(0, start + TIMEOUT - time.perf_counter()))[0]:
        piece = os.read(reader, 1 << 16)
        if not piece:
            break
        data += piece
    else:
        os.killpg(child, signal.SIGKILL)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    if data:
        return Outcome(*json.loads(data))
    seconds = time.perf_counter() - start
    kind = "hung" if seconds >= TIMEOUT else "died"
    return Outcome(kind, f"status {status}", seconds, 0, 0, [])


def serve(warm: list[Path], forked: bool) -> None:
    """Import what any reader needs, then open what comes in."""
    import shared.formats.containers.keras_file
    import shared.formats.containers.orbax_folder  # noqa: F401 - both read in processes of their own

    tempfile.gettempdir()  # which tries it out, once
    for path in warm:
        attempt(path)
    if forked:
        fork_readers()
    guard = Guard()
    for line in sys.stdin:
        print(json.dumps(_watched(Path(json.loads(line)), guard)), flush=True)


@contextmanager
def watching(warm: list[Path], *, forked: bool = False) -> Iterator[Watcher]:
    watcher = Watcher(warm, forked)
    try:
        yield watcher
    finally:
        watcher.close()


if __name__ == "__main__":
    forked = sys.argv[1] == "forked"
    serve(list(map(Path, sys.argv[1 + forked :])), forked)
