"""Where datasets are found, and what is believed of what is found there."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from shared.datasets import DATASETS, cifar, find_dataset, open_split, places
from shared.datasets.catalogue import SPLITS, Split
from shared.errors import DatasetError
from shared.images.labels import class_names
from tests.datasets import makers

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # the real one, where the package is installed


def error_of(name: str, folder: Path | None = None, split: Split | None = None) -> str:
    ask = (
        (lambda: open_split(name, split, folder, download=False))
        if split
        else (lambda: find_dataset(name, folder, download=False))
    )
    with pytest.raises(DatasetError) as error:
        ask()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("below", [".", "fashion-mnist", "FashionMNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_the_folder_that_is_given(tmp_path: Path, below: str, packed: bool) -> None:
    makers.write_fashion_mnist(tmp_path / below, packed=packed)
    assert find_dataset("fashion-mnist", tmp_path) == tmp_path / below
    source = open_split("fashion-mnist", "test", tmp_path)
    images, labels = makers.pictures(5, (28, 28, 1), seed=1)
    assert (len(source), source.num_classes, source.published) == (5, 10, False)
    for i in range(5):
        image, label = source[i]
        np.testing.assert_array_equal(image, images[i])
        assert label == labels[i]


def test_only_the_folder_that_is_given(tmp_path: Path, home: Path) -> None:
    makers.write_fashion_mnist(home / "data" / "fashion-mnist")
    message = error_of("fashion-mnist", tmp_path)
    assert message.startswith(
        f"{tmp_path}: holds no Fashion-MNIST; expected train-images-idx3-ubyte[.gz]"
    )
    assert "which is no folder" in error_of("cifar10", tmp_path / "typo")


def test_the_variable_comes_first(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    makers.write_fashion_mnist(home / "data" / "fashion-mnist", train=7)
    makers.write_fashion_mnist(tmp_path / "fashion-mnist", train=8)
    assert find_dataset("fashion-mnist") == home / "data" / "fashion-mnist"
    monkeypatch.setenv(places.VARIABLE, str(tmp_path))
    assert find_dataset("fashion-mnist") == tmp_path / "fashion-mnist"
    assert len(open_split("fashion-mnist", "train")) == 8


@pytest.mark.parametrize(
    "place",
    [
        "system/fashion-mnist",
        ".keras/datasets/fashion-mnist",
        "data/FashionMNIST/raw",
        "data/fashion-mnist",
        ".cache/resnet-rosetta/datasets/fashion-mnist",
    ],
)
def test_caches(home: Path, place: str) -> None:
    found = makers.write_fashion_mnist(home / place)
    assert find_dataset("fashion-mnist", download=False) == found


@pytest.mark.parametrize(
    "place",
    [".keras/datasets/cifar-10-batches-py-target/cifar-10-batches-py", "data/cifar-10-batches-py"],
)
def test_caches_of_cifar(home: Path, place: str) -> None:
    found = makers.write_files(home / place, makers.cifar_files(binary=False))
    assert find_dataset("cifar10", download=False) == found
    assert "is not the CIFAR-10 that was published" in error_of("cifar10", split="test")


def test_a_cache_has_to_hold_what_was_published(home: Path) -> None:
    makers.write_fashion_mnist(home / "data" / "fashion-mnist")
    assert "its train split is not the Fashion-MNIST that was published" in error_of(
        "fashion-mnist", split="train"
    )


def test_files_without_a_folder_s_name_may_be_mnist(home: Path) -> None:
    makers.write_fashion_mnist(home / "data")
    assert "Fashion-MNIST is not on this machine" in error_of("fashion-mnist")


def test_published_data_are_known(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hashes that were published are those of the content, however it is compressed."""
    folder = makers.write_fashion_mnist(home / "data" / "fashion-mnist", packed=False)
    contents = {
        name: f"sha256:{hashlib.sha256((folder / name).read_bytes()).hexdigest()}"
        for name in places.IDX_NAMES
    }
    monkeypatch.setitem(
        DATASETS, "fashion-mnist", dataclasses.replace(DATASETS["fashion-mnist"], contents=contents)
    )
    digests = {split: open_split("fashion-mnist", split).digest for split in SPLITS}
    assert open_split("fashion-mnist", "test").published
    shutil.rmtree(folder)
    makers.write_fashion_mnist(folder, packed=True)
    assert {split: open_split("fashion-mnist", split).digest for split in SPLITS} == digests
    assert len(set(digests.values())) == 2
    makers.write_fashion_mnist(folder, test=6)
    assert open_split("fashion-mnist", "train").published
    assert "its test split is not" in error_of("fashion-mnist", split="test")


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    "place", ["{folder}", "cifar10/{folder}", "cifar10", ".", "{archive}", "cifar10/{archive}"]
)
def test_cifar_places(tmp_path: Path, binary: bool, place: str) -> None:
    found = tmp_path / place.format(folder=cifar.FOLDERS[binary], archive=cifar.ARCHIVES[binary])
    files = makers.cifar_files(binary=binary)
    if "{archive}" in place:
        found.parent.mkdir(exist_ok=True)
        found.write_bytes(makers.archive(files, cifar.FOLDERS[binary]))
        assert find_dataset("cifar10", found) == found
    else:
        makers.write_files(found, files)
    assert find_dataset("cifar10", tmp_path) == found
    assert len(open_split("cifar10", "train", tmp_path)) == 15


def test_the_digest_is_of_the_data_and_not_of_the_format(tmp_path: Path) -> None:
    digests = set()
    for binary in (True, False):
        folder = makers.write_files(tmp_path / str(binary), makers.cifar_files(binary=binary))
        digests.add(open_split("cifar10", "train", folder).digest)
    assert len(digests) == 1
    other = makers.write_files(tmp_path / "other", makers.cifar_files(binary=True, count=2))
    assert open_split("cifar10", "train", other).digest not in digests


def test_mean_image_is_of_the_training_split(tmp_path: Path) -> None:
    makers.write_fashion_mnist(tmp_path)
    expected = makers.pictures(12, (28, 28, 1), seed=0)[0].astype(np.float64).mean(axis=0) / 255
    for split in SPLITS:
        found = open_split("fashion-mnist", split, tmp_path).mean_image()
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("train-images-idx3-ubyte", (12, 28, 27), "expected 28 x 28"),
        (
            "train-images-idx3-ubyte",
            (11, 28, 28),
            "has 11 images, and train-labels-idx1-ubyte has 12 labels",
        ),
        ("train-labels-idx1-ubyte", (12,), "a label is 10; expected 0 to 9"),
    ],
)
def test_files_that_do_not_fit(
    tmp_path: Path, name: str, shape: tuple[int, ...], says: str
) -> None:
    makers.write_fashion_mnist(tmp_path, packed=False)
    (tmp_path / name).write_bytes(makers.idx(np.full(shape, 10, np.uint8)))
    assert says in error_of("fashion-mnist", tmp_path, "train")


def test_names(tmp_path: Path) -> None:
    assert "unknown dataset 'cifar-10' (nearest: cifar10); known are fashion-mnist" in error_of(
        "cifar-10"
    )
    assert "there is no split 'val'; there are train and test" in error_of("cifar10", split="val")  # type: ignore[arg-type]
    assert "a folder of images is nowhere in particular; give the folder" in error_of("folder")
    assert "image-net.org" in error_of("imagenet")
    assert "dataset-fashion-mnist" in error_of("fashion-mnist")


def test_the_catalogue_fits_together() -> None:
    for name, dataset in DATASETS.items():
        assert name == dataset.name
        assert len(dataset.mean) == len(dataset.std) == dataset.channels
        if dataset.labels:
            assert len(class_names(dataset.labels)) == dataset.num_classes
        assert all(len(file.sha256) == 64 and file.size and file.urls for file in dataset.files)
    names = {f"{name}{ending}" for name in makers.BATCHES for ending in ("", ".bin")}
    assert set(DATASETS["cifar10"].contents) == names
    assert set(DATASETS["fashion-mnist"].contents) == set(places.IDX_NAMES)


if DEBIAN.is_dir():

    def test_the_real_fashion_mnist() -> None:
        """Debian's files hold what was published; and the statistics are those of the training
        split.
        """
        dataset, source = DATASETS["fashion-mnist"], open_split("fashion-mnist", "train", DEBIAN)
        assert source.published
        assert source.digest == "72df8518c687418901f79c0a8ebab198b5ce0d9d77deb992e8711450cc89709a"
        assert len(source) == dataset.examples["train"]
        assert source.image_shape == dataset.image_shape
        values = np.stack([source[i][0] for i in range(0, 60000, 20)]) / 255
        assert values.mean() == pytest.approx(dataset.mean[0], abs=2e-3)
        assert values.std() == pytest.approx(dataset.std[0], abs=2e-3)
