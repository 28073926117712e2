"""The `rosetta` command under test: in this process, or as a program of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

from shared.cli import main as cli


class Result(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def refused(self, *said: str) -> None:
        """Assert that it could not run, and said why in one line that holds every word
        of `said`.
        """
        assert self.code == 2, self
        assert self.out == ""
        assert self.err.startswith("rosetta: ")
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        for word in said:
            assert word in self.err


class Rosetta:
    """Runs `rosetta` with pytest's capture and patches: `rosetta("list", "--json", "-")`."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: object) -> Result:
        self._monkeypatch.setattr(sys, "argv", ["rosetta", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = self._capsys.readouterr()
        return Result(int(end.value.code or 0), out, err)


def listening(*arguments: object) -> list[str]:
    """`rosetta` as a program that hears interrupts: who runs the tests in a shell's background has
    them ignored, and their children, too."""
    setup = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    return [
        sys.executable,
        "-c",
        f"{setup}; from shared.cli.main import main; main()",
        *map(str, arguments),
    ]


def run_program(
    *arguments: object, env: Mapping[str, str] | None = None, module: str = "shared.cli.main"
) -> Result:
    """`rosetta` as a process, seen as a program sees it."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def run_python(code: str) -> str:
    """What a fresh interpreter prints for `code`."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()
