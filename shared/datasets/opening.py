"""`open_split`: a dataset found, read and checked."""

from __future__ import annotations

from pathlib import Path

from shared.datasets.catalogue import SPLITS, Dataset, Split, get_dataset
from shared.datasets.cifar import LabelledImages, read_cifar
from shared.datasets.idx import read_idx
from shared.datasets.places import DatasetLocation, idx_file, locate
from shared.datasets.sources import ArraySource, FolderSource, ImageSource
from shared.errors import DatasetError

_IDX_SPLITS: dict[Split, str] = {"train": "train", "test": "t10k"}
BUNDLED: dict[tuple[str, Split], Path] = {
    ("fashion-mnist", "test"): Path(__file__).parent / "fashion_mnist"
}


def open_split(
    name: str, split: Split, folder: Path | None = None, *, download: bool = True
) -> ImageSource:
    """The training or the test split; ImageNet's `val/` is its test split. `find_dataset` says
    where it is looked for.

    Fashion-MNIST's test split is bundled, for machines that have no other. What is found in a
    cache has to be what was published, as far as hashes are known; what is given, by `folder` or
    `$ROSETTA_DATA`, may be data of your own in the same format: `Source.published` tells. Raises
    `DatasetError`.
    """
    dataset = get_dataset(name)
    if split not in SPLITS:
        raise DatasetError(f"there is no split {split!r}; there are {' and '.join(SPLITS)}")
    place = _find(name, split, folder, download=download)
    if dataset.image_shape is None:
        return _open_folder(dataset, place, split)
    read = _read_idx_pair if dataset.name == "fashion-mnist" else read_cifar
    found = read(place.path, split)
    if not found.published and not place.given:
        raise DatasetError(
            f"{place.path}: its {split} split is not the {dataset.title} that was published; "
            "remove it, "
            "or give this folder by name if you want it as it is"
        )
    training = (
        None if split == "train" else (lambda: open_split(name, "train", folder, download=download))
    )
    classes = dataset.num_classes or 0
    return ArraySource(
        found.images, found.labels, classes, published=found.published, training=training
    )


def _find(name: str, split: Split, folder: Path | None, *, download: bool) -> DatasetLocation:
    """Where a split is; the bundled one is taken before anything is downloaded."""
    if folder is not None or (name, split) not in BUNDLED:
        return locate(name, folder, download=download)
    try:
        return locate(name, None, download=False)
    except DatasetError:
        return DatasetLocation(BUNDLED[name, split], False)


def _open_folder(dataset: Dataset, place: DatasetLocation, split: Split) -> FolderSource:
    source = FolderSource(place.path, split)
    if dataset.num_classes not in (None, source.num_classes):
        raise DatasetError(
            f"{place.path}: has {source.num_classes} classes; expected the {dataset.num_classes} "
            "of "
            f"{dataset.title}; parts of it, and other images, are the dataset `folder`"
        )
    return source


def _read_idx_pair(folder: Path, split: Split) -> LabelledImages:
    """Images and labels of a split of Fashion-MNIST."""
    dataset = get_dataset("fashion-mnist")
    names = (f"{_IDX_SPLITS[split]}-images-idx3-ubyte", f"{_IDX_SPLITS[split]}-labels-idx1-ubyte")
    paths = [idx_file(folder, name) or folder / name for name in names]
    images, labels = (
        read_idx(path, dimensions) for path, dimensions in zip(paths, (3, 1), strict=True)
    )
    if dataset.image_shape is None or images.array.shape[1:] != dataset.image_shape[:2]:
        raise DatasetError(
            f"{paths[0]}: images of {images.array.shape[1:]} pixels; expected 28 x 28"
        )
    if len(images.array) != len(labels.array):
        raise DatasetError(
            f"{folder}: {paths[0].name} has {len(images.array):,} images, and {paths[1].name} has "
            f"{len(labels.array):,} labels"
        )
    if not len(labels.array) or labels.array.max() >= 10:
        found = (
            f"a label is {labels.array.max()}; expected 0 to 9"
            if len(labels.array)
            else "has no labels"
        )
        raise DatasetError(f"{paths[1]}: {found}")
    published = all(
        dataset.is_published(n, f.content) for n, f in zip(names, (images, labels), strict=True)
    )
    return LabelledImages(images.array[..., None], labels.array, published)
