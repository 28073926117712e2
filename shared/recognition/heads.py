"""The classifier of a network, under whatever name, and what is none: projections of several
layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from shared.recognition.layers import BIAS, WEIGHT, Layer, Layout, oriented
from shared.recognition.names import Words

# Classifiers by common names, of which one is believed where several layers could be it.
_KNOWN = frozenset(
    (
        "fc",
        "head",
        "classifier",
        "linear",
        "last_linear",
        "logits",
        "predictions",
        "output",
        "dense",
        "cls_head",
        "fc1000",
        "pred",
    )
)
# Single layers that are no classifiers.
_OTHERS = re.compile(
    r".*(project|predictor|prototype|embed|queue|memory|discriminat|criterion|loss|aux|domain|"
    r"decod|attn|attention|pos_|whiten|pca|text|reduction|bottleneck|rot_|rotation|center).*"
)


class Head(NamedTuple):
    """A linear layer, and how its matrix is turned into (out, in)."""

    layer: Layer
    axes: tuple[int, ...]


def find_head(
    scope: Words, features: int, layers: Sequence[Layer], layout: Layout, networks: Iterable[Words]
) -> tuple[Head | None, str | None]:
    """The classifier of the network at `scope`, and the doubt where several layers could be it.

    It is looked for under the network's own name, then in wider and wider surroundings, up to those
    that hold another network: the only single layer of a branch that takes the features.

    Args:
        scope: parts that the names of the network's layers begin with.
        layers: all that are no network's.
        networks: the scopes of the other networks.
    """
    others = list(networks)
    for depth in range(len(scope), -1, -1):
        around = scope[:depth]
        if depth < len(scope) and any(other[:depth] == around for other in others):
            return None, None
        heads = _heads(depth, [la for la in layers if la.parts[:depth] == around], features, layout)
        if len(heads) > 1:
            known = [head for head in heads if _called(head.layer, depth) in _KNOWN]
            if len(known) == 1:
                return known[0], None
            names = ", ".join(head.layer.names[WEIGHT] for head in heads[:4])
            return None, f"{names} could each be the classifier; none is taken"
        if heads:
            return heads[0], None
    return None, None


def _called(layer: Layer, depth: int) -> str:
    return layer.parts[depth] if len(layer.parts) > depth else ""


def _heads(depth: int, layers: Sequence[Layer], features: int, layout: Layout) -> list[Head]:
    """The single layers of their branches that take the features and give them to no other."""
    branches: dict[str, list[Layer]] = {}
    for layer in layers:
        branches.setdefault(_called(layer, depth), []).append(layer)
    single = [branch[0] for branch in branches.values() if len(branch) == 1]
    linear = {la: head for la in single if (head := _as_head(la, features, layout)) is not None}
    return [
        head
        for la, head in linear.items()
        if not _OTHERS.fullmatch(".".join(la.parts[depth:]).lower())
        and not _feeds(head, [other for other in single if other is not la], features, layout)
    ]


def _feeds(head: Head, others: Sequence[Layer], features: int, layout: Layout) -> bool:
    """Whether another linear layer takes what this one gives: a projection of two layers."""
    outputs = oriented(head.layer.shapes[WEIGHT], head.axes)[0]
    inputs = {
        oriented(la.shapes[WEIGHT], layout.matrix_axes)[1] for la in others if la.kind == "linear"
    }
    return outputs != features and outputs in inputs


def _as_head(layer: Layer, features: int, layout: Layout) -> Head | None:
    shape = layer.shapes.get(WEIGHT, ())
    if layer.kind == "linear":
        usual = layout.matrix_axes
        axes = usual if shape[usual[1]] == features else usual[::-1]
        bias: Mapping[str, tuple[int, ...]] = layer.shapes
        if shape[axes[1]] != features or bias.get(BIAS, (shape[axes[0]],)) != (shape[axes[0]],):
            return None
        return Head(layer, axes)
    if layer.kind == "conv":
        _, inputs, height, width = oriented(shape, layout.kernel_axes)
        if (inputs, height, width) == (features, 1, 1):
            return Head(layer, layout.kernel_axes)
    return None
