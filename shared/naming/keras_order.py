"""The order in which a functional Keras model lists its layers, which Keras' weight files are in.

Keras sorts layers by their depth, the longest way from them to the output, deepest first, and
layers of one depth in the order in which a walk from the output meets them, first inputs first
(keras 3.15 src/ops/function.py, map_graph). So the layers of a shortcut stand between those of the
branch, counted from the block's end: conv1, norm1, conv2, norm2, shortcut.conv, conv3,
shortcut.norm, norm3.
"""

from __future__ import annotations

from shared.architecture.graph import Node
from shared.architecture.ops import AvgPool, Conv, MaxPool, Op
from shared.architecture.plan import Plan


def layer_order(plan: Plan) -> list[str]:
    """The names of the layers with tensors in the order of `resnet_keras`' model.layers.

    It is that of keras.applications, too, whose graphs are the same.
    """
    nodes = {node.name: node for node in plan.nodes()}
    depths = dict.fromkeys(nodes, 0)
    for node in reversed(nodes.values()):
        for source in node.inputs:
            if source in depths:
                depths[source] = max(depths[source], depths[node.name] + _layers(node.op))
    met = _first_met(nodes)
    ordered = sorted(nodes, key=lambda name: (-depths[name], met[name]))
    return [name for name in ordered if nodes[name].op.tensors()]


def _layers(op: Op) -> int:
    """Of how many Keras layers an operator is made: one, and its padding."""
    if isinstance(op, Conv):
        return 1 + (
            op.padding == "symmetric"
            and op.stride > 1
            and op.dilation == 1
            and op.symmetric_pad > 0
        )
    if isinstance(op, MaxPool):
        return 1 + (op.padding != "same")
    return 1 + (isinstance(op, AvgPool) and op.count_pad)


def _first_met(nodes: dict[str, Node]) -> dict[str, int]:
    """When a walk from the output, depth first, meets each node."""
    met: dict[str, int] = {}
    pending = [next(reversed(nodes))]
    while pending:
        name = pending.pop()
        if name in nodes and name not in met:
            met[name] = len(met)
            pending.extend(reversed(nodes[name].inputs))
    return met
