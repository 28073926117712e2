"""safetensors written tensor by tensor: what the library reads, the same bytes every time, and on
every file system.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from shared import CheckpointError
from shared.weights.files import TensorFile
from shared.weights.tensor_writer import rewrite_metadata, write_safetensors

TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array(3.0),
    "c": np.zeros((0, 4), np.int8),
    "d": np.arange(5, dtype=">f2"),
}


def write(path: Path, **metadata: str) -> None:
    write_safetensors(path, TENSORS, metadata, reversed(TENSORS.items()))


def test_the_library_reads_what_is_written_in_any_order(tmp_path: Path) -> None:
    write(tmp_path / "x", note="é")
    found = load_file(tmp_path / "x")
    assert {name: (a.dtype, a.shape, a.tolist()) for name, a in found.items()} == {
        name: (a.dtype.newbyteorder("<"), a.shape, a.tolist()) for name, a in TENSORS.items()
    }
    assert TensorFile(tmp_path / "x").metadata == {"note": "é"}
    assert TensorFile(tmp_path / "x").names == list(TENSORS)


def test_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    """The library's own writer has the metadata in another order each time."""
    code = (
        "import sys, numpy as np; from shared.weights.files import write_tensors; "
        "write_tensors(sys.argv[1], {'b': np.ones(2), 'a': np.ones(3, 'f4')}, "
        "{key: key for key in 'zyxwvu'})"
    )
    for i in range(2):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / str(i))], check=True)
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_one_tensor_in_memory_at_a_time(tmp_path: Path) -> None:
    """Each is asked for when the one before is in the file."""
    size = 1 << 20

    def values() -> Iterator[tuple[str, np.ndarray]]:
        yield "a", np.ones(size, np.uint8)
        yield "b", np.ones(size, np.uint8)
        assert (tmp_path / "x").read_bytes().count(1) >= size

    shapes = {name: np.empty(size, np.uint8) for name in "ab"}
    write_safetensors(tmp_path / "x", shapes, {}, values())


def test_metadata_of_the_same_length_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write(path, a="0000")
    rewrite_metadata(path, TENSORS, {"a": "1234"})
    assert TensorFile(path).metadata == {"a": "1234"}
    assert load_file(path)["b"].tolist() == TENSORS["b"].tolist()
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="another length"):
        rewrite_metadata(path, TENSORS, {"a": "longer than it was"})
    assert path.read_bytes() == before


def test_a_file_that_was_cut_keeps_its_header(tmp_path: Path) -> None:
    write(tmp_path / "x", a="0")
    os.truncate(tmp_path / "x", (tmp_path / "x").stat().st_size - 1)
    with pytest.raises(CheckpointError, match="another length"):
        rewrite_metadata(tmp_path / "x", TENSORS, {"a": "1"})


@pytest.mark.parametrize("reason", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_that_cannot_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def refuse(*arguments: int) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    write(tmp_path / "x")
    assert load_file(tmp_path / "x")["b"].tolist() == TENSORS["b"].tolist()


def test_a_system_that_cannot_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    write(tmp_path / "x")
    assert load_file(tmp_path / "x")["b"].tolist() == TENSORS["b"].tolist()


def test_a_full_disk_is_known_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def values() -> Iterator[tuple[str, np.ndarray]]:
        raise AssertionError("nothing is to be loaded for a disk that is full")
        yield

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(CheckpointError, match="No space left on device"):
        write_safetensors(tmp_path / "x", TENSORS, {}, values())


UNWRITABLE = {
    "complex": ({"a": np.zeros(2, "complex64")}, {}, "complex64"),
    "metadata-as-tensor": ({"__metadata__": np.zeros(2)}, {}, "__metadata__"),
    "no-unicode": ({"x" * 100 + "\ud800": np.zeros(2)}, {}, r"ud800.* is no Unicode text"),
    "large-metadata": ({"a": np.zeros(2)}, {"a": "x" * 100}, "160 at most are read back"),
}


@pytest.mark.parametrize(("tensors", "metadata", "said"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_what_cannot_be_written(tmp_path: Path, tensors: dict, metadata: dict, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        write_safetensors(tmp_path / "x", tensors, metadata, tensors.items(), 160)
    assert not (tmp_path / "x").exists()
