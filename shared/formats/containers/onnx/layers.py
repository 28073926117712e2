"""Which layer a tensor of an ONNX graph belongs to, by the operators that take it; and whether
batch norms have been multiplied into the convolutions.

Names alone are no evidence: PyTorch's exporter keeps `conv1.weight` although gamma / sqrt(var +
eps) is multiplied in (PyTorch 2.13), and calls it `onnx::Conv_117` otherwise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from shared.formats.containers.onnx.messages import Graph, Node

WEIGHT, BIAS, MEAN, VAR = "weight", "bias", "running_mean", "running_var"
# The inputs of operators that are weights, by their places.
_ROLES: Mapping[str, Mapping[int, str]] = {
    "Conv": {1: WEIGHT, 2: BIAS},
    "BatchNormalization": {1: WEIGHT, 2: BIAS, 3: MEAN, 4: VAR},
    "Gemm": {1: WEIGHT, 2: BIAS},
    "MatMul": {1: WEIGHT},
}
_LEAVES: Mapping[str, re.Pattern[str]] = {
    WEIGHT: re.compile(r".*?[./_](weights?|kernel|gamma|scale|w|W)(:0)?"),
    BIAS: re.compile(r".*?[./_](bias(es)?|beta|offset|b)(:0)?"),
    MEAN: re.compile(r".*?[./_]((running|moving)_mean|mean)(:0)?"),
    VAR: re.compile(r".*?[./_]((running|moving)_var(iance)?|var(iance)?)(:0)?"),
}
# Parts of operators' names that say what they do, not where they are.
_OPERATOR = re.compile(
    r"(Conv|BatchNormalization|Gemm|MatMul|Conv2D|BiasAdd|FusedBatchNorm(V[23])?|"
    r"batchnorm|convolution)(_\d+)?(__\d+)?"
)
_QUANTISED = re.compile(
    r"(QLinear\w*|\w+Integer|QuantizeLinear|DequantizeLinear|DynamicQuantizeLinear|QGemm)"
)
_NORMS = ("BatchNormalization", "InstanceNormalization", "GroupNormalization")
_RECTIFIERS = ("Relu", "Clip", "LeakyRelu")


class Part(NamedTuple):
    """What a tensor is in a graph: its layer's name and its leaf, and whether it is a matrix that
    stands the other way round, [in, out].
    """

    layer: str
    leaf: str
    is_transposed: bool


class _Takers:
    """Who takes the outputs of operators."""

    def __init__(self, graph: Graph):
        self._kinds: dict[str, list[str]] = {}
        for node in graph.nodes:
            for name in node.inputs:
                self._kinds.setdefault(name, []).append(node.kind)

    def only(self, node: Node) -> str | None:
        """The kind of the one operator that takes a node's first output."""
        kinds = self._kinds.get(node.outputs[0], []) if node.outputs else []
        return kinds[0] if len(kinds) == 1 else None


def refusal(graph: Graph) -> str | None:
    """Why a graph's tensors are not the weights that were trained; None where they are."""
    kinds = Counter(node.kind for node in graph.nodes)
    if quantised := next((kind for kind in kinds if _QUANTISED.fullmatch(kind)), None):
        return f"it is quantised (it has the operator {quantised}); export the unquantised model"
    convs = kinds["Conv"]
    if not convs:
        return None
    pytorch = graph.producer.startswith("pytorch")
    advice = f"{_PYTORCH if pytorch else ''}give the checkpoint that it was exported from"
    known = _Takers(graph)
    takers = [known.only(node) for node in graph.nodes if node.kind == "Conv"]
    if not any(kinds[norm] for norm in _NORMS):
        if takers.count("Mul") > convs // 2:
            return (
                f"the norms behind its {convs} convolutions are products and sums: the exporter "
                "folded scale, shift, mean and variance into two numbers a channel, which do not "
                f"tell the four; {advice}"
            )
        return (
            f"its {convs} convolutions have no batch norm behind them: the exporter folded the "
            "norms into them, so that the kernels are no longer those that were trained, whatever "
            f"they are called; {advice}"
        )
    folded = sum(taker in _RECTIFIERS for taker in takers)
    if folded and kinds["BatchNormalization"]:
        return (
            f"{folded} of its {convs} convolutions go straight into an activation, others into a "
            f"batch norm: the exporter folded some of the norms into the kernels; {advice}"
        )
    return None


_PYTORCH = (
    "export with torch.onnx.export(..., dynamo=False, do_constant_folding=False, "
    "training=torch.onnx.TrainingMode.PRESERVE), or "
)


def parts_of(graph: Graph) -> dict[str, list[Part]]:
    """Tensor -> what it is, once for every operator that takes it (an exporter makes one of equal
    tensors). What no layer takes is not there.
    """
    found: dict[str, list[Part]] = {}
    same = _copies(graph)
    products: dict[str, str] = {}  # output of a product -> its layer
    for number, node in enumerate(graph.nodes):
        roles = _ROLES.get(node.kind)
        if node.kind == "Add":
            for bias, product in (node.inputs, node.inputs[::-1]) if len(node.inputs) == 2 else ():
                tensor = graph.tensors.get(same.get(bias, bias))
                if product in products and tensor is not None and len(tensor.shape) == 1:
                    found.setdefault(tensor.name, []).append(Part(products[product], BIAS, False))
        if roles is None:
            continue
        given = {
            role: (node.inputs[place], same.get(node.inputs[place], node.inputs[place]))
            for place, role in roles.items()
            if place < len(node.inputs)
        }
        given = {role: names for role, names in given.items() if names[1] in graph.tensors}
        if WEIGHT not in given:
            continue
        layer = _layer(node, number, {role: names[0] for role, names in given.items()})
        matrix = node.kind in ("Gemm", "MatMul")
        for role, (_, name) in given.items():
            turned = matrix and role == WEIGHT and not node.transposed
            found.setdefault(name, []).append(Part(layer, role, turned))
        if node.kind == "MatMul" and node.outputs:
            products[node.outputs[0]] = layer
    return found


def _copies(graph: Graph) -> dict[str, str]:
    """Name -> the tensor that it is a copy of."""
    same: dict[str, str] = {}
    for node in graph.nodes:
        if node.kind == "Identity" and len(node.inputs) == len(node.outputs) == 1:
            source = same.get(node.inputs[0], node.inputs[0])
            if source in graph.tensors:
                same[node.outputs[0]] = source
    return same


def _layer(node: Node, number: int, names: Mapping[str, str]) -> str:
    """A layer's name: what its tensors' names have in front of their leaves, or the operator's."""
    found = set()
    for role, name in names.items():
        match = _LEAVES[role].fullmatch(name)
        found.add(name[: match.start(1) - 1] if match else "")
    if len(found) == 1 and (own := found.pop()):
        return own
    parts: list[str] = []
    for part in node.name.split("/"):
        if not part or _OPERATOR.fullmatch(part):
            continue
        if parts and part.startswith(f"{parts[-1]}."):  # PyTorch's `layer1/layer1.0`
            parts.pop()
        parts.append(part)
    return ".".join(parts) or f"{node.kind.lower()}_{number}"
