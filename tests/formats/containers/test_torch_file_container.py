"""PyTorch checkpoints that are damaged outside of their pickle, or are something else: zip files
and the old layout.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path

import pytest

from shared.errors import CheckpointError
from shared.formats.containers.torch_file import read

pytest.importorskip("torch")

from tests.formats.torch_files import (
    one,
    persistent,
    refused,
    save,
    tensor,
    text,
    toy,
    write_legacy,
    write_zip,
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "neither"),
        (b"PK", "neither"),
        (b"PK\3\4", "zip"),
        (b"\x80", "cut short"),
        (b"\x80\x02N.", "not one that torch.save wrote"),
        (pickle.dumps({"w": 1}), "not one that torch.save wrote"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "neither"),
        (bytes(257) + b"ustar\x0000" + bytes(248), "before 0.1.10"),
    ],
)
def test_a_file_that_is_something_else(tmp_path, content, words):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    refused(path, words)


def test_a_file_that_is_none(tmp_path):
    refused(tmp_path / "missing.pth", "cannot be read")
    refused(tmp_path, "cannot be read")
    os.mkfifo(tmp_path / "pipe.pth")
    refused(tmp_path / "pipe.pth", "cannot be read")


def zip_of(path: Path, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


GOOD = [("a/data.pkl", one("w", tensor())), ("a/data/0", bytes(24))]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (GOOD[:1], "no such member"),
        (GOOD[1:], "0 members <name>/data.pkl"),
        ([*GOOD, ("b/data.pkl", GOOD[0][1])], "2 members"),
        ([*GOOD, ("../evil", b"")], "not acceptable"),
        ([*GOOD, ("/evil", b"")], "not acceptable"),
        ([*GOOD, ("a/../../evil", b"")], "not acceptable"),
        ([*GOOD, ("a/e\x1bvil", b"")], "not acceptable"),
        ([*GOOD, ("a\\evil", b"")], "not acceptable"),
        ([*GOOD, ("a/byteorder", b"big")], "little-endian"),
        ([*GOOD, ("a/byteorder", b"little and big")], "little-endian"),
        ([GOOD[0], ("a/data/0", bytes(23))], "24 bytes"),
        ([GOOD[0], ("a/data/0", bytes(25))], "24 bytes"),
        ([("a/data.pkl", GOOD[0][1] + b"x"), GOOD[1]], "follows"),
        ([("a/data.pkl", b""), GOOD[1]], "cut short"),
        ([("a/data.pkl", bytes((16 << 20) + 1)), GOOD[1]], "more than 16 MiB"),
    ],
)
def test_a_zip_file_that_is_no_checkpoint(tmp_path, members, words):
    refused(zip_of(tmp_path / "a.pth", members), words)


def test_a_zip_file_made_by_hand_is_read(tmp_path):
    path = zip_of(tmp_path / "a.pth", [*GOOD, ("a/byteorder", b"little"), ("a/version", b"3\n")])
    assert list(read(path).entries) == ["w"]


def test_a_zip64_file_is_read(tmp_path, monkeypatch):
    """As if everything in it were larger than 4 GiB."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in GOOD:
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(content)
    assert b"\xff\xff\xff\xff" in path.read_bytes()[-200:]
    assert read(path).entries["w"].load().shape == (2, 3)
    content = path.read_bytes()
    record = content.rindex(b"PK\6\6")
    for position in range(record, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x41
        path.write_bytes(damaged)
        outcome(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_files_of_two_minds(tmp_path):
    path = tmp_path / "a.pth"
    refused(zip_of(path, [*GOOD, GOOD[1]]), "is there twice")
    refused(zip_of(path, GOOD, zipfile.ZIP_DEFLATED), "compressed")
    good = zip_of(path, GOOD).read_bytes()
    edits = {
        "end record": good + b"x",
        "end record ": good[:-1] + b"\1",  # a comment
        "announced to end": b"PK\3\4" + good,
        "second one for large archives": good[:-12] + b"\xff\xff" + good[-10:],
        "two headers": good.replace(b"a/data/0", b"a/data/1", 1),
        "encrypted": good.replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0", 1),
    }
    for words, content in edits.items():
        path.write_bytes(content)
        refused(path, words.strip())


def test_a_directory_that_does_not_add_up(tmp_path):
    path = zip_of(tmp_path / "a.pth", [*GOOD, ("a/version", b"3\n")])
    content = path.read_bytes()
    path.write_bytes(content[:-14] + struct.pack("<2H", 2, 2) + content[-10:])
    refused(path, "its 2 members take 110")
    body = one("w", tensor((60,), (1,), numel=60))
    content = zip_of(path, [("a/data.pkl", body), GOOD[1]]).read_bytes()
    path.write_bytes(content.replace(struct.pack("<2L", 24, 24), struct.pack("<2L", 240, 240)))
    refused(path, "outside the file")


def test_members_must_not_overlap(tmp_path):
    path = zip_of(tmp_path / "a.pth", [GOOD[0], ("a/data/0", bytes(24)), ("a/data/1", bytes(24))])
    content = path.read_bytes()
    second = content.index(b"PK\1\2", content.index(b"PK\1\2") + 1)
    third = content.index(b"PK\1\2", second + 1)
    offset = content[second + 42 : second + 46]
    path.write_bytes(content[: third + 42] + offset + content[third + 46 :])
    refused(path, "overlaps")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keys": ()}, "list of storages"),
        ({"keys": ("1",)}, "list of storages"),
        ({"keys": ("0", "0")}, "list of storages"),
        ({"data": b""}, "6 elements"),
        ({"data": struct.pack("<q", 5) + bytes(24)}, "6 elements"),
        ({"data": struct.pack("<q", -1) + bytes(24)}, "6 elements"),
        ({"data": struct.pack("<q", 6) + bytes(23)}, "end at byte"),
        ({"data": struct.pack("<q", 6) + bytes(25)}, "end at byte"),
    ],
)
def test_a_legacy_file_that_does_not_add_up(tmp_path, options, words):
    refused(write_legacy(tmp_path / "a.pth", one("w", tensor()), **options), words)


def test_a_legacy_file_with_impossible_storages(tmp_path):
    huge = (1 << 60) - 1
    body = b"\x80\x02(" + persistent("0", huge) + persistent("1", huge) + b"t."
    refused(
        write_legacy(tmp_path / "a.pth", body, ("0", "1"), struct.pack("<q", huge)), "cut short"
    )


def test_a_legacy_file_of_another_byte_order(tmp_path):
    path = write_legacy(tmp_path / "a.pth", one("w", tensor()))
    path.write_bytes(path.read_bytes().replace(b"little_endian\x88", b"little_endian\x89"))
    refused(path, "little-endian")


def outcome(path: Path) -> bool:
    """Whether a damaged file is still read; anything but a clean refusal is an error of
    the test.
    """
    try:
        archive = read(path)
    except CheckpointError:
        return False
    for entry in archive.entries.values():
        with contextlib.suppress(CheckpointError):
            assert entry.load().shape == entry.shape
    return True


def overwrite(path: Path, content: bytes) -> None:
    with path.open(
        "rb+"
    ) as file:  # in place: some file systems flush a file that replaces its content
        file.write(content)
        file.truncate()


def small(path: Path, layout: str) -> bytes:
    content = save(path, {"state_dict": toy(), "epoch": 3}, layout).read_bytes()
    assert len(content) < 4096
    return content


def test_every_truncation_is_refused(tmp_path, layout):
    path = tmp_path / "a.pth"
    content = small(path, layout)
    assert outcome(path)
    for length in reversed(range(len(content))):
        os.truncate(path, length)
        assert not outcome(path), length


def test_mutations_are_read_or_refused(tmp_path, layout):
    path = tmp_path / "a.pth"
    content = small(path, layout)
    read_anyway = 0
    for seed in range(300):
        rng, damaged = random.Random(seed), bytearray(content)  # noqa: S311
        for _ in range(rng.choice((1, 1, 2, 8))):
            damaged[rng.randrange(len(damaged))] = rng.choice(
                (0, 1, 0x7F, 0xFF, rng.randrange(256))
            )
        overwrite(path, damaged)
        read_anyway += outcome(path)
    assert 0 < read_anyway < 300  # a change of a number is only a change of a number


def test_mutated_pickles_are_read_or_refused(tmp_path, layout):
    """Only the pickle changes: nearly all of these get past the container."""
    body = (
        one("w", tensor())[:-1]
        + b"ccollections\nOrderedDict\n)R"
        + text("x")
        + tensor((3, 2), (1, 3))
        + b"s\x86."
    )
    for seed in range(300):
        rng, damaged = random.Random(seed), bytearray(body)  # noqa: S311
        for _ in range(rng.choice((1, 2, 4))):
            position = rng.randrange(2, len(damaged))
            damaged[position : position + rng.choice((0, 1, 1, 2))] = rng.choice(
                (
                    b"",
                    rng.choice(b"}]()Rbsuaetq\x94QchK0\x81\x85\x93").to_bytes(1, "little"),
                    rng.randbytes(1),
                )
            )
        path = tmp_path / str(seed)
        (write_zip if layout == "zip" else write_legacy)(path, bytes(damaged))
        outcome(path)
