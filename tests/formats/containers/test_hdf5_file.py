"""Keras' HDF5 files: what Keras reads and writes, and old names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from shared.architecture.plan import make_plan
from shared.architecture.presets import get_spec, miniature
from shared.errors import CheckpointError
from shared.formats.containers import hdf5_file, hdf5_reader
from shared.formats.containers.archive import Archive
from shared.naming.keras_order import layer_order
from shared.weights.probe import probe_weights
from tests.formats.hdf5_files import (
    SHAPES,
    archive_of,
    arrays,
    assert_same,
    entries_of,
    legacy,
    values_of,
    vars_group,
)
from tests.formats.keras_names import keras_archive
from tests.zoo import in_zoo, rest_in_zoo

h5py = pytest.importorskip("h5py")


# What we write, we read.


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("write", [hdf5_file.write_legacy, hdf5_file.write_weights])
def test_round_trip(tmp_path: Path, write: Callable[[Path, Archive], None], dtype: str) -> None:
    write(tmp_path / "x", archive_of(arrays(dtype), spec="{}"))
    write(tmp_path / "y", archive_of(arrays(dtype), spec="{}"))
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    archive = hdf5_file.read(tmp_path / "x")
    assert_same(values_of(archive), arrays(dtype))
    legacy = write is hdf5_file.write_legacy
    assert archive.container == ("hdf5" if legacy else "keras-weights")
    assert archive.metadata["hdf5"] == ("legacy" if legacy else "weights")
    assert archive.metadata["spec"] == "{}"
    if legacy:
        assert list(archive.entries) == list(SHAPES)
    write(tmp_path / "x", archive)  # the reader has no lock on it


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("conv1/kernel", np.ones((1, 1), ml_dtypes.bfloat16), "bfloat16"),
        ("conv1/weight", np.ones(1), "is not <layer>"),
        ("kernel", np.ones(1), "is not <layer>"),
        ("a/b/kernel", np.ones(1), "is not <layer>"),
        ("./kernel", np.ones(1), "is not <layer>"),
        ("a\0/kernel", np.ones(1), "is not <layer>"),
    ],
)
@pytest.mark.parametrize("write", [hdf5_file.write_legacy, hdf5_file.write_weights])
def test_what_cannot_be_written(
    tmp_path: Path, write: Callable[[Path, Archive], None], name: str, array: np.ndarray, says: str
) -> None:
    with pytest.raises(CheckpointError, match=says):
        write(tmp_path / "x", archive_of({name: array}))


def test_layer_of_no_class_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no layer of Keras"):
        hdf5_file.write_weights(
            tmp_path / "x", archive_of({"a/gamma": np.ones(3), "a/moving_mean": np.ones(3)})
        )


def test_a_norm_without_scale_is_known_in_files_of_ours_alone(tmp_path: Path) -> None:
    """Of three variables, the first could be gamma as well."""
    norm = {f"a/{leaf}": np.full(3, i) for i, leaf in enumerate(hdf5_reader.UNSCALED)}
    norm = {name: array.astype("float32") for name, array in norm.items()}
    hdf5_file.write_weights(tmp_path / "x", archive_of(norm, spec="{}"))
    assert_same(values_of(hdf5_file.read(tmp_path / "x")), norm)
    hdf5_file.write_weights(tmp_path / "y", archive_of(norm))
    with pytest.raises(CheckpointError, match=r"has 3 variables.*does not say which"):
        hdf5_file.read(tmp_path / "y")


def test_gzip_and_shuffle_are_read(tmp_path: Path) -> None:
    array = np.arange(5000, dtype=">f4").reshape(50, 100)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        vars_group(file, "layers/dense", "fc", 0)
        file.create_dataset("layers/dense/vars/0", data=array, compression="gzip", shuffle=True)
    assert_same(
        values_of(hdf5_file.read(tmp_path / "x.h5")), {"fc/kernel": array.astype(np.float32)}
    )


# What Keras and older ones wrote.


@pytest.mark.parametrize("root", ["/", "model_weights"])
def test_old_names(tmp_path: Path, root: str) -> None:
    a = [np.full(2, i, np.float32) for i in range(9)]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        legacy(
            file.require_group(root),
            {
                "input_1": {},
                "conv1": {"conv1/conv1_W:0": a[0], "conv1_b:0": a[1]},
                "bn": {
                    "bn_gamma": a[2],
                    "bn_beta": a[3],
                    "bn_running_mean": a[4],
                    "bn_running_std": a[5],
                },
                "fc1000": {"fc1000_1/kernel:0": a[6], "fc1000_1/bias_1:0": a[7]},
                "odd": {"odd/scale:0": a[8]},
            },
        )
        file.create_group("optimizer_weights")["step"] = 3
    values, metadata = entries_of(tmp_path / "x.h5")
    assert list(values) == [
        "conv1/kernel",
        "conv1/bias",
        "bn/gamma",
        "bn/beta",
        "bn/moving_mean",
        "bn/moving_variance",
        "fc1000/kernel",
        "fc1000/bias",
        "odd/scale",
    ]
    assert [v[0] for v in values.values()] == list(range(9))
    assert metadata == {"hdf5": "legacy"}


def test_a_model_as_a_layer(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        legacy(
            file, {"resnet50": {"resnet50/a/kernel": np.ones(1), "resnet50/b/kernel": np.zeros(1)}}
        )
    assert list(entries_of(tmp_path / "x.h5")[0]) == ["a/kernel", "b/kernel"]


def test_long_lists_of_names_are_split(tmp_path: Path) -> None:
    values = {f"layer_{'x' * 200}_{i}/kernel": np.full((1, 1), i, np.float32) for i in range(400)}
    hdf5_file.write_legacy(tmp_path / "x.h5", archive_of(values))
    with h5py.File(tmp_path / "x.h5") as file:
        assert "layer_names" not in file.attrs
        assert "layer_names1" in file.attrs
    assert list(entries_of(tmp_path / "x.h5")[0]) == list(values)


def test_counters_are_in_natural_order(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        for i in (10, 2, 1):
            vars_group(file, f"layers/conv2d_{i}", None, 2)
        vars_group(file, "layers/conv2d", None, 1)
        vars_group(file, "layers/input_layer", "images", 0)
        vars_group(file, "optimizer", "adam", 3)
        vars_group(file, "layers/dropout/seed_generator", None, 1)
    values, metadata = entries_of(tmp_path / "x.weights.h5")
    assert list(values) == [
        "conv2d/kernel",
        *(f"conv2d_{i}/{x}" for i in (1, 2, 10) for x in ("kernel", "bias")),
    ]
    assert metadata == {"hdf5": "weights", "layer_names": "absent"}


def test_nested_layers(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        vars_group(file, "layers/res_net_backbone/layers/batch_normalization", "conv1_bn", 4)
        vars_group(file, "layers/dense", "predictions", 2)
    values, metadata = entries_of(tmp_path / "x.weights.h5")
    norm = [f"conv1_bn/{leaf}" for leaf in ("gamma", "beta", "moving_mean", "moving_variance")]
    assert list(values) == ["predictions/kernel", "predictions/bias", *norm]
    assert "layer_names" not in metadata


# Keras itself.


PRESETS = (
    "timm/resnet50d",
    "timm/resnetv2_50d_gn",
    "keras/resnet50v2",
    "ablation/resnet110_exclusive_gate_b0",
    "ablation/resnet110_dropout_shortcut",
)


@pytest.mark.parametrize("preset", rest_in_zoo(PRESETS, (*PRESETS[:2], PRESETS[3])))
def test_keras_loads_what_is_written(tmp_path: Path, preset: str) -> None:
    pytest.importorskip("keras")
    import resnet_keras

    spec = miniature(get_spec(preset)).replace(depths=(1,) * len(get_spec(preset).depths))
    model, weights = resnet_keras.build(spec), probe_weights(spec)
    assert layer_order(make_plan(spec)) == [layer.name for layer in model.layers if layer.weights]
    archive = keras_archive(spec, weights)
    for write, name in (
        (hdf5_file.write_weights, "x.weights.h5"),
        (hdf5_file.write_legacy, "x.h5"),
    ):
        write(tmp_path / name, archive)
        model.set_weights([np.zeros(w.shape) for w in model.weights])
        model.load_weights(tmp_path / name)
        assert_same(resnet_keras.export_weights(model), weights)
    model.save_weights(tmp_path / "keras.weights.h5")
    assert_same(entries_of(tmp_path / "keras.weights.h5")[0], values_of(archive))


@pytest.mark.parametrize("preact", [in_zoo(False), True])
def test_keras_applications_loads_what_is_written(tmp_path: Path, preact: bool) -> None:
    keras = pytest.importorskip("keras")
    from keras.src.applications import resnet

    def build(path: Path | None) -> Any:
        stack = resnet.stack_residual_blocks_v2 if preact else resnet.stack_residual_blocks_v1
        return resnet.ResNet(
            lambda x: stack(x, 4, 2, name="conv2"),
            preact,
            True,
            weights_name="x",
            weights=path,
            input_shape=(32, 32, 3),
            classes=5,
            name="tiny",
        )

    keras.utils.set_random_seed(0)
    model = build(None)
    model.save(tmp_path / "keras.h5")
    model.save_weights(tmp_path / "keras.weights.h5")
    expected = model.get_weights()
    by_names, names = (
        entries_of(tmp_path / "keras.h5"),
        [layer.name for layer in model.layers if layer.weights],
    )
    assert list(dict.fromkeys(name.partition("/")[0] for name in by_names[0])) == names
    assert_same(entries_of(tmp_path / "keras.weights.h5")[0], by_names[0])
    hdf5_file.write_legacy(tmp_path / "x.h5", archive_of(by_names[0]))
    hdf5_file.write_weights(tmp_path / "x.weights.h5", archive_of(by_names[0]))
    keras.utils.set_random_seed(1)
    for load in (
        lambda: build(tmp_path / "x.h5"),
        lambda: build(tmp_path / "x.weights.h5"),
        lambda: (other := build(None), other.load_weights(tmp_path / "x.h5", by_name=True))[0],
    ):
        for found, wanted in zip(load().get_weights(), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
