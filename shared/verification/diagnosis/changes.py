"""Which layers a change of a port is in."""

from __future__ import annotations

from shared.architecture.graph import INPUT, Node
from shared.architecture.ops import ReLU
from shared.verification.diagnosis.execution import Run, effective
from shared.verification.hypotheses.hypothesis import Port


def changed_layers(before: Port, after: Port) -> tuple[str, ...]:
    """The layers whose operator or tensors are others, or that are new or gone; in the order of the
    computation. For images, the first layer; for outputs, the last; for statistics, the norms.
    """
    a, b = Run(before), Run(after)
    found = [
        _layer_of(node)
        for name, node in a.nodes.items()
        if (node.row and name not in b.nodes) or (name in b.nodes and _other(a, b, name))
    ]
    found += [name for name, node in b.nodes.items() if node.row and name not in a.nodes]
    if not found:  # the same layers in other places
        found = [
            name
            for name, node in a.nodes.items()
            if name in b.nodes and node.inputs != b.nodes[name].inputs
        ]
    if before.images is not after.images:
        found.insert(0, next(n for n, node in a.nodes.items() if INPUT in node.inputs))
    if before.batch_statistics != after.batch_statistics:
        found += [n for n, node in a.nodes.items() if node.op.kind == "batch_norm"]
    if before.dropout != after.dropout:
        dropouts = [n for n, node in a.nodes.items() if node.op.kind == "dropout"]
        found += [name.rpartition(".")[0] for name in dropouts]
    if len(before.outputs) != len(after.outputs):
        found.append(next(reversed(a.nodes)))
    return tuple(dict.fromkeys(found))


def _layer_of(node: Node) -> str:
    """The layer that a node belongs to: an activation is that in front of it, a sum its block's."""
    if node.row:
        return node.name
    return node.inputs[0] if isinstance(node.op, ReLU) else node.name.rpartition(".")[0]


def _other(a: Run, b: Run, name: str) -> bool:
    one, other = a.nodes[name], b.nodes[name]
    if a.port.altered.get(name) is not b.port.altered.get(name):
        return True
    op = b.op_in(a, other)
    if one.op != op and effective(one.op, a.size(one)) != effective(op, a.size(one)):
        return True
    if one.op.tensors().keys() != op.tensors().keys():
        return True
    return not b.same_tensors(a, other)
