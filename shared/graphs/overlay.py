"""A plan laid over a network: node by node and wire by wire. What does not lie flat is a departure,
in the user's names; where nothing departs, the tensors are the spec's weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from shared.architecture.spec import ResNetSpec
from shared.graphs.align import Pair, pairs_of
from shared.graphs.compare import Note, alike, differences
from shared.graphs.net import Net, Node
from shared.graphs.planned import Planned
from shared.graphs.primitives import Array
from shared.graphs.structure import Shape, main_input

SHARED = "shared tensor"


@dataclass(frozen=True)
class Departure:
    """One place where the user's model is not the network."""

    where: str  # the user's module path
    what: str  # the attribute, or `extra`, `missing`, `operator`, `wiring`
    theirs: str
    ours: str
    line: str = ""
    layer: str = ""  # canonical name of the layer in the network
    count: int = 1  # operators that it stands for


@dataclass
class Overlay:
    """What a comparison found. `placed` are the user's nodes by canonical name, `opposite` those of
    other operators, too.
    """

    ours: Planned
    departures: list[Departure] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    placed: dict[str, Node] = field(default_factory=dict)
    opposite: dict[str, Node] = field(default_factory=dict)
    paired: list[tuple[Node, Node]] = field(default_factory=list)  # ours and theirs, alike
    weights: dict[str, Array] = field(default_factory=dict)
    names: dict[str, str | None] = field(default_factory=dict)

    @property
    def spec(self) -> ResNetSpec:
        return self.ours.spec

    @property
    def exact(self) -> bool:
        return not self.departures


@dataclass
class Target:
    """The user's network between its input's preparation and its logits, in the order of
    comparison.
    """

    net: Net
    first: int  # what the stem reads
    shape: Shape = field(init=False)
    order: list[Node] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = Shape(self.net)
        behind = [i for i in self.shape.order() if self.first < i]
        self.order = [self.net.nodes[i] for i in behind]


def overlay(ours: Planned, target: Target) -> Overlay:
    """Compare. Never an error: whatever the user has is placed or departs."""
    mine = [ours.net.nodes[i] for i in ours.order if i]
    pairs = pairs_of(mine, target.order)
    found = Overlay(ours)
    image = _images(ours, target, pairs)
    for before, ours_run, theirs_run in _runs(pairs):
        found.departures += _unpaired(before, ours_run, theirs_run, target)
    for a, b in pairs:
        if a is None or b is None:
            continue
        _paired(found, a, b, target)
        wiring = _wiring(a, b, image, ours, target)
        if wiring is not None:
            found.departures.append(wiring)
    _weigh(found)
    at = {node.id: k for k, node in enumerate(target.order)}
    place = {(node.where, node.line): at[node.id] for node in reversed(target.order)}
    found.departures.sort(key=lambda d: place.get((d.where, d.line), 0))
    return found


def _paired(found: Overlay, a: Node, b: Node, target: Target) -> None:
    ours = found.ours
    layer = a.where
    found.opposite[layer] = b
    if not alike(a, b):
        found.departures.append(
            Departure(place_of(b, target), "operator", str(b), str(a), b.line, layer)
        )
        return
    source = target.net.nodes[b.ins[0]] if b.ins else b
    differ, notes = differences(a, b, source, ours.pads.get(a.id))
    where = place_of(b, target)
    found.departures += [Departure(where, *d, b.line, layer) for d in differ]
    found.notes += notes
    found.paired.append((a, b))
    if a.id in ours.ops:
        found.placed[layer] = b


def place_of(node: Node, target: Target) -> str:
    """A node's module path; of one that has none, that of the layer in front of it."""
    while not node.where and node.ins:
        node = target.net.nodes[main_input(target.net, node)]
    return node.where or "input"


# What only one side has.


def _runs(pairs: Sequence[Pair]) -> Iterator[tuple[Node | None, list[Node], list[Node]]]:
    """Neighbours that are not paired, ours and theirs, and the user's node in front of them."""
    mine: list[Node] = []
    its: list[Node] = []
    before: Node | None = None
    for a, b in [*pairs, (None, None)]:
        if a is not None and b is None:
            mine.append(a)
        elif b is not None and a is None:
            its.append(b)
        else:
            if mine or its:
                yield before, mine, its
                mine, its = [], []
            before = b


def _unpaired(
    before: Node | None, mine: list[Node], its: list[Node], target: Target
) -> list[Departure]:
    found = []
    for group in _by_module(its):
        where, layer = place_of(group[0], target), mine[0].where if mine else ""
        line, count = group[0].line, len(group)
        found.append(Departure(where, "extra", _listed(group), "nothing", line, layer, count))
    last = its[-1] if its else before
    where = place_of(last, target) if last is not None else "input"
    line = last.line if last is not None else ""
    for node in mine:
        found.append(Departure(where, "missing", "nothing", str(node), line, node.where))
    return found


def _by_module(nodes: Sequence[Node]) -> list[list[Node]]:
    """Neighbours whose paths lie in one module: a squeeze-and-excitation is one departure."""
    groups: list[list[Node]] = []
    for node in nodes:
        if groups and _same_module(groups[-1][0].where, node.where):
            groups[-1].append(node)
        else:
            groups.append([node])
    return groups


def _same_module(a: str, b: str) -> bool:
    parts, others = a.replace("/", ".").split("."), b.replace("/", ".").split(".")
    common = 0
    for x, y in zip(parts, others, strict=False):
        if x != y:
            break
        common += 1
    return common >= max(1, min(len(parts), len(others)) - 1)


def _listed(nodes: Sequence[Node]) -> str:
    return str(nodes[0]) if len(nodes) == 1 else ", ".join(node.label for node in nodes)


# Wires.


def _images(ours: Planned, target: Target, pairs: Sequence[Pair]) -> tuple[dict[int, int], ...]:
    """Where a plan's node stands in the user's network, and where a user's in the plan; what is
    not paired stands where its input does.
    """
    to_theirs, to_ours = {0: target.first}, {target.first: 0}
    for a, b in pairs:
        if a is not None and b is not None:
            to_theirs[a.id], to_ours[b.id] = b.id, a.id
    for a, _ in pairs:
        if a is not None and a.id not in to_theirs:
            to_theirs[a.id] = to_theirs.get(main_input(ours.net, a), target.first)
    through = dict.fromkeys(to_ours)
    steps: dict[int, int] = {i: i for i in through}
    for node in target.order:
        if node.id not in steps and node.ins:
            steps[node.id] = steps.get(main_input(target.net, node), target.first)
    return to_theirs, steps


def _wiring(
    a: Node, b: Node, image: tuple[dict[int, int], ...], ours: Planned, target: Target
) -> Departure | None:
    """Whether the user's node reads what the plan's does."""
    to_theirs, steps = image
    want = [to_theirs.get(i, target.first) for i in a.ins]
    have = [steps.get(i, target.first) for i in b.ins]
    if sorted(want) == sorted(have) or (not alike(a, b) and set(want) <= set(have)):
        return None
    nodes = target.net.nodes
    wrong = [i for i in have if i not in want] or have
    right = [i for i in want if i not in have] or want
    theirs, should = (_names([nodes[i] for i in ids], target) for ids in (wrong, right))
    where = place_of(b, target)
    return Departure(where, "wiring", f"{b.label} reads {theirs}", should, b.line, a.where)


def _names(nodes: Sequence[Node], target: Target) -> str:
    return " and ".join(f"{node.label} at {place_of(node, target)}" for node in nodes)


# Weights.


def _weigh(found: Overlay) -> None:
    """The user's tensors under canonical names; a missing one is what makes no difference."""
    used: dict[str, tuple[str, Array]] = {}
    by_name = {node.where: op for i, op in found.ours.ops.items() for node in [_at(found, i)]}
    for layer, node in found.placed.items():
        tensors = _tensors(node, found.spec.norm.eps if node.op != "Conv" else 0.0)
        for leaf, shape in by_name[layer].tensors().items():
            array = tensors.get(leaf)
            if array is None and leaf == "bias":
                array = np.zeros(shape)
            name = node.names.get(leaf)
            if array is None or tuple(np.shape(array)) != tuple(shape):
                if found.exact:
                    has = "none" if array is None else str(list(np.shape(array)))
                    found.departures.append(
                        Departure(node.where, leaf, has, str(list(shape)), node.line, layer)
                    )
                continue
            found.weights[f"{layer}.{leaf}"] = array
            found.names[f"{layer}.{leaf}"] = name
            other, first = used.setdefault(name, (layer, array)) if name else (layer, array)
            # TensorFlow may give one name to several variables.
            if other != layer and np.array_equal(first, array) and np.ptp(array):
                found.notes.append(Note(SHARED, str(name)))


def _at(found: Overlay, i: int) -> Node:
    return found.ours.net.nodes[i]


def _tensors(node: Node, eps: float) -> Mapping[str, Array]:
    """As a plan names them. A norm that has been folded is one of mean 0 and variance 1 - eps."""
    if node.op == "Affine":
        size = node.channels
        return {
            "weight": node.tensors["scale"],
            "bias": node.tensors["shift"],
            "running_mean": np.zeros(size),
            "running_var": np.full(size, 1.0 - eps),
        }
    if node.op == "BatchNorm" and node.attrs["eps"] is None:
        return {**node.tensors, "running_var": np.full(node.channels, 1.0 - eps)}
    return node.tensors
