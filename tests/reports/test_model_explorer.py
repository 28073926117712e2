"""What Model Explorer is given, against the fields of its own `graph_builder` and
`node_data_builder`.
"""

from __future__ import annotations

import json
import math

import pytest

from shared import get_spec, make_plan
from shared.reports.model_explorer import EQUAL, NOT_FINITE, graph, layer_of, node_data
from shared.training.config import PROBE
from shared.verification.comparison import Row
from shared.verification.recording import expected_shapes
from tests.reports.made import comparison

# Model Explorer's dataclasses of 0.1.34: GraphNode, IncomingEdge, GraphNodeData.
NODE = {"id", "label", "namespace", "attrs", "incomingEdges", "outputsMetadata"}
EDGE = {"sourceNodeId", "sourceNodeOutputId", "targetNodeInputId"}
DATA = {"results", "name", "thresholds", "gradient"}

PRESETS = ["resnet50", "resnet50_v2", "timm/resnet50d", "ablation/resnet110_norm_after_add"]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_graph_is_the_plan(preset: str) -> None:
    plan = make_plan(get_spec(preset))
    made = graph(plan)
    (found,) = made["graphs"]
    assert made["label"] == found["id"] == plan.spec.name
    ids = [node["id"] for node in found["nodes"]]
    assert ids == ["input", *(node.name for node in plan.nodes())]
    assert len(set(ids)) == len(ids)
    seen: set[str] = set()
    for node in found["nodes"]:
        assert NODE - {"outputsMetadata"} <= set(node) <= NODE
        for edge in node["incomingEdges"]:
            assert set(edge) == EDGE
            assert edge["sourceNodeId"] in seen
        seen.add(node["id"])
        assert all(isinstance(attr["value"], str) for attr in node["attrs"])
    # Model Explorer makes groups of namespaces, and none may have an operation's name.
    paths = {f"{n['namespace']}/{n['label']}" for n in found["nodes"] if n.get("namespace")}
    assert not paths & {n["namespace"] for n in found["nodes"] if n.get("namespace")}
    json.dumps(made, allow_nan=False)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("check", ["eval", "train", "gradients", "steps"])
def test_every_tensor_belongs_to_a_node(preset: str, check: str) -> None:
    plan = make_plan(get_spec(preset))
    ids = {node["id"] for node in graph(plan)["graphs"][0]["nodes"]}
    layers = {layer_of(key) for key in expected_shapes(check, plan, 2, PROBE)}
    assert layers - {None} <= ids
    assert len(layers) > 100


def test_the_worst_pair_and_tensor_of_a_layer_counts() -> None:
    rows = (Row("grad/stages.0.blocks.0.conv1.weight", 1e-9, 1e-10),)
    data = node_data(
        [
            comparison(1e-15, 0.0, math.nan),
            comparison(1e-14, 0.0, 0.0),
            comparison(rows=rows, check="gradients"),
            comparison(1e-15, preset="other"),
        ]
    )
    assert set(data) == {"cifar/resnet20", "other"}
    assert set(data["cifar/resnet20"]) <= DATA
    values = {k: v["value"] for k, v in data["cifar/resnet20"]["results"].items()}
    assert values == {
        "stages.0.blocks.0.conv1": 1.0,
        "stages.0.blocks.1.conv1": EQUAL,
        "stages.0.blocks.2.conv1": NOT_FINITE,
    }
    json.dumps(data, allow_nan=False)


def test_thresholds_colour_what_is_beyond_its_limit_alone() -> None:
    (data,) = node_data([comparison(1e-15)]).values()
    *within, beyond = data["thresholds"]
    assert [item["value"] for item in data["thresholds"]] == sorted(
        i["value"] for i in data["thresholds"]
    )
    assert within[-1]["value"] == 0
    assert beyond["value"] >= NOT_FINITE


def test_what_is_not_judged_is_left_out() -> None:
    rows = (Row("grad/head.weight", 1e-3, None),)
    assert node_data([comparison(rows=rows, check="gradients", dtype="float32")]) == {}
