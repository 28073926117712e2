"""A node of an ONNX graph as its rules see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from shared.graphs.files.messages import Record, numbers
from shared.graphs.files.onnx_messages import DTYPES
from shared.graphs.primitives import Array, RawGraph
from shared.graphs.translate.emit import Emitter, Unknown


class Node:
    """An operator, its attributes by kind with ONNX' own defaults, and the user's place of it."""

    def __init__(self, op: str, attributes: Mapping[str, Record], where: str, line: str):
        self.op, self.attributes, self.where, self.line = op, attributes, where, line

    @property
    def place(self) -> dict[str, str]:
        return {"where": self.where, "line": self.line}

    def has(self, name: str) -> bool:
        return name in self.attributes

    def number(self, name: str, default: int = 0) -> int:
        return self.attributes[name].i if name in self.attributes else default

    def real(self, name: str, default: float = 0.0) -> float:
        return self.attributes[name].f if name in self.attributes else default

    def text(self, name: str) -> str:
        found = self.attributes[name].s if name in self.attributes else b""
        return str(found, "utf-8", "replace")

    def integers(self, name: str) -> list[int]:
        if name not in self.attributes:
            return []
        return numbers(self.attributes[name].ints, np.int64).tolist()

    def dtype(self, name: str) -> str:
        return np.dtype(DTYPES[self.number(name)]).name


class NodeEmitter(Emitter):
    """With the version of the operators, and how constants are read."""

    def __init__(self, graph: RawGraph, opset: int, tensors: Callable[[Record], Array | None]):
        super().__init__(graph)
        self.opset, self.tensors = opset, tensors


Rule = Callable[[NodeEmitter, Node, list[int | None]], list[int]]  # None: an input left out


def given(ins: Sequence[int | None]) -> list[int]:
    """The inputs that are there, in front of the first one that is left out."""
    found: list[int] = []
    for id in ins:
        if id is None:
            break
        found.append(id)
    if not found:
        raise Unknown("an operator without an input")
    return found
