"""HDF5 files that mean harm, are damaged, or are none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import CheckpointError
from shared.formats.containers import hdf5_file
from tests.formats.hdf5_files import archive_of, arrays, entries_of, legacy, values_of, vars_group

h5py = pytest.importorskip("h5py")


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
    file.create_dataset(
        "layers/conv2d/vars/1", (1 << 29,), "f4", chunks=(1 << 16,), compression="gzip"
    )


def gzip_bomb(file: Any) -> None:
    zeros = file.create_dataset(
        "b/vars/0", (2000, 1000), "f4", chunks=(2000, 1000), compression="gzip"
    )
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
    file.create_dataset(
        "layers/conv2d/vars/1",
        data=np.ones(9, "f4"),
        maxshape=(None,),
        chunks=(1 << 21,),
        compression="gzip",
    )


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


@pytest.mark.parametrize(
    "own", ["{", "[]", '{"a": 1}', '{"a": "1", "a": "2"}', '{"a": NaN}', "[" * 100_000]
)
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
    for path, says in (
        (tmp_path / "x.h5", "signature"),
        (tmp_path, "not a regular file"),
        (tmp_path / "y", "No such"),
    ):
        with pytest.raises(CheckpointError, match=says):
            hdf5_file.read(path)


def test_truncated_and_damaged_files(tmp_path: Path) -> None:
    """A cut file is refused; one with changed bytes is read or refused, and nothing
    else happens.
    """
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
