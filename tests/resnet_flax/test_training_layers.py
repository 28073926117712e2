"""Norms and dropout of Flax in training: running statistics, masks, and norms that are frozen."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")
nnx = pytest.importorskip("flax.nnx")
pytest.importorskip("optax")

import jax.numpy as jnp

import resnet_flax
from resnet_flax import Trainer
from resnet_flax.layers import BatchNorm, Dropout, get_layer
from resnet_flax.train import cross_entropy
from shared import make_plan
from shared.architecture import ops
from shared.training.config import PROBE, norm_layers
from tests.flax_models import BIASED, DROPOUT, FROZEN, UNBIASED, loaded, sample
from tests.training_probes import SIDE, batch_for, masks_for

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


@pytest.mark.parametrize("preset", [BIASED, UNBIASED])
def test_a_networks_statistics_follow_from_its_activations(preset: str) -> None:
    model = loaded(preset, **{"norm.running_var": "biased" if preset == BIASED else "unbiased"})
    before = resnet_flax.export_weights(model)
    trace = resnet_flax.trace(model, batch_for(model.spec)[0], checks=("train",))
    checked = 0
    for node in make_plan(model.spec, SIDE).nodes():
        if not isinstance(node.op, ops.BatchNorm) or f"train/{node.inputs[0]}" not in trace.names:
            continue
        checked += 1
        x = trace[f"train/{node.inputs[0]}"]
        stored = x.var((0, 1, 2)) * node.op.stored_variance(x[..., 0].size)
        for leaf, moment in (("running_mean", x.mean((0, 1, 2))), ("running_var", stored)):
            key = f"{node.name}.{leaf}"
            expected = node.op.momentum * before[key] + (1 - node.op.momentum) * moment
            np.testing.assert_allclose(trace[f"stats/{key}"], expected, rtol=0, atol=1e-13)
    assert checked >= 3


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


def test_masks_decide_a_step_and_each_step_draws_its_own() -> None:
    spec, losses = sample(DROPOUT, depths=(1,)), []
    trainer = Trainer(loaded(DROPOUT, depths=(1,)), PROBE, compiled=False)
    for masks in (masks_for(spec), masks_for(spec), masks_for(spec, 1), None, None):
        losses.append(trainer.gradients(*batch_for(spec), masks).loss)
    assert losses[0] == losses[1]
    assert len(set(losses)) == 4
    assert get_layer(trainer.model, "stages.0.blocks.0.dropout").mask is None


@pytest.mark.parametrize("kind", ["batch", "group"])
def test_frozen_norms_stay_as_they_are(kind: str) -> None:
    model = loaded(UNBIASED, depths=(1,), **{"norm.kind": kind})
    trainer, before = Trainer(model, FROZEN, compiled=False), resnet_flax.export_weights(model)
    images, labels = batch_for(model.spec)
    logits = jnp.asarray(trainer.evaluate(images))
    found = trainer.gradients(images, labels)
    assert (
        found.loss
        == found.unsmoothed
        == pytest.approx(float(cross_entropy(logits, labels, 0.0)), rel=1e-13)
    )
    trainer.step(images, labels, 0.01)
    after, norms = trainer.weights(), norm_layers(make_plan(model.spec))
    trained = {name for name in before if name.rpartition(".")[0] not in norms}
    assert len(trained) < len(before)
    assert {name for name in before if not np.array_equal(before[name], after[name])} == trained
    assert found.tensors.keys() == trained
    assert trainer.state().keys() == {
        f"{slot}/{name}" for slot in ("exp_avg", "exp_avg_sq") for name in trained
    }
