"""Keras' HDF5 files: what Keras reads and writes, old names, and files that mean harm."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from shared.errors import CheckpointError
from shared.formats import hdf5_file, hdf5_reader
from shared.formats.archive import Archive, Entry
from shared.formats.keras_order import layer_order
from shared.plan import make_plan
from shared.presets import get_spec, miniature
from shared.weights import probe_weights
from tests.formats.keras_names import keras_archive

h5py = pytest.importorskip("h5py")

SHAPES = {
    "conv1/kernel": (3, 3, 2, 4),
    "conv1/bias": (4,),
    "bn/gamma": (4,),
    "bn/beta": (4,),
    "bn/moving_mean": (4,),
    "bn/moving_variance": (4,),
    "conv2/kernel": (1, 1, 4, 4),
    "gn/gamma": (4,),
    "gn/beta": (4,),
    "fc/kernel": (4, 5),
    "fc/bias": (5,),
}


def arrays(dtype: Any = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}


def archive_of(values: dict[str, np.ndarray], **metadata: str) -> Archive:
    return Archive("hdf5", {name: Entry.of(array) for name, array in values.items()}, metadata)


def values_of(archive: Archive) -> dict[str, np.ndarray]:
    return {name: entry.load() for name, entry in archive.entries.items()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


# What we write, we read.


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("write", [hdf5_file.write_legacy, hdf5_file.write_weights])
def test_round_trip(tmp_path: Path, write: Callable[[Path, Archive], None], dtype: str) -> None:
    write(tmp_path / "x", archive_of(arrays(dtype), spec="{}", conv_class="planned_conv2d"))
    write(tmp_path / "y", archive_of(arrays(dtype), spec="{}", conv_class="planned_conv2d"))
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
        hdf5_file.write_weights(tmp_path / "x", archive_of({"a/gamma": np.ones(3), "a/moving_mean": np.ones(3)}))


# What Keras and older ones wrote.


def entries_of(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """As `hdf5_file.read`, in this process: ten times as fast."""
    tensors, metadata = hdf5_reader.open_entries(path)
    return {name: load() for name, (_, _, load) in tensors.items()}, metadata


def legacy(group: Any, layers: dict[str, dict[str, np.ndarray]]) -> None:
    group.attrs["layer_names"] = [name.encode() for name in layers]
    for layer, weights in layers.items():
        inner = group.create_group(layer)
        inner.attrs["weight_names"] = [name.encode() for name in weights]
        for name, array in weights.items():
            inner[name] = array


@pytest.mark.parametrize("root", ["/", "model_weights"])
def test_old_names(tmp_path: Path, root: str) -> None:
    a = [np.full(2, i, np.float32) for i in range(9)]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        legacy(file.require_group(root), {
            "input_1": {},
            "conv1": {"conv1/conv1_W:0": a[0], "conv1_b:0": a[1]},
            "bn": {"bn_gamma": a[2], "bn_beta": a[3], "bn_running_mean": a[4], "bn_running_std": a[5]},
            "fc1000": {"fc1000_1/kernel:0": a[6], "fc1000_1/bias_1:0": a[7]},
            "odd": {"odd/scale:0": a[8]},
        })  # fmt: skip
        file.create_group("optimizer_weights")["step"] = 3
    values, metadata = entries_of(tmp_path / "x.h5")
    assert list(values) == ["conv1/kernel", "conv1/bias", "bn/gamma", "bn/beta", "bn/moving_mean",
                            "bn/moving_variance", "fc1000/kernel", "fc1000/bias", "odd/scale"]  # fmt: skip
    assert [v[0] for v in values.values()] == list(range(9))
    assert metadata == {"hdf5": "legacy"}


def test_a_model_as_a_layer(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        legacy(file, {"resnet50": {"resnet50/a/kernel": np.ones(1), "resnet50/b/kernel": np.zeros(1)}})
    assert list(entries_of(tmp_path / "x.h5")[0]) == ["a/kernel", "b/kernel"]


def test_long_lists_of_names_are_split(tmp_path: Path) -> None:
    values = {f"layer_{'x' * 200}_{i}/kernel": np.full((1, 1), i, np.float32) for i in range(400)}
    hdf5_file.write_legacy(tmp_path / "x.h5", archive_of(values))
    with h5py.File(tmp_path / "x.h5") as file:
        assert "layer_names" not in file.attrs
        assert "layer_names1" in file.attrs
    assert list(entries_of(tmp_path / "x.h5")[0]) == list(values)


def vars_group(file: Any, path: str, name: str | None, count: int) -> None:
    group = file.create_group(f"{path}/vars")
    if name:
        group.attrs["name"] = name
    for i in range(count):
        group[str(i)] = np.full(1, i, np.float32)


def test_counters_are_in_natural_order(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        for i in (10, 2, 1):
            vars_group(file, f"layers/conv2d_{i}", None, 2)
        vars_group(file, "layers/conv2d", None, 1)
        vars_group(file, "layers/input_layer", "images", 0)
        vars_group(file, "optimizer", "adam", 3)
        vars_group(file, "layers/dropout/seed_generator", None, 1)
    values, metadata = entries_of(tmp_path / "x.weights.h5")
    assert list(values) == ["conv2d/kernel", *(f"conv2d_{i}/{x}" for i in (1, 2, 10) for x in ("kernel", "bias"))]
    assert metadata == {"hdf5": "weights", "layer_names": "absent"}


def test_nested_layers(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        vars_group(file, "layers/res_net_backbone/layers/batch_normalization", "conv1_bn", 4)
        vars_group(file, "layers/dense", "predictions", 2)
    values, metadata = entries_of(tmp_path / "x.weights.h5")
    norm = [f"conv1_bn/{leaf}" for leaf in ("gamma", "beta", "moving_mean", "moving_variance")]
    assert list(values) == ["predictions/kernel", "predictions/bias", *norm]
    assert "layer_names" not in metadata


# Files that mean harm.


def hard_cycle(file: Any) -> None:
    file["layers/conv2d/again"] = file["layers"]


def hard_alias(file: Any) -> None:
    file["layers/conv2d/vars/1"] = file["layers/conv2d/vars/0"]


def soft_link(file: Any) -> None:
    file["layers/conv2d/vars/1"] = h5py.SoftLink("/layers/conv2d/vars/0")


def external_link(file: Any) -> None:
    file["layers/conv2d/vars/1"] = h5py.ExternalLink("/etc/passwd", "/")


def external_group(file: Any) -> None:
    file["layers/conv2d_1"] = h5py.ExternalLink("other.h5", "/")


def external_storage(file: Any) -> None:
    file.create_dataset("layers/conv2d/vars/1", (8,), "u1", external=[("/etc/hostname", 0, 8)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
    file.create_virtual_dataset("layers/conv2d/vars/1", layout)


def shape_bomb(file: Any) -> None:
    file.create_dataset("layers/conv2d/vars/1", (1 << 29,), "f4", chunks=(1 << 16,), compression="gzip")


def gzip_bomb(file: Any) -> None:
    zeros = file.create_dataset("b/vars/0", (2000, 1000), "f4", chunks=(2000, 1000), compression="gzip")
    zeros[...] = 0


def unwritten(file: Any) -> None:
    file.create_dataset("layers/conv2d/vars/1", (1 << 20,), "f4")


def eight_pebibytes(file: Any) -> None:
    file.create_dataset("layers/conv2d/vars/1", (1 << 51,), "f4", chunks=(1024,))


def other_filter(file: Any) -> None:
    file.create_dataset("layers/conv2d/vars/1", data=np.ones(100, "f4"), compression="lzf")


def checksum_filter(file: Any) -> None:
    file.create_dataset("layers/conv2d/vars/1", data=np.ones(100, "f4"), fletcher32=True)


def huge_chunk(file: Any) -> None:
    file.create_dataset("layers/conv2d/vars/1", data=np.ones(9, "f4"), maxshape=(None,), chunks=(1 << 21,),
                        compression="gzip")  # fmt: skip


def strings(file: Any) -> None:
    file["layers/conv2d/vars/1"] = "text"


def compound(file: Any) -> None:
    file["layers/conv2d/vars/1"] = np.zeros(2, [("a", "f4"), ("b", "i4")])


def variable_length(file: Any) -> None:
    file.create_dataset("layers/conv2d/vars/1", (2,), h5py.vlen_dtype(np.float32))


def references(file: Any) -> None:
    file.create_dataset("layers/conv2d/vars/1", (2,), h5py.ref_dtype)


def complex_numbers(file: Any) -> None:
    file["layers/conv2d/vars/1"] = np.zeros(2, np.complex64)


def no_shape(file: Any) -> None:
    file["layers/conv2d/vars/1"] = h5py.Empty("f4")


def named_type(file: Any) -> None:
    file["layers/conv2d/vars/1"] = np.dtype("f4")


def dimensions(file: Any) -> None:
    file["layers/conv2d/vars/1"] = np.zeros((1,) * 9, np.float32)


def deep(file: Any) -> None:
    file["/".join(["x"] * 40)] = np.zeros(1)


def many(file: Any) -> None:
    group = file.create_group("layers/more")
    empty = group.create_group("0")
    for i in range(1, 30_100):
        group.id.links.create_hard(str(i).encode(), empty.id, b".")


def outside(file: Any) -> None:
    file["kernel"] = np.zeros(1, np.float32)


def too_many_variables(file: Any) -> None:
    for i in "123":
        file[f"layers/conv2d/vars/{i}"] = np.zeros(1, np.float32)


def gap_in_variables(file: Any) -> None:
    file["layers/conv2d/vars/2"] = np.zeros(1, np.float32)


def same_name(file: Any) -> None:
    vars_group(file, "layers/conv2d_1", "stem", 1)


def name_is_a_number(file: Any) -> None:
    file["layers/conv2d/vars"].attrs["name"] = 7


def name_is_not_utf8(file: Any) -> None:
    file["layers/conv2d/vars"].attrs["name"] = np.bytes_(b"\xff")


def lost_layer(file: Any) -> None:
    file.attrs["layer_names"] = [b"gone"]


def lost_weight(file: Any) -> None:
    file["layers"].attrs["weight_names"] = [b"gone/kernel:0"]
    file.attrs["layer_names"] = [b"layers"]


def traversal(file: Any) -> None:
    file["layers"].attrs["weight_names"] = [b"../layers/conv2d/vars/0"]
    file.attrs["layer_names"] = [b"layers"]


def top_level_weight(file: Any) -> None:
    legacy(file, {"top_level_model_weights": {"x": np.ones(1)}})
    file.attrs["layer_names"] = np.array([], "S1")


ATTACKS = {
    hard_cycle: "linked to twice",
    hard_alias: "linked to twice",
    soft_link: "soft or an external link",
    external_link: "soft or an external link",
    external_group: "soft or an external link",
    external_storage: "in another file",
    virtual: "in another file",
    shape_bomb: "announces 2147483648 bytes and stores 0",
    gzip_bomb: "announces 8000000 bytes and stores 77",
    unwritten: "announces 4194304 bytes and stores 0",
    eight_pebibytes: "elements at most",
    other_filter: "other filters",
    checksum_filter: "other filters",
    huge_chunk: "chunks larger",
    strings: "not of plain numbers",
    compound: "not of plain numbers",
    variable_length: "not of plain numbers",
    references: "not of plain numbers",
    complex_numbers: "not of plain numbers",
    no_shape: "no shape",
    named_type: "neither a group nor a dataset",
    dimensions: "8 dimensions",
    deep: "deeper than 24",
    many: "more than 30000 objects",
    outside: "outside of its layers",
    too_many_variables: "has the variables",
    gap_in_variables: "has the variables",
    same_name: "twice",
    name_is_a_number: "not a list of strings",
    name_is_not_utf8: "not UTF-8",
    lost_layer: "has no group",
    lost_weight: "no dataset in its group",
    traversal: "no dataset in its group",
    top_level_weight: "outside of its layers",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda f: f.__name__)
def test_attacks_are_refused(tmp_path: Path, attack: Callable[[Any], None]) -> None:
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:
        vars_group(file, "layers/conv2d", "stem", 1)
        attack(file)
    with pytest.raises(CheckpointError, match=ATTACKS[attack]):
        entries_of(path)


def test_data_that_serves_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:
        vars_group(file, "layers/conv2d", "stem", 2)
        first, second = (file[f"layers/conv2d/vars/{i}"].id.get_offset() for i in (0, 1))
    data = path.read_bytes()
    assert data.count(second.to_bytes(8, "little")) == 1
    path.write_bytes(data.replace(second.to_bytes(8, "little"), first.to_bytes(8, "little")))
    with pytest.raises(CheckpointError, match="two of its datasets overlap"):
        entries_of(path)


@pytest.mark.parametrize("attack", [external_link, external_storage, shape_bomb])
def test_attacks_are_one_line_of_the_sandbox(tmp_path: Path, attack: Callable[[Any], None]) -> None:
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:
        vars_group(file, "layers/conv2d", "stem", 1)
        attack(file)
    with pytest.raises(CheckpointError, match=ATTACKS[attack]) as caught:
        hdf5_file.read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_gzip_and_shuffle_are_read(tmp_path: Path) -> None:
    array = np.arange(5000, dtype=">f4").reshape(50, 100)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        vars_group(file, "layers/dense", "fc", 0)
        file.create_dataset("layers/dense/vars/0", data=array, compression="gzip", shuffle=True)
    assert_same(values_of(hdf5_file.read(tmp_path / "x.h5")), {"fc/kernel": array.astype(np.float32)})


@pytest.mark.parametrize("own", ["{", "[]", '{"a": 1}', '{"a": "1", "a": "2"}', '{"a": NaN}', "[" * 100_000])
def test_own_metadata_is_checked(tmp_path: Path, own: str) -> None:
    with pytest.raises(CheckpointError, match=r"^x: "):
        hdf5_file._own_metadata(own, Path("x"))


@pytest.mark.parametrize(
    "content", [b"", b"\x89HDF\r\n\x1a", b"\x89HDF\r\n\x1a\n" + bytes(500), b"PK\3\4", bytes(1024)]
)
def test_not_hdf5(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.h5: "):
        hdf5_file.read(tmp_path / "x.h5")


def test_user_blocks_folders_and_missing_files(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=512) as file:
        vars_group(file, "layers/dense", "fc", 1)
    for path, says in ((tmp_path / "x.h5", "signature"), (tmp_path, "not a regular file"), (tmp_path / "y", "No such")):
        with pytest.raises(CheckpointError, match=says):
            hdf5_file.read(path)


def test_truncated_and_damaged_files(tmp_path: Path) -> None:
    """A cut file is refused; one with changed bytes is read or refused, and nothing else happens."""
    hdf5_file.write_weights(tmp_path / "whole", archive_of(arrays()))
    data, rng = (tmp_path / "whole").read_bytes(), np.random.default_rng(0)
    for end in rng.integers(8, len(data) - 1, 2):
        (tmp_path / "cut").write_bytes(data[:end])
        with pytest.raises(CheckpointError, match="cut: "):
            hdf5_file.read(tmp_path / "cut")
    for _ in range(4):
        changed = bytearray(data)
        for position in rng.integers(8, len(data), 20):
            changed[position] = rng.integers(256)
        (tmp_path / "changed").write_bytes(changed)
        with contextlib.suppress(CheckpointError):
            values_of(hdf5_file.read(tmp_path / "changed"))
    assert sorted(os.listdir(tmp_path)) == ["changed", "cut", "whole"]


# Keras itself.

PRESETS = (
    "timm/resnet50d",
    "timm/resnetv2_50d_gn",
    "keras/resnet50v2",
    "ablation/resnet110_exclusive_gate_b0",
    "ablation/resnet110_dropout_shortcut",
)


@pytest.mark.parametrize("preset", PRESETS)
def test_keras_loads_what_is_written(tmp_path: Path, preset: str) -> None:
    pytest.importorskip("keras")
    import resnet_keras

    spec = miniature(get_spec(preset)).replace(depths=(1,) * len(get_spec(preset).depths))
    model, weights = resnet_keras.build(spec), probe_weights(spec)
    assert layer_order(make_plan(spec)) == [layer.name for layer in model.layers if layer.weights]
    archive = keras_archive(spec, weights)
    for write, name in ((hdf5_file.write_weights, "x.weights.h5"), (hdf5_file.write_legacy, "x.h5")):
        write(tmp_path / name, archive)
        model.set_weights([np.zeros(w.shape) for w in model.weights])
        model.load_weights(tmp_path / name)
        assert_same(resnet_keras.export_weights(model), weights)
    model.save_weights(tmp_path / "keras.weights.h5")
    assert_same(entries_of(tmp_path / "keras.weights.h5")[0], values_of(archive))


@pytest.mark.parametrize("preact", [False, True])
def test_keras_applications_loads_what_is_written(tmp_path: Path, preact: bool) -> None:
    keras = pytest.importorskip("keras")
    from keras.src.applications import resnet

    def build(path: Path | None) -> Any:
        stack = resnet.stack_residual_blocks_v2 if preact else resnet.stack_residual_blocks_v1
        return resnet.ResNet(lambda x: stack(x, 4, 2, name="conv2"), preact, True, weights_name="x", weights=path,
                             input_shape=(32, 32, 3), classes=5, name="tiny")  # fmt: skip

    keras.utils.set_random_seed(0)
    model = build(None)
    model.save(tmp_path / "keras.h5")
    model.save_weights(tmp_path / "keras.weights.h5")
    expected = model.get_weights()
    by_names, names = entries_of(tmp_path / "keras.h5"), [layer.name for layer in model.layers if layer.weights]
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
