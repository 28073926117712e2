"""Every pair of renderings is the same function: every structure of the zoo, every layer, float64.

The full-size sweep over all presets is `rosetta verify --all`.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from shared import ResNetSpec, Trace, compare, list_presets, make_plan, probe_images, probe_weights
from shared.frameworks import reference
from shared.verification.tolerances import EVAL_FLOAT64
from tests.parity.rendering import FRAMEWORKS, package
from tests.parity.structures import (
    COVERING,
    STRUCTURES,
    network,
    shallow,
    sizes,
    structure,
    with_blocks,
)
from tests.zoo import rest_in_zoo

SIDES = (*FRAMEWORKS, "reference")


@pytest.fixture(scope="module")
def traces():
    """(spec, size) -> the traces of all four sides; the last models are kept, for their sizes come
    together.
    """
    models: dict[ResNetSpec, dict] = {}

    def take(spec: ResNetSpec, size: int) -> dict[str, Trace]:
        if spec not in models:
            models.clear()
            models[spec] = {side: _loaded(side, spec) for side in SIDES}
        images = probe_images((2, size, size, spec.in_channels), dtype="float64")
        return {side: p.trace(model, images) for side, (p, model) in models[spec].items()}

    return take


def _loaded(side: str, spec):
    rendering = reference if side == "reference" else package(side)
    model = rendering.build(spec, dtype="float64")
    rendering.load_weights(model, probe_weights(spec, dtype="float64"))
    return rendering, model


# An even or an odd size, by turns, of as few blocks as have the kinds of layers.
SHORT = [(preset, sizes(STRUCTURES[preset])[i % 2], "fewest") for i, preset in enumerate(COVERING)]
# All blocks at the other size.
ZOO = [
    (preset, sizes(spec)[1 - COVERING.index(preset) % 2 if preset in COVERING else i % 2], "all")
    for i, (preset, spec) in enumerate(STRUCTURES.items())
]
CASES = SHORT + [
    (preset, size, "all") for preset, spec in STRUCTURES.items() for size in sizes(spec)
]


@pytest.mark.parametrize(("preset", "size", "blocks"), rest_in_zoo(CASES, SHORT, ZOO))
def test_every_pair_agrees_on_every_layer(preset: str, size: int, blocks: str, traces):
    spec = network(preset, blocks)
    found = traces(spec, size)
    expected = [f"eval/{row.name}" for row in make_plan(spec, size).layers] + ["eval/output"]
    for a, b in itertools.combinations(SIDES, 2):
        comparison = compare(found[a], found[b])
        assert comparison.passed, (a, b, comparison.worst, comparison.problems)
        assert [row.name for row in comparison.rows] == expected
        assert all(row.limit == EVAL_FLOAT64 for row in comparison.rows)


def test_every_preset_has_its_structure_tested():
    assert {structure(name) for name in list_presets()} == {structure(name) for name in STRUCTURES}


OPTIONS = {
    "many-classes": {"num_classes": 13},
    "one-channel": {"in_channels": 1},
    "five-channels": {"in_channels": 5},
    "features-avg": {"num_classes": 0},
    "features-max": {"num_classes": 0, "head.pool": "max"},
    "feature-map": {"num_classes": 0, "head.pool": "none"},
    "max-pooled-head": {"head.pool": "max"},
    "eps": {"norm.eps": 1e-3},
    "no-eps": {"norm.eps": 0.0},
    "group-norm": {"norm.kind": "group", "norm.groups": 4},
    "all-biases": {
        "stem.bias": True,
        "block.bias": True,
        "block.last_bias": True,
        "shortcut.bias": True,
    },
    "dilated": {"dilate": (False, False, True)},
    "dilated-twice": {"dilate": (False, True, True)},
    "dropout-join": {"shortcut.join": "dropout"},
    "images-normed": {"stem.input_norm": "affine"},
    "valid-pool": {"stem.pool_padding": "valid"},
    "weight-standardised": {"weight_std_eps": 1e-6},
}
OPTION_PRESETS = (
    "torchvision/resnet18",
    "torchvision/resnext50_32x4d",
    "keras/resnet50v2",
    "timm/resnet26d",
)
OPTION_CASES = list(itertools.product(OPTION_PRESETS, OPTIONS, FRAMEWORKS))
# Every option, a third of them not in PyTorch, and in the zoo every two of preset, option and
# framework.
OPTION_TURNS = ("torch", "keras", "torch", "torch", "flax", "torch")
OPTION_SHORT = [
    (OPTION_PRESETS[k % len(OPTION_PRESETS)], option, OPTION_TURNS[k % len(OPTION_TURNS)])
    for k, option in enumerate(OPTIONS)
]
PAIRWISE = [
    (preset, option, FRAMEWORKS[(i + k) % len(FRAMEWORKS)])
    for i, preset in enumerate(OPTION_PRESETS)
    for k, option in enumerate(OPTIONS)
]


@pytest.mark.parametrize(
    ("preset", "option", "framework"), rest_in_zoo(OPTION_CASES, OPTION_SHORT, PAIRWISE)
)
def test_options_work_on_any_preset(preset: str, option: str, framework: str):
    spec = with_blocks(STRUCTURES[preset], (1, 2, 1))
    _require_the_reference(spec.replace(**OPTIONS[option]), framework)


@pytest.mark.parametrize("framework", rest_in_zoo(FRAMEWORKS, ("torch", "keras")))
def test_a_dilated_stage_is_blurred_alike(framework: str):
    """At stride 1, which no preset does."""
    spec = with_blocks(STRUCTURES["timm/resnetblur18"], (1, 1, 2))
    _require_the_reference(spec.replace(dilate=(False, False, True)), framework)


def _require_the_reference(spec, framework: str):
    images = probe_images((2, 40, 35, spec.in_channels), dtype="float64")
    traces = [
        p.trace(model, images)
        for p, model in (_loaded(framework, spec), _loaded("reference", spec))
    ]
    comparison = compare(*traces)
    assert comparison.passed, (comparison.worst, comparison.problems)


TRAVELLING = (
    "torchvision/resnet18",
    "keras/resnet50v2",
    "bit/r50x1",
    "ablation/resnet110_exclusive_gate_b0",
    "torchvision/resnext50_32x4d",
)
WAYS = [*itertools.permutations(FRAMEWORKS, 2)]
# Round by each framework once, in one direction and in the other.
WAYS_ROUND = tuple(
    [(order[k], order[(k + 1) % 3]) for k in range(3)] for order in (FRAMEWORKS, FRAMEWORKS[::-1])
)
DTYPES = ("float64", "float32")
JOURNEYS = [(p, *way, dtype) for p in TRAVELLING for way in WAYS for dtype in DTYPES]
# Every preset from and to every framework, every way, in one of the two by turns.
BY_TURNS = [
    (preset, *way, DTYPES[(i + k) % 2])
    for i, preset in enumerate(TRAVELLING)
    for k, way in enumerate(WAYS)
    if (way in WAYS_ROUND[0]) == (i % 2 == 0)
]


@pytest.mark.parametrize(("preset", "source", "target", "dtype"), rest_in_zoo(JOURNEYS, BY_TURNS))
def test_weights_travel_and_come_back_bit_exact(preset: str, source: str, target: str, dtype: str):
    spec = shallow(STRUCTURES[preset])
    weights = probe_weights(spec, seed=1, dtype=dtype)
    here, there = package(source), package(target)
    first, second, home = (
        here.build(spec, dtype=dtype),
        there.build(spec, dtype=dtype),
        here.build(spec, dtype=dtype),
    )
    here.load_weights(first, weights)
    there.load_weights(second, here.export_weights(first))
    here.load_weights(home, there.export_weights(second))
    returned = here.export_weights(home)
    assert list(returned) == list(weights)
    for name, array in weights.items():
        assert returned[name].dtype == array.dtype
        assert returned[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_exported_weights_are_copies(framework: str):
    spec = STRUCTURES["cifar/resnet20"]
    rendering = package(framework)
    model = rendering.build(spec)
    before = rendering.export_weights(model)
    for array in rendering.export_weights(model).values():
        array += 1
    after = rendering.export_weights(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)
