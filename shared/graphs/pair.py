"""Two models of anybody's against each other, operator by operator, whether they are ResNets or
not: what a plan is to `overlay`, the other model is here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared.architecture.spec import ResNetSpec
from shared.errors import RosettaError
from shared.graphs.evidence import LIMITS, NOTHING, Evidence, difference, judged, limit_of
from shared.graphs.match import Trimmed, trimmed, unanimous
from shared.graphs.net import Net, compacted
from shared.graphs.normal import normalise
from shared.graphs.overlay import Departure, Overlay, overlay
from shared.graphs.planned import Planned
from shared.graphs.primitives import BATCH, Array, RawGraph
from shared.graphs.verdict import Read


@dataclass
class ComparedModels:
    """What tells model A from model B: a departure's `theirs` and `where` are A's, its `ours` and
    `layer` B's. In the order of A's layers: the first is where they part.
    """

    departures: list[Departure] = field(default_factory=list)
    image_sizes: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    evidence: Evidence | None = None

    @property
    def same(self) -> bool:
        """The same operators with the same tensors, and the same numbers."""
        return not self.departures and self.evidence is not None and self.evidence.passed

    def to_dict(self) -> dict[str, Any]:
        return {
            "same": self.same,
            "departures": [dataclasses.asdict(departure) for departure in self.departures],
            "image_sizes": self.image_sizes,
            "notes": self.notes,
            "evidence": None if self.evidence is None else self.evidence.to_dict(),
        }


def compare_graphs(a: Read, b: Read, image_size: int | None = None) -> ComparedModels:
    """Compare what two readers read, at an image size and the next one."""
    first = a(image_size)
    other = b(first.image_size)
    found = _compared(first, other)
    answer = ComparedModels(list(found.departures), [first.image_size])
    answer.departures += _unequal_tensors(found)
    try:
        again = _compared(a(first.image_size + 1), b(first.image_size + 1))
    except RosettaError as error:
        answer.notes.append(f"compared at {first.image_size} pixels alone: {error}")
    else:
        answer.image_sizes.append(first.image_size + 1)
        if not found.departures:
            answer.departures += again.departures
    answer.evidence = _numbers(first, other, len(found.ours.order))
    if answer.evidence is not None and not answer.evidence.shows:
        answer.notes.append(NOTHING)
    return answer


def _compared(a: RawGraph, b: RawGraph) -> Overlay:
    theirs, ours = (_prepared(graph) for graph in (a, b))
    return overlay(_as_plan(ours), theirs.target)


def _prepared(graph: RawGraph) -> Trimmed:
    """With what stands before and behind the network left in: that is compared, too."""
    net = normalise(graph)
    unanimous(net)
    own = trimmed(net)
    whole = Net(net.nodes, net.input, net.output)
    return dataclasses.replace(own, target=type(own.target)(whole, net.input))


def _as_plan(own: Trimmed) -> Planned:
    """The other model in the place of a plan."""
    net = own.target.net
    nodes = [
        dataclasses.replace(node, ins=list(node.ins), attrs=dict(node.attrs)) for node in net.nodes
    ]
    for node in nodes:
        if node.op in ("Conv", "Linear"):
            node.attrs["bias"] = "bias" in node.tensors
    return Planned(ResNetSpec(), compacted(nodes, net.input, net.output))


def _unequal_tensors(found: Overlay) -> Iterator[Departure]:
    """Tensors of paired layers that differ, those of folded norms aside."""
    for ours, theirs in found.paired:
        lacks = theirs.op == ours.op and "bias" not in theirs.tensors
        if lacks and np.any(ours.tensors.get("bias")):
            yield Departure(theirs.where, "bias", "no", "yes", theirs.line, ours.where)
        for leaf in sorted(set(ours.tensors) & set(theirs.tensors)):
            a, b = theirs.tensors[leaf], ours.tensors[leaf]
            if np.shape(a) == np.shape(b) and (largest := difference(a, b)) is not None:
                where, name = theirs.where, ours.names.get(leaf) or f"{ours.where}.{leaf}"
                error = f"{leaf} differs by {largest:.1e}"
                yield Departure(where, "weights", error, name, theirs.line, ours.where)


def _numbers(a: RawGraph, b: RawGraph, operators: int) -> Evidence | None:
    if a.run is None or b.run is None:
        return None
    dtype = max((graph.dtype for graph in (a, b)), key=lambda name: limit_of(name, operators))
    limit = limit_of(dtype, operators)
    shape = (BATCH, a.image_size, a.image_size, _channels(a))
    images = np.random.default_rng(0).normal(size=shape)
    outputs = [_output(graph, images) for graph in (a, b)]
    if outputs[0].shape != outputs[1].shape:
        return Evidence(_said(a), dtype, float("inf"), 0.0, float("inf"))
    return judged(_said(a), dtype, limit, outputs[1], outputs[0])


def _said(graph: RawGraph) -> str:
    return f"{BATCH} random images of {graph.image_size} x {graph.image_size} pixels"


def _channels(graph: RawGraph) -> int:
    shape = graph.nodes[graph.inputs[0]].attrs["shape"]
    return int(shape[1] if graph.layout == "NCHW" else shape[-1])


def _output(graph: RawGraph, images: Array) -> Array:
    assert graph.run is not None  # noqa: S101 - for the type checker
    own = images.astype(graph.dtype if graph.dtype in LIMITS else "float32")
    found = np.asarray(graph.run(own), np.float64)
    return np.moveaxis(found, 1, -1) if found.ndim == 4 and graph.layout == "NCHW" else found
