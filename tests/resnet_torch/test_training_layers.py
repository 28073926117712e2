"""Norms and dropout of PyTorch in training: running statistics and masks."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import resnet_torch
from resnet_torch.layers import BiasedBatchNorm2d, Dropout, Norm2d
from shared.architecture import ops
from tests.probes import loaded, small
from tests.training_probes import BIASED, SIDE, UNBIASED


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


@pytest.mark.parametrize("preset", [BIASED, UNBIASED])
def test_a_single_value_a_channel_has_no_variance(preset: str) -> None:
    model = loaded(resnet_torch, small(preset, (1,) * 4))
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
