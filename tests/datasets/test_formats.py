"""IDX files and CIFAR-10's batches, whole and damaged."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shared import RosettaError
from shared.datasets import cifar
from shared.datasets.cifar import read_cifar
from shared.datasets.cifar_pickle import read_batch
from shared.datasets.idx import read_idx
from shared.errors import DatasetError
from shared.formats.containers.pickle_values import PickleRefused
from tests.datasets import makers

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def saved(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "file"
    path.write_bytes(data)
    return path


def refusal(read: Callable[[], object], where: Path) -> str:
    """The message, which is one line and names the file."""
    with pytest.raises(DatasetError) as error:
        read()
    message = str(error.value)
    assert isinstance(error.value, RosettaError)
    assert str(where) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    found = read_idx(saved(tmp_path, pack(makers.idx(IMAGES))), 3)
    np.testing.assert_array_equal(found.array, IMAGES)
    assert bytes(found.content) == makers.idx(IMAGES)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: b"", "found nothing"),
        (lambda data: b"\x89PNG" + data, "found 89504e47"),
        (lambda data: makers.idx(IMAGES[0]), "found 00000802"),
        (lambda data: data[:6], "announces"),
        (
            lambda data: data[:4] + b"\xff" * 12 + data[16:],
            "announces 4,294,967,295 x 4,294,967,295 x 4,294,967,295",
        ),
        (lambda data: data[:-1], "announces 2 x 3 x 4 bytes"),
        (lambda data: data + b"\0", "goes on after the 40 bytes"),
        (
            lambda data: gzip.compress(data[:-1]),
            "cut short; expected 40 bytes for 2 x 3 x 4, found 39",
        ),
        (lambda data: gzip.compress(data + b"\0"), "goes on after"),
        (lambda data: gzip.compress(data)[:-9], "compression is damaged or cut short"),
        (lambda data: gzip.compress(data)[:-5] + b"\0" * 5, "compression is damaged or cut short"),
        (
            lambda data: gzip.compress(data[:4] + b"\x00\xff\xff\xff" * 2 + b"\0\0\0\1"),
            "which the file cannot hold",
        ),
    ],
)
def test_damaged_idx(tmp_path: Path, damage: Callable[[bytes], bytes], says: str) -> None:
    path = saved(tmp_path, damage(makers.idx(IMAGES)))
    assert says in refusal(lambda: read_idx(path, 3), path)


def test_the_maker_writes_what_python_reads() -> None:
    images, labels = makers.pictures(3, (32, 32, 3))
    batch = pickle.loads(makers.python2_batch(images, labels), encoding="latin1")  # noqa: S301 - made one line above
    np.testing.assert_array_equal(batch["data"], makers.planes(images))
    assert batch["labels"] == labels.tolist()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_cifar(tmp_path: Path, binary: bool, packed: bool) -> None:
    files, made = makers.cifar_files(binary=binary), makers.cifar_batches()
    path = tmp_path / "cifar"
    if packed:
        path.write_bytes(makers.archive(files, cifar.FOLDERS[binary]))
    else:
        makers.write_files(path, files)
    for split, names in (("train", makers.BATCHES[:5]), ("test", makers.BATCHES[5:])):
        found = read_cifar(path, split)
        np.testing.assert_array_equal(
            found.images, np.concatenate([made[name][0] for name in names])
        )
        np.testing.assert_array_equal(
            found.labels, np.concatenate([made[name][1] for name in names])
        )
        assert not found.published


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("keys", [str, str.encode])
def test_pickles_of_python_3(protocol: int, keys: Callable[[str], str | bytes]) -> None:
    images, labels = makers.pictures(3, (32, 32, 3))
    batch = {keys("data"): makers.planes(images), keys("labels"): labels.tolist()}
    if protocol == 5:  # NumPy writes such arrays as buffers, which are no part of any batch
        with pytest.raises(PickleRefused):
            read_batch(pickle.dumps(batch, protocol), cifar.WIDTH)
        return
    pixels, found = read_batch(pickle.dumps(batch, protocol), cifar.WIDTH)
    np.testing.assert_array_equal(pixels, makers.planes(images))
    np.testing.assert_array_equal(found, labels)


class Attack:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return exec, ("raise SystemExit('the pickle was run')",)


PIXELS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (Attack(), "builtins.exec"),
        ({"data": PIXELS, "labels": [0, Attack()]}, "builtins.exec"),
        ([PIXELS], "not a dict"),
        ({"labels": [0, 1]}, "no array 'data'"),
        ({"data": PIXELS}, "no list 'labels' of 2"),
        ({"data": PIXELS, "labels": [0]}, "no list 'labels' of 2"),
        ({"data": PIXELS, "labels": (0, 1)}, "no list 'labels' of 2"),
        ({"data": PIXELS, "labels": [0, -1]}, "not small numbers"),
        ({"data": PIXELS, "labels": [0, True]}, "not small numbers"),
        ({"data": PIXELS, "labels": [0, "cat"]}, "not small numbers"),
        ({"data": PIXELS[:, 1:], "labels": [0, 1]}, "with 3072 columns"),
        ({"data": PIXELS.reshape(2, 3, 32, 32), "labels": [0, 1]}, "two dimensions"),
        ({"data": PIXELS.astype(np.float32), "labels": [0, 1]}, "two dimensions"),
        ({"data": np.asfortranarray(PIXELS), "labels": [0, 1]}, "two dimensions"),
        ({"data": PIXELS.astype(object), "labels": [0, 1]}, "two dimensions"),
        ({"data": PIXELS, "labels": [0, 1], "more": 1.5}, "opcode 0x47"),
    ],
)
def test_a_pickle_that_is_no_batch(batch: object, says: str) -> None:
    with pytest.raises(PickleRefused) as error:
        read_batch(pickle.dumps(batch, 4), cifar.WIDTH)
    assert says in str(error.value)


def test_no_damage_to_a_pickle_gets_through() -> None:
    """Every byte outside the pixels in turn is another one: it reads as a batch, or is refused, and
    nothing else.
    """
    whole = makers.python2_batch(*makers.pictures(1, (32, 32, 3)))
    middle = whole.index(b"T\x00\x0c\x00\x00") + 5
    read = 0
    for place in [*range(middle), *range(middle + 3072, len(whole))]:
        for byte in (0x00, 0x2E, 0x62, 0x71, 0xFF, whole[place] ^ 0x01):
            try:
                pixels, labels = read_batch(
                    whole[:place] + bytes([byte]) + whole[place + 1 :], cifar.WIDTH
                )
            except PickleRefused:
                continue
            read += 1
            assert pixels.shape == (len(labels), 3072)
    assert read  # a change of a file's name, for one
    for end in range(0, len(whole), 7):
        with pytest.raises(PickleRefused):
            read_batch(whole[:end], cifar.WIDTH)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("data_batch_3.bin", b"", "expected a multiple of 3073 bytes, found 0"),
        ("data_batch_3.bin", b"\0" * 3072, "expected a multiple of 3073 bytes, found 3,072"),
        ("data_batch_3.bin", b"\x0a" + b"\0" * 3072, "a label is 10; expected 0 to 9"),
        ("data_batch_3", b"not a pickle", "not of protocol 2 to 5"),
        ("data_batch_3", pickle.dumps({"data": PIXELS[:0], "labels": []}, 4), "has no images"),
        ("data_batch_3", pickle.dumps({"data": PIXELS, "labels": [3, 10]}, 4), "a label is 10"),
    ],
)
def test_damaged_batches(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    files = makers.cifar_files(binary=name.endswith(".bin")) | {name: data}
    folder = makers.write_files(tmp_path / "folder", files)
    assert says in refusal(lambda: read_cifar(folder, "train"), folder / name)
    packed = saved(tmp_path, makers.archive(files, cifar.FOLDERS[0]))
    assert says in refusal(lambda: read_cifar(packed, "train"), packed)
    assert len(read_cifar(packed, "test").labels) == 3


def test_a_batch_too_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "MAX_BATCH", 9218)
    files = makers.cifar_files(binary=True)
    folder = makers.write_files(tmp_path / "folder", files)
    assert "larger than" in refusal(lambda: read_cifar(folder, "test"), folder)
    packed = saved(tmp_path, makers.archive(files, cifar.FOLDERS[1]))
    assert "larger than" in refusal(lambda: read_cifar(packed, "test"), packed)


def test_a_missing_batch(tmp_path: Path) -> None:
    files = makers.cifar_files(binary=True)
    del files["data_batch_4.bin"]
    folder = makers.write_files(tmp_path / "folder", files)
    assert "has not all of data_batch_1" in refusal(lambda: read_cifar(folder, "train"), folder)
    packed = saved(tmp_path, makers.archive(files, cifar.FOLDERS[1]))
    assert "has not all of data_batch_1" in refusal(lambda: read_cifar(packed, "train"), packed)


def test_batches_in_another_folder_are_not_taken(tmp_path: Path) -> None:
    packed = saved(tmp_path, makers.archive(makers.cifar_files(binary=True), "cifar-100-binary"))
    assert "has not all of" in refusal(lambda: read_cifar(packed, "test"), packed)


@pytest.mark.parametrize("keep", [0, 1, 100, -4000])
def test_an_archive_cut_short(tmp_path: Path, keep: int) -> None:
    path = saved(tmp_path, makers.archive(makers.cifar_files(binary=True), cifar.FOLDERS[1])[:keep])
    assert "damaged archive" in refusal(lambda: read_cifar(path, "train"), path)


def test_an_archive_is_read_no_further_than_needed(tmp_path: Path) -> None:
    path = saved(tmp_path, makers.archive(makers.cifar_files(binary=True), cifar.FOLDERS[1])[:-9])
    assert len(read_cifar(path, "train").labels) == 15


def test_an_archive_that_unpacks_to_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, makers.archive({"zeros": b"\0" * (3 << 20)}, cifar.FOLDERS[1]))
    assert path.stat().st_size < 1 << 16
    monkeypatch.setattr(cifar, "MAX_ARCHIVE", 1 << 20)
    assert "unpacks to more than 1 MiB" in refusal(lambda: read_cifar(path, "train"), path)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE]
)
def test_members_that_are_no_files(tmp_path: Path, kind: bytes) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo(f"{cifar.FOLDERS[1]}/test_batch.bin")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    path = saved(tmp_path, packed.getvalue())
    assert "not a plain file" in refusal(lambda: read_cifar(path, "test"), path)
