"""The Keras rendering: the same numbers as the reference, the same weights in and out, a Keras
citizen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

keras = pytest.importorskip("keras")

import numpy as np

import resnet_keras
from resnet_keras import init, layers
from shared import CheckpointError, ResNetSpec, get_spec, probe_images, probe_weights
from shared.architecture import ops
from shared.architecture.presets import miniature
from tests.keras_backend_parity import DILATED, global_state
from tests.probes import SIZE, images_for, reference_trace, small, worst_layer
from tests.zoo import in_zoo, rest_in_zoo

# Worst of all presets as miniatures, at 32 and 45 pixels, on the TensorFlow, JAX and PyTorch
# backends: 1.9e-14, in the networks with weight standardisation; five times that is allowed.
FLOAT64_LIMIT = 1e-13
# The reference's float64 statistics of a float64 layer.
STATISTICS_LIMIT = 1e-14

PRESETS = (
    "torchvision/resnet18",
    "torchvision/resnext50_32x4d",
    "timm/resnet50d",
    "timm/resnet50_gn",
    "bit/r50x1",
    "keras/resnet50v2",
    "flax/resnet50",
    "fb/preresnet50",
    "he/resnet18_a",
    "cifar/preresnet20",
    "d2l/resnet18",
    "ablation/resnet110_shortcut_gate_b6",
    "ablation/resnet110_scale_0.5_0.5",
    "ablation/resnet110_dropout_shortcut",
    "ablation/resnet164_norm_after_add",
    "ablation/resnet164_act_before_add",
    "ablation/resnet110_act_only_pre",
)


@pytest.fixture(scope="module")
def model() -> resnet_keras.ResNet:
    """A network with probe weights, so that nothing is hidden by an initial value."""
    spec = small("keras/resnet50v2")
    model = resnet_keras.build(spec)
    resnet_keras.load_weights(model, probe_weights(spec))
    return model


@pytest.fixture
def images() -> np.ndarray:
    return probe_images((2, 33, 33, 3))


def outputs(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(model(images)))


def assert_is_the_reference(spec: ResNetSpec, size: tuple[int, int] = SIZE) -> None:
    model = resnet_keras.build(spec, dtype="float64")
    resnet_keras.load_weights(model, probe_weights(spec, dtype="float64"))
    error, layer = worst_layer(
        resnet_keras.trace(model, images_for(spec, size)), reference_trace(spec, size)
    )
    assert error <= FLOAT64_LIMIT, layer


# Few in the short run: `tests/parity` compares every kind of layer there.
@pytest.mark.parametrize("preset", rest_in_zoo(PRESETS, PRESETS[2::6]))
def test_every_layer_is_the_references(preset: str) -> None:
    assert_is_the_reference(miniature(get_spec(preset)))


@pytest.mark.parametrize("size", [(64, 64), (45, 33)])
@pytest.mark.parametrize("preset", ["flax/resnet18", "timm/resnet50d", "keras/resnet50v2"])
def test_even_and_odd_images(preset: str, size: tuple[int, int]) -> None:
    assert_is_the_reference(small(preset), size)


@pytest.mark.parametrize(
    "preset", [in_zoo("torchvision/resnet50"), in_zoo("flax/resnet50"), "timm/resnet50d"]
)
def test_dilated_and_strided_convolutions(preset: str) -> None:
    assert_is_the_reference(small(preset, **DILATED), (47, 66))


@pytest.mark.parametrize(
    "changes", [{"num_classes": 0}, {"num_classes": 0, "head_pool": "none"}, {"head_pool": "max"}]
)
def test_heads(changes: dict[str, Any]) -> None:
    assert_is_the_reference(small("fb/preresnet18", **changes))


def test_build_changes_no_global_state() -> None:
    before = global_state()
    resnet_keras.build(small("ablation/resnet110_dropout_shortcut"), dtype="bfloat16")
    assert global_state() == before


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_weights_round_trip_bit_for_bit(dtype: str) -> None:
    spec = small("ablation/resnet110_exclusive_gate_b6", num_classes=7)
    weights = probe_weights(spec, dtype=dtype)
    model = resnet_keras.build(spec, dtype=dtype)
    resnet_keras.load_weights(model, {name: array.copy() for name, array in weights.items()})
    exported = resnet_keras.export_weights(model)
    assert list(exported) == list(weights)
    for name, array in weights.items():
        assert (exported[name].dtype, exported[name].tobytes()) == (array.dtype, array.tobytes()), (
            name
        )


def test_model_and_arrays_share_no_memory(model: resnet_keras.ResNet) -> None:
    given = resnet_keras.export_weights(model)
    kept = {name: array.copy() for name, array in given.items()}
    resnet_keras.load_weights(model, given)
    for array in given.values():
        array.fill(7)
    assert all(
        np.array_equal(array, kept[name])
        for name, array in resnet_keras.export_weights(model).items()
    )


@pytest.mark.parametrize("mistake", ["missing", "extra", "mis-shaped", "not finite", "not exact"])
def test_refused_load_leaves_the_model_as_it_was(model: resnet_keras.ResNet, mistake: str) -> None:
    before = resnet_keras.export_weights(model)
    weights = probe_weights(model.spec, seed=1)
    if mistake == "missing":
        del weights["head.bias"]
    elif mistake == "extra":
        weights["head.gamma"] = weights["head.bias"]
    elif mistake == "mis-shaped":
        weights["head.weight"] = weights["head.weight"].T
    elif mistake == "not finite":
        weights["head.bias"][0] = np.nan
    else:
        weights["head.bias"] = weights["head.bias"].astype("float64") + 1e-12
    with pytest.raises(CheckpointError, match="head"):
        resnet_keras.load_weights(model, weights)
    after = resnet_keras.export_weights(model)
    assert all(np.array_equal(after[name], array) for name, array in before.items())


def test_summary_shows_canonical_names(model: resnet_keras.ResNet) -> None:
    lines: list[str] = []
    model.summary(print_fn=lambda line, **_: lines.append(line), line_length=160)
    text = "\n".join(lines)
    assert "stages.0.blocks.0.shortcut.conv" in text
    assert "stem.pool" in text


def test_keras_file(model: resnet_keras.ResNet, images: np.ndarray, tmp_path: Path) -> None:
    """A loaded model knows its spec: it exports and traces as the saved one."""
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, resnet_keras.ResNet)
    assert loaded.spec == model.spec
    assert np.array_equal(outputs(loaded, images), outputs(model, images))
    weights = resnet_keras.export_weights(loaded)
    assert all(
        np.array_equal(array, weights[name])
        for name, array in resnet_keras.export_weights(model).items()
    )
    first, second = resnet_keras.trace(model, images), resnet_keras.trace(loaded, images)
    assert all(np.array_equal(first[name], second[name]) for name in first.names)


def test_weights_file(model: resnet_keras.ResNet, images: np.ndarray, tmp_path: Path) -> None:
    other = resnet_keras.build(model.spec, seed=1)
    assert not np.array_equal(outputs(other, images), outputs(model, images))
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    assert np.array_equal(outputs(other, images), outputs(model, images))


@pytest.mark.parametrize(
    "preset",
    ["torchvision/resnet50", "bit/r50x1", "ablation/resnet110_exclusive_gate_b6", "timm/resnet50d"],
)
def test_layers_rebuild_from_their_configurations(preset: str, images: np.ndarray) -> None:
    """A part of the network, which is a plain functional model, is cloned layer by layer."""
    model = resnet_keras.build(small(preset, **(DILATED if "resnet50" in preset else {})))
    part = keras.Model(model.input, model.get_layer("stages.1.blocks.0").output)
    clone = keras.models.clone_model(part)
    clone.set_weights(part.get_weights())
    assert np.array_equal(outputs(clone, images), outputs(part, images))


def test_fit_updates_weights_and_running_statistics(images: np.ndarray) -> None:
    spec = small("torchvision/resnet18")
    model = resnet_keras.build(spec)
    before = resnet_keras.export_weights(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    model.fit(images, np.array([1, 2]), batch_size=2, epochs=1, verbose=0)
    after = resnet_keras.export_weights(model)
    assert [name for name in before if np.array_equal(before[name], after[name])] == []


def test_float64_batch_norm_trains_in_float64() -> None:
    """The running variance is the biased one, as Keras has it."""
    scope = init.Scope("norm", "float64", small("torchvision/resnet18"), seed=0)
    norm = layers.Norm2D(ops.BatchNorm(5, eps=1e-3, momentum=0.75, unbiased=False), scope)
    x = 1e3 + probe_images((3, 7, 6, 5), dtype="float64")
    y = np.asarray(
        keras.ops.convert_to_numpy(norm(keras.ops.convert_to_tensor(x, "float64"), training=True))
    )
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    expected = {"moving_mean": 0.25 * mean, "moving_variance": 0.75 + 0.25 * variance}
    for variable in norm.variables:
        if variable.name in expected:
            found = keras.ops.convert_to_numpy(variable)
            np.testing.assert_allclose(found, expected[variable.name], rtol=STATISTICS_LIMIT)
    normal = (x - mean) / np.sqrt(variance + 1e-3)
    # x is a thousand times its deviation, and so is its rounding error.
    np.testing.assert_allclose(y, normal, atol=1e3 * STATISTICS_LIMIT)
