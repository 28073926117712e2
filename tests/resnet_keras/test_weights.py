"""Building in Keras, and weights in and out of models that Keras made of ours."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

keras = pytest.importorskip("keras")
tensorflow = pytest.importorskip("tensorflow")

import numpy as np

import resnet_keras
from resnet_keras.train import Trainer
from shared import FrameworkError, SpecError, probe_images, probe_weights
from shared.training.config import PROBE
from shared.weights.initial import initial_weights
from tests.keras_backend_parity import global_state, small
from tests.probes import same_weights

# Logits and loss in half precision of the same float32 weights, against float32. Measured: 0.0053.
HALF_LIMIT = 0.02

SPEC = small("keras/resnet50v2")


@pytest.fixture
def images() -> np.ndarray:
    return probe_images((2, 33, 33, 3))


def probed(dtype: str = "float32") -> resnet_keras.ResNet:
    model = resnet_keras.build(SPEC, dtype=dtype)
    resnet_keras.load_weights(model, probe_weights(SPEC))
    return model


def test_from_config_leaves_its_argument_as_it_was() -> None:
    config = resnet_keras.build(SPEC, seed=3).get_config()
    before = copy.deepcopy(config)
    for _ in range(2):
        model = resnet_keras.ResNet.from_config(config)
        assert model.spec == SPEC
        assert same_weights(resnet_keras.export_weights(model), initial_weights(SPEC, 3))
    assert config == before


def test_a_clone_starts_anew_and_takes_weights(images: np.ndarray, tmp_path: Path) -> None:
    model = probed()
    clone = keras.models.clone_model(model)
    assert same_weights(resnet_keras.export_weights(clone), initial_weights(SPEC))
    clone.save(tmp_path / "clone.keras")
    loaded = keras.saving.load_model(tmp_path / "clone.keras")
    for other in (clone, loaded):
        resnet_keras.load_weights(other, probe_weights(SPEC))
        first, second = resnet_keras.trace(model, images), resnet_keras.trace(other, images)
        assert (first.spec, first.dtype) == (second.spec, second.dtype)
        assert all(np.array_equal(first[name], second[name]) for name in first.names)
    labels = np.array([1, 2])
    assert Trainer(clone, PROBE).step(images, labels, 0.1) == Trainer(model, PROBE).step(
        images, labels, 0.1
    )


def test_a_part_of_a_network_is_refused() -> None:
    model = resnet_keras.build(SPEC)
    part = keras.models.clone_model(keras.Model(model.input, model.get_layer("pool").output))
    with pytest.raises(FrameworkError, match=r"a part of .*no head\.weight"):
        resnet_keras.export_weights(part)


@pytest.mark.parametrize("model", [keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])])
def test_another_model_is_refused(model: keras.Model) -> None:
    with pytest.raises(FrameworkError, match=r"expected a ResNet.*Sequential"):
        resnet_keras.export_weights(model)


@pytest.mark.parametrize(
    "dtype", [tensorflow.float64, np.float64, np.dtype("float64"), keras.DTypePolicy("float64")]
)
def test_dtypes_are_names_or_objects(dtype: object) -> None:
    model = resnet_keras.build(SPEC, dtype=dtype)
    assert {variable.dtype for variable in model.variables} == {"float64"}


@pytest.mark.parametrize("dtype", ["float", "mixed_float64", np.int32, tensorflow.int32])
def test_another_dtype_is_refused(dtype: object) -> None:
    with pytest.raises(SpecError, match=r"dtype = .*must be one of .*mixed_bfloat16"):
        resnet_keras.build(SPEC, dtype=dtype)


@pytest.mark.parametrize(
    ("dtype", "half"), [("mixed_bfloat16", "bfloat16"), ("mixed_float16", "float16")]
)
def test_mixed_precision(dtype: str, half: str, images: np.ndarray, tmp_path: Path) -> None:
    """Weights and running statistics in float32, all else in half precision."""
    before = global_state()
    model = probed(dtype)
    assert global_state() == before
    assert {variable.dtype for variable in model.variables} == {"float32"}
    assert {layer.compute_dtype for layer in model.layers[1:]} == {half}
    assert same_weights(resnet_keras.export_weights(model), probe_weights(SPEC))
    assert keras.backend.standardize_dtype(model(images).dtype) == half
    trace, exact = resnet_keras.trace(model, images), resnet_keras.trace(probed(), images)
    assert trace.dtype == half
    error = np.abs(trace["eval/output"] - exact["eval/output"]).max()
    assert 0 < error <= HALF_LIMIT * np.abs(exact["eval/output"]).max()
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").dtype_policy.name == dtype
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (dtype == "mixed_float16")


@pytest.mark.zoo
def test_training_in_mixed_precision(images: np.ndarray) -> None:
    trainer = Trainer(probed("mixed_bfloat16"), PROBE)
    exact = Trainer(probed(), PROBE)
    found, expected = (t.gradients(images, np.array([1, 2])) for t in (trainer, exact))
    assert found.loss == pytest.approx(expected.loss, rel=HALF_LIMIT)
    assert {array.dtype.name for array in found.tensors.values()} == {"float32"}
    before = trainer.weights()
    trainer.step(images, np.array([1, 2]), 1e-4)
    after = trainer.weights()
    assert {array.dtype.name for array in after.values()} == {"float32"}
    assert [name for name in before if np.array_equal(before[name], after[name])] == []


def test_training_in_mixed_float16_is_refused() -> None:
    with pytest.raises(FrameworkError, match="does not scale the loss"):
        Trainer(resnet_keras.build(SPEC, dtype="mixed_float16"), PROBE)


def test_half_precision_counts_all_images_and_has_a_whole_loss() -> None:
    """bfloat16 has 8 bits: 259 would be 260."""
    spec = small("cifar/resnet20", depths=(1,))
    weights = probe_weights(spec, dtype="bfloat16")
    weights["head.weight"][:] = 0
    weights["head.bias"][:] = np.arange(spec.num_classes)
    model = resnet_keras.build(spec, dtype="bfloat16")
    resnet_keras.load_weights(model, weights)
    trainer, labels = Trainer(model, PROBE), np.zeros(300, int)
    labels[:259] = spec.num_classes - 1  # which the network says of every image
    loss = trainer.step(probe_images((300, 8, 8, 3)), labels, 0.0)
    assert trainer.correct == 259
    logits = np.arange(spec.num_classes)
    logs = logits - np.log(np.exp(logits).sum())
    smooth = PROBE.label_smoothing
    expected = -(1 - smooth) * logs[labels].mean() - smooth * logs.mean()
    assert loss == pytest.approx(expected, rel=1e-6)
