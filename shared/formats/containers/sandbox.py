"""A process of its own for the C parsers of untrusted files, which may take time, memory and the
one file to read, and no more.

A reading module (`shared.formats.containers.hdf5_reader` is one) runs in the child and provides

    def open_entries(path: Path) -> tuple[Tensors, dict[str, str]]

: for every tensor, in the file's order, (shape, name of its dtype such as "float32" or "bfloat16",
a function that reads its values), and the metadata. It reads headers only, and raises
`CheckpointError` with what is wrong but **without the path**, which the parent puts in front.
Whatever else it raises becomes a `CheckpointError`, too. Each function may be called many times,
and its array must have the shape that was announced. A function `prepare()` of the module imports
the heavy libraries, before the limits are set and before the clock runs. The parent writes

    reader = Reader("shared.formats.containers.hdf5_reader", path)
    Archive("hdf5", reader.entries, reader.metadata)

and checks all that the child says, which the file may have taken over. The child ends with the last
entry. One that cannot start is no fault of the file: that is a `FrameworkError`.

What the child may not do. Everywhere: take more processor time than its request is worth, write to
files, have many open (limits of the system), see the user's environment; and Python code in it may
not use the network, start processes, unpickle, or change the file system (an audit hook, which does
not see what C code asks of the system). On Linux also: take more memory than its request is worth.
On Linux with Landlock (5.13, from 6.12 on in full; `landlock.confine`) the kernel refuses to C code
as well: to read other files than that one, Python's and the libraries', to change any, to listen or
connect by TCP, and to send signals to other processes. Without Landlock, C code that the file has
taken over can read what the user can read, and send it away.

Pipe, child to parent: a kind (b"R" ready, b"F" not ready, b"H" header, b"D" data, b"E" error),
eight bytes of length, the payload. Parent to child: one JSON line, the name of a tensor.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from shared.architecture.ops import Shape
from shared.errors import CheckpointError, FrameworkError, RosettaError
from shared.formats.containers import landlock
from shared.formats.containers.archive import MAX_DIMENSIONS, MAX_ELEMENTS, MAX_TENSORS, Entry
from shared.processes import Process
from shared.weights.dtypes import float_dtype

MAX_HEADER = 16 << 20  # bytes of JSON that the child may send
START_SECONDS = 120  # to import libraries, from a network's disk perhaps
SECONDS = 20  # for a header; a tensor has one more for every _BYTES_PER_SECOND
_BYTES_PER_SECOND = 8 << 20  # what a slow disk and gzip manage
_MEMORY = 512 << 20  # bytes of address space on top of what the libraries take
_OPEN_FILES = 64
_PIPE = 1 << 20  # bytes
_DEATH_SECONDS = 2  # for a process that has closed its pipe
_MAX_ERROR = 4000  # bytes
_INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
DTYPES = {
    n: float_dtype(n) for n in ("float16", "float32", "float64", "bfloat16", "bool", *_INTEGERS)
}

# What Python needs to start, and no more of the user's environment.
_INHERITED = (
    *("PATH", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
    *("PYTHONHOME", "PYTHONUSERBASE", "PYTHONNOUSERSITE"),
)
# No threads, no plug-ins of HDF5, no locks on the file.
_VARIABLES = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "HDF5_PLUGIN_PRELOAD": "::",
    "HDF5_USE_FILE_LOCKING": "FALSE",
}
# Where libraries are that Python's need, beside the interpreter's folders, and what they read.
_LIBRARIES = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"),
    *("/dev/null", "/dev/urandom", "/proc/cpuinfo", "/sys/devices/system/cpu"),
)

Tensors = dict[str, tuple[Shape, str, Callable[[], np.ndarray]]]


class Reader:
    """The entries and the metadata of a file that a child process reads with `module.open_entries`.

    `label` stands for `path` in messages. Raises `CheckpointError` when the child does, dies, hangs
    or lies, and `FrameworkError` when it does not start.
    """

    def __init__(self, module: str, path: Path, label: Path | None = None):
        child = _Child(module, path, label or path)
        try:
            child.wait_until_ready()
            header = json.loads(child.ask(b"H", MAX_HEADER, SECONDS))
            self.metadata = {str(key): str(value) for key, value in header["metadata"].items()}
            self.entries = _entries(child, header["entries"])
        except RosettaError:  # some are ValueErrors, too
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
        self._ready = False
        code = f"from {__name__} import serve; serve()"
        self._process = Process(
            str(label), ["-B", "-c", code, module, str(path.absolute())], _VARIABLES, _INHERITED
        )
        _enlarge(self._process.output)
        self.end = weakref.finalize(self, self._process.end)

    def fail(self, what: str) -> RosettaError:
        if self._ready:
            return CheckpointError(f"{self._label}: {what}")
        return FrameworkError(
            f"{self._label}: was not read, for the process that reads such files did not start: "
            f"{what}"
        )

    def wait_until_ready(self) -> None:
        self.ask(b"R", 0, START_SECONDS, error=b"F")
        self._ready = True

    def load(self, name: str, shape: Shape, dtype: np.dtype) -> np.ndarray:
        """The values of a tensor, in an array of its own."""
        nbytes = math.prod(shape) * dtype.itemsize
        with self._lock:
            if not self.end.alive:
                raise self.fail("its reader has ended; read the file again")
            self._process.send(name)  # `ask` says how it died
            data = self.ask(b"D", nbytes, SECONDS + nbytes // _BYTES_PER_SECOND)
        if len(data) != nbytes:
            raise self.fail(f"{name!r} has {len(data)} bytes, expected {nbytes}")
        return np.frombuffer(data, np.uint8).view(dtype).reshape(shape)

    def ask(self, kind: bytes, limit: int, seconds: float, error: bytes = b"E") -> bytearray:
        """The payload of the next frame, `limit` bytes at most, which must be `kind`.

        Raises what a frame of the kind `error` says.
        """
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
            if found not in (kind, error) or size > (_MAX_ERROR if found == error else limit):
                raise self.fail("its reader sent something else than was asked for")
            payload = self._exactly(size)
        except RosettaError:
            self.end()
            if late.is_set():
                raise self.fail(f"reading it took longer than {seconds:.0f} s") from None
            raise
        finally:
            timer.cancel()
        if found == error:
            raise self.fail(_one_line(payload.decode("utf-8", "replace")))
        return payload

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view, position = memoryview(data), 0
        while position < size:
            count = self._process.output.readinto(view[position:])  # type: ignore[attr-defined]
            if not count:
                death = self._process.death(_DEATH_SECONDS)
                if self._ready and "SIGKILL" not in death:  # which the system sends for its memory
                    death += "; the file is damaged or hostile"
                raise self.fail(f"its reader {death}")
            position += count
        return data


def _enlarge(pipe: IO[bytes]) -> None:
    """Fewer turns of the processes for a large tensor, on Linux, for as many pipes as a user may
    have enlarged.
    """
    with contextlib.suppress(OSError, ImportError, AttributeError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[: _MAX_ERROR // 4]


# The child's side.


def serve() -> None:
    """The child: `argv` is (module, path).

    Says that it is ready, sends the header, then every tensor whose name comes in.
    """
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    with open(os.devnull, "r+b", buffering=0) as nowhere:  # what a library prints is no reply
        for stream in (0, 1):
            os.dup2(nowhere.fileno(), stream)
        path = Path(sys.argv[2])
        with _errors_sent(replies, b"F", fatal=True):
            module = importlib.import_module(sys.argv[1])
            module.prepare()
            with contextlib.suppress(OSError):
                os.ftruncate(2, 0)  # what libraries said is not about the file
            os.dup2(nowhere.fileno(), 2)
            limits = _Limits(path)
            _confine(path)
    _send(replies, b"R", b"")
    with _errors_sent(replies, fatal=True):
        limits.allow(0)
        tensors, metadata = module.open_entries(path)
        listed = [[name, list(shape), dtype] for name, (shape, dtype, _) in tensors.items()]
        _send(replies, b"H", json.dumps({"entries": listed, "metadata": metadata}).encode())
    for line in requests:
        with _errors_sent(replies):
            name = json.loads(line)
            shape, dtype, load = tensors[name]
            limits.allow(DTYPES[dtype].itemsize * math.prod(shape))
            array = np.asarray(load(), DTYPES[dtype])
            if array.shape != tuple(shape):
                raise CheckpointError(
                    f"{name!r} has shape {list(array.shape)}, announced {list(shape)}"
                )
            flat = np.ascontiguousarray(array).reshape(-1)
            _send(replies, b"D", flat.view(np.uint8).data)  # bfloat16 has no buffer of its own


@contextlib.contextmanager
def _errors_sent(replies: IO[bytes], kind: bytes = b"E", fatal: bool = False) -> Iterator[None]:
    try:
        yield
        return
    except BrokenPipeError:
        os._exit(0)  # the parent is gone
    except CheckpointError as error:
        text = str(error)
    except MemoryError:
        text = _Limits.explain()
    except Exception as error:  # noqa: BLE001 - a C parser may raise anything
        what = "" if kind == b"F" else "cannot be read "
        text = f"{what}({type(error).__name__}: {error})"
    _send(replies, kind, _one_line(text).encode("utf-8", "replace"))
    if fatal:
        os._exit(1)


def _send(replies: IO[bytes], kind: bytes, payload: bytes | memoryview) -> None:
    replies.write(kind + len(payload).to_bytes(8, "little"))
    view = memoryview(payload)
    while view:
        view = view[replies.write(view) :]


def _confine(path: Path) -> None:
    """Take away from this process, for good, what reading the file does not need."""
    import resource

    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),  # pipes have no size
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    interpreter = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *sys.path}
    landlock.confine((path, *_LIBRARIES, *(interpreter - {"", "/"})))
    sys.addaudithook(_refuse)


class _Limits:
    """Processor time and memory, granted request by request on top of what is used."""

    def __init__(self, path: Path):
        # A damaged little file may send its parser round in circles.
        self._seconds = min(SECONDS, 1 + (path.stat().st_size >> 20)) if path.is_file() else SECONDS
        self._statm: int | None = None  # opened while that is possible
        with contextlib.suppress(
            OSError
        ):  # not Linux: what is mapped, and so the limit, is unknown
            self._statm = os.open("/proc/self/statm", os.O_RDONLY)

    def allow(self, nbytes: int) -> None:
        """Grant what a reply of `nbytes` takes."""
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + 1 + self._seconds
        self._set(resource.RLIMIT_CPU, seconds + nbytes // _BYTES_PER_SECOND)
        if self._statm is not None:
            mapped = int(os.pread(self._statm, 64, 0).split()[0]) * os.sysconf("SC_PAGE_SIZE")
            self._set(resource.RLIMIT_AS, mapped + _MEMORY + 3 * nbytes)

    @staticmethod
    def _set(kind: int, value: int) -> None:
        import resource

        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, hard))

    @staticmethod
    def explain() -> str:
        """Whether the file or the machine is the cause of a lack of memory."""
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        if soft == hard:  # else the limit is ours
            known = hard != resource.RLIM_INFINITY
            most = f"; a process may have {hard >> 20} MiB (ulimit -v)" if known else ""
            return f"there is not enough memory{most}"
        return "its contents need more memory than they may; the file is damaged or hostile"


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
