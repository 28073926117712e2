"""keras.applications and KerasHub as oracles of the Keras formats: their files are read, and ours
load into them.

Their batch norms compute in float32 whatever the policy is, so outputs are compared with the
float64 reference within a limit for float32. Weights are compared bit by bit.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared import CheckpointError, get_spec, probe_weights
from shared.architecture.spec import ResNetSpec
from shared.formats.checkpoint import Checkpoint, open_checkpoint
from shared.formats.convert import convert
from shared.frameworks import reference
from shared.weights.canonical import Weights, cast_exactly, from_channels_last, save_weights
from tests.probes import images_for, relative_error
from tests.zoo import in_zoo, rest_in_zoo

keras = pytest.importorskip("keras")

# Float32 outputs against the float64 reference. Measured over this file: at most 6e-7.
FLOAT32_LIMIT = 1e-5
SIZE = (64, 65)
ALL = ("ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2")


def preset_of(name: str) -> str:
    return f"keras/{name.lower()}"


def make_model(name: str, classes: int = 7, **options: object) -> keras.Model:
    sizes = {"input_shape": (*SIZE, 3), "classes": classes, "classifier_activation": None}
    return getattr(keras.applications, name)(weights=None, **{**sizes, **options})


def fill(model: keras.Model, seed: int = 0) -> None:
    """Random values in every variable, variances positive."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        positive = variable.name in ("gamma", "moving_variance")
        values = (
            rng.uniform(0.5, 1.5, variable.shape)
            if positive
            else rng.normal(0, 0.05, variable.shape)
        )
        variable.assign(values.astype(np.float32))


def canonical_file(spec: ResNetSpec, path: Path) -> tuple[Checkpoint, Weights]:
    weights = probe_weights(spec)
    save_weights(path, weights, spec)
    return open_checkpoint(path), weights


def outputs_of_reference(spec: ResNetSpec, weights: Weights) -> np.ndarray:
    model = reference.Reference(spec, cast_exactly(weights, "float64"))
    return reference.trace(model, images_for(spec, SIZE, "float32"))["eval/output"]


def outputs_of(model: keras.Model, spec: ResNetSpec) -> np.ndarray:
    return np.asarray(model(images_for(spec, SIZE, "float32"), training=False))


@pytest.mark.parametrize("name", rest_in_zoo(ALL, ("ResNet50V2",)))
def test_both_ways(tmp_path: Path, name: str) -> None:
    """What Keras saves arrives under the right names; what we write loads as `weights=` does, in
    layer order.
    """
    model = make_model(name)
    fill(model)
    model.save_weights(tmp_path / "a.weights.h5")
    found = open_checkpoint(tmp_path / "a.weights.h5")
    assert (found.format.name, found.preset, found.spec.num_classes) == (
        "keras-applications",
        preset_of(name),
        7,
    )
    theirs = {f"{layer.name}/{v.name}": v for layer in model.layers for v in layer.variables}
    weights = found.weights()
    assert len(weights) == len(theirs) == len(model.weights)
    assert_equal(theirs, found, weights)

    convert(found, tmp_path / "b.h5")
    for variable in model.variables:
        variable.assign(np.zeros(variable.shape, np.float32))
    model.load_weights(tmp_path / "b.h5")
    assert_equal(theirs, found, weights)
    if name in ("ResNet50", "ResNet50V2"):  # the deeper ones have the same units
        spec = found.spec
        assert (
            relative_error(outputs_of(model, spec), outputs_of_reference(spec, weights))
            <= FLOAT32_LIMIT
        )


def assert_equal(theirs: dict[str, keras.Variable], found: Checkpoint, weights: Weights) -> None:
    """The model's variables are the canonical weights, bit by bit."""
    for name, array in weights.items():
        variable = np.asarray(theirs[found.names[name]])
        np.testing.assert_array_equal(from_channels_last(name, variable), array, err_msg=name)


@pytest.mark.parametrize(
    ("name", "file"),
    rest_in_zoo(
        itertools.product(["ResNet50", "ResNet50V2"], ["a.keras", "a.h5"]),
        [("ResNet50V2", "a.keras")],  # small ones: `configuration.test_keras`
    ),
)
def test_whole_models_of_keras_applications_are_read(tmp_path: Path, name: str, file: str) -> None:
    model = make_model(name)
    fill(model)
    model.save(tmp_path / file)
    found = open_checkpoint(tmp_path / file)
    assert found.preset == preset_of(name)
    weights = found.weights()
    assert (
        relative_error(outputs_of(model, found.spec), outputs_of_reference(found.spec, weights))
        <= FLOAT32_LIMIT
    )


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        in_zoo(("ResNet50", "weights.h5")),
        in_zoo(("ResNet50V2", "h5")),
        in_zoo(("ResNet50", "h5")),
        in_zoo(("ResNet50V2", "weights.h5")),
    ],
)
def test_without_a_classifier(tmp_path: Path, name: str, suffix: str) -> None:
    """Both ways, and the same pooled features at an odd size."""
    spec = get_spec(preset_of(name), num_classes=0)
    source, weights = canonical_file(spec, tmp_path / "a.safetensors")
    convert(source, tmp_path / f"a.{suffix}", "keras-applications")
    model = make_model(name, include_top=False, pooling="avg")
    model.load_weights(tmp_path / f"a.{suffix}")
    assert (
        relative_error(outputs_of(model, spec), outputs_of_reference(spec, weights))
        <= FLOAT32_LIMIT
    )
    model.save_weights(tmp_path / "b.weights.h5")
    assert open_checkpoint(tmp_path / "b.weights.h5").spec.num_classes == 0


@pytest.mark.parametrize(
    ("name", "classes"),
    [*map(in_zoo, [("ResNet50", 0), ("ResNet50V2", 7), ("ResNet50", 7), ("ResNet50V2", 0)])],
)
def test_our_archive_is_a_model_that_keras_builds(tmp_path: Path, name: str, classes: int) -> None:
    """A `.keras` file with the configuration that Keras itself writes, by no other means than
    Keras' own.
    """
    spec = get_spec(preset_of(name), num_classes=classes)
    source, weights = canonical_file(spec, tmp_path / "a.safetensors")
    convert(source, tmp_path / "a.keras", "keras-applications")
    model = keras.saving.load_model(tmp_path / "a.keras")
    # With a classifier these models take 224 pixels and end with a softmax.
    images = images_for(spec, (224, 224) if classes else SIZE, "float32")
    expected = reference.trace(reference.Reference(spec, cast_exactly(weights, "float64")), images)[
        "eval/output"
    ]
    if classes:
        odds = np.exp(expected - expected.max(axis=1, keepdims=True))
        expected = odds / odds.sum(axis=1, keepdims=True)
    assert relative_error(np.asarray(model(images, training=False)), expected) <= FLOAT32_LIMIT


def test_depths_that_keras_applications_does_not_have(tmp_path: Path) -> None:
    spec = get_spec("keras/resnet50", depths=(1, 1, 1, 1))
    source, _ = canonical_file(spec, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"no network of \[1, 1, 1, 1\] blocks"):
        convert(source, tmp_path / "a.keras", "keras-applications")
    assert not (tmp_path / "a.keras").exists()


@pytest.mark.zoo
def test_names_of_before_2019(tmp_path: Path) -> None:
    """Caffe's names, Keras' default eps of that time."""
    spec = get_spec("keras/resnet50", num_classes=7, norm_eps=1e-3, name="old")
    source, weights = canonical_file(spec, tmp_path / "a.safetensors")
    convert(source, tmp_path / "a.h5", "keras-caffe")
    found = open_checkpoint(tmp_path / "a.h5")
    assert found.format.name == "keras-caffe"
    assert found.spec.norm.eps == 1e-3
    assert found.names["stages.1.blocks.3.conv2.weight"] == "res3d_branch2b/kernel"
    assert (
        found.names["stages.3.blocks.0.shortcut.norm.running_var"] == "bn5a_branch1/moving_variance"
    )
    for name, array in found.arrays():
        np.testing.assert_array_equal(array, weights[name])


@pytest.mark.zoo
def test_one_layer_in_the_place_of_another_is_noticed(tmp_path: Path) -> None:
    """Topological loading goes by order alone: two norms exchanged in a file load
    without a word.
    """
    spec = get_spec("keras/resnet50", num_classes=7)
    source, weights = canonical_file(spec, tmp_path / "a.safetensors")
    a, b = (f"stages.0.blocks.0.norm{i}.weight" for i in (1, 2))
    undigested = replace(source.archive, metadata={})  # the SHA-256 in our own files would notice
    entries = {**source.entries, a: source.entries[b], b: source.entries[a]}
    exchanged = replace(source, archive=undigested, entries=entries)
    convert(exchanged, tmp_path / "a.h5")
    model = make_model("ResNet50")
    model.load_weights(tmp_path / "a.h5")
    assert (
        relative_error(outputs_of(model, spec), outputs_of_reference(spec, weights))
        > 100 * FLOAT32_LIMIT
    )


@pytest.mark.parametrize(
    ("preset", "block"),
    [
        ("keras_hub/resnet_18", "basic_block"),
        ("keras_hub/resnet_50", "bottleneck_block"),
        ("keras_hub/resnet_vd_50", "bottleneck_block_vd"),
        ("keras_hub/resnet_v2_50", "bottleneck_block"),
    ],
)
def test_files_of_keras_hub_are_read(tmp_path: Path, preset: str, block: str) -> None:
    hub = pytest.importorskip("keras_hub")
    spec = get_spec(preset, depths=(2, 2, 2), widths=(64, 72, 80), num_classes=0)
    model = hub.models.ResNetBackbone(
        input_conv_filters=[width for _, _, width in spec.stem.convs],
        input_conv_kernel_sizes=[kernel for kernel, _, _ in spec.stem.convs],
        stackwise_num_filters=list(spec.widths),
        stackwise_num_blocks=list(spec.depths),
        stackwise_num_strides=list(spec.strides),
        block_type=block,
        use_pre_activation=spec.block.order == "full_pre",
        image_shape=(*SIZE, 3),
    )
    fill(model)
    model.save_weights(tmp_path / "a.weights.h5")
    found = open_checkpoint(tmp_path / "a.weights.h5", changes={"head.pool": "none"})
    assert found.format.name == "keras-hub"
    weights = found.weights()
    assert (
        relative_error(outputs_of(model, found.spec), outputs_of_reference(found.spec, weights))
        <= FLOAT32_LIMIT
    )
