"""Training in Keras, beyond what `tests/contract` asks of every trainer: files, layers and compiled
steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

keras = pytest.importorskip("keras")

import numpy as np

import resnet_keras
from resnet_keras import corrected, init, layers, optimizers, train
from resnet_keras import dropout as dropping
from shared import probe_images
from shared.architecture import ops
from shared.training.config import PROBE
from tests.probes import loaded, relative_error, small
from tests.training_probes import DROPOUT, batch_for, masks_for

# Float64 against a few lines of NumPy: worst 3e-16.
EXACT = 1e-14


def to_numpy(tensor: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(tensor))


@pytest.mark.parametrize("kind", [optimizers.SGD, optimizers.Adam, optimizers.AdamW])
def test_optimizers_survive_a_keras_file(kind: Any, tmp_path: Path) -> None:
    """Through `compile`, `fit`, and a saved model that goes on just as the first."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, kernel_initializer="ones")])
    model.compile(kind(0.1, decay=0.2, decay_norms=False), "mse")
    x, y = np.ones((4, 3), "float32"), np.zeros((4, 2), "float32")
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is kind
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    assert (loaded.optimizer.decay, loaded.optimizer.decay_norms) == (0.2, False)
    for trained in (model, loaded):
        trained.fit(x, y, verbose=0)
    assert all(
        np.array_equal(a, b) for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("unbiased", [True, False])
def test_running_variance_follows_the_plan(unbiased: bool, dtype: str) -> None:
    op = ops.BatchNorm(5, momentum=0.75, unbiased=unbiased)
    norm = layers.Norm2D(op, init.Scope("norm", dtype, small("torchvision/resnet18"), seed=0))
    x = probe_images((2, 2, 1, 5), dtype=dtype)
    norm(keras.ops.convert_to_tensor(x, dtype), training=True)
    expected = 0.75 + 0.25 * op.stored_variance(4) * x.var(axis=(0, 1, 2))
    found = {variable.name: to_numpy(variable) for variable in norm.variables}["moving_variance"]
    assert relative_error(found, expected) <= (EXACT if dtype == "float64" else 1e-6)
    again = type(norm).from_config(norm.get_config())
    assert getattr(again, "unbiased", False) is unbiased


def test_a_norm_saved_before_the_field_was_there_stays_biased() -> None:
    config = layers.Norm2D(
        ops.BatchNorm(5), init.Scope("norm", "float32", small("torchvision/resnet18"), seed=0)
    ).get_config()
    del config["unbiased"]
    assert corrected.BatchNormalization.from_config(config).unbiased is False


def test_dropout_with_and_without_a_mask() -> None:
    images = keras.Input((8, 8, 16))
    dropout = dropping.Dropout(
        ops.Dropout(0.25), init.Scope("dropout", "float32", small("torchvision/resnet18"), seed=0)
    )
    model = keras.Model(images, dropout(images))
    x = probe_images((8, 8, 8, 16))
    drawn = to_numpy(model(x, training=True))
    kept = drawn != 0
    assert 0.7 < kept.mean() < 0.8
    np.testing.assert_allclose(drawn[kept], x[kept] / 0.75, rtol=1e-6)
    mask = np.random.default_rng(0).random(x.shape) < 0.5
    with dropping.keeping(model, {"dropout": mask}):
        np.testing.assert_allclose(to_numpy(model(x, training=True)), x * mask / 0.75, rtol=1e-6)
        assert np.array_equal(to_numpy(model(x, training=False)), x)
    assert not np.array_equal(to_numpy(model(x, training=True)) != 0, mask)


def test_steps_are_compiled_once_and_masks_are_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled and eager steps are the same; masks and learning rates change from step to step."""
    calls: list[bool] = []  # of Python's, which a compiled step makes only once
    monkeypatch.setattr(
        train, "cross_entropy", lambda *a, f=train.cross_entropy: (calls.append(True), f(*a))[1]
    )
    spec = small(DROPOUT)
    (images, labels), masks = batch_for(spec), masks_for(spec)
    other = masks_for(spec, 1)
    results = []
    for compiled in (True, False):
        trainer = resnet_keras.Trainer(loaded(resnet_keras, spec), PROBE, compiled=compiled)
        losses = [
            trainer.step(images, labels, rate, m)
            for rate, m in ((0.1, masks), (0.01, other), (0.05, masks))
        ]
        steps = 3 if keras.backend.backend() == "torch" or not compiled else 1
        assert len(calls) == 2 * steps, "with and without smoothing"
        calls.clear()
        results.append(
            {"losses": np.array(losses), "out": trainer.evaluate(images), **trainer.weights()}
        )
    worst = {name: relative_error(array, results[1][name]) for name, array in results[0].items()}
    assert max(worst.values()) <= EXACT, worst
    trainer.step(images, labels, 0.1)  # without masks
