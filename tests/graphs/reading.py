"""What the tests of all readers ask of a graph."""

from __future__ import annotations

import numpy as np

from shared.graphs.meaning import evaluate_graph
from shared.graphs.primitives import RawGraph

# Measured: at most 3e-15 in float64 and 1.3e-6 in float32, on two processors' worth of BLAS.
LIMITS = {"float64": 1e-13, "float32": 1e-5}


def images(size: int, channels: int = 3, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(size).normal(size=(batch, size, size, channels))


def error(graph: RawGraph, truth: np.ndarray | None = None, channels: int = 3) -> float:
    """How far the graph's meaning in NumPy is from what the model computes, or from `truth`."""
    found = images(graph.image_size, channels)
    order = ["NHWC".index(axis) for axis in graph.layout]
    assert graph.run is not None
    expected = graph.run(found) if truth is None else truth
    meant = evaluate_graph(graph, np.transpose(found, order))
    assert meant.shape == expected.shape
    assert np.isfinite(expected).all()
    return float(np.abs(meant - expected).max() / np.abs(expected).max())


def assert_faithful(graph: RawGraph, dtype: str, channels: int = 3) -> None:
    """Every operator of the graph means what the model does."""
    assert unknown(graph) == []
    assert graph.dtype == dtype
    assert error(graph, channels=channels) < LIMITS[dtype]


def unknown(graph: RawGraph) -> list[str]:
    """What the first output depends on and nobody knows."""
    live = graph.live()
    return [node.attrs["what"] for node in graph.nodes if node.prim == "opaque" and node.id in live]


def names(graph: RawGraph) -> set[str]:
    """Of the parameters that the first output depends on."""
    live = graph.live()
    return {node.name for node in graph.nodes if node.name and node.id in live}


def places(graph: RawGraph, prim: str = "conv") -> list[str]:
    """The modules of all operators of a kind."""
    live = graph.live()
    return [node.where for node in graph.nodes if node.prim == prim and node.id in live]


def lines(graph: RawGraph, prim: str = "conv") -> list[str]:
    return [node.line for node in graph.nodes if node.prim == prim]
