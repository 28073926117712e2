"""This interpreter in a process of its own: how every child process of the project is started,
spoken to in lines of JSON, and how its death is explained.

A child imports modules from where the project lies, from the folders that PYTHONPATH names in full,
and what is installed; never from the folder that the user is in, whose files could pose as modules.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import site
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from shared.errors import CheckpointError, DatasetError, FrameworkError, RosettaError, SpecError

# The environment in which no framework sees an accelerator.
ON_CPU = {
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "-1",  # to ROCm, nothing is everything
    "ROCR_VISIBLE_DEVICES": "-1",
    "JAX_PLATFORMS": "cpu",
    "KERAS_TORCH_DEVICE": "cpu",  # else Apple's GPU, which no other variable hides
}
_ROOT = Path(__file__).parents[1]
_ERRORS: dict[str, type[RosettaError]] = {
    error.__name__: error for error in (SpecError, CheckpointError, DatasetError, FrameworkError)
}
_FOR_PEOPLE = ("PYTHONINSPECT", "PYTHONSTARTUP")  # they make Python wait for a person
_LAST_WORDS = 1 << 16  # bytes
_PATIENCE = 5  # seconds that a process has to end by itself


def require_posix() -> None:
    """Raise `FrameworkError` on Windows, which has no limits, signals and links as used here."""
    if sys.platform == "win32":
        raise FrameworkError("this runs on Linux and macOS; on Windows, use it in WSL")


class Process:
    """This interpreter, run with `arguments` such as `-m MODULE`, and pipes to and from it.

    `name` stands for it in messages. `environment` is added to the user's, of which the variables
    `inherited` remain, by default all. What it writes to standard error is shown when it dies.
    Raises `FrameworkError` where it cannot be started.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        inherited: Iterable[str] | None = None,
    ):
        require_posix()
        self.name = name
        self._log = _scratch_file()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=_environment(inherited) | dict(environment or {}),
                cwd=_ROOT,
            )
        except OSError as error:
            self._log.close()
            said = error.strerror or error
            raise FrameworkError(f"{name}: its process cannot be started ({said})") from None
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        assert self._process.stdout is not None  # noqa: S101
        self.input: IO[bytes] = self._process.stdin
        self.output: IO[bytes] = self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code; minus the signal of one that was stopped; None while it runs."""
        return self._process.poll()

    def send(self, message: Any) -> None:
        """Write a line of JSON. Of a process that has died, `receive` tells."""
        with contextlib.suppress(BrokenPipeError):
            self.input.write(json.dumps(message).encode() + b"\n")
            self.input.flush()

    def receive(self) -> dict[str, Any] | None:
        """The next line of JSON; None when the process has closed its output.

        Raises the error that a `failure` describes.
        """
        line = self.output.readline()
        if not line.endswith(b"\n"):  # nothing, or what a dying process left unfinished
            return None
        answer = json.loads(line)
        if "error" in answer:
            raise _ERRORS.get(answer["kind"], FrameworkError)(answer["error"])
        return answer

    def ask(self, message: Any) -> dict[str, Any]:
        """Send a message and return the answer.

        Raises the error that it describes, and `FrameworkError` if there is none.
        """
        self.send(message)
        answer = self.receive()
        if answer is None:
            raise FrameworkError(f"{self.name}: its process {self.death()}")
        return answer

    def death(self, seconds: float = 60) -> str:
        """How a process ended that has closed its output, and the last line that it wrote to
        standard error. Large libraries take `seconds` to end on a busy machine.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        code = self._process.returncode
        if code is None:
            return "has stopped answering"
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:  # a real-time signal
                name = f"signal {-code}"
            return f"was stopped by {name}" + (
                ", probably out of memory" if name == "SIGKILL" else ""
            )
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _LAST_WORDS))
        lines = self._log.read().decode(errors="replace").split("\n")
        words = [" ".join(line.split()) for line in lines if line.strip()]
        return f"ended with code {code}: {words[-1] if words else 'it said nothing'}"

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Stop the process in the middle of its work."""
        self._process.kill()

    def close(self) -> None:
        """End the process: it is told that nothing more comes, and stopped if it does not end."""
        with contextlib.suppress(OSError):
            self.input.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.end()
        self.output.close()
        self._log.close()

    def end(self) -> None:
        """Stop the process and free what it holds."""
        self._process.kill()
        self._process.wait()
        for stream in (self.input, self.output, self._log):
            with contextlib.suppress(OSError):
                stream.close()


def call(
    function: Callable[..., Any],
    *arguments: Any,
    name: str,
    environment: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> Any:
    """What a module's function returns when it is called in a process of its own.

    Arguments and result are values of JSON. Raises the `RosettaError` that it raises, and
    `FrameworkError` when it raises anything else, dies, or takes more than `seconds`, if any.
    """
    code = f"from {__name__} import serve_call; serve_call()"
    with Process(name, ["-c", code], environment) as process:
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds or 0, stop)
        if seconds:
            timer.start()
        try:
            return process.ask([name, function.__module__, function.__name__, arguments])["result"]
        except FrameworkError:
            if late.is_set():
                raise FrameworkError(f"{name}: took longer than {seconds:.0f} s") from None
            raise
        finally:
            timer.cancel()


def _environment(inherited: Iterable[str] | None) -> dict[str, str]:
    """The user's environment, with modules from where a child may have them."""
    kept = set(os.environ if inherited is None else inherited) - set(_FOR_PEOPLE)
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    folders = [folder for folder in given if os.path.isabs(folder)]
    if str(_ROOT) not in (*site.getsitepackages(), site.getusersitepackages()):
        folders.insert(0, str(_ROOT))  # else it would be in front of the standard library
    found = {name: value for name, value in os.environ.items() if name in kept}
    return found | {"PYTHONPATH": os.pathsep.join(folders)}


def _scratch_file() -> IO[bytes]:
    """A file without a name, in memory where the system has such files; where none can be had,
    what is written is lost.
    """
    try:
        if hasattr(os, "memfd_create"):
            return os.fdopen(os.memfd_create("child"), "r+b")
        return tempfile.TemporaryFile()
    except OSError:
        return open(os.devnull, "r+b")


# The child's side.


def answers() -> IO[str]:
    """Standard output for a child's answers alone: what libraries print there from now on goes to
    standard error.
    """
    found = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    return found


def failure(error: BaseException, place: str) -> dict[str, str]:
    """What raises an exception of `place` again in the parent, in one line."""
    if isinstance(error, RosettaError):
        return {"kind": type(error).__name__, "error": str(error)}
    said = next(iter(str(error).strip().splitlines()), "")
    what = "out of memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {said}"
    return {"kind": FrameworkError.__name__, "error": f"{place}: {what}"}


def serve_call() -> None:
    """The child of `call`."""
    file = answers()
    name, module, function, arguments = json.loads(sys.stdin.readline())
    try:
        result = getattr(importlib.import_module(module), function)(*arguments)
        answer: dict[str, Any] = {"result": result}
    except Exception as error:  # noqa: BLE001 - a library may raise anything; the parent says it in one line
        answer = failure(error, name)
    print(json.dumps(answer), file=file)
