"""safetensors as archives: what the library writes and reads, every damage refused, bombs refused
cheaply.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shared.errors import CheckpointError
from shared.formats.containers import safetensors_file
from shared.formats.containers.safetensors_file import MAX_HEADER, read, write
from tests.formats.hostile import (
    archive_of,
    arrays,
    assert_same,
    cheaply,
    is_refused,
    mutations,
    values,
    wide_arrays,
)

FILE = "x.safetensors"


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.fixture
def good(tmp_path: Path) -> bytes:
    write(tmp_path / "good", archive_of(arrays(), note="text"))
    return (tmp_path / "good").read_bytes()


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    write(tmp_path / FILE, archive_of(wide_arrays(), note="é"))
    assert_same(
        load_file(tmp_path / FILE),
        {n: a.astype(a.dtype.newbyteorder("<")) for n, a in wide_arrays().items()},
    )
    archive = read(tmp_path / FILE)
    assert archive.metadata == {"note": "é"}
    assert list(archive.entries) == list(wide_arrays())  # in the archive's order
    assert_same(values(archive), wide_arrays())


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    contiguous = {
        name: np.ascontiguousarray(array) for name, array in arrays().items()
    }  # it saves others transposed
    save_file(contiguous, tmp_path / FILE, metadata={"format": "np"})
    archive = read(tmp_path / FILE)
    assert archive.container == "safetensors"
    assert_same(values(archive), arrays())


def test_tensors_are_aligned(tmp_path: Path) -> None:
    write(tmp_path / FILE, archive_of(wide_arrays()))
    data = (tmp_path / FILE).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    assert start % 8 == 0
    widths = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "U8": 1}
    assert all(
        e["data_offsets"][0] % widths[e["dtype"]] == 0 for e in json.loads(data[8:start]).values()
    )


def test_loading_reads_the_disk_anew(tmp_path: Path) -> None:
    write(tmp_path / FILE, archive_of({"a": np.zeros(3, "float32")}))
    entry = read(tmp_path / FILE).entries["a"]
    first = entry.load()
    first += 1  # an array of its own
    write(tmp_path / FILE, archive_of({"a": np.full(3, 7, "float32")}))
    assert entry.load().tolist() == [7, 7, 7]
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="shorter"):
        entry.load()
    (tmp_path / FILE).unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        entry.load()


def test_every_truncation_is_refused(tmp_path: Path, good: bytes) -> None:
    accepted = []
    for length in range(len(good)):
        (tmp_path / FILE).write_bytes(good[:length])
        if not is_refused(read, tmp_path / FILE):
            accepted.append(length)
    assert accepted == []


def test_mutants_are_refused_or_valid(tmp_path: Path, good: bytes) -> None:
    refused = 0
    for mutant in mutations(good):
        (tmp_path / FILE).write_bytes(mutant)
        refused += is_refused(read, tmp_path / FILE)
    assert refused > 100


def one(**changes: object) -> dict[str, object]:
    return {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}}


BOMBS = {
    "header-of-100-MB": b"\0\0\0\x06\0\0\0\0" + b" " * 64,
    "header-over-the-limit": (MAX_HEADER + 1).to_bytes(8, "little") + b" " * (MAX_HEADER + 1),
    "deep-list": file_of(b"[" * 100_000),
    "deep-object": file_of(b'{"a":' * 100_000),
    "million-sizes": file_of(
        b'{"a":{"dtype":"F32","shape":[' + b"9," * 1_900_000 + b'9],"data_offsets":[0,0]}}'
    ),
    "many-objects": file_of(b'{"a":[' + b"{}," * 1_300_000 + b"{}]}"),
    "zero-times-2^63": file_of(one(shape=[0, 1 << 63], data_offsets=[0, 0])),
    "nine-dimensions": file_of(one(shape=[1] * 9), b"1234"),
    "huge-number": file_of(
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 1_000_000 + b'],"data_offsets":[0,0]}}'
    ),
    "200000-tensors": file_of(b"{" + b",".join(b'"%x":1' % n for n in range(200_000)) + b"}"),
    "two-times-a-name": file_of(b'{"a":1,"a":1}'),
    "true-as-a-size": file_of(one(shape=[True]), b"1234"),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_bombs(tmp_path: Path, bomb: bytes) -> None:
    (tmp_path / FILE).write_bytes(bomb)
    with cheaply():
        assert is_refused(read, tmp_path / FILE)


UNWRITABLE = {
    "complex": ({"a": np.zeros(2, "complex64")}, {}, "complex64"),
    "metadata-as-tensor": ({"__metadata__": np.zeros(2, "float32")}, {}, "__metadata__"),
    "no-unicode": ({"\ud800": np.zeros(2, "float32")}, {}, "Unicode"),
    "no-unicode-metadata": ({"a": np.zeros(2, "float32")}, {"a": "\ud800"}, "Unicode"),
    "nine-dimensions": ({"a": np.zeros((1,) * 9, "float32")}, {}, "9 dimensions"),
    "large-metadata": ({"a": np.zeros(2, "float32")}, {"a": "x" * MAX_HEADER}, "header"),
}


@pytest.mark.parametrize(("tensors", "metadata", "message"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_what_cannot_be_written(
    tmp_path: Path, tensors: dict, metadata: dict, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        write(tmp_path / FILE, archive_of(tensors, **metadata))


def test_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "absent", Path(os.devnull)):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read(path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be written"):
        safetensors_file.write(tmp_path / "absent" / FILE, archive_of(arrays()))
