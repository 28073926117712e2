"""Exit code 1 says that the answer is no, and nothing else does: whatever goes wrong is one line
and 2.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shared.cli import main as cli
from tests.cli_runner import Rosetta

BUG = "this is a bug, set ROSETTA_DEBUG=1 for the traceback"


def broken(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """`rosetta show` ends with an error that nobody expects."""

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(cli, "make_plan", fail)


def endless(*arguments: object) -> None:
    endless(*arguments)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("two\nlines"), f"rosetta: ValueError: two lines; {BUG}\n"),
        (KeyError("name"), f"rosetta: KeyError: 'name'; {BUG}\n"),
        (AssertionError(), f"rosetta: AssertionError; {BUG}\n"),
        (RuntimeError("x" * 9999), f"rosetta: RuntimeError: {'x' * 300}; {BUG}\n"),
        (MemoryError(), "rosetta: out of memory\n"),
        (OSError(28, "No space left on device"), "rosetta: [Errno 28] No space left on device\n"),
        (FileNotFoundError(2, "No such file", "a/b"), "rosetta: a/b: No such file\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_unexpected_error_is_one_line(
    rosetta: Rosetta, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    broken(error, monkeypatch)
    assert rosetta("show", "resnet18") == (2, "", says)


def test_endless_recursion_is_one_line(rosetta: Rosetta, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "make_plan", endless)
    rosetta("show", "resnet18").refused("RecursionError", BUG)


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_the_traceback_is_shown_on_demand(
    rosetta: Rosetta, monkeypatch: pytest.MonkeyPatch, value: str, shown: bool
) -> None:
    broken(ValueError("planted"), monkeypatch)
    monkeypatch.setenv(cli.DEBUG, value)
    result = rosetta("show", "resnet18")
    assert result.code == 2
    assert ("Traceback" in result.err) == shown
    assert result.err.endswith(f"rosetta: ValueError: planted; {BUG}\n")


@pytest.mark.parametrize("arguments", [("list",), ("list", "--json", "-"), ("--help",), ("verif",)])
def test_a_closed_pipe_is_quiet(arguments: tuple[str, ...]) -> None:
    """As `rosetta list | head -1` leaves one; exit code 2 where the command is refused anyway."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "shared.cli.main", *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writer)
    if arguments == ("verif",):
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    else:
        assert (done.returncode, done.stderr) == (cli.CLOSED_PIPE, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [("list",), ("list", "--json", "-"), ("--help",)])
def test_output_that_cannot_be_written_is_one_line(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "shared.cli.main", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "rosetta: [Errno 28] No space left on device\n"
