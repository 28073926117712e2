"""Norms and dropout of Flax in training: running statistics and masks."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")
nnx = pytest.importorskip("flax.nnx")
pytest.importorskip("optax")

import jax.numpy as jnp

from resnet_flax.layers import BatchNorm, Dropout
from shared.architecture import ops

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("unbiased", [True, False])
def test_running_statistics_are_the_plans(unbiased: bool, jit: bool) -> None:
    """And the batch is normalised by its biased variance in both."""
    layer = BatchNorm(
        ops.BatchNorm(5, eps=1e-3, momentum=0.7, unbiased=unbiased),
        rngs=nnx.Rngs(0),
        dtype="float64",
    )
    call = nnx.jit(lambda layer, x: layer(x)) if jit else lambda layer, x: layer(x)
    mean, variance, rng = np.zeros(5), np.ones(5), np.random.default_rng(0)
    for _ in range(2):
        x = rng.standard_normal((2, 3, 1, 5)) * 2 + 1
        y = call(layer, jnp.asarray(x))
        mean = 0.7 * mean + 0.3 * x.mean((0, 1, 2))
        variance = 0.7 * variance + 0.3 * x.var((0, 1, 2)) * (6 / 5 if unbiased else 1)
        np.testing.assert_allclose(layer.mean[...], mean, rtol=1e-14)
        np.testing.assert_allclose(layer.var[...], variance, rtol=1e-14)
        expected = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-3)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-14)
    layer(jnp.asarray(x), use_running_average=True)
    layer.eval()
    layer(jnp.asarray(x))
    np.testing.assert_allclose(layer.var[...], variance, rtol=1e-14)


def test_a_single_value_a_channel_has_no_variance() -> None:
    layer = BatchNorm(ops.BatchNorm(3, momentum=0.75), rngs=nnx.Rngs(0), dtype="float64")
    layer(jnp.ones((1, 1, 1, 3)))
    np.testing.assert_array_equal(layer.var[...], 0.75)


def test_dropout_keeps_what_its_mask_keeps() -> None:
    layer = Dropout(ops.Dropout(0.4), rngs=nnx.Rngs(0))
    x, rng = np.random.default_rng(0).standard_normal((2, 3, 4, 5)), np.random.default_rng(1)
    before = nnx.state(layer)
    layer.mask = jnp.asarray(rng.random(x.shape) < 0.6)
    np.testing.assert_allclose(layer(jnp.asarray(x)), x * np.asarray(layer.mask) / 0.6, rtol=1e-15)
    np.testing.assert_array_equal(layer(jnp.asarray(x), deterministic=True), x)
    layer.eval()
    np.testing.assert_array_equal(layer(jnp.asarray(x)), x)
    layer.mask = None
    assert jax.tree.structure(nnx.state(layer)) == jax.tree.structure(before)


def test_dropout_without_a_mask_is_the_stock_layer() -> None:
    layer, stock = Dropout(ops.Dropout(0.4), rngs=nnx.Rngs(3)), nnx.Dropout(0.4, rngs=nnx.Rngs(3))
    assert jax.tree.structure(nnx.state(layer)) == jax.tree.structure(nnx.state(stock))
    ones = jnp.ones((4, 50, 50, 4))
    first, second = np.asarray(layer(ones)), np.asarray(layer(ones))
    np.testing.assert_array_equal(first, stock(ones))
    assert not np.array_equal(first, second)
    np.testing.assert_allclose(np.unique(first), [0.0, 1 / 0.6], rtol=1e-15)
    assert np.mean(first > 0) == pytest.approx(0.6, abs=0.01)  # 4 standard deviations
