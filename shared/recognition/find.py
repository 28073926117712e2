"""Every ResNet in a flat table of names and tensors, whatever wraps it, and all that is left over.

Known names win. What they do not explain is recognised by its structure. A tensor's values are read
only to see whether two networks are one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.recognition.averages import bodies_of, has_statistics, of_network, of_structure
from shared.recognition.choice import choose, without_twins
from shared.recognition.layers import Tensor, layout_of, read_layers
from shared.recognition.leftovers import AVERAGES, Group, groups, kind_of
from shared.recognition.named import find_named
from shared.recognition.names import Words, parts_of
from shared.recognition.network import (
    Network,
    Refusal,
    from_names,
    from_structure,
    with_classifiers,
)
from shared.recognition.other_networks import Word, explain
from shared.recognition.structure import Misfit, Structure, find_structures
from shared.recognition.tree import make_tree


@dataclass(frozen=True)
class Survey:
    """What is in a file. `taken` is the network that is meant unless another is asked for."""

    networks: Sequence[Network]
    left: Sequence[Group]  # what belongs to none
    refused: Sequence[Refusal] = ()  # what is nearly a network
    taken: Network | None = None
    why: str = ""  # the rule by which it is, or that there is none
    word: Word | None = None  # what the file is, where there is no network in it
    doubts: Sequence[str] = ()

    def at(self, path: str) -> list[Network]:
        """The networks that a path means: that of just this path, or else all whose paths have its
        parts, or else its text.
        """
        same = [n for n in self.networks if path == n.path or path in n.twins]
        parts = parts_of(path)
        whole = [n for n in self.networks if parts and _has(parts_of(n.path), parts)]
        return same or whole or [n for n in self.networks if path and path in n.path]


def _has(whole: Words, parts: Words) -> bool:
    return any(whole[i : i + len(parts)] == parts for i in range(len(whole) - len(parts) + 1))


def survey(tensors: Mapping[str, Tensor], changes: Mapping[str, Any] | None = None) -> Survey:
    """Every ResNet among the tensors of a file, which one is meant, and what is left.

    `changes`: fields of specs that are known better than by convention (`norm.groups`), as
    `ResNetSpec.replace` takes them.
    """
    changes = changes or {}
    aside = {name: kind for name, t in tensors.items() if (kind := kind_of(name, t)) is not None}
    rest = {name: tensor for name, tensor in tensors.items() if name not in aside}
    layers = read_layers(rest)
    networks: list[Network] = []
    refused: list[Refusal] = []
    for named in find_named({name: tensor.shape for name, tensor in rest.items()}, changes):
        found = from_names(named, rest)
        if isinstance(found, Network):
            networks.append(found)
        else:
            refused.append(found)
    used = {name for network in networks for name in network.names.values()}
    free = [layer for layer in layers if used.isdisjoint(layer.names.values())]
    layout, doubt = layout_of(free)
    structures = find_structures(make_tree(free), layout)
    # What has no statistics comes last: it may be averages of a network that has them.
    structures.sort(key=lambda s: isinstance(s, Structure) and not has_statistics(s))
    averages = []
    for structure in structures:
        if isinstance(structure, Misfit):
            refused.append(Refusal(".".join(structure.scope), structure.why))
            continue
        bare = None if has_statistics(structure) else bodies_of(networks)
        if bare and (average := of_structure(structure, bare, free)):
            averages.append(average)
            continue
        found = from_structure(structure, free, rest, changes)
        if isinstance(found, Network):
            networks.append(found)
        else:
            refused.append(found)
    bodies = bodies_of(networks)
    for network in list(networks):
        if average := of_network(network, bodies):
            averages.append(average)
            networks.remove(network)
    refused += [average.refusal for average in averages]
    averaged = {name: AVERAGES for average in averages for name in average.names}
    aside |= averaged
    layers = [layer for layer in layers if averaged.keys().isdisjoint(layer.names.values())]
    place = {name: i for i, name in enumerate(tensors)}
    networks = with_classifiers(networks, layers, rest)
    networks.sort(key=lambda network: min(place[name] for name in network.names.values()))
    networks = without_twins(networks, rest)
    chosen, why = choose(networks)
    return Survey(
        networks,
        _left(tensors, aside, networks),
        refused,
        chosen,
        why,
        None
        if networks
        else explain(tensors, aside, [Word(refusal.why, refusal.known) for refusal in refused]),
        (doubt,) if doubt and any(network.format is None for network in networks) else (),
    )


def _left(
    tensors: Mapping[str, Tensor], aside: Mapping[str, str], networks: Sequence[Network]
) -> list[Group]:
    used = {name for n in networks for name in (*n.names.values(), *n.twin_names)}
    scopes = [scope for n in networks for scope in (n.scope, *map(parts_of, n.twins))]
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    left = [name for name in tensors if name not in used and name not in aside]
    return groups(aside, left, shapes, scopes)
