"""The numbers of a model in a file: its graph's own, computed by NumPy in float64, for nothing of a
file is ever run.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shared.graphs.meaning import evaluate_graph
from shared.graphs.primitives import BATCH, Array, RawGraph

REMARK = "its numbers are those of its graph, computed by NumPy in float64; no runtime ran it"


def computed(graph: RawGraph, read: Callable[[int], RawGraph], batch: int = BATCH) -> RawGraph:
    """The graph, with what it computes; `read` reads it at another size.

    It was read for `batch` images, so that it is given so many at a time.
    """
    order = ["NHWC".index(axis) for axis in graph.layout]

    def run(images: Array) -> Array:
        size = images.shape[1]
        own = graph if size == graph.image_size else read(size)
        found = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            missing = batch - len(part)
            part = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
            result = evaluate_graph(own, np.transpose(part, order).astype(np.float64))
            found.append(result[: batch - missing])
        return np.concatenate(found)

    graph.dtype = "float64"
    graph.remarks.append(REMARK)
    graph.run = run
    return graph
