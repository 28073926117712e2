"""Running averages of the parameters alone, as `named_parameters()` gives them: of a network whose
batch norms have their statistics elsewhere. By themselves they could only be taken for one with
group norms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from shared.architecture.ops import Shape
from shared.recognition.layers import WEIGHT, Layer
from shared.recognition.names import Words
from shared.recognition.network import HEAD, Network, Refusal, path_of
from shared.recognition.structure import Structure

WHY = "parameters without running statistics, of a network that has them"
_STATISTICS = ".running_"


class Averages(NamedTuple):
    """Where they are, and their names in the file."""

    path: str
    names: Sequence[str]

    @property
    def refusal(self) -> Refusal:
        return Refusal(self.path, WHY, True)


def has_statistics(structure: Structure) -> bool:
    return any(_STATISTICS in name for name in structure.shapes())


def bodies_of(networks: Sequence[Network]) -> list[dict[str, Shape]]:
    """The parameters of the networks with batch norms."""
    return [_parameters(n.shapes) for n in networks if n.spec.norm.kind == "batch"]


def of_network(network: Network, bodies: Sequence[Mapping[str, Shape]]) -> Averages | None:
    """The network as averages of one of the others, if it is that."""
    if network.spec.norm.kind != "group" or _parameters(network.shapes) not in bodies:
        return None
    return Averages(network.path, list(network.names.values()))


def of_structure(
    structure: Structure, bodies: Sequence[Mapping[str, Shape]], layers: Sequence[Layer]
) -> Averages | None:
    """The structure as averages of a network, if it is that; with its classifier."""
    if _parameters(structure.shapes()) not in bodies:
        return None
    names = structure.names()
    own = set(structure.layers.values())
    heads = [la for la in layers if la not in own and _is_head(la, structure.scope, structure)]
    return Averages(
        path_of(names), [*names.values(), *(name for la in heads for name in la.names.values())]
    )


def _is_head(layer: Layer, scope: Words, structure: Structure) -> bool:
    inside = bool(scope) and layer.parts[: len(scope)] == scope
    return inside and layer.kind == "linear" and structure.features in layer.shapes[WEIGHT]


def _parameters(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    return {n: shape for n, shape in shapes.items() if n not in HEAD and _STATISTICS not in n}
