"""What a trace of training in PyTorch records, and that the model is left as it was."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import resnet_torch
from resnet_torch.train import Trainer
from shared import SpecError
from shared.training.config import PROBE, OptimizerConfig, Training
from shared.verification.recording import CHECKS
from tests.numpy_training import numpy_loss
from tests.torch_models import BIASED, DROPOUT, FROZEN, SAMPLES, UNBIASED, loaded
from tests.training_probes import batch_for, expected_arrays, masks_for

TRAININGS = {
    "probe": PROBE,
    "frozen": Training(frozen_norms=True),
    "adamw": Training(optimizer=OptimizerConfig(kind="adamw")),
    "no-slots": Training(optimizer=OptimizerConfig(momentum=0.0)),
}


@pytest.mark.parametrize(
    ("preset", "training"),
    [(p, "probe") for p in SAMPLES] + [(BIASED, t) for t in list(TRAININGS)[1:]],
)
def test_traces_have_the_keys_of_the_contract(preset: str, training: str) -> None:
    model = loaded(preset)
    images, labels = batch_for(model.spec)
    trace = resnet_torch.trace(model, images, checks=CHECKS[::-1], training=TRAININGS[training])
    assert [(name, trace.shape(name)) for name in trace.names] == expected_arrays(
        model.spec, CHECKS, TRAININGS[training]
    )
    assert {trace[name].dtype for name in trace.names} == {np.dtype(np.float64)}
    assert Training.from_json(trace.about["training"]) == TRAININGS[training]
    # What one check recorded agrees with the others, and with a trainer that starts from the same
    # weights.
    smoothing = TRAININGS[training].label_smoothing
    assert trace["loss"] == pytest.approx(
        numpy_loss(trace["train/output"], labels, smoothing), rel=1e-12
    )
    assert trace["loss/unsmoothed"] == pytest.approx(
        numpy_loss(trace["train/output"], labels, 0.0), rel=1e-12
    )
    trainer = Trainer(model, TRAININGS[training])
    assert trace["loss"] == trainer.gradients(images, labels, masks_for(model.spec)).loss
    after = trainer.weights()
    assert all(
        np.array_equal(trace[n], after[n.removeprefix("stats/")])
        for n in trace.names
        if "stats/" in n
    )


@pytest.mark.parametrize(
    "checks", [("train",), ("gradients",), ("steps",), ("steps", "eval")], ids=str
)
def test_a_check_alone_is_what_it_is_in_company(checks: tuple[str, ...]) -> None:
    model = loaded(DROPOUT)
    images, labels = batch_for(model.spec)
    alone = resnet_torch.trace(model, images, labels, checks=checks)
    company = resnet_torch.trace(model, images, labels, checks=CHECKS)
    assert alone.names
    assert set(alone.names) <= set(company.names)
    assert all(np.array_equal(alone[name], company[name]) for name in alone.names)


def test_evaluation_alone_says_nothing_of_training() -> None:
    model = loaded(UNBIASED)
    assert (
        not {"training", "labels"}
        & resnet_torch.trace(model, batch_for(model.spec)[0]).about.keys()
    )


def test_labels_make_the_trace() -> None:
    model = loaded(UNBIASED)
    images, labels = batch_for(model.spec)
    given, default, other = (
        resnet_torch.trace(model, images, given, checks=("gradients",))
        for given in (labels, None, (labels + 1) % model.spec.num_classes)
    )
    assert given["loss"] == default["loss"] != other["loss"]
    assert given.about["labels"] == default.about["labels"] != other.about["labels"]


def test_unknown_checks_are_refused() -> None:
    model = loaded(UNBIASED)
    with pytest.raises(SpecError, match="backward"):
        resnet_torch.trace(model, batch_for(model.spec)[0], checks=("backward",))


def test_half_precisions_are_widened_in_a_trace() -> None:
    model = loaded(BIASED, "bfloat16")
    trace = resnet_torch.trace(model, batch_for(model.spec)[0].astype(np.float32), checks=CHECKS)
    arrays = {
        name: trace[name] for name in trace.names if "loss" not in name and trace[name].size < 1024
    }
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    assert trace.dtype == "bfloat16"


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("preset", [BIASED, DROPOUT])
def test_a_trace_leaves_the_model_as_it_was(preset: str, training: bool) -> None:
    model = loaded(preset).train(training)
    model.stem.train(not training)
    model.head.weight.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes, random = [module.training for module in model.modules()], torch.get_rng_state()
    resnet_torch.trace(model, batch_for(model.spec)[0], checks=CHECKS, training=FROZEN)
    assert all(
        torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items()
    )  # counters, too
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert [
        n for n, p in model.named_parameters() if not p.requires_grad or p.grad is not None
    ] == ["head.weight"]
    assert torch.equal(torch.get_rng_state(), random)
