"""`ImageSource`: the examples of one split, by number.

In memory, or as files in a folder for each class.
"""

from __future__ import annotations

import functools
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from shared.datasets.catalogue import Split
from shared.errors import DatasetError

# Files that are taken for images; whether they are is seen when they are opened.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".gif")
# How the folder of a split may be called.
FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("val", "test", "validation")}
_CHUNK = 4096  # images


class ImageSource(ABC):
    """Examples by number, from 0: an image, uint8 [height, width, channels], and its class.

    `published`: whether this is the very data that the dataset's authors published; None where
    that is not known.
    """

    num_classes: int
    channels: int
    image_shape: tuple[int, int, int] | None = None  # None: every image has a size of its own
    published: bool | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[np.ndarray, int]: ...

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256, hexadecimal, of what tells this split from another."""

    def mean_image(self) -> np.ndarray:
        """The mean of the training split, float32 [height, width, channels], of values
        in [0, 1].
        """
        raise DatasetError(
            "per_pixel_mean needs images of one size in memory, and these are files of any size; "
            "give a "
            "mean per channel"
        )


class ArraySource(ImageSource):
    """Images [n, height, width, channels] and labels [n] in memory.

    `training` gives the training split, where this is another one.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        num_classes: int,
        *,
        published: bool | None = None,
        training: Callable[[], ImageSource] | None = None,
    ):
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DatasetError(
                f"images are {images.dtype} of shape {images.shape}; expected uint8 [n, height, "
                "width, "
                "channels]"
            )
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise DatasetError(
                f"labels are {labels.dtype} of shape {labels.shape}; expected integers "
                f"[{len(images)}]"
            )
        if not len(images):
            raise DatasetError("there are no images")
        if labels.min() < 0 or labels.max() >= num_classes:
            raise DatasetError(
                f"labels go from {labels.min()} to {labels.max()}; expected 0 to {num_classes - 1}"
            )
        self.images = np.ascontiguousarray(images)
        self.labels = labels.astype(np.int64)
        self.num_classes, self.published = num_classes, published
        self.image_shape = (images.shape[1], images.shape[2], images.shape[3])
        self.channels = images.shape[3]
        self._training = training

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.labels[index])

    @functools.cached_property
    def digest(self) -> str:
        """Of the shape, the images and the labels: the same whatever format they were read from."""
        found = hashlib.sha256(f"uint8 {self.images.shape}\n".encode())
        found.update(self.images.data)
        found.update(self.labels.astype("<i8").tobytes())
        return found.hexdigest()

    def mean_image(self) -> np.ndarray:
        return self._mean_image if self._training is None else self._training().mean_image()

    @functools.cached_property
    def _mean_image(self) -> np.ndarray:
        chunks = (self.images[i : i + _CHUNK] for i in range(0, len(self.images), _CHUNK))
        total = sum(chunk.sum(axis=0, dtype=np.int64) for chunk in chunks)
        return (total / (255.0 * len(self.images))).astype(np.float32)


class FolderSource(ImageSource):
    """The images below `root/<split>/<class>/`, as RGB, turned as their EXIF says, in the order of
    their paths.

    Classes are the folders of the training split, sorted by name, whichever split this is; folders
    and files whose names begin with a dot are left out.
    """

    channels = 3

    def __init__(self, root: Path, split: Split):
        folder = split_folder(root, split)
        training = split_folder(root, "train")
        self.classes = _classes(training)
        if not self.classes:
            raise DatasetError(
                f"{training}: has no folders of classes; expected {training.name}/<class>/*.jpg"
            )
        found = self.classes if split == "train" else _classes(folder)
        strange = sorted(set(found) - set(self.classes))
        if strange:
            raise DatasetError(f"{folder}: has a class {strange[0]!r} that {training} has not")
        if not found:
            raise DatasetError(
                f"{folder}: has no folders of classes; its images have to be sorted into "
                f"{folder.name}/<class>/ as those of {training.name}/ are"
            )
        self.num_classes = len(self.classes)
        number = {name: i for i, name in enumerate(self.classes)}
        self.folder = folder
        self.paths: list[str] = []  # below the folder, with slashes
        labels: list[int] = []
        for name in found:
            paths = sorted(_images(folder, name))
            self.paths += paths
            labels += [number[name]] * len(paths)
        if not self.paths:
            raise DatasetError(
                f"{folder}: has no images ({', '.join(SUFFIXES)}) in its folders of classes"
            )
        self.labels = np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        from shared.datasets.photographs import read_photograph

        return read_photograph(self.folder / self.paths[index]), int(self.labels[index])

    @functools.cached_property
    def digest(self) -> str:
        """Of the names of the classes and of the paths and sizes of the images, not of what the
        images show.
        """
        found = hashlib.sha256()
        for name in self.classes:
            found.update(f"{name}\n".encode(errors="surrogateescape"))
        for path in self.paths:
            size = (self.folder / path).stat().st_size
            found.update(f"{path}\0{size}\n".encode(errors="surrogateescape"))
        return found.hexdigest()


def split_folder(root: Path, split: Split) -> Path:
    """The folder of a split. Raises `DatasetError` where there is none."""
    for name in FOLDERS[split]:
        if (root / name).is_dir():
            return root / name
    names = " or ".join(f"{name}/" for name in FOLDERS[split])
    raise DatasetError(f"{root}: has no folder {names} for the {split} split")


def _classes(folder: Path) -> tuple[str, ...]:
    try:
        with os.scandir(folder) as entries:
            return tuple(
                sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
            )
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read ({error.strerror or error})") from None


def _images(folder: Path, name: str) -> Iterable[str]:
    """The paths of the images of a class, at any depth; linked folders below it are not
    followed.
    """
    for place, folders, files in os.walk(folder / name):
        folders[:] = [f for f in folders if not f.startswith(".")]
        below = Path(place).relative_to(folder).as_posix()
        for file in files:
            if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                yield f"{below}/{file}"
