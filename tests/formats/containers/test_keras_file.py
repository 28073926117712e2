"""The `.keras` archive: those of Keras, ours, and those that carry more than weights."""

from __future__ import annotations

import copy
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.architecture.presets import get_spec, miniature
from shared.errors import CheckpointError
from shared.formats.containers import hdf5_file, keras_file
from shared.formats.containers.archive import Archive, Entry
from shared.weights.probe import probe_weights
from tests.formats.keras_names import keras_archive
from tests.zoo import in_zoo

pytest.importorskip("h5py")

SPEC = miniature(get_spec("torchvision/resnet18")).replace(depths=(1, 1, 1, 1))
LAYER = {
    "module": "keras.layers",
    "class_name": "Dense",
    "config": {"name": "fc", "units": 5},
    "registered_name": None,
    "name": "fc",
    "inbound_nodes": [],
}
CONFIG = {
    "module": "keras.src.models.functional",
    "class_name": "Functional",
    "registered_name": "Functional",
    "config": {"name": "model", "layers": [LAYER]},
}
KERNEL = np.arange(20, dtype=np.float32).reshape(4, 5)


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    path = tmp_path / "w"
    hdf5_file.write_weights(path, Archive("hdf5", {"fc/kernel": Entry.of(KERNEL)}))
    data = path.read_bytes()
    path.unlink()
    return data


def keras_zip(path: Path, members: dict[str, Any], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content if isinstance(content, bytes) else json.dumps(content))
    return path


def plain(weights: bytes, config: Any = CONFIG) -> dict[str, Any]:
    return {
        "metadata.json": {"keras_version": "3.9.0"},
        "config.json": config,
        "model.weights.h5": weights,
    }


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_model_of_plain_layers(
    tmp_path: Path, weights: bytes, method: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    archive = keras_file.read(
        keras_zip(tmp_path / "x.keras", plain(weights) | {"assets/": b""}, method)
    )
    assert os.listdir(tmp_path / "tmp") == []
    assert archive.container == "keras"
    assert archive.metadata == {"hdf5": "weights", "keras_version": "3.9.0"}
    assert archive.configuration is not None
    assert (archive.configuration.kind, archive.configuration.value) == ("keras", CONFIG)
    for _ in range(2):
        np.testing.assert_array_equal(archive.entries["fc/kernel"].load(), KERNEL)


def with_layer(**changes: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    config["config"]["layers"].append(LAYER | changes)  # type: ignore[index]
    return config


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (with_layer(class_name="Lambda"), r"keras.layers.Lambda' \(named 'fc'\)"),
        (with_layer(class_name="TorchModuleWrapper"), "TorchModuleWrapper"),
        (with_layer(class_name="TFSMLayer"), "TFSMLayer"),
        (with_layer(class_name=["Dense"]), "Dense"),
        (with_layer(class_name=None), "keras.layers.None"),
        (with_layer(module="os"), r"os\.Dense"),
        (with_layer(module="keras.src.utils.file_utils"), "file_utils"),
        (with_layer(module={}), "plain keras.layers"),
        (with_layer(registered_name="evil>Dense"), "plain keras.layers"),
        (with_layer(registered_name="Lambda"), "plain keras.layers"),
        (
            with_layer(config={"activation": {"class_name": "__lambda__", "config": "x"}}),
            "__lambda__",
        ),
        (
            with_layer(config={"deep": [[{"module": "subprocess", "class_name": "Popen"}]]}),
            "subprocess.Popen",
        ),
    ],
)
def test_what_may_carry_code_is_refused(tmp_path: Path, config: Any, says: str) -> None:
    path = keras_zip(tmp_path / "x.keras", plain(b"", config))
    with pytest.raises(CheckpointError, match=says) as caught:
        keras_file.read(path)
    assert str(caught.value).startswith(f"{path}: ")


LONG = b'{"a": "' + os.urandom(5 << 20).hex().encode() + b'"}'


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"../model.weights.h5": b""}, "expected are"),
        ({"model.weights.h5.py": b""}, "expected are"),
        ({"assets/vocabulary.txt": b"x"}, "expected are"),
        ({"assets/": b"x"}, "expected are"),
        ({"config.json": b"{"}, "not JSON"),
        ({"config.json": b"[]"}, "not an object"),
        ({"config.json": b'{"a": 1, "a": 2}'}, "twice"),
        ({"config.json": b'{"a": NaN}'}, "NaN"),
        ({"config.json": b"[" * 200_000}, "not JSON"),
        ({"config.json": LONG}, "at most are read"),
        ({"metadata.json": LONG}, "at most are read"),
        ({"model.weights.h5": bytes(1 << 25)}, "times as many"),
        ({"model.weights.h5": b"no HDF5"}, "signature"),
        ({"model.weights.h5": None}, "expected are"),
        ({"config.json": None}, "expected are"),
    ],
)
def test_archives_of_something_else(
    tmp_path: Path, weights: bytes, members: dict[str, Any], says: str
) -> None:
    wanted = {
        name: value for name, value in (plain(weights) | members).items() if value is not None
    }
    path = keras_zip(tmp_path / "x.keras", wanted, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=says) as caught:
        keras_file.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert os.listdir(tmp_path) == ["x.keras"]


@pytest.mark.parametrize("end", [0, 3, 100, -1])
def test_truncated(tmp_path: Path, weights: bytes, end: int) -> None:
    path = keras_zip(tmp_path / "x.keras", plain(weights))
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(CheckpointError, match=r"x\.keras: "):
        keras_file.read(path)


def test_only_our_models_are_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing here does"):
        keras_file.write(tmp_path / "x.keras", Archive("keras", {"fc/kernel": Entry.of(KERNEL)}))


def test_round_trip(tmp_path: Path) -> None:
    archive = keras_archive(SPEC, probe_weights(SPEC))
    keras_file.write(tmp_path / "x.keras", archive)
    keras_file.write(tmp_path / "y.keras", archive)
    assert (tmp_path / "x.keras").read_bytes() == (tmp_path / "y.keras").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["x.keras", "y.keras"]
    found = keras_file.read(tmp_path / "x.keras")
    assert json.loads(found.metadata["spec"]) == json.loads(SPEC.to_json())
    assert found.entries.keys() == archive.entries.keys()
    for name, entry in archive.entries.items():
        np.testing.assert_array_equal(found.entries[name].load(), entry.load())


@pytest.mark.parametrize("dtype", [in_zoo("float32"), "float16"])
def test_keras_loads_what_is_written(tmp_path: Path, dtype: str) -> None:
    keras = pytest.importorskip("keras")
    import resnet_keras

    weights = probe_weights(SPEC, dtype=dtype)
    keras_file.write(tmp_path / "ours.keras", keras_archive(SPEC, weights))
    model = keras.saving.load_model(tmp_path / "ours.keras")
    assert type(model) is resnet_keras.ResNet
    assert model.spec == SPEC
    found = resnet_keras.export_weights(model)
    for name, array in weights.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    model.save(tmp_path / "theirs.keras")
    with (
        zipfile.ZipFile(tmp_path / "ours.keras") as ours,
        zipfile.ZipFile(tmp_path / "theirs.keras") as theirs,
    ):
        assert ours.namelist() == theirs.namelist()
        assert json.loads(ours.read("config.json")) == json.loads(theirs.read("config.json"))
    archive = keras_file.read(tmp_path / "theirs.keras")
    assert archive.entries.keys() == keras_archive(SPEC, weights).entries.keys()
    assert archive.metadata["keras_version"] == keras.__version__


@pytest.mark.parametrize(
    ("lacking", "leaves"),
    [
        ({"scale": False}, ["beta", "moving_mean", "moving_variance"]),
        ({"center": False}, ["gamma", "moving_mean", "moving_variance"]),
        ({"scale": False, "center": False}, ["moving_mean", "moving_variance"]),
    ],
)
def test_norms_that_lack_variables(
    tmp_path: Path, lacking: dict[str, bool], leaves: list[str]
) -> None:
    """Their configuration alone says which."""
    keras = pytest.importorskip("keras")
    norm = keras.layers.BatchNormalization(name="norm", **lacking)
    model = keras.Sequential([keras.Input((5,)), norm])
    norm.set_weights([np.full(5, i, np.float32) for i in range(len(leaves))])
    model.save(tmp_path / "x.keras")
    found = keras_file.read(tmp_path / "x.keras").entries
    assert {name: entry.load()[0] for name, entry in found.items()} == {
        f"norm/{leaf}": i for i, leaf in enumerate(leaves)
    }
    model.save_weights(tmp_path / "x.weights.h5")
    with pytest.raises(CheckpointError, match=r"norm 'norm' has \d variables"):
        hdf5_file.read(tmp_path / "x.weights.h5")


def test_a_norm_without_scale_in_a_network_of_ours(tmp_path: Path) -> None:
    resnet_keras = pytest.importorskip("resnet_keras")
    spec = miniature(get_spec("image_classifiers/resnet18"))
    model = resnet_keras.build(spec)
    model.save(tmp_path / "x.keras")
    model.save_weights(tmp_path / "x.weights.h5")  # where the names of the layers tell
    for read, name in ((keras_file.read, "x.keras"), (hdf5_file.read, "x.weights.h5")):
        assert "stem.input_norm/beta" in read(tmp_path / name).entries
