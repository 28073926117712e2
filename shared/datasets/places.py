"""Where datasets are: the folder given, `ROSETTA_DATA`, and the usual caches; or where they are
downloaded to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from shared.datasets import cifar
from shared.datasets.catalogue import Dataset, get_dataset
from shared.datasets.download import Progress, download_dataset
from shared.datasets.sources import FOLDERS
from shared.errors import DatasetError
from shared.machine import user_cache

VARIABLE = "ROSETTA_DATA"
SYSTEM = Path("/usr/share/datasets")  # of Debian's packages

# What a dataset's folder is called below a folder of datasets, by us and Debian, by torchvision, by
# Keras, by others.
_NAMES = {
    "fashion-mnist": ("fashion-mnist", "FashionMNIST/raw", "fashion_mnist", "."),
    "cifar10": ("cifar10", "cifar-10", "CIFAR10", ".", "cifar-10-batches-py-target"),
    "imagenet": ("imagenet", "ImageNet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "."),
    "folder": (".",),
}
# Their files are called as those of other datasets are (MNIST): without a folder's name, a cache is
# not believed.
_AMBIGUOUS = ("fashion-mnist", "imagenet")
IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class DatasetLocation(NamedTuple):
    path: Path
    given: (
        bool  # by a person, as opposed to found: may hold data of their own in the dataset's format
    )


def find_dataset(
    name: str,
    folder: Path | None = None,
    *,
    download: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Where the dataset is: a folder of IDX files, a folder or an archive of batches, or a folder
    with `train/`.

    With `folder` it must be there, under any of its usual names. Otherwise the first of
    `$ROSETTA_DATA`, Debian's datasets, Keras' cache, `./data`, `~/data` and our own cache that has
    it; and if none has, it is downloaded to `$ROSETTA_DATA`, if that is set, or to our cache,
    `~/.cache/resnet-rosetta/datasets`. Raises `DatasetError`.
    """
    return locate(name, folder, download=download, progress=progress).path


def locate(
    name: str, folder: Path | None, *, download: bool, progress: Progress | None = None
) -> DatasetLocation:
    dataset = get_dataset(name)
    if folder is not None:
        if found := _below(dataset, folder):
            return DatasetLocation(found, True)
        reason = "" if folder.is_dir() else ", which is no folder"
        raise DatasetError(
            f"{folder}{reason}: holds no {dataset.title}; expected {_expected(dataset)}"
        )
    if name == "folder":
        raise DatasetError("a folder of images is nowhere in particular; " + dataset.hint)
    variable = os.environ.get(VARIABLE)
    if variable and (found := _below(dataset, Path(variable).expanduser())):
        return DatasetLocation(found, True)
    for root in _caches():
        if found := _below(dataset, root, itself=name not in _AMBIGUOUS):
            return DatasetLocation(found, False)
    if not download or not dataset.files:
        raise DatasetError(
            f"{dataset.title} is not on this machine; expected {_expected(dataset)} in a folder "
            "that is "
            f"given, in ${VARIABLE} or in one of {', '.join(map(str, _caches()))}"
            + (f"; {dataset.hint}" if dataset.hint else "")
        )
    target = (Path(variable).expanduser() if variable else user_cache("datasets")) / name
    download_dataset(dataset, target, progress)
    place = _in(dataset, target)
    if place is None:
        raise DatasetError(
            f"{target}: was downloaded, and is gone again; is another program at work there?"
        )
    return DatasetLocation(place, False)


def _caches() -> list[Path]:
    keras = os.environ.get("KERAS_HOME")
    return [
        SYSTEM,
        (Path(keras) if keras else Path.home() / ".keras") / "datasets",
        Path("data").absolute(),
        Path.home() / "data",
        user_cache("datasets"),
    ]


def _below(dataset: Dataset, root: Path, *, itself: bool = True) -> Path | None:
    """The dataset in one of the subfolders that are called as it is, or in the folder `itself`."""
    places = (_in(dataset, root / name) for name in _NAMES[dataset.name] if itself or name != ".")
    return next((place for place in places if place), None)


def _in(dataset: Dataset, folder: Path) -> Path | None:
    """The dataset in this very folder."""
    if dataset.name == "fashion-mnist":
        return folder if all(idx_file(folder, name) for name in IDX_NAMES) else None
    if dataset.name == "cifar10":
        return next(_cifar_places(folder), None)
    has_splits = all(any((folder / name).is_dir() for name in names) for names in FOLDERS.values())
    return folder if has_splits else None


def _cifar_places(folder: Path) -> Iterator[Path]:
    for place in (folder, *(folder / name for name in cifar.FOLDERS)):
        if cifar.has_batches(place):
            yield place
    archives = (folder, *(folder / name for name in cifar.ARCHIVES))
    yield from (
        path for path in archives if path.is_file() and path.name.endswith((".tar.gz", ".tgz"))
    )


def idx_file(folder: Path, name: str) -> Path | None:
    """The IDX file of that name, compressed or not."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _expected(dataset: Dataset) -> str:
    if dataset.name == "fashion-mnist":
        return ", ".join(f"{name}[.gz]" for name in IDX_NAMES)
    if dataset.name == "cifar10":
        return f"{', '.join(cifar.ARCHIVES[:2])}, or the folder {' or '.join(cifar.FOLDERS)}"
    return "train/<class>/ and val/<class>/ or test/<class>/ with images"
