"""Folded networks in the three frameworks: layer by layer what they were, and what the reference
says; compiled for inference, the same function still.
"""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from shared import ResNetSpec, compare, fold_norms, make_plan, probe_images, probe_weights
from shared.architecture.ops import FoldedNorm
from shared.frameworks import reference
from shared.verification.distance import relative_error
from shared.verification.tolerances import EVAL_FLOAT64
from tests.parity.rendering import FRAMEWORKS, package
from tests.parity.structures import STRUCTURES, shallow
from tests.zoo import in_zoo, rest_in_zoo

SHORT = ("torchvision/resnet50", "keras/resnet50v2", "bit/r50x1")
SMALL = ResNetSpec(
    name="small",
    image_size=32,
    num_classes=7,
    depths=(1, 1),
    widths=(8, 16),
    strides=(1, 2),
    dilate=(False, False),
).replace(**{"stem.convs": [[3, 2, 8]]})
PREACT = SMALL.replace(**{"block.order": "full_pre", "head.final": "norm_act"})


def images_for(spec: ResNetSpec) -> np.ndarray:
    height, width = (32, 64) if spec.anti_alias == "average" else (33, 40)
    return probe_images((2, height, width, spec.in_channels), dtype="float64")


def built(module: ModuleType, spec: ResNetSpec, dtype: str = "float64") -> Any:
    model = module.build(spec, dtype=dtype)
    module.load_weights(model, probe_weights(spec, dtype=dtype))
    return model


# Each in PyTorch, and all of them once in the others.
FOLDED_SHORT = [(FRAMEWORKS[0], name, "fewest") for name in SHORT] + [
    (FRAMEWORKS[1 + i % 2], name, "fewest") for i, name in enumerate(sorted(SHORT))
]
FOLDED = [*itertools.product(FRAMEWORKS, STRUCTURES, ["all"]), *FOLDED_SHORT]

# All in PyTorch and, by turns, in Keras or Flax.
FOLDED_ZOO = [
    (framework, name, "all")
    for i, name in enumerate(STRUCTURES)
    for framework in (FRAMEWORKS[0], FRAMEWORKS[1 + i % 2])
]


@pytest.mark.parametrize(
    ("framework", "preset", "blocks"), rest_in_zoo(FOLDED, FOLDED_SHORT, FOLDED_ZOO)
)
def test_a_folded_network_is_the_same_layer_by_layer(
    framework: str, preset: str, blocks: str
) -> None:
    module = package(framework)
    spec = STRUCTURES[preset] if blocks == "all" else shallow(STRUCTURES[preset])
    images, model = images_for(spec), built(module, spec)
    folded = module.fold(model)
    before, after = module.trace(model, images), module.trace(folded, images)
    assert before.names == after.names
    nodes = list(make_plan(folded.spec).nodes())
    taken = {f"eval/{node.inputs[0]}" for node in nodes if isinstance(node.op, FoldedNorm)}
    for name in before.names:
        same = relative_error(before[name], after[name]) < EVAL_FLOAT64
        assert same == (name not in taken), name

    truth = reference.build(folded.spec, dtype="float64")
    reference.load_weights(truth, fold_norms(spec, probe_weights(spec, dtype="float64"))[1])
    found = compare(reference.trace(truth, images), after)
    assert found.passed, (found.first_divergence, found.problems)


def called(framework: str, run: Any, images: np.ndarray) -> np.ndarray:
    """What a function of the framework's own images returns, as an array."""
    if framework != "torch":
        return np.asarray(run(images))
    import torch

    return run(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()


# Inductor needs tens of seconds to start.
COMPILED = [in_zoo("torch"), "keras", "flax"]


@pytest.mark.parametrize(
    ("framework", "spec"),
    [
        *(in_zoo(("torch", spec)) for spec in (SMALL, PREACT)),
        ("keras", PREACT),
        in_zoo(("keras", SMALL)),
        ("flax", SMALL),
        in_zoo(("flax", PREACT)),
    ],
)
def test_inference_is_the_same_function(framework: str, spec: ResNetSpec) -> None:
    module = package(framework)
    model = built(module, spec)
    run = module.inference(model)
    for shape in ((2, 33, 40, 3), (3, 32, 32, 3)):
        images = probe_images(shape, dtype="float64")
        expected = module.trace(model, images)["eval/output"]
        found = called(framework, run, images)
        assert found.shape == (shape[0], 7)
        assert found.dtype == np.float64
        assert relative_error(found, expected) < EVAL_FLOAT64


@pytest.mark.parametrize("framework", COMPILED)
def test_inference_keeps_the_weights_of_its_time(framework: str) -> None:
    module = package(framework)
    model = built(module, SMALL)
    before = module.export_weights(model)
    run = module.inference(model)
    images = probe_images((2, 32, 32, 3), dtype="float64")
    first = called(framework, run, images)
    after = module.export_weights(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    module.load_weights(model, probe_weights(SMALL, seed=1, dtype="float64"))
    assert np.array_equal(called(framework, run, images), first)
    assert not np.array_equal(called(framework, module.inference(model), images), first)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_folded_network_keeps_its_dtype(framework: str, dtype: str) -> None:
    module = package(framework)
    folded = module.fold(built(module, SMALL, dtype))
    weights = module.export_weights(folded)
    assert {array.dtype.name for array in weights.values()} == {dtype}
    expected = fold_norms(SMALL, probe_weights(SMALL, dtype=dtype))[1]
    assert all(np.array_equal(weights[name], array) for name, array in expected.items())
