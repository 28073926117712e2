"""The shape of a network: dominators, one order for graphs that are the same, residual units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shared.graphs.net import Net, Node

NORMS = ("BatchNorm", "GroupNorm", "Affine")
FRONT = ("Scale", "Affine", "Reverse")
BACK = ("Softmax", "LogSoftmax", "Sigmoid")


class Weight(NamedTuple):
    """How much a path computes."""

    convs: int
    large: int  # of them, those that see more than a pixel
    nodes: int


class Shape:
    """Of one network: who dominates whom, and the order in which its nodes are compared."""

    def __init__(self, net: Net):
        self.net = net
        self.dominator = _dominators(net)

    def between(self, i: int, stop: int) -> list[Node]:
        """Every node from `stop`, exclusive, to i that i depends on."""
        found: set[int] = set()
        waiting = [i]
        while waiting:
            k = waiting.pop()
            if k not in found and k > stop:
                found.add(k)
                waiting.extend(self.net.nodes[k].ins)
        return [self.net.nodes[k] for k in sorted(found)]

    def weight(self, i: int, stop: int) -> Weight:
        nodes = self.between(i, stop)
        convs = [node for node in nodes if node.op == "Conv"]
        large = sum(node.attrs["kernel"] != (1, 1) for node in convs)
        return Weight(len(convs), large, len(nodes))

    def order(self) -> list[int]:
        """A topological order that depends on the graph alone: of several inputs, what leads to
        the lighter comes first.
        """
        done: dict[int, None] = {}
        waiting = [self.net.output]
        while waiting:
            i = waiting[-1]
            if i in done:
                waiting.pop()
                continue
            missing = [k for k in self._inputs(i) if k not in done]
            if missing:
                waiting.append(missing[0])
            else:
                done[i] = None
                waiting.pop()
        return list(done)

    def _inputs(self, i: int) -> Sequence[int]:
        ins = self.net.nodes[i].ins
        if len(ins) < 2:
            return ins
        stop = self.dominator[i]
        return sorted(dict.fromkeys(ins), key=lambda k: self.weight(k, stop))


def _dominators(net: Net) -> list[int]:
    """For each node the last one that every path to it comes through."""
    found: list[int] = []
    depth: list[int] = []
    for node in net.nodes:
        if not node.ins:
            found.append(node.id)
            depth.append(0)
            continue
        first, *others = node.ins
        for other in others:
            while first != other:
                if depth[first] >= depth[other] and first != found[first]:
                    first = found[first]
                elif other != found[other]:
                    other = found[other]
                else:
                    break  # two inputs that have nothing in common
        found.append(first)
        depth.append(depth[first] + 1)
    return found


class Terms(NamedTuple):
    """What an addition adds."""

    mode: str  # plain, exclusive_gate or shortcut_gate
    shortcut: int  # of plain, one of the two; which is which is not known here
    branch: int
    scales: tuple[float, float] = (1.0, 1.0)


def terms_of(net: Net, add: Node) -> Terms:
    """x and F of a x + b F, (1 - g) x + g F or (1 - g) x + F."""
    for a, b in (add.ins, add.ins[::-1]):
        product = net.nodes[a]
        if product.op != "Mul":
            continue
        for gate, x in (product.ins, product.ins[::-1]):
            sigmoid = _complement(net, gate)
            if sigmoid is None:
                continue
            other = net.nodes[b]
            if other.op == "Mul" and sigmoid in other.ins:
                branch = next(i for i in other.ins if i != sigmoid)
                return Terms("exclusive_gate", x, branch)
            return Terms("shortcut_gate", x, b)
    (x, p), (f, q) = (_scaled(net, i) for i in add.ins)
    return Terms("plain", x, f, (p, q))


def _complement(net: Net, i: int) -> int | None:
    """The sigmoid g of a node 1 - g."""
    node = net.nodes[i]
    if node.op == "Scale" and node.attrs == {"scale": -1.0, "shift": 1.0}:
        return node.ins[0] if net.nodes[node.ins[0]].op == "Sigmoid" else None
    return None


def _scaled(net: Net, i: int) -> tuple[int, float]:
    node = net.nodes[i]
    if node.op == "Scale" and node.attrs["shift"] == 0.0:
        return node.ins[0], node.attrs["scale"]
    return i, 1.0


@dataclass
class Unit:
    """A residual unit: two paths from `fork` that the addition `join` closes."""

    fork: Node
    join: Node
    branch: list[Node]
    skip: list[Node]
    mode: str
    scales: tuple[float, float]  # of shortcut and branch

    @property
    def convs(self) -> list[Node]:
        return [node for node in self.branch if node.op == "Conv"]

    @property
    def projects(self) -> bool:
        return any(node.op == "Conv" for node in self.skip)

    @property
    def stride(self) -> int:
        """By how much it makes the image smaller."""
        return round(self.fork.image[0] / max(self.join.image[0], 1)) or 1


@dataclass
class Trunk:
    """The network as a chain: stem, units, and what stands behind each of them."""

    stem: list[Node]
    units: list[Unit]
    behind: list[list[Node]]  # of each unit; the last is the head


def trunk_of(shape: Shape, first: int, last: int) -> Trunk:
    """Walk back from the output to `first`; an addition of two paths of images closes a unit."""
    net = shape.net
    chain: list[Node] = []
    units: list[Unit] = []
    behind: list[list[Node]] = []
    i = last
    while i != first and net.nodes[i].ins:
        node = net.nodes[i]
        if node.op == "Add" and len(set(node.ins)) == 2 and "H" in node.size:
            unit = _unit(shape, node)
            units.append(unit)
            behind.append(chain[::-1])
            chain, i = [], unit.fork.id
        else:
            chain.append(node)
            i = _before(shape, node)
    return Trunk(chain[::-1], units[::-1], behind[::-1])


def _before(shape: Shape, node: Node) -> int:
    """What a chain goes on with: behind paths that part and meet again, where they part."""
    return node.ins[0] if len(node.ins) == 1 else shape.dominator[node.id]


def main_input(net: Net, node: Node) -> int:
    """The input with the largest image: of a product with a gate, what is gated."""
    return max(node.ins, key=lambda k: (net.nodes[k].image, k))


def _unit(shape: Shape, add: Node) -> Unit:
    net, fork = shape.net, shape.dominator[add.id]
    terms = terms_of(net, add)
    paths = [_path(shape, i, fork) for i in (terms.shortcut, terms.branch)]
    scales = terms.scales
    weights = [_weight(path) for path in paths]
    if terms.mode == "plain" and weights[0] > weights[1]:
        paths.reverse()
        scales = scales[::-1]
    return Unit(net.nodes[fork], add, paths[1], paths[0], terms.mode, scales)


def _weight(path: Sequence[Node]) -> Weight:
    convs = [node for node in path if node.op == "Conv"]
    return Weight(len(convs), sum(c.attrs["kernel"] != (1, 1) for c in convs), len(path))


def _path(shape: Shape, i: int, stop: int) -> list[Node]:
    found = []
    while i > stop and shape.net.nodes[i].ins:
        node = shape.net.nodes[i]
        found.append(node)
        i = _before(shape, node)
    return found[::-1]
