"""The process that reads untrusted files: what it may not do, and what it may not say."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import subprocess
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from shared.errors import CheckpointError, FrameworkError
from shared.formats.containers import landlock, sandbox
from shared.formats.containers.archive import MAX_ELEMENTS
from shared.formats.containers.sandbox import Reader

MODULE = """
    import os, pickle, signal, socket, subprocess, time
    import ml_dtypes
    import numpy as np
    from shared.errors import CheckpointError

    def prepare():
        pass

    def one():
        return np.ones(2, np.float32)

    def fail():
        raise CheckpointError("a line\\nand another")

    def connect():
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)  # past Python's audit hook
        descriptor = libc.socket(2, 1, 0)
        address = bytes((2, 0, 0, 9, 127, 0, 0, 1)) + bytes(8)  # port 9 of this machine
        libc.connect(descriptor, address, 16)
        raise CheckpointError(f"errno {ctypes.get_errno()}")

    def burn():
        import resource
        resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
        while True:
            pass

    LOADS = {
        "fail": fail,
        "bug": lambda: 1 / 0,
        "shape": lambda: np.ones(3, np.float32),
        "write": lambda: open(os.path.join(os.path.dirname(__file__), "canary"), "w"),
        "os_open": lambda: os.open(os.path.dirname(__file__) + "/canary", os.O_CREAT | os.O_RDWR),
        "rename": lambda: os.rename(__file__, __file__ + "x"),
        "system": lambda: os.system("true"),
        "popen": lambda: subprocess.Popen(["true"]),
        "fork": lambda: os.fork(),
        "socket": lambda: socket.socket(),
        "kill": lambda: os.kill(os.getppid(), signal.SIGUSR1),
        "pickle": lambda: pickle.loads(b"cos\\nsystem\\n."),
        "memory": lambda: bytearray(3 << 30),
        "abort": lambda: os.abort(),
        "exit": lambda: os._exit(0),
        "sleep": lambda: time.sleep(30),
        "burn": burn,
        "peek": lambda: open(os.path.join(os.path.dirname(__file__), "secret"), "rb").read(),
        "connect": lambda: connect(),
        "environment": lambda: np.frombuffer(",".join(os.environ).encode().ljust(1000), "u1"),
    }

    def open_entries(path):
        header = {
            "long": {"x": ((2**40,), "float32", one)},
            "deep": {"x": ((1,) * 9, "float32", one)},
            "negative": {"x": ((-1,), "float32", one)},
            "dtype": {"x": ((2,), "object", one)},
            "raises": None,
        }.get(path.name)
        if path.name == "raises":
            raise CheckpointError("is not what it says")
        if path.name == "abort":
            os.abort()
        if path.name == "count":
            header = {str(i): ((1,), "float32", one) for i in range(101)}
        if header is not None:
            return header, {}
        bfloat16 = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)
        tensors = {
            "big_endian": ((2, 3), "float32", lambda: np.arange(6, dtype=">f4").reshape(2, 3)),
            "transposed": ((3, 2), "float64", lambda: np.arange(6.0).reshape(2, 3).T),
            "bfloat16": ((2, 3), "bfloat16", lambda: bfloat16),
            "scalar": ((), "int64", lambda: np.array(7)),
            "empty": ((0, 4), "float16", lambda: np.ones((0, 4), np.float16)),
            "environment": ((1000,), "uint8", LOADS["environment"]),
        }
        loads = {n: ((2,), "float32", f) for n, f in LOADS.items() if n != "environment"}
        return tensors | loads, {"who": "me"}
"""

Read = Callable[..., Reader]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    (tmp_path / "reads.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SECRET_TOKEN", "x")
    return lambda name="file": Reader("reads", tmp_path / name)


def test_tensors_arrive_as_they_are(read: Read) -> None:
    reader = read()
    assert reader.metadata == {"who": "me"}
    expected = {
        "big_endian": np.arange(6, dtype=np.float32).reshape(2, 3),
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "bfloat16": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16),
        "scalar": np.array(7),
        "empty": np.ones((0, 4), np.float16),
    }
    for name, array in expected.items():
        for _ in range(2):
            found = reader.entries[name].load()
            assert found.dtype == reader.entries[name].dtype == array.dtype
            assert found.shape == reader.entries[name].shape == array.shape
            np.testing.assert_array_equal(found, array)
            found[...] = 0  # an array of its own
    names = bytes(reader.entries["environment"].load()).decode()
    assert "SECRET" not in names
    assert "HDF5_PLUGIN_PRELOAD" in names


def test_what_a_reader_may_not_do(read: Read, tmp_path: Path) -> None:
    reader = read()
    for name, says in {
        "fail": "a line and another",
        "bug": "ZeroDivisionError",
        "shape": r"has shape \[3\], announced \[2\]",
        "write": "asked to write",
        "os_open": "asked to write",
        "rename": "asked for os.rename",
        "system": "asked for os.system",
        "popen": "asked for subprocess.Popen",
        "fork": "asked for os.fork",
        "socket": "asked for socket",
        "kill": "asked for os.kill",
        "pickle": "asked for pickle.find_class",
        "memory": "more memory",
    }.items():
        with pytest.raises(CheckpointError, match=says) as caught:
            reader.entries[name].load()
        assert str(caught.value).startswith(f"{tmp_path / 'file'}: ")
        assert "\n" not in str(caught.value)
    assert reader.entries["scalar"].load() == 7  # it lives on
    assert sorted(p.name for p in tmp_path.iterdir()) == ["reads.py"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("abort", "was stopped by SIGABRT"),
        ("exit", "ended with code 0"),
        ("burn", "was stopped by SIG(XCPU|KILL)"),
    ],
)
def test_a_reader_that_dies_is_one_line(read: Read, name: str, says: str) -> None:
    reader = read()
    for message in (says, "its reader has ended; read the file again"):
        with pytest.raises(CheckpointError, match=message):
            reader.entries[name].load()


def test_a_reader_that_hangs_is_stopped(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = read()
    monkeypatch.setattr(sandbox, "SECONDS", 1)
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="took longer than 1 s"):
        reader.entries["sleep"].load()
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raises", "raises: is not what it says$"),
        ("abort", "was stopped by SIGABRT"),
        ("long", f"{MAX_ELEMENTS} elements at most"),
        ("deep", "8 dimensions"),
        ("negative", "no valid header"),
        ("dtype", "no valid header"),
        ("count", "101 tensors; 100 at most"),
    ],
)
def test_what_a_header_may_not_say(
    read: Read, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.setattr(sandbox, "MAX_TENSORS", 100)
    with pytest.raises(CheckpointError, match=says):
        read(name)


READY = b"R" + bytes(8)


def replaced_by(monkeypatch: pytest.MonkeyPatch, *command: str) -> None:
    """Let another program run in the reader's place."""
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **options: popen(command, **options))


@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"H",
        b"H" + b"\xff" * 8,
        b"D" + bytes(8),
        b"F" + bytes(8),
        b"H\3" + bytes(7) + b"[1]",
        b"H\3" + bytes(7) + b"[[",
        b"E" + b"\xff" * 8,
    ],
)
def test_a_reader_that_breaks_the_protocol(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, says: bytes
) -> None:
    (tmp_path / "says").write_bytes(READY + says)
    replaced_by(monkeypatch, "/bin/cat", str(tmp_path / "says"))
    with pytest.raises(CheckpointError, match="its reader"):
        Reader("reads", tmp_path / "file")


# What the module does when it is imported or prepared, and what is said of it.
STARTS = {
    "import": ("import no_such_library", "No module named 'no_such_library'"),
    "prepare": ("def prepare(): raise OSError('libhdf5.so is missing')", "libhdf5.so is missing"),
    "memory": ("def prepare(): raise MemoryError", "not enough memory"),
    "ends": (
        "import os, sys; print('no licence', file=sys.stderr, flush=True); os._exit(3)",
        "no li",
    ),
    "dies": ("import os; os.abort()", "was stopped by SIGABRT"),
}


@pytest.mark.parametrize(("code", "says"), STARTS.values(), ids=STARTS)
def test_a_reader_that_does_not_start_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, says: str
) -> None:
    (tmp_path / "reads.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(FrameworkError, match=f"was not read.*did not start.*{says}") as caught:
        Reader("reads", tmp_path / "file")
    assert "hostile" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_time_to_start_is_not_the_file_s(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = (tmp_path / "reads.py").read_text().replace("    pass\n", "    time.sleep(2)\n", 1)
    (tmp_path / "reads.py").write_text(slow)
    monkeypatch.setattr(sandbox, "SECONDS", 1)
    assert read().entries["scalar"].load() == 7
    monkeypatch.setattr(sandbox, "START_SECONDS", 1)
    with pytest.raises(FrameworkError, match=r"did not start.*longer than 1 s"):
        read()


def test_a_limit_of_the_shell_is_said(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ulimit -v` leaves less than a tensor takes: not the file is hostile."""
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess,
        "Popen",
        lambda command, **options: popen(
            ["/bin/sh", "-c", 'ulimit -v 512000; exec "$@"', "sh", *command], **options
        ),
    )
    with pytest.raises(CheckpointError, match=r"not enough memory.*500 MiB \(ulimit -v\)"):
        read().entries["memory"].load()


@pytest.mark.skipif(not landlock.version(), reason="no Landlock here")
def test_other_files_cannot_be_read(read: Read, tmp_path: Path) -> None:
    """`peek` opens a file that lies beside the one to be read, where modules do not come from."""
    (tmp_path / "secret").write_bytes(b"12345678")
    (tmp_path / "modules").mkdir()
    (tmp_path / "reads.py").rename(tmp_path / "modules" / "reads.py")
    source = (tmp_path / "modules" / "reads.py").read_text()
    (tmp_path / "modules" / "reads.py").write_text(
        source.replace('os.path.dirname(__file__), "secret"', f'"{tmp_path}", "secret"')
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path / "modules"))
        reader = read()
        with pytest.raises(CheckpointError, match=r"PermissionError.*secret"):
            reader.entries["peek"].load()
        assert reader.entries["scalar"].load() == 7


@pytest.mark.skipif(landlock.version() < 4, reason="no Landlock of the network here")
def test_c_code_cannot_connect(read: Read) -> None:
    with pytest.raises(CheckpointError, match=f"errno {errno.EACCES}"):
        read().entries["connect"].load()


def test_without_landlock_files_are_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    assert not landlock.confine(("/nowhere",))
    assert Path(__file__).read_text()  # this process is as it was


def test_pipes_that_cannot_be_enlarged_are_used_as_they_are(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may have some; the 33rd reader of one was refused."""

    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert read().entries["scalar"].load() == 7


def test_where_nobody_knows_what_is_mapped_memory_is_not_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On arm64 macOS every process has mapped more than any guess."""
    limits: dict[int, int] = {}
    record = staticmethod(lambda kind, value: limits.update({kind: value}))
    monkeypatch.setattr(sandbox._Limits, "_set", record)
    sandbox._Limits(tmp_path).allow(8)
    assert set(limits) == {resource.RLIMIT_CPU, resource.RLIMIT_AS}
    limits.clear()

    def absent(*arguments: object) -> int:
        raise FileNotFoundError

    monkeypatch.setattr(os, "open", absent)
    sandbox._Limits(tmp_path).allow(8)
    assert set(limits) == {resource.RLIMIT_CPU}


def test_the_process_ends_with_the_last_entry(read: Read) -> None:
    reader = read()
    entry = reader.entries["scalar"]
    process = entry.load.func.__self__._process  # type: ignore[attr-defined]
    del reader
    assert entry.load() == 7
    del entry
    assert process.code is not None
