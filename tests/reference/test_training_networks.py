"""Whole networks of the reference: gradients against finite differences, and what a trace of
training records.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from shared import ResNetSpec, get_spec, make_plan
from shared.architecture.presets import miniature
from shared.frameworks import reference
from shared.frameworks.reference import Trainer
from shared.reference.loss import cross_entropy
from shared.training.config import PROBE, OptimizerConfig, Training, dropout_masks, probe_labels
from shared.verification.recording import CHECKS
from shared.weights.canonical import Weights
from shared.weights.random import named_rng
from tests.differences import finite_difference, random, some_indices
from tests.probes import loaded, relative_error, same_weights, small
from tests.training_probes import batch_for, expected_arrays
from tests.zoo import in_zoo

# A network's loss bends wherever a ReLU or the maximum of a pool switches within the step: then a
# smaller one counts.
NETWORK_STEPS = (1e-7, 1e-8)
NETWORK_LIMIT = 1e-6  # relative to the largest gradient. Measured at most 3e-8

FROZEN = Training(optimizer=OptimizerConfig(weight_decay=5e-4), frozen_norms=True)

# Of two stages, with every kind of block that the whole ones have.
NETWORKS = {
    name: small(name, (1, 2))
    for name in (
        "torchvision/resnet18",
        "torchvision/resnext50_32x4d",
        "timm/resnet50d",
        "timm/resnetv2_50d_gn",
        "he/resnet18_a",
        "keras/resnet50v2",
        "cifar/preresnet20",
        "bit/r50x1",
        "fb/preresnet18",
        "ablation/resnet110_dropout_shortcut",
        "ablation/resnet110_exclusive_gate_b6",
        "ablation/resnet110_shortcut_gate_b0",
        "ablation/resnet110_scale_0.5_0.5",
        "ablation/resnet110_norm_after_add",
        "ablation/resnet110_act_only_pre",
    )
}
NETWORKS["dilated"] = small("timm/resnet50d", (1, 1, 2), dilate=(False, True, True))
NETWORKS["features"] = NETWORKS["torchvision/resnet18"].replace(
    num_classes=0, **{"head.pool": "max"}
)
NETWORKS["image"] = NETWORKS["fb/preresnet18"].replace(num_classes=0, **{"head.pool": "none"})
WHOLE = [name for name in NETWORKS if "/" in name]


def size_for(spec: ResNetSpec) -> int:
    """So that batch norm has more than a few values in the last stage."""
    return 32 if len(spec.depths) < 4 else 64


def check_network(spec: ResNetSpec, training: Training, coordinates: int) -> None:
    """Gradients at single values of as many tensors, of every kind, and along a direction through
    all of them.
    """
    images, labels = batch_for(spec, size_for(spec))
    plan = make_plan(spec, images.shape[1:3])
    masks = dropout_masks(plan, len(images), 0)
    model = loaded(reference, spec)
    arrays = {**reference.export_weights(model), "images": images}
    found = Trainer(model, training).gradients(images, labels, masks)
    gradients = {**found.tensors, "images": found.images}
    assert {name: gradient.shape for name, gradient in gradients.items()} == {
        name: arrays[name].shape for name in (*training.trainable(plan), "images")
    }

    def loss(arrays: Weights) -> float:
        *_, last = reference.forward(
            plan,
            arrays,
            arrays["images"],
            train=True,
            frozen_norms=training.frozen_norms,
            masks=masks,
        )
        return float(cross_entropy(last.output, labels, training.label_smoothing))

    def agrees(gradient: float, difference: Callable[[float], float], scale: float) -> bool:
        return any(
            abs(gradient - difference(step)) <= NETWORK_LIMIT * scale for step in NETWORK_STEPS
        )

    largest = max(np.abs(gradient).max() for gradient in gradients.values())
    names = [
        "images",
        "images",
        *named_rng(spec.name, 0).choice(list(found.tensors), coordinates - 2),
    ]
    for k, name in enumerate(names):
        (index,) = some_indices(arrays[name], 1, f"{name} {k}")
        difference = partial(finite_difference, lambda: loss(arrays), arrays[name], index)
        assert agrees(gradients[name][index], difference, largest), (name, index)

    along = {
        name: random(name, *array.shape) / math.sqrt(array.size)
        for name, array in gradients.items()
    }

    def directional(step: float) -> float:
        above, below = (
            loss(
                {name: array + sign * step * along.get(name, 0.0) for name, array in arrays.items()}
            )
            for sign in (1, -1)
        )
        return (above - below) / (2 * step)

    expected = sum((gradients[name] * direction).sum() for name, direction in along.items())
    deviation = math.sqrt(
        sum((gradient**2).mean() for gradient in gradients.values())
    )  # of such sums
    assert agrees(expected, directional, deviation)


@pytest.mark.parametrize("spec", NETWORKS.values(), ids=NETWORKS)
def test_gradients_against_finite_differences(spec: ResNetSpec) -> None:
    check_network(spec, PROBE, 6)


@pytest.mark.zoo
@pytest.mark.parametrize("name", WHOLE)
def test_gradients_of_whole_networks_against_finite_differences(name: str) -> None:
    check_network(miniature(get_spec(name)), PROBE, 16)


def test_gradients_with_frozen_norms_against_finite_differences() -> None:
    check_network(NETWORKS["torchvision/resnet18"], FROZEN, 16)


@pytest.mark.parametrize(
    "name",
    [
        "torchvision/resnet18",
        "keras/resnet50v2",
        in_zoo("cifar/preresnet20"),
        "bit/r50x1",
        "ablation/resnet110_dropout_shortcut",
        in_zoo("ablation/resnet110_exclusive_gate_b6"),
        "features",
        "image",
    ],
)
def test_a_trace_has_the_expected_keys_and_leaves_the_model_as_it_was(name: str) -> None:
    spec = NETWORKS[name]
    images, _ = batch_for(spec)
    model = loaded(reference, spec)
    before = reference.export_weights(model)
    trace = reference.trace(model, images, checks=CHECKS[::-1])
    assert [(name, trace.shape(name)) for name in trace.names] == expected_arrays(
        spec, CHECKS, PROBE
    )
    assert {trace[name].dtype for name in trace.names} == {np.dtype("float64")}
    assert all(np.isfinite(trace[name]).all() for name in trace.names)
    assert same_weights(model.weights, before)
    assert trace.about["training"] == PROBE.to_json()
    if spec.num_classes:
        assert trace["loss"] == cross_entropy(
            trace["train/output"], probe_labels(4, spec.num_classes, 0), 0.1
        )


@pytest.mark.parametrize(
    "training",
    [
        FROZEN,
        *(
            Training(optimizer=OptimizerConfig(kind=kind, momentum=0.0))
            for kind in ("sgd", "adam", "adamw")
        ),
    ],
    ids=lambda training: training.optimizer.kind + "-frozen" * training.frozen_norms,
)
def test_a_trace_of_another_training_has_the_expected_keys(training: Training) -> None:
    spec = NETWORKS["torchvision/resnet18"]
    trace = reference.trace(
        loaded(reference, spec), batch_for(spec)[0], checks=CHECKS[1:], training=training
    )
    assert [(name, trace.shape(name)) for name in trace.names] == expected_arrays(
        spec, CHECKS[1:], training
    )


def test_an_inference_trace_says_nothing_of_training() -> None:
    spec = NETWORKS["ablation/resnet110_dropout_shortcut"]
    trace = reference.trace(loaded(reference, spec), batch_for(spec)[0])
    assert not {"training", "labels"} & set(trace.about)


def test_statistics_are_those_after_one_forward_pass() -> None:
    spec = NETWORKS["torchvision/resnet18"]
    images, labels = batch_for(spec)
    model = loaded(reference, spec)
    trace = reference.trace(model, images, checks=("train",))
    Trainer(model, PROBE).gradients(images, labels)
    names = [name for name in model.weights if ".running_" in name]
    assert all(np.array_equal(trace[f"stats/{name}"], model.weights[name]) for name in names)
    values = trace["train/stem.conv1"].reshape(-1, 8)
    old = loaded(reference, spec).weights
    for leaf, batch in (("mean", values.mean(axis=0)), ("var", values.var(axis=0, ddof=1))):
        expected = 0.9 * old[f"stem.norm1.running_{leaf}"] + 0.1 * batch
        assert relative_error(trace[f"stats/stem.norm1.running_{leaf}"], expected) <= 1e-13
