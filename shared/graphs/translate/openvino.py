"""An OpenVINO network as primitives.

The layers are those that `shared.graphs.files` has parsed; the package `openvino` is not needed.
Shapes follow from one concrete image, whatever the file says of them. What each operator computes
stands in `openvino_operators`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from shared.graphs.files.openvino_xml import Layer, Port
from shared.graphs.translate.emit import Unknown
from shared.graphs.translate.openvino_node import Node, NodeEmitter
from shared.graphs.translate.openvino_operators import RULES

_OPSET = re.compile(r"opset[0-9]{1,3}")
_TORCHSCRIPT = "self."  # in front of a parameter's path
_NUMBER = re.compile(r"[0-9]+")


class OpenVinoReader(NodeEmitter):
    """Appends a network's layers to a graph."""

    def run(self, layers: Iterable[Layer], values: dict[Port, int]) -> None:
        """Add what layers compute, which stand in their order, to `values`."""
        for layer in layers:
            if not layer.outputs or (layer.id, layer.outputs[0]) in values:
                continue
            ins = [values[port] for port in layer.reads]
            outs = self._const(layer) if layer.type == "Const" else self._node(layer, ins)
            for k, port in enumerate(layer.outputs):
                if k >= len(outs):
                    outs.append(self.graph.opaque(layer.type, ins, None, where=layer.name))
                values[layer.id, port] = outs[k]

    def _const(self, layer: Layer) -> list[int]:
        name, value = tensor_name(layer), self.constant(layer)
        if value is None:
            return [self.graph.opaque("constant", [], None, where=name)]
        where = name.rpartition(".")[0] or name.rpartition("/")[0]
        literal = value.size == 1 and name == layer.name and "." not in name
        return [self.graph.const(value, None if literal else name, where)]

    def _node(self, layer: Layer, ins: list[int]) -> list[int]:
        def rule() -> list[int]:
            if not _OPSET.fullmatch(layer.version):
                raise Unknown(f"an operator of {layer.version}")
            return RULES[layer.type](self, Node(layer), ins)

        outs = self.attempt(rule)
        if outs is None:
            return [self.graph.opaque(layer.type, ins, None, where=layer.name)]
        return outs


def tensor_name(layer: Layer) -> str:
    """What the framework called a constant: the layer where that is a parameter's path; or its
    tensor, unless that is a number; or else the layer again.
    """
    if "." in layer.name and "/" not in layer.name:
        return layer.name.removeprefix(_TORCHSCRIPT)
    names = (name.rpartition(":")[0] or name for name in reversed(layer.names[0].split(",")))
    return next((name for name in names if not _NUMBER.fullmatch(name) and name), layer.name)
