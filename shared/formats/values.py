"""What is checked of a checkpoint's values, tensor by tensor, as they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import CheckpointError
from shared.weights.canonical import NEGATIVE, NOT_FINITE, raise_problems, value_problem
from shared.weights.digests import sha256_of

DAMAGED = "damaged"


class ValueCheck:
    """Collects what is wrong with the values of a file, to report all of it at once.

    Values must be finite, variances not below zero (nor zero, where the network's `eps` is 0), and
    everything what the file's own table of SHA-256 digests says, if it has one. Threads may share
    it.
    """

    def __init__(
        self, path: Path, names: Mapping[str, str], eps: float, digests: str | None = None
    ):
        """`names` are the file's own of the canonical tensors; `digests` is its table, as JSON."""
        self._path, self._names, self._eps = path, names, eps
        self._digests = None if digests is None else _parse(path, digests)
        self._problems: dict[str, list[str]] = {DAMAGED: [], NOT_FINITE: [], NEGATIVE: []}

    def add(self, name: str, array: np.ndarray) -> None:
        """Check a canonical tensor."""
        if self._digests is not None and self._digests.get(name) != sha256_of(array):
            self.note(DAMAGED, name, "does not match its SHA-256")
        if problem := value_problem(name, array, self._eps):
            self.note(problem[0], name, problem[1])

    def note(self, kind: str, name: str, what: str) -> None:
        """Something wrong with a canonical tensor: `what` follows its name in the file."""
        self._problems.setdefault(kind, []).append(f"{self._names[name]} {what}")

    def finish(self) -> None:
        """Raise `CheckpointError` with every problem."""
        raise_problems(str(self._path), self._problems)


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        digests = json.loads(text)
    except (ValueError, RecursionError):
        digests = None
    if not isinstance(digests, dict):
        raise CheckpointError(f"{path}: its table of SHA-256 digests is invalid")
    return digests
