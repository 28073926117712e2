"""`Archive`: what every checkpoint is before its names mean anything. Named tensors, read when
asked for, and metadata.

A container (a file format such as HDF5) reads and writes archives and knows nothing about networks;
a scheme (`shared.naming.schemes`) knows the names and nothing about files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from shared.architecture.ops import Shape

# A checkpoint's own header may announce anything. No ResNet of ours has more tensors or dimensions
# than this, and none has a tensor of more elements (the head of 21,843 classes on 8,192 channels
# has 2 ** 27.4).
MAX_TENSORS = 1 << 17
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 30


@dataclass(frozen=True)
class Entry:
    """A tensor known by its shape and dtype. `load` reads its values, anew at every call."""

    shape: Shape
    dtype: np.dtype
    load: Callable[[], np.ndarray]

    @classmethod
    def of(cls, array: np.ndarray) -> Entry:
        """The entry of an array that is in memory."""
        return cls(array.shape, array.dtype, lambda: array)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def map(self, shape: Shape, function: Callable[[np.ndarray], np.ndarray]) -> Entry:
        """The entry of `function(array)`, which has `shape` and the same dtype."""
        return Entry(shape, self.dtype, lambda: function(self.load()))


@dataclass(frozen=True)
class Configuration:
    """What a checkpoint says about its network beside the tensors; JSON that may hold anything."""

    kind: Literal["keras", "huggingface"]
    where: str  # "config.json", or another name by which people find it
    value: Mapping[str, Any]


@dataclass(frozen=True)
class Archive:
    """The tensors of a checkpoint under its own names, in its own order and layouts."""

    container: str  # a key of shared.formats.containers.registry.CONTAINERS
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str] = field(default_factory=dict)
    # What had to be taken off to get at the tensors: "key 'state_dict'", "prefix 'module.'".
    stripped_prefixes: tuple[str, ...] = ()
    configuration: Configuration | None = None

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.entries.values())
