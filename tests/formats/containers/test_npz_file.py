"""npz archives: what NumPy writes and reads, every damage refused, zip and header bombs refused
cheaply.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shared.errors import CheckpointError
from shared.formats.containers.npz_file import read, write
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

FILE = "x.npz"


def npy(header: str | bytes, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    """A `.npy` file with this header."""
    text = header.encode() if isinstance(header, str) else header
    length = struct.pack("<H" if version == b"\1\0" else "<I", len(text))
    return b"\x93NUMPY" + version + length + text + data


def layout(descr: str = "'<f4'", shape: str = "(1,)", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


ONE = npy(layout(), b"1234")


def zip_of(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(tmp_path: Path, save: Callable[..., None]) -> None:
    tensors = {name: array for name, array in wide_arrays().items() if name != "x/bf"}
    save(tmp_path / FILE, **tensors)
    archive = read(tmp_path / FILE)
    assert archive.container == "npz"
    assert list(archive.entries) == list(tensors)
    assert_same(values(archive), tensors)


def test_numpy_reads_what_is_written(tmp_path: Path) -> None:
    write(tmp_path / FILE, archive_of(wide_arrays()))
    with np.load(tmp_path / FILE) as found:
        tensors = {name: found[name] for name in found.files}
    assert tensors["x/bf"].dtype == "V2"  # NumPy has no bfloat16
    tensors["x/bf"] = tensors["x/bf"].view(wide_arrays()["x/bf"].dtype)
    assert_same(tensors, wide_arrays())
    assert_same(values(read(tmp_path / FILE)), wide_arrays())


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, archive_of(arrays()))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_is_streamed_to_a_pipe_is_read(tmp_path: Path) -> None:
    """Sizes then come after the data."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise io.UnsupportedOperation

        tell = seek

    pipe = Pipe()
    np.savez_compressed(pipe, **arrays())
    (tmp_path / FILE).write_bytes(pipe.getvalue())
    assert_same(values(read(tmp_path / FILE)), arrays())


def test_python_2_and_scalars(tmp_path: Path) -> None:
    old = npy(layout(shape="(2L, 1L)"), b"12345678")
    scalar = npy(layout(shape="()"), b"1234", version=b"\2\0")
    (tmp_path / FILE).write_bytes(zip_of(("old.npy", old), ("scalar.npy", scalar)))
    assert {name: entry.shape for name, entry in read(tmp_path / FILE).entries.items()} == {
        "old": (2, 1),
        "scalar": (),
    }


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_truncation_is_refused(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "good", **{name: arrays()[name] for name in ("conv/kernel", "bn/scale")})
    good = (tmp_path / "good.npz").read_bytes()
    accepted = []
    for length in range(len(good)):
        (tmp_path / FILE).write_bytes(good[:length])
        if not is_refused(read, tmp_path / FILE):
            accepted.append(length)
    assert accepted == []


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_mutants_are_refused_or_valid(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "good", **{name: arrays()[name] for name in ("conv/kernel", "bn/scale")})
    refused = 0
    for mutant in mutations((tmp_path / "good.npz").read_bytes()):
        (tmp_path / FILE).write_bytes(mutant)
        refused += is_refused(read, tmp_path / FILE)
    assert refused > 200  # the data has a checksum, too


def test_a_changed_value_is_found(tmp_path: Path) -> None:
    write(tmp_path / FILE, archive_of({"a": np.arange(100, dtype="float32")}))
    data = bytearray((tmp_path / FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / FILE).write_bytes(data)
    archive = read(tmp_path / FILE)
    with pytest.raises(CheckpointError, match="checksum"):
        archive.entries["a"].load()


class _Canary:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("canary",)


def objects() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.array([_Canary()], dtype=object))
    return file.getvalue()


def bare(count: int, length: int, start: int = 0, data: bytes = b"") -> bytes:
    """Only the end record, after some data."""
    return data + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, length, start, 0)


def large(count: int, length: int) -> bytes:
    """End records of a large archive."""
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1)
    return bare(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, record + locator)


def overlapping() -> bytes:
    """Two members of the directory that are the same bytes of the file."""
    data = bytearray(zip_of(("a.npy", ONE)))
    start = data.index(b"PK\1\2")
    entry = bytes(data[start : data.index(b"PK\5\6")])
    second = entry.replace(b"a.npy", b"b.npy")
    return (
        bytes(data[:start])
        + entry
        + second
        + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, 2 * len(entry), start, 0)
    )


def lying_sizes(size: int) -> bytes:
    """A deflated member that announces another size in both headers."""
    zeros = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = zeros.compress(npy(layout(shape="(1048576,)")) + bytes(4 << 20)) + zeros.flush()
    name = b"a.npy"
    head = (
        struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(packed), size, len(name), 0)
        + name
    )
    central = struct.pack(
        "<4s6H3L5H2L",
        b"PK\1\2",
        20,
        20,
        0,
        8,
        0,
        0,
        0,
        len(packed),
        size,
        len(name),
        0,
        0,
        0,
        0,
        0,
        0,
    )
    return bare(1, len(central + name), len(head + packed), head + packed + central + name)


def encrypted() -> bytes:
    data = bytearray(zip_of(("a.npy", ONE)))
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    return bytes(data)


def deflated(text: str) -> bytes:
    return zip_of(("a.npy", npy(text)), method=zipfile.ZIP_DEFLATED)


# What is wrong, and what the message says.
BAD = {
    "empty": (b"", "too few"),
    "no-zip": (b"x" * 100, "end record"),
    "pickled-objects": (objects(), "Python objects"),
    "pickled-in-fields": (
        zip_of(("a.npy", npy(layout("[('x', '|O')]"), b"1234"))),
        "Python objects",
    ),
    "fields": (zip_of(("a.npy", npy(layout("[('x', '<f4')]"), b"1234"))), "dtype"),
    "complex": (zip_of(("a.npy", npy(layout("'<c8'"), b"12345678"))), "dtype"),
    "text": (zip_of(("a.npy", npy(layout("'<U1'"), b"1234"))), "dtype"),
    "long-double": (zip_of(("a.npy", npy(layout("'<f16'"), b"1" * 16))), "dtype"),
    "8-PiB": (zip_of(("a.npy", npy(layout(shape="(1125899906842624,)")))), "impossible shape"),
    "8-PiB-deflated": (deflated(layout(shape="(1125899906842624,)")), "impossible shape"),
    "4-GiB": (zip_of(("a.npy", npy(layout(shape="(1073741824,)")))), "does not follow"),
    "zero-times-2^63": (
        zip_of(("a.npy", npy(layout(shape="(0, 9223372036854775808)")))),
        "impossible shape",
    ),
    "nine-dimensions": (
        zip_of(("a.npy", npy(layout(shape="(1, 1, 1, 1, 1, 1, 1, 1, 1)"), b"1234"))),
        "dimensions",
    ),
    "negative-size": (
        zip_of(("a.npy", npy(layout(shape="(-1,)"), b"1234"))),
        "NumPy would not write",
    ),
    "no-tuple": (zip_of(("a.npy", npy(layout(shape="(1)"), b"1234"))), "NumPy would not write"),
    "expression": (
        zip_of(("a.npy", npy(layout(shape="(2-1,)"), b"1234"))),
        "NumPy would not write",
    ),
    "deep-header": (zip_of(("a.npy", npy("(" * 4000))), "NumPy would not write"),
    "header-of-64-KB": (zip_of(("a.npy", npy("(" * 65535))), "header of 65535"),
    "header-of-4-GB": (
        zip_of(("a.npy", b"\x93NUMPY\2\0\xff\xff\xff\xff" + b" " * 99)),
        "header of 4294967295",
    ),
    "header-of-a-deflated-GB": (deflated(" " * 60_000), "header of 60000"),
    "cut-header": (zip_of(("a.npy", ONE[:20])), "ends within its header"),
    "version-4": (zip_of(("a.npy", npy(layout(), b"1234", version=b"\4\0"))), "version"),
    "trailing-data": (zip_of(("a.npy", ONE + b"x")), "does not follow"),
    "missing-data": (zip_of(("a.npy", ONE[:-1])), "does not follow"),
    "not-npy": (zip_of(("a.npy", ONE), ("readme.txt", b"x")), "readme.txt"),
    "1000-to-1": (lying_sizes(4 << 30 - 1 & 0xFFFFFFF0), "times as many"),
    "inflates-to-more": (lying_sizes(1 << 20), "does not follow"),
    "overlapping": (overlapping(), "overlaps"),
    "encrypted": (encrypted(), "encrypted"),
    "trailing-bytes": (zip_of(("a.npy", ONE)) + b"x", "end record"),
    "leading-bytes": (b"MZ" + zip_of(("a.npy", ONE)), "directory should end"),
    "million-members": (large(1_000_000, 1_000_000), "announces 1000000 members"),
    "directory-of-8-EiB": (large(1, (1 << 63) - 1), "announces 1 members"),
    "more-members-than-there-are": (bare(30_000, 0), "fewer members"),
    "bzip2": (zip_of(("a.npy", ONE), method=zipfile.ZIP_BZIP2), "method 12"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_bad_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / FILE).write_bytes(data)
    with cheaply(), pytest.raises(CheckpointError, match=message) as caught:
        values(read(tmp_path / FILE))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "canary").exists()


def test_a_name_twice(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        data = zip_of(("a.npy", ONE), ("a.npy", ONE))
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(CheckpointError, match="twice"):
        read(tmp_path / FILE)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "..\\x", "a/../b", "C:\\x"])
def test_names_are_only_names(tmp_path: Path, name: str) -> None:
    (tmp_path / FILE).write_bytes(zip_of((name + ".npy", ONE)))
    assert read(tmp_path / FILE).entries[name].load().tobytes() == b"1234"
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 65536])
def test_names_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be written"):
        write(tmp_path / FILE, archive_of({name: np.zeros(1)}))


@pytest.mark.parametrize("dtype", ["complex64", "O", "U3", "bool"])
def test_dtypes_that_cannot_be_written(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(CheckpointError, match="npz is written with"):
        write(tmp_path / FILE, archive_of({"a": np.zeros(1, dtype)}))
