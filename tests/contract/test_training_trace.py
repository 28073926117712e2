"""What a trace of training records in every framework, and that it leaves the model as it was."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from shared import SpecError, make_plan
from shared.architecture import ops
from shared.training.config import PROBE, OptimizerConfig, Training
from shared.verification.recording import CHECKS
from tests.contract.sides import SIDES, SOON, SOONEST, Side
from tests.numpy_training import numpy_loss
from tests.probes import small
from tests.training_probes import (
    BIASED,
    DROPOUT,
    SIDE,
    UNBIASED,
    batch_for,
    expected_arrays,
    masks_for,
)
from tests.zoo import in_zoo, rest_in_zoo

LOSS_LIMIT = 1e-12  # float64, of the outputs of another run
TRAININGS = {
    "probe": PROBE,
    "frozen-adamw": Training(optimizer=OptimizerConfig(kind="adamw"), frozen_norms=True),
    "no-slots": Training(optimizer=OptimizerConfig(momentum=0.0)),
}
FEATURE_MAP = {"num_classes": 0, "head.pool": "none"}
TRACED = [
    (UNBIASED, "probe", {}),
    (BIASED, "frozen-adamw", {}),
    ("fb/preresnet18", "no-slots", FEATURE_MAP),
    (DROPOUT, "probe", {}),
    (BIASED, "probe", {}),
    ("cifar/preresnet20", "probe", {}),
    ("bit/r50x1", "probe", {}),
    ("fb/preresnet18", "probe", {}),
    ("timm/resnet50d", "probe", {}),
    ("ablation/resnet110_exclusive_gate_b6", "probe", {}),
    ("ablation/resnet110_norm_after_add", "probe", {}),
    ("ablation/resnet164_norm_after_add", "probe", {}),
    ("ablation/resnet110_act_before_add", "probe", {}),
]
# The first four in what starts at once, one in Keras; Flax' traces are read in `tests/parity`.
TRACED_SHORT = [*((side, *case) for side in SOONEST for case in TRACED[:4]), ("keras", *TRACED[0])]


@pytest.mark.parametrize(
    ("side", "preset", "training", "changes"),
    rest_in_zoo([(side, *case) for side in SIDES for case in TRACED], TRACED_SHORT),
    indirect=["side"],
)
def test_a_trace_has_the_keys_of_the_contract_and_leaves_the_model_as_it_was(
    side: Side, preset: str, training: str, changes: dict
) -> None:
    spec, configuration = small(preset, **changes), TRAININGS[training]
    model, (images, labels) = side.loaded(spec), batch_for(spec)
    if spec.num_classes:
        side.disturb(model)
    before = side.snapshot(model)
    trace = side.package.trace(model, images, checks=CHECKS[::-1], training=configuration)
    assert side.snapshot(model) == before
    assert [(name, trace.shape(name)) for name in trace.names] == expected_arrays(
        spec, CHECKS, configuration
    )
    assert {trace[name].dtype.name for name in trace.names} == {"float64"}
    assert all(np.isfinite(trace[name]).all() for name in trace.names)
    assert Training.from_json(trace.about["training"]) == configuration
    assert {"labels", "weights", "images"} <= trace.about.keys()
    # What one check recorded agrees with the others, and with a trainer of the same weights.
    output = trace["train/output"]
    logits = output.mean((1, 2)) if output.ndim == 4 else output
    for key, smoothing in (("loss", configuration.label_smoothing), ("loss/unsmoothed", 0.0)):
        assert trace[key] == pytest.approx(numpy_loss(logits, labels, smoothing), rel=LOSS_LIMIT)
    trainer = side.trainer(spec, configuration)
    found = trainer.gradients(images, labels, masks_for(spec))
    assert trace["loss"] == pytest.approx(found.loss, rel=LOSS_LIMIT)
    after = trainer.weights()
    for name in (name for name in trace.names if name.startswith("stats/")):
        np.testing.assert_allclose(trace[name], after[name.removeprefix("stats/")], atol=1e-14)


@pytest.mark.parametrize(
    ("side", "checks"),
    rest_in_zoo(
        itertools.product(SIDES, [("gradients",), ("steps", "eval"), ("train",), ("steps",)]),
        [(side, ("gradients",)) for side in SOONEST],
    ),
    indirect=["side"],
    ids=str,
)
def test_a_check_alone_is_what_it_is_in_company(side: Side, checks: tuple[str, ...]) -> None:
    spec = small(DROPOUT, (1,))
    model, batch = side.loaded(spec), batch_for(spec)
    alone = side.package.trace(model, *batch, checks=checks)
    company = side.package.trace(model, *batch, checks=CHECKS)
    assert alone.names
    assert set(alone.names) <= set(company.names)
    assert all(np.array_equal(alone[name], company[name]) for name in alone.names)


@pytest.mark.parametrize("side", rest_in_zoo(SIDES, SOON), indirect=True)
def test_labels_make_the_trace(side: Side) -> None:
    spec = small(UNBIASED, (1,))
    model, (images, labels) = side.loaded(spec), batch_for(spec)
    default, given, other = (
        side.package.trace(model, images, y, checks=("gradients",))
        for y in (None, labels, (labels + 1) % spec.num_classes)
    )
    assert given["loss"] == default["loss"] != other["loss"]
    assert given.about["labels"] == default.about["labels"] != other.about["labels"]
    assert not {"training", "labels"} & side.package.trace(model, images).about.keys()


def test_unknown_checks_are_refused(side: Side) -> None:
    spec = small(UNBIASED, (1,))
    with pytest.raises(SpecError, match=r"unknown check.*backward"):
        side.package.trace(side.loaded(spec), batch_for(spec)[0], checks=("backward",))


@pytest.mark.parametrize("side", rest_in_zoo(SIDES, SOONEST), indirect=True)
def test_half_precisions_are_widened_in_a_trace(side: Side) -> None:
    """And train: all is finite."""
    spec = small(UNBIASED, (1,))
    with side.precision("bfloat16"):
        trace = side.package.trace(
            side.loaded(spec, "bfloat16"), batch_for(spec)[0].astype(np.float32), checks=CHECKS
        )
    assert trace.dtype == "bfloat16"
    assert all(np.isfinite(trace[name]).all() for name in trace.names)
    tensors = [n for n in trace.names if n.startswith(("train/", "grad/", "step10/exp", "eval/"))]
    assert {trace[name].dtype.name for name in tensors} == {"float32"}
    assert trace["step10/head.bias"].dtype == np.float32


@pytest.mark.parametrize("preset", [BIASED, UNBIASED, in_zoo("timm/resnet50d")])
@pytest.mark.parametrize("kept", ["unbiased", "biased"])
def test_statistics_follow_from_activations(side: Side, preset: str, kept: str) -> None:
    spec = small(preset, (1,), **{"norm.running_var": kept})
    model = side.loaded(spec)
    before = side.package.export_weights(model)
    trace = side.package.trace(model, batch_for(spec)[0], checks=("train",))
    checked = 0
    for node in make_plan(spec, SIDE).nodes():
        if not isinstance(node.op, ops.BatchNorm) or f"train/{node.inputs[0]}" not in trace.names:
            continue
        checked += 1
        x = trace[f"train/{node.inputs[0]}"]
        n = x[..., 0].size
        stored = x.var((0, 1, 2)) * (n / (n - 1) if kept == "unbiased" else 1)
        for leaf, moment in (("running_mean", x.mean((0, 1, 2))), ("running_var", stored)):
            key = f"{node.name}.{leaf}"
            expected = node.op.momentum * before[key] + (1 - node.op.momentum) * moment
            np.testing.assert_allclose(trace[f"stats/{key}"], expected, rtol=0, atol=1e-13)
    assert checked >= 3
