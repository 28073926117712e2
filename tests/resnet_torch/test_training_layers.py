"""Norms and dropout of PyTorch in training: running statistics, masks, and norms that
are frozen.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import resnet_torch
from resnet_torch.layers import BiasedBatchNorm2d, Dropout, Norm2d
from resnet_torch.train import Trainer
from shared import make_plan
from shared.architecture import ops
from shared.training.config import PROBE, Training, norm_layers
from tests.torch_models import BIASED, DROPOUT, UNBIASED, loaded
from tests.training_probes import SIDE, batch_for, masks_for


@pytest.mark.parametrize("unbiased", [True, False])
def test_running_statistics_are_the_plans(unbiased: bool) -> None:
    """Of the layer alone, and the batch is normalised by its biased variance in both."""
    op = ops.BatchNorm(5, eps=1e-3, momentum=0.7, unbiased=unbiased)
    layer, rng = Norm2d(op).double(), np.random.default_rng(0)
    assert type(layer) is (torch.nn.BatchNorm2d if unbiased else BiasedBatchNorm2d)
    mean, variance = np.zeros(5), np.ones(5)
    for count in (1, 2):
        x = rng.standard_normal((2, 5, 3, 1)) * 2 + 1
        images = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
        y = layer(images)
        batch_mean, batch_variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
        mean = 0.7 * mean + 0.3 * batch_mean
        variance = 0.7 * variance + 0.3 * batch_variance * (6 / 5 if unbiased else 1)
        np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-14)
        np.testing.assert_allclose(layer.running_var.numpy(), variance, rtol=1e-14)
        per_channel = [v.reshape(5, 1, 1) for v in (batch_mean, np.sqrt(batch_variance + 1e-3))]
        np.testing.assert_allclose(
            y.detach().numpy(), (x - per_channel[0]) / per_channel[1], rtol=0, atol=1e-14
        )
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert layer.num_batches_tracked == count
    before = layer.running_var.clone()
    layer.eval()(images)
    assert torch.equal(layer.running_var, before)


@pytest.mark.parametrize("preset", [BIASED, UNBIASED, "timm/resnet50d"])
def test_a_networks_statistics_follow_from_its_activations(preset: str) -> None:
    model = loaded(preset)
    before = resnet_torch.export_weights(model)
    trace = resnet_torch.trace(model, batch_for(model.spec)[0], checks=("train",))
    norms = {
        node.name: node
        for node in make_plan(model.spec, SIDE).nodes()
        if isinstance(node.op, ops.BatchNorm)
    }
    for name, node in norms.items():
        x = trace[f"train/{node.inputs[0]}"]
        stored = x.var((0, 1, 2)) * node.op.stored_variance(x[..., 0].size)
        for leaf, moment in (("running_mean", x.mean((0, 1, 2))), ("running_var", stored)):
            expected = node.op.momentum * before[f"{name}.{leaf}"] + (1 - node.op.momentum) * moment
            np.testing.assert_allclose(trace[f"stats/{name}.{leaf}"], expected, rtol=0, atol=1e-13)
    unbiased = {node.op.unbiased for node in norms.values()}
    assert unbiased == {preset != BIASED}


@pytest.mark.parametrize("preset", [BIASED, UNBIASED])
def test_a_single_value_a_channel_has_no_variance(preset: str) -> None:
    model = loaded(preset)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float64))


def test_dropout_keeps_what_its_mask_keeps() -> None:
    layer, rng = Dropout(ops.Dropout(0.25)), np.random.default_rng(0)
    x, mask = rng.standard_normal((2, 3, 4, 5)), rng.random((2, 4, 5, 3)) >= 0.25
    layer.mask = torch.from_numpy(mask)
    found = layer(torch.from_numpy(x))
    np.testing.assert_array_equal(found.numpy(), x * mask.transpose(0, 3, 1, 2) / 0.75)
    assert torch.equal(layer.eval()(torch.from_numpy(x)), torch.from_numpy(x))


def test_dropout_without_a_mask_is_the_stock_layer() -> None:
    layer, stock, x = Dropout(ops.Dropout(0.25)), torch.nn.Dropout(0.25), torch.ones(100, 100)
    torch.manual_seed(0)
    found = layer(x)
    torch.manual_seed(0)
    assert torch.equal(found, stock(x))
    torch.testing.assert_close(found[found != 0], torch.full_like(found[found != 0], 1 / 0.75))
    assert (found != 0).double().mean() == pytest.approx(
        0.75, abs=0.02
    )  # four and a half deviations


def test_masks_decide_a_step_and_are_gone_behind_it() -> None:
    model = loaded(DROPOUT)
    trainer, batch, masks = Trainer(model, PROBE), batch_for(model.spec), masks_for(model.spec)
    assert masks
    assert trainer.gradients(*batch, masks).loss == trainer.gradients(*batch, masks).loss
    dropouts = [module for module in model.modules() if isinstance(module, Dropout)]
    assert [d.mask for d in dropouts] == [None] * len(masks)
    assert trainer.gradients(*batch).loss != trainer.gradients(*batch).loss
    other = masks | {name: ~mask for name, mask in list(masks.items())[:1]}
    assert trainer.gradients(*batch, masks).loss != trainer.gradients(*batch, other).loss


@pytest.mark.parametrize("preset", ["keras/resnet50v2", "bit/r50x1", "torchvision/resnet18"])
def test_frozen_norms_stay_as_they_are(preset: str) -> None:
    model = loaded(preset)
    training = Training(frozen_norms=True)
    trainer, batch, before = (
        Trainer(model, training),
        batch_for(model.spec),
        resnet_torch.export_weights(model),
    )
    norms = norm_layers(make_plan(model.spec))
    frozen = {name for name in before if name.rpartition(".")[0] in norms}
    for rate in (0.01, 0.02):
        trainer.step(*batch, rate)
    after = trainer.weights()
    assert frozen == {name for name in before if np.array_equal(before[name], after[name])}
    assert {name.partition("/")[2] for name in trainer.state()} == before.keys() - frozen
    trace = resnet_torch.trace(model, batch[0], checks=("eval", "train"), training=training)
    np.testing.assert_array_equal(
        trace["train/output"], trace["eval/output"]
    )  # no statistics of the batch
