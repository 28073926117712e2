"""Every pair of renderings trains the same: forward pass, statistics, gradients and ten steps of
every structure.
"""

from __future__ import annotations

import functools
import itertools

import pytest

from shared import Trace, compare, get_spec, make_plan, probe_images, probe_weights
from shared.frameworks import reference
from shared.training.config import PROBE, num_outputs, probe_labels
from shared.verification.recording import EVAL, GRADIENTS, STEP, TRAIN, expected_shapes
from tests.parity.rendering import FRAMEWORKS, package
from tests.parity.structures import COVERING, STRUCTURES, network, shallow
from tests.zoo import in_zoo, rest_in_zoo

SIDES = (*FRAMEWORKS, "reference")
CHECKS = (TRAIN, GRADIENTS, STEP)
BATCH = 4
OPTIMIZERS = {
    "sgd": {"optimizer.momentum": 0.0},
    "momentum": {},
    "nesterov": {"optimizer.nesterov": True},
    "decay-of-kernels": {"optimizer.decay_norms": False},
    "adam": {"optimizer.kind": "adam"},
    "adamw": {"optimizer.kind": "adamw", "optimizer.weight_decay": 0.01},
    "adamw-kernels": {"optimizer.kind": "adamw", "optimizer.decay_norms": False},
    "no-smoothing": {"label_smoothing": 0.0},
    "frozen-norms": {"frozen_norms": True},
}


def take(side: str, spec, training=PROBE, checks=CHECKS, size: int = 48) -> Trace:
    rendering = reference if side == "reference" else package(side)
    model = rendering.build(spec, dtype="float64")
    rendering.load_weights(model, probe_weights(spec, dtype="float64"))
    # An average pool of anti-aliasing needs even feature maps.
    size = 64 if spec.anti_alias == "average" else min(size, spec.image_size)
    images = probe_images((BATCH, size, size, spec.in_channels), dtype="float64")
    labels = probe_labels(BATCH, num_outputs(make_plan(spec, size)), seed=1)
    return rendering.trace(model, images, labels, checks=checks, training=training)


def require_equal(traces: dict[str, Trace], checks=CHECKS, training=PROBE) -> None:
    for a, b in itertools.combinations(traces, 2):
        for check in checks:
            comparison = compare(traces[a], traces[b], check=check)
            assert comparison.passed, (
                a,
                b,
                check,
                comparison.first_divergence,
                comparison.worst,
                comparison.problems,
            )
            shape = tuple(int(n) for n in traces[a].about["image_shape"].split("x"))
            plan = make_plan(traces[a].spec, shape[1:3])
            assert [row.name for row in comparison.rows] == list(
                expected_shapes(check, plan, shape[0], training)
            )


# XLA compiles every layer of every structure anew, for minutes in all: Flax trains the `covering`
# ones, and the others in `rosetta verify --all --miniature`.
STRUCTURE_CASES = [
    (preset, framework, "all")
    for preset in STRUCTURES
    for framework in FRAMEWORKS
    if framework != "flax" or preset in COVERING
]
# By turns, and in Flax what XLA compiles soonest: see above.
TURNS = ("torch", "torch", "torch", "keras", "torch", "torch", "torch", "torch")
SOONEST = "ablation/resnet110_scale_0.5_1"
STRUCTURES_SHORT = [
    (preset, "flax" if preset == SOONEST else TURNS[i % len(TURNS)], "fewest")
    for i, preset in enumerate(COVERING)
]
# All in PyTorch, and each in one of the others; the exhaustive run has the rest.
STRUCTURES_ZOO = [
    case
    for case in STRUCTURE_CASES
    if case[1] == "torch" or case[1] == ("keras", "flax")[list(STRUCTURES).index(case[0]) % 2]
]
STRUCTURE_CASES += STRUCTURES_SHORT


@pytest.fixture(scope="module")
def reference_trace():
    """The reference's trace of a structure, kept for the frameworks that follow."""
    return functools.lru_cache(1)(lambda spec, checks: take("reference", spec, checks=checks))


@pytest.mark.parametrize(
    ("preset", "framework", "blocks"),
    rest_in_zoo(STRUCTURE_CASES, STRUCTURES_SHORT, STRUCTURES_ZOO),
)
def test_every_structure_trains_alike(
    preset: str, framework: str, blocks: str, reference_trace
) -> None:
    """Forward pass, statistics and gradients are the reference's; the steps are below."""
    spec, checks = network(preset, blocks), (TRAIN, GRADIENTS)
    here = take(framework, spec, checks=checks)
    require_equal({framework: here, "reference": reference_trace(spec, checks)}, checks)


STEPPED = (
    "torchvision/resnet18",
    "torchvision/resnext50_32x4d",
    "keras/resnet50v2",
    "bit/r50x1",
    "fb/preresnet18",
    "ablation/resnet110_exclusive_gate_b0",
    "ablation/resnet110_dropout_shortcut",
    "d2l/resnet18",
    "he/plain18",
    "timm/resnetaa34d",
    "timm/resnetblur18",
)


STEPPED_CASES = [*itertools.product([s for s in STEPPED if s in STRUCTURES], FRAMEWORKS, ["all"])]
# Basic blocks with and without shortcuts that change, gates, dropout: what is compiled soonest.
STEPPED_SHORT = {
    ("d2l/resnet18", "torch", "fewest"),
    ("ablation/resnet110_exclusive_gate_b0", "torch", "fewest"),
    ("ablation/resnet110_dropout_shortcut", "keras", "fewest"),
    ("he/plain18", "flax", "fewest"),
}
STEPPED_CASES += sorted(STEPPED_SHORT)


@pytest.mark.parametrize(
    ("preset", "framework", "blocks"), rest_in_zoo(STEPPED_CASES, STEPPED_SHORT)
)
def test_ten_steps_are_the_same(preset: str, framework: str, blocks: str, reference_trace) -> None:
    spec = network(preset, blocks)
    here = take(framework, spec, checks=(STEP,))
    require_equal({framework: here, "reference": reference_trace(spec, (STEP,))}, (STEP,))


@pytest.mark.parametrize(
    "preset",
    ["ablation/resnet110_exclusive_gate_b0", in_zoo("ablation/resnet110_shortcut_gate_b0")],
)
def test_gates_are_no_chaos_at_full_depth(preset: str) -> None:
    """Through 54 gates a difference must not grow; half-open ones of the probe made
    1e-8 of 1e-16.
    """
    sides, checks = ("torch", "reference"), (EVAL, TRAIN)
    require_equal(
        {side: take(side, get_spec(preset), checks=checks, size=16) for side in sides}, checks
    )


OPTIMIZER_CASES = [*itertools.product(OPTIMIZERS, FRAMEWORKS)]
# What an update means to each of them is in `tests/contract`; here are those that the loss or the
# trainer changes, and one that Keras compiles.
OPTIMIZERS_SHORT = [
    ("momentum", "keras"),
    *((name, "torch") for name in ("adamw-kernels", "no-smoothing", "frozen-norms")),
]


@pytest.mark.parametrize(("optimizer", "framework"), rest_in_zoo(OPTIMIZER_CASES, OPTIMIZERS_SHORT))
def test_every_optimizer_means_the_same(optimizer: str, framework: str) -> None:
    training = PROBE.replace(OPTIMIZERS[optimizer])
    spec = shallow(STRUCTURES["cifar/resnet20"])
    of_the_loss = optimizer in ("no-smoothing", "frozen-norms")
    checks = CHECKS if of_the_loss else (STEP,)
    traces = {side: take(side, spec, training, checks, 16) for side in (framework, "reference")}
    require_equal(traces, checks, training)


@pytest.mark.parametrize(
    ("running_var", "framework"),
    rest_in_zoo(
        [*itertools.product(["unbiased", "biased"], FRAMEWORKS)],
        [("unbiased", "torch"), ("biased", "torch")],
    ),
)
def test_an_eps_of_zero_trains_alike(running_var: str, framework: str) -> None:
    """PyTorch's own function refuses to."""
    changes = {"norm.eps": 0.0, "norm.running_var": running_var}
    spec = shallow(STRUCTURES["cifar/resnet20"]).replace(**changes)
    require_equal({side: take(side, spec, size=16) for side in (framework, "reference")})


@pytest.mark.parametrize(
    "changes", [in_zoo({"num_classes": 0}), {"num_classes": 0, "head.pool": "none"}]
)
def test_networks_without_a_classifier_train_alike(changes: dict) -> None:
    spec = shallow(STRUCTURES["cifar/resnet20"]).replace(**changes)
    checks = (GRADIENTS,)
    require_equal({side: take(side, spec, checks=checks, size=16) for side in SIDES}, checks)
