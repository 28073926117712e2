"""The primitives: every one has a shape rule that says what its meaning in NumPy computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shared.graphs.meaning import NoMeaning, evaluate, evaluate_graph
from shared.graphs.primitives import RawGraph
from shared.graphs.shapes import shape_of, shapes_of

X = (2, 6, 7, 4)  # images NHWC
CONV = {"x": "NHWC", "w": "HWIO", "y": "NHWC", "strides": (2, 1), "dilation": (1, 2), "groups": 2}
POOL = {"layout": "NHWC", "window": (3, 2), "strides": (2, 2)}
CASES: dict[str, tuple[str, list[tuple[int, ...]], dict[str, Any]]] = {
    "conv": ("conv", [X, (3, 3, 2, 6)], {**CONV, "pads": ((0, 1), (2, 2))}),
    "conv that crops": ("conv", [X, (1, 1, 2, 6)], {**CONV, "pads": ((-1, 0), (0, -2))}),
    "conv with a bias": ("conv", [X, (1, 1, 2, 6), (6,)], {**CONV, "pads": ((0, 0), (0, 0))}),
    "maxpool": ("maxpool", [X], {**POOL, "pads": ((1, 1), (0, 1)), "dilation": (1, 2)}),
    "avgpool": ("avgpool", [X], {**POOL, "pads": ((1, 1), (0, 1)), "count_pad": False}),
    "window_max": (
        "window_max",
        [X],
        {"window": (1, 3, 3, 1), "strides": (1, 2, 2, 1), "pads": ((0, 0), (0, 1), (1, 1), (0, 0))},
    ),
    "dot": ("dot", [(2, 5, 3), (3, 4)], {"lhs": (2,), "rhs": (0,)}),
    "dot with batches": (
        "dot",
        [(2, 5, 3), (3, 2, 4)],
        {"lhs": (2,), "rhs": (0,), "lhs_batch": (0,), "rhs_batch": (1,)},
    ),
    "bn": ("bn", [X, (4,), (4,), (4,), (4,)], {"slots": (1, 1, 1, 1), "axis": 3, "eps": 1e-5}),
    "gn": ("gn", [X, (4,)], {"slots": (1, 0), "axis": 3, "groups": 2, "eps": 1e-5}),
    "ew": ("ew", [X, (4,)], {"op": "add"}),
    "reduce": ("reduce", [X], {"op": "var", "axes": (1, 2), "keepdims": False, "correction": 1}),
    "reduce and keep": ("reduce", [X], {"op": "mean", "axes": (1, 2), "keepdims": True}),
    "transpose": ("transpose", [X], {"perm": (0, 3, 1, 2)}),
    "reshape": ("reshape", [X], {"shape": (2, 42, 4)}),
    "broadcast": ("broadcast", [(4,)], {"shape": (2, 4, 3), "dims": (1,)}),
    "pad": ("pad", [X], {"pads": ((0, 0), (1, -2), (0, 0), (1, 1)), "value": 1.0}),
    "reflect": ("pad", [X], {"pads": ((0, 0), (1, 1), (1, 1), (0, 0)), "mode": "reflect"}),
    "slice": ("slice", [X], {"index": ((0, 2, 1), (0, 6, 2), (1, 7, 3), (0, 4, 1))}),
    "reverse": ("reverse", [X], {"axes": (3,)}),
    "concat": ("concat", [X, X], {"axis": 3}),
    "softmax": ("softmax", [(2, 5)], {"axis": 1, "log": True}),
    "cast": ("cast", [X], {"dtype": "float32"}),
    "dropout": ("dropout", [X], {"rate": 0.5}),
}


def graph_of(prim: str, shapes: list[tuple[int, ...]], attrs: dict[str, Any]) -> RawGraph:
    graph = RawGraph("torch", 6)
    rng = np.random.default_rng(0)
    ins = [graph.input(shapes[0]), *(graph.const(rng.uniform(1, 2, s)) for s in shapes[1:])]
    graph.outputs = [graph.add(prim, *ins, **attrs)]
    return graph


@pytest.mark.parametrize("case", CASES)
def test_the_shape_is_that_of_the_value(case: str) -> None:
    graph = graph_of(*CASES[case])
    images = np.random.default_rng(1).normal(size=CASES[case][1][0])
    assert shapes_of(graph)[-1] == evaluate_graph(graph, images).shape


def test_windows_average_over_the_pixels_that_count() -> None:
    ones = np.ones((1, 3, 3, 1))
    how = {**POOL, "window": (3, 3), "pads": ((1, 1), (1, 1))}
    for count_pad, corner in ((False, 1.0), (True, 4 / 9)):
        graph = graph_of("avgpool", [ones.shape], {**how, "count_pad": count_pad})
        assert evaluate_graph(graph, ones)[0, 0, 0, 0] == pytest.approx(corner)


def test_what_nobody_knows_hides_the_shapes_behind_it() -> None:
    graph = RawGraph("torch", 6)
    image = graph.input(X)
    unknown = graph.opaque("my::op", [image], None)
    graph.outputs = [graph.add("ew", unknown, image, op="add")]
    assert shapes_of(graph)[1:] == [None, None]
    with pytest.raises(NoMeaning, match="my::op"):
        evaluate_graph(graph, np.zeros(X))


def test_a_name_that_is_no_primitive_is_an_error() -> None:
    graph = graph_of("konv", [X], {})
    with pytest.raises(ValueError, match="'konv' is no primitive"):
        shape_of(graph.nodes[-1], [X])
    with pytest.raises(NoMeaning):
        evaluate(graph.nodes[-1], [np.zeros(X)])
