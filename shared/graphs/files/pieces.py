"""Where the weights of a network lie in a file."""

from __future__ import annotations

import bisect
from pathlib import Path

import numpy as np

from shared.errors import CheckpointError, shown
from shared.formats.containers import spans
from shared.graphs.primitives import Array


class Pieces:
    """A file of weights: every constant lies in one piece of it, and equal ones may share theirs;
    pieces that overlap otherwise are refused.

    `beside` is the network's own file where the weights are in another one: no link may lead to
    anywhere but their folders.
    """

    def __init__(self, path: Path, beside: Path | None = None):
        self._path, self._beside = path, beside
        self._starts: list[int] = []  # of the pieces, in their order
        self._pieces: dict[int, Array] = {}  # by their starts, as bytes

    def piece(self, name: str, offset: int, nbytes: int) -> Array:
        """The bytes of a constant of this name. Raises `CheckpointError`."""
        at = bisect.bisect_right(self._starts, offset)
        if at and self._starts[at - 1] == offset and len(self._pieces[offset]) == nbytes:
            return self._pieces[offset]
        before = self._starts[at - 1] if at else 0
        end = before + len(self._pieces[before]) if at else 0
        if offset < end or (at < len(self._starts) and self._starts[at] < offset + nbytes):
            raise CheckpointError(f"the bytes of {shown(name)} are others' in part")
        path = self._path
        if self._beside is not None:
            path = spans.own_file(path, self._beside.resolve().parent)
        if offset + nbytes > (size := spans.file_size(path)):
            raise CheckpointError(
                f"{shown(name)} lies in bytes {offset} to {offset + nbytes} of {path.name}, which "
                f"has {size}"
            )
        found = spans.empty((nbytes,), np.dtype(np.uint8), path)
        spans.read_into(found, [spans.Span(path, offset, nbytes)])
        self._starts.insert(at, offset)
        self._pieces[offset] = found
        return found
