"""What the layers of a user's own model compute, under their canonical names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.errors import FrameworkError
from shared.graphs.axes import logical
from shared.graphs.evidence import limit_of, unprepared
from shared.graphs.match import match
from shared.graphs.meaning import NoMeaning, values_of
from shared.graphs.net import Node
from shared.graphs.normal import normalise
from shared.graphs.overlay import Departure
from shared.graphs.primitives import BATCH, Array, RawGraph
from shared.graphs.verdict import Read


@dataclass
class Recorded:
    """Feature maps are NHWC, in float64, by the layer's canonical name; `output` is what the
    network returns, before a softmax. `apart` is how far the model's own output, in its own
    precision, is from the graph's, over the largest.
    """

    layers: dict[str, Array] = field(default_factory=dict)
    output: Array = field(default_factory=lambda: np.zeros(0))
    source: str = ""
    dtype: str = ""
    apart: float = 0.0
    departures: list[Departure] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # layers that the model does not have


def record(read: Read, spec: ResNetSpec, images: Array) -> Recorded:
    """The layers of the model for `images` [N, H, W, C] as the stem of `spec` reads them.

    The model's own graph is evaluated, operator by operator, in float64, and its output compared
    with the model's. What stands before the stem is handed the images that it makes these of.
    Raises `FrameworkError` where the graph cannot be evaluated, or is not what the model computes.
    """
    graph = read(images.shape[1])
    found = match(normalise(graph), spec)
    own = found.trimmed
    laid = found.exact[0] if found.exact else found.nearest
    if laid is None:
        raise FrameworkError(f"has no layers of {spec.name}: {found.reason}")
    nodes = {layer: node for layer, node in laid.opposite.items() if node.value is not None}
    plan = make_plan(spec, (images.shape[1], images.shape[2]))
    wanted = [layer.name for layer in plan.layers]
    result = Recorded(source=graph.source, dtype=graph.dtype, departures=laid.departures)
    result.left_out = [name for name in wanted if name not in nodes]
    last = own.target.net.nodes[own.target.net.output]
    kept = {name: nodes[name] for name in wanted if name in nodes} | {"": last}
    raw = unprepared(own.front, images)
    parts: dict[str, list[Array]] = {name: [] for name in kept}
    for start in range(0, len(raw), BATCH):
        part = raw[start : start + BATCH]
        filled = np.resize(part, (BATCH, *part.shape[1:])) if len(part) < BATCH else part
        values, apart = _values(graph, filled, list(kept.values()))
        result.apart = max(result.apart, apart)
        for name, node in kept.items():
            assert node.value is not None  # noqa: S101 - for the type checker
            i, dims = node.value
            maps = logical(values[i], dims)[: len(part)]
            parts[name].append(maps if "H" in node.size else maps.reshape(len(part), -1))
    whole = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    result.output = whole.pop("")
    result.layers = whole
    return result


def _values(
    graph: RawGraph, images: Array, nodes: Sequence[Node]
) -> tuple[dict[int, Array], float]:
    """The raw values that are the nodes' outputs, and how far the model's output is."""
    layout = graph.layout or "NHWC"
    physical = np.transpose(images, ["NHWC".index(axis) for axis in layout])
    wanted = {node.value[0] for node in nodes if node.value is not None}
    try:
        values = values_of(graph, physical, wanted)
    except NoMeaning as error:
        raise FrameworkError(
            f"its layers cannot be recorded: {error} has no meaning here"
        ) from None
    if graph.run is None:
        raise FrameworkError("its layers cannot be recorded: the reader cannot run it")
    dtype = graph.dtype if graph.dtype in ("float64", "float32") else "float32"
    theirs = np.asarray(graph.run(images.astype(dtype)), np.float64)
    ours = values[graph.outputs[0]]
    apart = float(np.abs(ours - theirs.reshape(ours.shape)).max() / max(np.abs(ours).max(), 1e-30))
    if not apart <= limit_of(graph.dtype, len(graph.nodes)):
        raise FrameworkError(
            f"its layers cannot be recorded: what the model returns is {apart:.1e} away from what "
            "its graph computes; it may look at chance, or at the number of images"
        )
    return values, apart
