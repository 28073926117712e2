"""A process of its own for the C parsers of untrusted files: limits on time, memory and files, and
no way out.

A reading module (`shared.formats.containers.hdf5_file` is one) runs in the child and provides

    def open_entries(path: Path) -> tuple[Entries, dict[str, str]]
    # Entries = dict[str, tuple[Shape, str, Callable[[], np.ndarray]]]

: for every tensor, in the file's order, (shape, name of its dtype such as "float32" or "bfloat16",
a function that reads its values), and the metadata. It reads headers only, and raises
`CheckpointError` with what is wrong but **without the path**, which the parent puts in front.
Whatever else it raises becomes a `CheckpointError`, too. Each function may be called many times,
and its array must have the shape that was announced. A function `prepare()` of the module, if it
has one, imports the heavy libraries: it runs before the limits are set, which some imports would
not survive. The parent writes

    reader = Reader("shared.formats.containers.hdf5_file", path)
    Archive("hdf5", reader.entries, reader.metadata)

and checks all that the child says, which the file may have taken over. The child ends with the last
entry.

Pipe, child to parent: a kind (b"H" header, b"D" data, b"E" error), eight bytes of length, the
payload. Parent to child: one JSON line, the name of a tensor.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from shared.architecture.ops import Shape
from shared.errors import CheckpointError
from shared.formats.containers.archive import MAX_DIMENSIONS, MAX_ELEMENTS, MAX_TENSORS, Entry
from shared.weights.canonical import float_dtype

MAX_HEADER = 16 << 20  # bytes of JSON that the child may send
SECONDS = 20  # for a header; a tensor has one more for every _BYTES_PER_SECOND
_BYTES_PER_SECOND = 8 << 20  # what a slow disk and gzip manage
_MEMORY = 512 << 20  # bytes of address space on top of what the libraries take
_OPEN_FILES = 64
_MAX_ERROR = 4000  # bytes
_INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
DTYPES = {
    n: float_dtype(n) for n in ("float16", "float32", "float64", "bfloat16", "bool", *_INTEGERS)
}

Tensors = dict[str, tuple[Shape, str, Callable[[], np.ndarray]]]


class Reader:
    """The entries and the metadata of a file that a child process reads with `module.open_entries`.

    `label` stands for `path` in messages. Raises `CheckpointError` when the child does, dies, hangs
    or lies.
    """

    def __init__(self, module: str, path: Path, label: Path | None = None):
        child = _Child(module, path, label or path)
        try:
            header = json.loads(child.ask(b"H", MAX_HEADER, SECONDS))
            self.metadata = {str(key): str(value) for key, value in header["metadata"].items()}
            self.entries = _entries(child, header["entries"])
        except CheckpointError:  # a ValueError, too
            child.end()
            raise
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            child.end()
            raise child.fail("its reader sent no valid header") from None


def _entries(child: _Child, tensors: Any) -> dict[str, Entry]:
    """The entries of the header's list; they keep the child alive, and nothing else does."""
    if len(tensors) > MAX_TENSORS:
        raise child.fail(f"it has {len(tensors)} tensors; {MAX_TENSORS} at most are read")
    entries = {}
    for name, shape, dtype in tensors:
        if not isinstance(name, str) or not all(type(n) is int and n >= 0 for n in shape):
            raise TypeError
        if len(shape) > MAX_DIMENSIONS or math.prod(shape) > MAX_ELEMENTS:
            raise child.fail(
                f"{name[:100]!r} has the shape {shape}; {MAX_DIMENSIONS} dimensions and "
                f"{MAX_ELEMENTS} elements at most are read"
            )
        entries[name] = Entry(
            tuple(shape), DTYPES[dtype], partial(child.load, name, tuple(shape), DTYPES[dtype])
        )
    return entries


class _Child:
    """The parent's side of the process."""

    def __init__(self, module: str, path: Path, label: Path):
        self._label = label
        self._lock = threading.Lock()  # one request at a time
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, with arguments of our own
            [
                sys.executable,
                "-B",
                "-c",
                f"from {__name__} import serve; serve()",
                module,
                str(path.absolute()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            cwd=Path(__file__).parents[
                3
            ],  # not the user's folder, whose files could pose as modules
            pipesize=1 << 20,
        )
        self.end = weakref.finalize(self, _end, self._process)

    def fail(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self._label}: {what}")

    def load(self, name: str, shape: Shape, dtype: np.dtype) -> np.ndarray:
        """The values of a tensor, in an array of its own."""
        nbytes = math.prod(shape) * dtype.itemsize
        with self._lock:
            if not self.end.alive:
                raise self.fail("its reader has ended; read the file again")
            assert self._process.stdin is not None  # noqa: S101 - for the type checker
            with contextlib.suppress(BrokenPipeError):  # `ask` says how it died
                self._process.stdin.write(json.dumps(name).encode() + b"\n")
                self._process.stdin.flush()
            data = self.ask(b"D", nbytes, SECONDS + nbytes // _BYTES_PER_SECOND)
        if len(data) != nbytes:
            raise self.fail(f"{name!r} has {len(data)} bytes, expected {nbytes}")
        return np.frombuffer(data, np.uint8).view(dtype).reshape(shape)

    def ask(self, kind: bytes, limit: int, seconds: float) -> bytearray:
        """The payload of the next frame, `limit` bytes at most, which must be `kind`."""
        late, process = (
            threading.Event(),
            self._process,
        )  # the timer's thread outlives the call; it must not hold self

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            found, size = self._exactly(1), int.from_bytes(self._exactly(8), "little")
            if found not in (kind, b"E") or size > (_MAX_ERROR if found == b"E" else limit):
                raise self.fail("its reader sent something else than was asked for")
            payload = self._exactly(size)
        except CheckpointError:
            self.end()
            if late.is_set():
                raise self.fail(f"reading it took longer than {seconds:.0f} s") from None
            raise
        finally:
            timer.cancel()
        if found == b"E":
            raise self.fail(_one_line(payload.decode("utf-8", "replace")))
        return payload

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view, position = memoryview(data), 0
        while position < size:
            count = self._process.stdout.readinto(view[position:])  # type: ignore[union-attr]
            if not count:
                raise self.fail(
                    f"its reader {_death(self._process)}; the file is damaged or hostile"
                )
            position += count
        return data


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[: _MAX_ERROR // 4]


def _environment() -> dict[str, str]:
    """What Python needs to start, and no more; no HDF5 plug-ins, no locks on the file,
    no threads.
    """
    kept = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "SYSTEMROOT")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    hdf5 = {"HDF5_PLUGIN_PRELOAD": "::", "HDF5_USE_FILE_LOCKING": "FALSE"}
    return {name: os.environ[name] for name in kept if name in os.environ} | threads | hdf5


def _death(process: subprocess.Popen) -> str:
    """How a process ended that closed its end of the pipe."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    code = process.returncode
    if code is None:
        return "stopped answering"
    return f"was stopped by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _end(process: subprocess.Popen) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    process.wait()


# The child's side.


def serve() -> None:
    """The child: `argv` is (module, path).

    Sends the header, then every tensor whose name comes in.
    """
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    with open(os.devnull, "r+b", buffering=0) as nowhere:  # what a library prints is no reply
        os.dup2(nowhere.fileno(), 0)
        os.dup2(nowhere.fileno(), 1)
    module = importlib.import_module(sys.argv[1])
    if hasattr(module, "prepare"):
        module.prepare()
    _confine()
    path = Path(sys.argv[2])
    patience = _patience(path)
    with _errors_sent(replies, fatal=True):
        _allow(0, patience)
        tensors, metadata = module.open_entries(path)
        listed = [[name, list(shape), dtype] for name, (shape, dtype, _) in tensors.items()]
        _send(replies, b"H", json.dumps({"entries": listed, "metadata": metadata}).encode())
    for line in requests:
        with _errors_sent(replies):
            name = json.loads(line)
            shape, dtype, load = tensors[name]
            _allow(DTYPES[dtype].itemsize * math.prod(shape), patience)
            array = np.asarray(load(), DTYPES[dtype])
            if array.shape != tuple(shape):
                raise CheckpointError(
                    f"{name!r} has shape {list(array.shape)}, announced {list(shape)}"
                )
            flat = np.ascontiguousarray(array).reshape(-1)
            _send(replies, b"D", flat.view(np.uint8).data)  # bfloat16 has no buffer of its own


@contextlib.contextmanager
def _errors_sent(replies: IO[bytes], fatal: bool = False) -> Iterator[None]:
    try:
        yield
        return
    except BrokenPipeError:
        os._exit(0)  # the parent is gone
    except CheckpointError as error:
        text = str(error)
    except MemoryError:
        text = "its contents need more memory than they may; the file is damaged or hostile"
    except Exception as error:  # noqa: BLE001 - a C parser may raise anything
        text = f"cannot be read ({type(error).__name__}: {error})"
    _send(replies, b"E", _one_line(text).encode("utf-8", "replace"))
    if fatal:
        os._exit(1)


def _send(replies: IO[bytes], kind: bytes, payload: bytes | memoryview) -> None:
    replies.write(kind + len(payload).to_bytes(8, "little"))
    view = memoryview(payload)
    while view:
        view = view[replies.write(view) :]


def _confine() -> None:
    """Take away from this process, for good, what reading a file does not need."""
    import resource

    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),  # pipes have no size
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    sys.addaudithook(_refuse)


def _patience(path: Path) -> int:
    """Seconds of processor time for a header: a damaged little file may send its parser round in
    circles.
    """
    return min(SECONDS, 1 + (path.stat().st_size >> 20)) if path.is_file() else SECONDS


def _allow(nbytes: int, patience: int) -> None:
    """Grant the processor time and the memory that a reply of `nbytes` takes, on top of what is
    used.
    """
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + patience + nbytes // _BYTES_PER_SECOND
    _set_soft_limit(resource.RLIMIT_CPU, seconds)
    _set_soft_limit(resource.RLIMIT_AS, _address_space() + _MEMORY + 3 * nbytes)


def _set_soft_limit(kind: int, value: int) -> None:
    import resource

    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _address_space() -> int:
    """Bytes that this process has mapped."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux
        return 4 << 30


_FORBIDDEN = (
    *(
        "socket.",
        "subprocess.",
        "os.system",
        "os.exec",
        "os.fork",
        "os.posix_spawn",
        "os.spawn",
        "os.kill",
        "pty.",
    ),
    *(
        "os.remove",
        "os.rename",
        "os.mkdir",
        "os.rmdir",
        "os.link",
        "os.symlink",
        "os.truncate",
        "os.ch",
        "shutil.",
    ),
    *("pickle.find_class", "webbrowser.", "urllib.Request", "tempfile."),
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook: no network, no other process, no pickle, no change to the file system."""
    if event.startswith(_FORBIDDEN):
        raise CheckpointError(f"reading it asked for {event}, which no checkpoint needs")
    if event == "open" and arguments[0] != os.devnull:
        path, mode, flags = arguments
        if (isinstance(mode, str) and set(mode) & set("wxa+")) or (
            isinstance(flags, int) and flags & _WRITING
        ):
            raise CheckpointError(f"reading it asked to write {path!r}, which no checkpoint needs")
