"""Norms and dropout of PyTorch in training: running statistics and masks."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F

import resnet_torch
from resnet_torch.layers import (
    BiasedBatchNorm2d,
    BiasedSyncBatchNorm,
    Dropout,
    keep_biased,
    make_norm,
)
from resnet_torch.train import Trainer
from shared.architecture import ops
from shared.training.config import Training
from tests.probes import loaded, small
from tests.training_probes import BIASED, SIDE, UNBIASED, batch_for


@pytest.mark.parametrize("unbiased", [True, False])
def test_running_statistics_are_the_plans(unbiased: bool) -> None:
    """Of the layer alone, and the batch is normalised by its biased variance in both."""
    op = ops.BatchNorm(5, eps=1e-3, momentum=0.7, unbiased=unbiased)
    layer, rng = make_norm(op).double(), np.random.default_rng(0)
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


@pytest.mark.parametrize("preset", [BIASED, UNBIASED])
def test_a_single_value_a_channel_has_no_variance(preset: str) -> None:
    model = loaded(resnet_torch, small(preset, (1,) * 4))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float64))


def statistics(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in model.named_buffers()}


@pytest.mark.parametrize("preset", [BIASED, UNBIASED, "keras/resnet50"])
def test_synchronised_norms_keep_the_stored_variance(preset: str) -> None:
    """`nn.SyncBatchNorm` stores the unbiased variance, and Keras and Flax the biased one."""
    model = loaded(resnet_torch, small(preset))
    images = torch.from_numpy(batch_for(model.spec)[0]).permute(0, 3, 1, 2)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    expected = model(images)
    moved = statistics(model)
    model.load_state_dict(before)
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    norms = [m for m in converted.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert all(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms)
    torch.testing.assert_close(converted(images), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(statistics(converted), moved, rtol=0, atol=1e-13)
    assert resnet_torch.export_weights(converted).keys() == before.keys() - {
        name for name in before if name.endswith("num_batches_tracked")
    }
    frozen = statistics(converted)
    converted.eval()(images)
    assert all(torch.equal(t, frozen[name]) for name, t in converted.named_buffers())


def test_synchronised_norms_count_the_values_of_all_processes(monkeypatch) -> None:
    """This process has one image, the others have three."""
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 5, 3, 3)))

    def synchronised(self, x: torch.Tensor) -> torch.Tensor:
        arguments = (self.running_mean, self.running_var, self.weight, self.bias)
        return F.batch_norm(images, *arguments, True, self.momentum, self.eps)[: len(x)]

    monkeypatch.setattr(torch.nn.SyncBatchNorm, "forward", synchronised)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda n, group: n.add_(3 * 9))
    layer = BiasedSyncBatchNorm(5, momentum=0.3).double()
    layer(images[:1])
    expected = 0.7 + 0.3 * images.numpy().var((0, 2, 3))
    np.testing.assert_allclose(layer.running_var.numpy(), expected, rtol=1e-14)


def test_frozen_norms_may_be_synchronised_ones() -> None:
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(loaded(resnet_torch, small(BIASED)))
    before = statistics(model)
    Trainer(model, Training(frozen_norms=True)).step(*batch_for(model.spec), 0.01)
    assert all(torch.equal(t, before[name]) for name, t in model.named_buffers())


@pytest.mark.parametrize("convert", [False, True])
def test_running_statistics_can_be_the_average_of_all_batches(convert: bool) -> None:
    """`torch.optim.swa_utils.update_bn` sets the momentum to None for that."""
    layer: torch.nn.Module = BiasedBatchNorm2d(5).double()
    if convert:
        layer = keep_biased(torch.nn.SyncBatchNorm.convert_sync_batchnorm(layer))
    batches = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 2, 5, 4, 4)))
    torch.optim.swa_utils.update_bn(batches, layer)
    expected = np.mean([x.var((0, 2, 3)) for x in batches.numpy()], axis=0)
    np.testing.assert_allclose(layer.running_var.numpy(), expected, rtol=1e-14)
    assert layer.momentum == 0.1


@pytest.mark.parametrize("unbiased", [True, False])
def test_a_norm_prints_its_momentum_in_full(unbiased: bool) -> None:
    assert "momentum=0.1," in repr(make_norm(ops.BatchNorm(5, momentum=0.9, unbiased=unbiased)))


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
