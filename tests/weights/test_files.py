"""The safetensors reader refuses every damaged file, and writing leaves the old file or the new
one.

Files are made byte by byte here; what the reader takes is compared with the safetensors library.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from shared import CheckpointError
from shared.weights import files
from shared.weights.files import (
    MAX_HEADER,
    TensorFile,
    creating_folder,
    read_tensors,
    replacing,
    replacing_is_possible,
    write_tensors,
)

DATA = bytes(range(1, 13))  # three values of four bytes
TWO = {"a": ("F32", [2], [0, 8]), "b": ("F32", [1], [8, 12])}


def header_of(entries: dict[str, tuple]) -> str:
    return json.dumps(
        {n: {"dtype": d, "shape": s, "data_offsets": o} for n, (d, s, o) in entries.items()}
    )


def file_of(header: str | bytes, data: bytes = DATA, length: int | None = None) -> bytes:
    """A safetensors file: the header's length, the header, the data."""
    text = header.encode() if isinstance(header, str) else header
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


GOOD = file_of(header_of(TWO))


@pytest.fixture
def write(tmp_path) -> Callable[[bytes], Path]:
    """Bytes to a file."""

    def to_file(content: bytes) -> Path:
        path = tmp_path / "file.safetensors"
        path.write_bytes(content)
        return path

    return to_file


def test_a_good_file(write) -> None:
    file = TensorFile(write(GOOD))
    assert file.names == ["a", "b"]
    assert (file.shape("a"), file.dtype("a")) == ((2,), np.dtype("<f4"))
    assert "a" in file
    assert "c" not in file
    assert file["b"].tobytes() == DATA[8:]
    assert file.metadata == {}


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_every_truncation_is_refused(write, length: int) -> None:
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        TensorFile(write(GOOD[:length]))


def entry(**changes: object) -> str:
    """A header of one tensor that fills the file, with fields changed."""
    return json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12], **changes}})


# What is wrong, the file, and what the message must say.
DAMAGED = {
    "empty": (b"", "0 bytes"),
    "trailing-bytes": (GOOD + b"x", "file at byte"),
    "header-longer-than-file": (file_of(header_of(TWO), length=10_000), "announce"),
    "header-length-2^64-1": (b"\xff" * 8 + DATA, "announce"),
    "header-over-the-limit": (file_of(b"{}", b"\0" * 8, length=MAX_HEADER + 1), "announce"),
    "header-length-0": (file_of("", length=0), "announce"),
    "header-cut": (file_of('{"a": {', b""), "not JSON"),
    "header-not-utf8": (file_of(b'{"\xff\xfe": 1}', b""), "not JSON"),
    "header-utf16": (file_of("{}".encode("utf-16-le"), b""), "not JSON"),
    "header-deep": (file_of("[" * 100_000, b""), "not JSON"),
    "header-list": (file_of("[]", b""), "not an object"),
    "header-number": (file_of("12", b""), "not an object"),
    "duplicate-name": (
        file_of(header_of({"a": ("F32", [3], [0, 12])})[:-1] + "," + entry()[1:]),
        "twice",
    ),
    "duplicate-field": (file_of(entry()[:-2] + ',"dtype":"F32"}}'), "twice"),
    "overlap": (
        file_of(header_of({"a": ("F32", [2], [0, 8]), "b": ("F32", [2], [4, 12])})),
        "overlaps",
    ),
    "same-bytes-twice": (
        file_of(header_of({"a": ("F32", [3], [0, 12]), "b": ("F32", [3], [0, 12])})),
        "overlaps",
    ),
    "gap": (file_of(header_of({"a": ("F32", [1], [0, 4]), "b": ("F32", [1], [8, 12])})), "gap"),
    "gap-at-start": (file_of(header_of({"a": ("F32", [2], [4, 12])})), "gap"),
    "unused-tail": (file_of(header_of({"a": ("F32", [2], [0, 8])})), "file at byte"),
    "beyond-the-end": (file_of(entry(shape=[4], data_offsets=[0, 16])), "file at byte"),
    "unknown-dtype": (file_of(entry(dtype="F31")), "dtype"),
    "dtype-not-text": (file_of(entry(dtype=["F32"])), "dtype"),
    "no-shape": (file_of('{"a": {"dtype": "F32", "data_offsets": [0, 12]}}'), "field"),
    "no-dtype": (file_of('{"a": {"shape": [3], "data_offsets": [0, 12]}}'), "field"),
    "entry-not-object": (file_of('{"a": [1, 2, 3]}'), "field"),
    "three-offsets": (file_of(entry(data_offsets=[0, 6, 12])), "field"),
    "shape-against-offsets": (file_of(entry(shape=[2])), "does not follow"),
    "shape-negative": (file_of(entry(shape=[-1, -3])), "does not follow"),
    "shape-float": (file_of(entry(shape=[3.0])), "does not follow"),
    "shape-boolean": (file_of(entry(shape=[3, True])), "does not follow"),
    "shape-text": (file_of(entry(shape="3")), "does not follow"),
    "shape-overflow": (file_of(entry(shape=[2**62, 4, 2])), "does not follow"),
    "offsets-reversed": (file_of(entry(data_offsets=[12, 0])), "does not follow"),
    "offsets-negative": (file_of(entry(data_offsets=[-12, 0])), "does not follow"),
    "metadata-not-object": (file_of('{"__metadata__": 3}', b""), "table of strings"),
    "metadata-not-strings": (file_of('{"__metadata__": {"a": 3}}', b""), "table of strings"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_refused(write, content: bytes, message: str) -> None:
    path = write(content)
    with pytest.raises(CheckpointError, match=message) as refusal:
        TensorFile(path)
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [content for content, _ in DAMAGED.values()], ids=DAMAGED)
def test_the_reader_takes_nothing_that_safetensors_refuses(write, content: bytes) -> None:
    """Nor does the library take what ours refuses, but for duplicate names and fields."""
    path = write(content)
    try:
        load_file(path)
    except (SafetensorError, OSError, ValueError):
        with pytest.raises(CheckpointError):
            read_tensors(path)


@pytest.mark.parametrize(
    "shape", [[0, 2**63], [0, 2**40, 2**40], [0] * 100], ids=["2^63", "2^80", "100-axes"]
)
def test_empty_tensors_of_impossible_shapes_are_refused(write, shape: list[int]) -> None:
    path = write(file_of(entry(shape=shape, data_offsets=[0, 0]), b""))
    with pytest.raises(CheckpointError):
        read_tensors(path)


@pytest.mark.parametrize(
    "shape",
    [(), (1,), (0,), (3, 0, 2), (2, 3, 4)],
    ids=["scalar", "one", "none", "empty-axis", "cube"],
)
@pytest.mark.parametrize(
    "dtype",
    [
        "float64",
        "float32",
        "float16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
    ],
)
def test_what_safetensors_writes_is_read(tmp_path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    save_file({"x": array}, tmp_path / "x", metadata={"k": "v", "ü": "\n"})
    tensors, metadata = read_tensors(tmp_path / "x")
    assert tensors["x"].dtype == array.dtype
    assert np.array_equal(tensors["x"], array)
    assert metadata == {"k": "v", "ü": "\n"}


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", "float32", "int64"])
def test_what_we_write_safetensors_reads(tmp_path, dtype: str) -> None:
    import ml_dtypes

    array = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    write_tensors(tmp_path / "x", {"x": array}, {"k": "v"})
    assert np.array_equal(load_file(tmp_path / "x")["x"], array)
    assert np.array_equal(read_tensors(tmp_path / "x")[0]["x"], array)


def test_read_tensors_outlive_their_file(tmp_path) -> None:
    write_tensors(tmp_path / "x", {"x": np.ones(4)}, {})
    tensors, _ = read_tensors(tmp_path / "x")
    (tmp_path / "x").unlink()
    tensors["x"][0] = 2
    assert tensors["x"].tolist() == [2, 1, 1, 1]


def test_writing_leaves_its_argument_alone(tmp_path) -> None:
    tensors = {"b": np.ones(2), "a": np.ones(3, np.float32)}
    write_tensors(tmp_path / "x", tensors, {})
    assert list(tensors) == ["b", "a"]


@pytest.mark.parametrize("place", ["missing", "folder", "file/below"])
def test_files_that_cannot_be_opened(tmp_path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be read"):
        TensorFile(tmp_path / place)


@pytest.fixture
def target(tmp_path) -> Path:
    """A file that is there already."""
    path = tmp_path / "target"
    path.write_bytes(b"old")
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_replacing_takes_the_place_of_the_old_file(target: Path) -> None:
    with replacing(target) as temporary:
        assert temporary.parent == target.parent
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert names_in(target.parent) == ["target"]


def write_half(target: Path, error: type[BaseException]) -> None:
    """Start to replace `target`, and fail."""
    with replacing(target) as temporary:
        temporary.write_bytes(b"half")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_whatever_happens_the_old_file_stands(target: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        write_half(target, error)
    assert target.read_bytes() == b"old"
    assert names_in(target.parent) == ["target"]


def test_a_full_disk_is_a_refusal(target: Path) -> None:
    with pytest.raises(CheckpointError, match="No space left"), replacing(target):
        raise OSError(28, "No space left on device")
    assert target.read_bytes() == b"old"
    assert names_in(target.parent) == ["target"]


def test_a_failed_write_of_tensors_leaves_the_old_file(target: Path, monkeypatch) -> None:
    def fail(path, tensors, metadata, values) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_safetensors", fail)
    with pytest.raises(CheckpointError, match="No space left"):
        write_tensors(target, {"x": np.ones(2)}, {})
    assert target.read_bytes() == b"old"
    assert names_in(target.parent) == ["target"]


def test_what_does_not_read_back_is_not_kept(target: Path, monkeypatch) -> None:
    def lose_a_tensor(path, tensors, metadata, values) -> None:
        save_file({"x": tensors["x"]}, path, metadata=metadata)

    monkeypatch.setattr(files, "write_safetensors", lose_a_tensor)
    with pytest.raises(CheckpointError, match="does not read back"):
        write_tensors(target, {"x": np.ones(2), "y": np.ones(2)}, {})
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize(
    "place", ["missing/x", "target/x", "."], ids=["no-folder", "below-a-file", "a-folder"]
)
def test_places_that_cannot_be_written(target: Path, place: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_tensors(target.parent / place, {"x": np.ones(2)}, {})
    assert names_in(target.parent) == ["target"]


@pytest.fixture
def masked() -> Iterator[None]:
    """A umask of 027 for the length of a test."""
    mask = os.umask(0o027)
    yield
    os.umask(mask)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.usefixtures("masked")
def test_permissions_of_a_new_file_follow_the_umask(tmp_path) -> None:
    write_tensors(tmp_path / "x", {"x": np.ones(2)}, {})
    assert mode_of(tmp_path / "x") == 0o640


@pytest.mark.usefixtures("masked")
def test_permissions_of_a_new_folder_follow_the_umask(tmp_path) -> None:
    with creating_folder(tmp_path / "x") as temporary:
        temporary.mkdir()
    assert mode_of(tmp_path / "x") == 0o750


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o444])
def test_a_file_keeps_the_permissions_of_the_one_that_it_replaces(target: Path, mode: int) -> None:
    target.chmod(mode)
    with replacing(target) as temporary:
        assert mode_of(temporary) == 0o600  # nobody else reads along while it grows
        temporary.write_bytes(b"new")
    assert (target.read_bytes(), mode_of(target)) == (b"new", mode)


def test_other_threads_files_keep_the_umask_meanwhile(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask is the whole process's"))
    write_tensors(tmp_path / "x", {"x": np.ones(2)}, {})


@pytest.mark.parametrize("links", [["link"], ["link", "link2"]], ids=["one", "two"])
@pytest.mark.parametrize("there", [True, False], ids=["old", "dangling"])
def test_a_link_is_written_through(tmp_path, links: list[str], there: bool) -> None:
    real = tmp_path / "folder" / "real"
    real.parent.mkdir()
    if there:
        real.write_bytes(b"old")
    (tmp_path / "link").symlink_to(Path("folder") / "real")  # relative to where the link lies
    (tmp_path / "link2").symlink_to("link")
    with replacing(tmp_path / links[-1]) as temporary:
        assert temporary.parent == real.parent  # on the same file system
        temporary.write_bytes(b"new")
    assert real.read_bytes() == b"new"
    assert (tmp_path / links[-1]).is_symlink()
    assert (tmp_path / links[-1]).read_bytes() == b"new"


def test_a_folder_is_made_where_a_dangling_link_leads(tmp_path) -> None:
    (tmp_path / "link").symlink_to("real")
    with creating_folder(tmp_path / "link") as temporary:
        temporary.mkdir()
        (temporary / "file").write_bytes(b"new")
    assert (tmp_path / "real" / "file").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()
    assert names_in(tmp_path) == ["link", "real"]


@pytest.mark.parametrize("kind", ["file", "folder", "link to a folder"])
def test_a_folder_replaces_nothing(tmp_path, kind: str) -> None:
    (tmp_path / "old").mkdir() if "folder" in kind else (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "link").symlink_to("old")
    path = tmp_path / ("link" if "link" in kind else "old")
    with pytest.raises(CheckpointError, match="exists already"), creating_folder(path):
        pytest.fail("nothing is written")
    assert names_in(tmp_path) == ["link", "old"]


def test_a_folder_that_fails_leaves_nothing(tmp_path) -> None:
    def make_half() -> None:
        with creating_folder(tmp_path / "new") as temporary:
            temporary.mkdir()
            raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left"):
        make_half()
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("kind", ["pipe", "links in a circle"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path, kind: str) -> None:
    """Whoever is root and writes to /dev/null would else have a file there."""
    path = tmp_path / "x"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("x")
    for refused in (lambda: write_tensors(path, {}, {}), lambda: replacing_is_possible(path)):
        with pytest.raises(CheckpointError, match="is not a regular file"):
            refused()
    assert names_in(tmp_path) == ["x"]


def test_a_file_of_no_tensors(tmp_path) -> None:
    write_tensors(tmp_path / "x", {}, {"k": "v"})
    assert read_tensors(tmp_path / "x") == ({}, {"k": "v"})
