"""A node of a TensorFlow graph as its rules see it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shared.graphs.files.messages import Record, numbers
from shared.graphs.files.tensorflow_messages import DTYPES, array
from shared.graphs.primitives import RawGraph
from shared.graphs.translate.emit import Emitter, Unknown


class Node:
    """A NodeDef: its attributes by kind, each with the default of TensorFlow's own registry."""

    def __init__(self, record: Record, where: str):
        self.name, self.op, self.where = record.name, record.op, where
        self._attr = record.attr

    def has(self, name: str) -> bool:
        return name in self._attr

    def number(self, name: str, default: int = 0) -> int:
        return self._attr[name].i if name in self._attr else default

    def real(self, name: str, default: float = 0.0) -> float:
        return self._attr[name].f if name in self._attr else default

    def flag(self, name: str) -> bool:
        return bool(self._attr[name].b) if name in self._attr else False

    def text(self, name: str, default: str = "") -> str:
        return str(self._attr[name].s, "utf-8", "replace") if name in self._attr else default

    def integers(self, name: str) -> list[int]:
        found = self._attr[name].list if name in self._attr else None
        return numbers(found.i, np.int64).tolist() if found else []

    def dtype(self, name: str) -> str:
        return np.dtype(DTYPES[self._attr[name].type]).name

    def tensor(self) -> np.ndarray:
        found = array(self._attr["value"].tensor)
        if found is None:
            raise Unknown("a constant of another type than numbers")
        return found

    @property
    def layout(self) -> str:
        return self.text("data_format", "NHWC") or "NHWC"

    def sides(self, values: list[int]) -> tuple[int, int]:
        """Of an attribute over all four axes, what stands for height and width."""
        return values[self.layout.index("H")], values[self.layout.index("W")]


class NodeEmitter(Emitter):
    """`tiled`: arrays that stand for their tiles in the batch, and how many by axis.

    TensorFlow writes a dilated convolution as a convolution of tiles: SpaceToBatchND, Conv2D and
    BatchToSpaceND. No primitive says tiles, and nothing but a convolution may see them.
    """

    def __init__(self, graph: RawGraph):
        super().__init__(graph)
        self.tiled: dict[int, tuple[int, int]] = {}


Rule = Callable[[NodeEmitter, Node, list[int]], list[int]]  # the ids of its outputs
