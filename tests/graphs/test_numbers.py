"""The images of the proof by numbers suit what stands before the stem, and its limit the depth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shared.graphs.evidence import LIMITS, ROUNDING, limit_of, prepared, unprepared
from shared.graphs.net import Node
from shared.graphs.primitives import RawGraph
from shared.graphs.translate.choices import choose_output


def front() -> list[Node]:
    scale = Node(0, "Scale", [], {"scale": 1 / 127.5, "shift": -1.0}, {})
    flip = Node(1, "Reverse", [], {"axes": "C"}, {})
    affine = Node(2, "Affine", [], {}, {})
    affine.tensors = {"scale": np.array([2.0, 3.0, 4.0]), "shift": np.array([0.1, 0.2, 0.3])}
    return [scale, flip, affine]


def test_the_stem_gets_the_images_that_were_wanted() -> None:
    wanted = np.random.default_rng(0).normal(size=(2, 4, 4, 3))
    np.testing.assert_allclose(prepared(front(), unprepared(front(), wanted)), wanted, rtol=1e-12)


def test_the_limit_of_half_precision_grows_as_the_root_of_the_operators() -> None:
    assert limit_of("bfloat16", 400) == 2 * limit_of("bfloat16", 100) == 20 * ROUNDING["bfloat16"]
    assert limit_of("float16", 100) == limit_of("bfloat16", 100) / 8
    assert limit_of("float32", 100) == limit_of("float32", 400) == LIMITS["float32"]


@pytest.mark.parametrize(
    ("names", "shapes", "chosen"),
    [
        (["0", "1"], [(2, 10), (2, 64)], 0),  # a tuple: the logits come first
        (["features", "z"], [(2, 64), (2, 10)], 1),
        (["features", "logits"], [(2, 64), (2, 10)], 1),
        (["0", "1"], [(2, 8, 8, 64), (2, 10)], 1),
    ],
)
def test_which_output_is_the_result(names: list[str], shapes: list[Any], chosen: int) -> None:
    graph = RawGraph("jax", 32)
    assert choose_output(names, shapes, graph) == chosen
    assert names[chosen] in graph.remarks[0]
