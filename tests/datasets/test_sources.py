"""Folders of images, and arrays that are no dataset."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.datasets import (
    ArraySource,
    Augmentation,
    FolderSource,
    Pipeline,
    default_workers,
    find_dataset,
    open_split,
    photographs,
)
from shared.errors import DatasetError
from tests.datasets import makers


@pytest.mark.parametrize("test", ["val", "test", "validation"])
def test_a_folder(tmp_path: Path, test: str) -> None:
    makers.write_images(tmp_path, test=test)
    assert find_dataset("folder", tmp_path) == tmp_path
    for split in ("train", "test"):
        source = open_split("folder", split, tmp_path)  # type: ignore[arg-type]
        assert isinstance(source, FolderSource)
        assert source.classes == ("cat", "dog")
        assert (len(source), source.num_classes, source.channels, source.image_shape) == (
            6,
            2,
            3,
            None,
        )
        for i in range(6):
            image, label = source[i]
            assert label == i // 3
            assert image.shape == (24, 20 + 4 * (i % 3), 3)
            assert image.dtype == np.uint8
            assert (image == makers.colour(split, label, i % 3)).all()


def test_labels_are_those_of_training(tmp_path: Path) -> None:
    """A class without test images keeps its number, as do those after it."""
    makers.write_images(tmp_path, ("ant", "bee", "cat"))
    for path in (tmp_path / "val" / "bee").iterdir():
        path.unlink()
    (tmp_path / "val" / "bee").rmdir()
    source = FolderSource(tmp_path, "test")
    assert source.num_classes == 3
    assert [source[i][1] for i in range(len(source))] == [0, 0, 0, 2, 2, 2]


def test_what_is_taken_for_an_image(tmp_path: Path) -> None:
    makers.write_images(tmp_path, each=1)
    deep = tmp_path / "train" / "cat" / "images" / "more"
    deep.mkdir(parents=True)
    Image.new("L", (9, 9), 77).save(deep / "GREY.JPEG")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "cat" / "._0.png").write_text("no image")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "readme.jpg").write_text("in no class")
    source = FolderSource(tmp_path, "train")
    assert source.paths == ["cat/0.png", "cat/images/more/GREY.JPEG", "dog/0.png"]
    image, label = source[1]
    assert label == 0
    assert image.shape == (9, 9, 3)
    assert np.ptp(image) == 0


def test_photographs_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    pixels = makers.pictures(1, (4, 6, 3))[0][0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(pixels))).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(photographs.read_photograph(tmp_path / "a.png"), pixels)


def test_the_digest_is_of_paths_sizes_and_classes(tmp_path: Path) -> None:
    def digest() -> str:
        return FolderSource(tmp_path, "train").digest

    makers.write_images(tmp_path)
    seen = {digest(), FolderSource(tmp_path, "test").digest}
    assert digest() in seen
    (tmp_path / "train/cat/0.png").rename(tmp_path / "train/cat/9.png")
    seen.add(digest())
    (tmp_path / "train/cat/9.png").write_bytes(b"longer" * 1000)
    seen.add(digest())
    (tmp_path / "train/eel").mkdir()
    seen.add(digest())
    assert len(seen) == 5


def message(tmp_path: Path, name: str = "folder", split: str = "train") -> str:
    with pytest.raises(DatasetError) as error:
        open_split(name, split, tmp_path)[0]  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path))
    return str(error.value)


def test_folders_that_are_no_dataset(tmp_path: Path) -> None:
    assert "expected train/<class>/ and val/<class>/ or test/<class>/" in message(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    assert "train: has no folders of classes" in message(tmp_path)
    (tmp_path / "train" / "cat").mkdir()
    assert "has no images (.jpg" in message(tmp_path)
    assert "have to be sorted into val/<class>/" in message(tmp_path, split="test")
    (tmp_path / "val" / "dog").mkdir()
    assert "has a class 'dog' that" in message(tmp_path, split="test")


def test_imagenet_has_a_thousand_classes(tmp_path: Path) -> None:
    makers.write_images(tmp_path)
    assert "has 2 classes; expected the 1000 of ImageNet-1k" in message(tmp_path, "imagenet")
    root = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    for split in ("train", "val"):
        for i in range(1000):
            (root / split / f"n{i:08}").mkdir(parents=True)
    Image.new("RGB", (5, 5)).save(root / "train" / "n00000999" / "x.JPEG")
    source = open_split("imagenet", "train", tmp_path)
    assert source.num_classes == 1000
    assert source[0][1] == 999


def test_damaged_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    makers.write_images(tmp_path)
    path = tmp_path / "train" / "cat" / "0.png"
    whole = path.read_bytes()
    path.write_bytes(b"no image")
    assert "not an image that can be read" in message(tmp_path)
    path.write_bytes(whole[:-30])
    assert "image" in message(tmp_path)
    path.write_bytes(whole)
    monkeypatch.setattr(photographs, "MAX_PIXELS", 20 * 24 - 1)
    assert "20 x 24 pixels; expected at most 479" in message(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(DatasetError, match="cannot be read as an image"):
        photographs.read_photograph(tmp_path / "a")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_through_the_pipeline(tmp_path: Path, workers: int) -> None:
    makers.write_images(tmp_path)
    how = Augmentation(random_resized_crop=12, eval_resize=16, center_crop=14, flip=True)
    for split, side in (("train", 12), ("test", 14)):
        source = open_split("folder", split, tmp_path)  # type: ignore[arg-type]
        pipeline = Pipeline(
            source,
            batch=4,
            seed=0,
            augmentation=how,
            training=split == "train",
            epochs=1,
            drop_remainder=False,
            workers=workers,
        )
        batches = list(pipeline)
        assert [batch.images.shape for batch in batches] == [(4, side, side, 3), (2, side, side, 3)]
        numbers = np.concatenate([pipeline.examples_at(batch.step) for batch in batches])
        assert sorted(numbers) == list(range(6))
        images = np.concatenate([batch.images for batch in batches])
        for number, image in zip(numbers, images, strict=True):
            expected = np.float32(makers.colour(split, number // 3, number % 3)) / np.float32(255)
            np.testing.assert_array_equal(image, np.broadcast_to(expected, image.shape))


def test_threads_leave_the_filters_of_warnings_alone(tmp_path: Path) -> None:
    """`warnings.catch_warnings` in several threads would restore what another one has set."""
    source = FolderSource(makers.write_images(tmp_path, each=20), "train")
    before = list(warnings.filters)
    how = Augmentation(random_resized_crop=8)
    list(Pipeline(source, batch=8, seed=0, augmentation=how, training=True, epochs=3, workers=4))
    assert warnings.filters == before


def test_threads_are_for_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = FolderSource(makers.write_images(tmp_path), "train")
    assert default_workers(makers.array_source()) == 0
    for cores, workers in ((1, 1), (2, 1), (8, 7)):
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)), raising=False
        )
        assert default_workers(folder) == workers


def test_images_of_any_size_need_a_size(tmp_path: Path) -> None:
    source = FolderSource(makers.write_images(tmp_path), "train")
    for training, says in (
        (True, "training needs random_resized_crop"),
        (False, "evaluation needs resize"),
    ):
        with pytest.raises(DatasetError, match=says):
            Pipeline(source, batch=2, seed=0, augmentation=Augmentation(), training=training)
    with pytest.raises(DatasetError, match="per_pixel_mean needs images of one size"):
        source.mean_image()


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (np.zeros((2, 4, 4, 1), np.float32), np.zeros(2, int), "images are float32"),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, int), "expected uint8"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(3, int), "expected integers"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2), "labels are float64"),
        (
            np.zeros((2, 4, 4, 1), np.uint8),
            np.array([0, 10]),
            "labels go from 0 to 10; expected 0 to 9",
        ),
        (np.zeros((2, 4, 4, 1), np.uint8), np.array([-1, 0]), "labels go from -1 to 0"),
        (np.zeros((0, 4, 4, 1), np.uint8), np.zeros(0, int), "there are no images"),
    ],
)
def test_arrays_that_are_no_dataset(images: np.ndarray, labels: np.ndarray, says: str) -> None:
    with pytest.raises(DatasetError, match=says):
        ArraySource(images, labels, 10)
