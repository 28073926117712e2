"""Files for Google's Model Explorer: a network as its graph, and errors as its node data.

The formats are those of `graph_builder.py` and `node_data_builder.py` in the package
ai-edge-model-explorer 0.1.34. The nodes' ids are the canonical layer names, so the data finds its
nodes in the graph that `rosetta show PRESET --model-explorer FILE` writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from shared.architecture.graph import INPUT
from shared.architecture.plan import Plan
from shared.verification.comparison import Comparison, Row
from shared.verification.recording import EVAL, OUTPUT, TRAIN

# Node data is a number and JSON has no infinity: the levels of what is equal bit for bit, and of
# what is not finite.
EQUAL, NOT_FINITE = -20.0, 400.0
# Value up to which a node has a colour: far below its limit, within a factor of ten, beyond it.
THRESHOLDS = (
    {"value": -3.0, "bgColor": "#b7dcc4"},
    {"value": -1.0, "bgColor": "#dcebc0"},
    {"value": 0.0, "bgColor": "#f5d48a"},
    {"value": NOT_FINITE, "bgColor": "#e5675f"},
)


def graph(plan: Plan) -> dict[str, Any]:
    """A graph collection with the plan as its graph; the id of both is the network's name."""
    rows = {row.name: row for row in plan.layers}
    nodes: list[dict[str, Any]] = [
        # Model Explorer fills in nothing: a node without a namespace stops it.
        {"id": INPUT, "label": "images", "namespace": "", "attrs": [], "incomingEdges": []}
    ]
    for node in plan.nodes():
        *space, label = node.name.split(".")
        if label.isdecimal():  # a block's own output stands in the block
            space, label = node.name.split("."), "output"
        row = rows.get(node.name)
        shown: dict[str, object] = {"op": row.op if row else type(node.op).__name__}
        if row is not None:
            shown |= {"about": row.about, "params": row.params, "macs": row.macs}
        found: dict[str, Any] = {
            "id": node.name,
            "label": label,
            "namespace": "/".join(space),
            "attrs": [{"key": k, "value": str(v)} for k, v in shown.items() if v not in ("", 0)],
            "incomingEdges": [
                {"sourceNodeId": source, "sourceNodeOutputId": "0", "targetNodeInputId": str(i)}
                for i, source in enumerate(node.inputs)
            ],
        }
        if row is not None:
            output = {"key": "shape", "value": " x ".join(map(str, row.output))}
            found["outputsMetadata"] = [{"id": "0", "attrs": [output]}]
        nodes.append(found)
    return {"label": plan.spec.name, "graphs": [{"id": plan.spec.name, "nodes": nodes}]}


def node_data(comparisons: Iterable[Comparison]) -> dict[str, Any]:
    """For each network, log10 of error over limit at each layer: the worst of all pairs and of all
    that a check records of the layer.

    Comparisons without limits, those of training below float64, are left out.
    """
    levels: dict[str, dict[str, float]] = {}
    for comparison in comparisons:
        if not comparison.judged:
            continue
        of_network = levels.setdefault(comparison.preset, {})
        for row in comparison.rows:
            name = layer_of(row.name)
            if name is not None:
                of_network[name] = max(of_network.get(name, EQUAL), _level(row))
    return {
        preset: {
            "name": "log10 of error over limit",
            "results": {name: {"value": level} for name, level in of_network.items()},
            "thresholds": list(THRESHOLDS),
        }
        for preset, of_network in levels.items()
    }


def layer_of(key: str) -> str | None:
    """The layer that a tensor of a trace belongs to; None for the loss and what the network
    returns, which is its last layer's output once more.

    >>> layer_of("step3/momentum_buffer/stages.0.blocks.1.conv2.weight")
    'stages.0.blocks.1.conv2'
    """
    path = key.split("/")
    check, name = path[0], path[-1]
    if check == "loss" or name in ("loss", OUTPUT):
        return None
    if check in (EVAL, TRAIN) or name == INPUT:
        return name
    return name.rpartition(".")[0]


def _level(row: Row) -> float:
    badness = row.badness
    if not math.isfinite(badness):
        return NOT_FINITE
    return round(max(EQUAL, math.log10(badness)), 3) if badness else EQUAL
