"""A layer of an OpenVINO network as its rules see it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shared.graphs.files.openvino_xml import Layer
from shared.graphs.primitives import Array, RawGraph
from shared.graphs.translate.common import plain
from shared.graphs.translate.emit import Emitter

_TORCHSCRIPT = "__module."  # in front of a module's path, which ends at the first slash


class Node:
    """An operator and its attributes, which are texts. Raises `KeyError` for one that is not there
    and has no default, `ValueError` for one that is no number.
    """

    def __init__(self, layer: Layer):
        self.op, self.layer = layer.type, layer
        self.opset = int(layer.version.removeprefix("opset") or 0)

    @property
    def where(self) -> str:
        name = self.layer.name
        if name.startswith(_TORCHSCRIPT):
            return name.removeprefix(_TORCHSCRIPT).partition("/")[0]
        return name

    @property
    def place(self) -> dict[str, str]:
        return {"where": self.where}

    def text(self, name: str, default: str | None = None) -> str:
        if default is None:
            return self.layer.data[name]
        return self.layer.data.get(name, default)

    def number(self, name: str, default: int | None = None) -> int:
        return int(self.text(name, None if default is None else str(default)))

    def real(self, name: str, default: float | None = None) -> float:
        """In the precision of float32 it is the decimal number that was meant."""
        value = float(self.text(name, None if default is None else str(default)))
        return plain(value) if float(np.float32(value)) == value else value

    def flag(self, name: str, default: bool | None = None) -> bool:
        text = self.text(name, None if default is None else str(default)).lower()
        return {"true": True, "false": False, "1": True, "0": False}[text]

    def integers(self, name: str) -> list[int]:
        text = self.text(name, "")
        return [int(part) for part in text.split(",")] if text.strip() else []


class NodeEmitter(Emitter):
    """With how constants are read."""

    def __init__(self, graph: RawGraph, constant: Callable[[Layer], Array | None]):
        super().__init__(graph)
        self.constant = constant


Rule = Callable[[NodeEmitter, Node, list[int]], list[int]]
