"""The one family of errors: everything a caller can do wrong raises a subclass of `RosettaError`.

Each message is one line that says what, where, what was expected, what was found and what to do,
so that the command line can print it as it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

HINTS = 20  # names; a search among the three hundred of a ResNet-50 takes 7 to 20 ms


class RosettaError(Exception):
    """Base of every error that the project raises on purpose."""


class SpecError(RosettaError, ValueError):
    """An architecture that cannot exist, or a preset or field that is not known."""


class CheckpointError(RosettaError, ValueError):
    """A file or a set of tensors that is not what it should be.

    `problems` lists every single problem, sorted; the message shows the first few of each kind.
    """

    def __init__(self, message: str, problems: Iterable[str] = ()):
        super().__init__(message)
        self.problems = tuple(problems)


class DatasetError(RosettaError, ValueError):
    """A dataset that is not there, is not what it should be, or cannot be fed as asked."""


class FrameworkError(RosettaError, RuntimeError):
    """A framework that is not installed, or that failed while it ran."""


def shown(name: str) -> str:
    """An untrusted name for a message: quoted, on one line, not too long."""
    text = ascii(name)
    return text if len(text) <= 120 else f"{text[:80]}…{text[-30:]}"


def printable(text: str) -> str:
    """An untrusted text for a terminal: spaces stand for what would move or colour it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A hint `` (nearest: a, b)`` of the known names most like `name`; empty when none is."""
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f" (nearest: {', '.join(close)})" if close else ""


def with_hints(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """All the names, sorted, and the nearest known name behind each of the first `HINTS`."""
    ordered, known = sorted(names), list(known)
    return [name + nearest(name, known, 1) for name in ordered[:HINTS]] + ordered[HINTS:]
