"""CIFAR-10 in its published layouts: binary or pickled batches, in a folder or in the archive as it
was downloaded.

cs.toronto.edu/~kriz/cifar.html. An image is its red, its green and its blue values, each row by
row; in the binary files the label stands in front. Archives are read in place, and nothing of them
is ever written to the disk.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple, cast

import numpy as np

from shared.datasets.catalogue import DATASETS, Split
from shared.datasets.cifar_pickle import read_batch
from shared.errors import DatasetError
from shared.formats.containers.pickle_values import PickleRefused

DATASET = DATASETS["cifar10"]
SIDE, CHANNELS = 32, 3
WIDTH = SIDE * SIDE * CHANNELS  # bytes of an image
MAX_BATCH = 64 << 20  # bytes; the published ones have 31 million
MAX_ARCHIVE = 512 << 20  # bytes uncompressed; the published ones have 185 million

FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin")
ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz", "cifar-10-batches-py.tar.gz")
_BATCHES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test": ("test_batch",),
}
_ENDINGS = ("", ".bin")  # of pickled and of binary batches


class LabelledImages(NamedTuple):
    images: np.ndarray  # uint8 [n, height, width, channels]
    labels: np.ndarray  # uint8 [n]
    published: bool  # whether every file is what was published


def has_batches(folder: Path) -> bool:
    """Whether the folder has the batches of both splits."""
    names = [name for split in _BATCHES.values() for name in split]
    return any(all((folder / f"{name}{ending}").is_file() for name in names) for ending in _ENDINGS)


def read_cifar(path: Path, split: Split) -> LabelledImages:
    """A split from a folder of batches, or from an archive.

    Raises `DatasetError` for anything that is not one.
    """
    batches = _of_folder(path, split) if path.is_dir() else _of_archive(path, split)
    parts = [
        _parse(f"{path}/{name}" if path.is_dir() else f"{path}: {name}", name, batches[name])
        for name in batches
    ]
    images = np.concatenate([pixels for pixels, _ in parts]).reshape(-1, CHANNELS, SIDE, SIDE)
    labels = np.concatenate([labels for _, labels in parts])
    published = all(DATASET.is_published(name, data) for name, data in batches.items())
    return LabelledImages(np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels, published)


def _parse(where: str, name: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [n, WIDTH] and labels [n] of one batch."""
    if name.endswith(".bin"):
        if not data or len(data) % (1 + WIDTH):
            raise DatasetError(
                f"{where}: not a binary batch; expected a multiple of {1 + WIDTH} bytes, found "
                f"{len(data):,}"
            )
        records = np.frombuffer(data, np.uint8).reshape(-1, 1 + WIDTH)
        pixels, labels = records[:, 1:], records[:, 0]
    else:
        try:
            pixels, labels = read_batch(data, WIDTH)
        except PickleRefused as refused:
            raise DatasetError(
                f"{where}: {refused}; expected a batch of CIFAR-10's Python version"
            ) from None
        if not len(labels):
            raise DatasetError(f"{where}: has no images")
    if labels.max() >= 10:
        raise DatasetError(f"{where}: a label is {labels.max()}; expected 0 to 9")
    return pixels, labels


def _of_folder(folder: Path, split: Split) -> dict[str, bytes]:
    for ending in _ENDINGS:
        names = [f"{name}{ending}" for name in _BATCHES[split]]
        if all((folder / name).is_file() for name in names):
            return {name: _read_file(folder / name) for name in names}
    raise DatasetError(
        f"{folder}: has not all of {', '.join(_BATCHES[split])}, with or without .bin"
    )


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BATCH + 1)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(data) > MAX_BATCH:
        raise DatasetError(
            f"{path}: larger than {MAX_BATCH >> 20} MiB, which no batch of CIFAR-10 is"
        )
    return data


class _Bounded(io.RawIOBase):
    """A stream that refuses to give more than so many bytes: what is packed may be a thousand times
    the file.
    """

    def __init__(self, stream: gzip.GzipFile, limit: int):
        super().__init__()
        self._stream, self._left = stream, limit

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise OverflowError(f"it unpacks to more than {MAX_ARCHIVE >> 20} MiB")
        return data


def _of_archive(path: Path, split: Split) -> Mapping[str, bytes]:
    """The batches of a split, in their order, out of a .tar.gz that is read from its start to the
    last of them.
    """
    wanted = {f"{name}{ending}" for name in _BATCHES[split] for ending in _ENDINGS}
    found: dict[str, bytes] = {}
    try:
        with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as unpacked:
            bounded = cast(io.BufferedIOBase, _Bounded(unpacked, MAX_ARCHIVE))
            with tarfile.open(
                fileobj=bounded, mode="r|"
            ) as archive:  # "|": it never seeks, whatever a header says
                for member in archive:
                    place = PurePosixPath(member.name)
                    if place.name in wanted and place.parent.name in FOLDERS:
                        found[place.name] = _read_member(archive, member, found)
                    if len(found) == len(_BATCHES[split]):
                        break
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from None
    except Exception as error:  # noqa: BLE001 - tarfile and zlib may raise anything for a damaged file
        if isinstance(error, OSError) and error.strerror:
            raise DatasetError(f"{path}: cannot be read ({error.strerror})") from None
        raise DatasetError(
            f"{path}: a damaged archive ({type(error).__name__}: {error}); fetch it again"
        ) from None
    for ending in _ENDINGS:
        names = [f"{name}{ending}" for name in _BATCHES[split]]
        if all(name in found for name in names):
            return {name: found[name] for name in names}
    raise DatasetError(
        f"{path}: has not all of {', '.join(_BATCHES[split])} in a folder {' or '.join(FOLDERS)}"
    )


def _read_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, found: Mapping[str, bytes]
) -> bytes:
    name = PurePosixPath(member.name).name
    if (
        member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE)
        or member.size > MAX_BATCH
        or name in found
    ):
        raise DatasetError(
            f"{name} is there twice, not a plain file, or larger than {MAX_BATCH >> 20} MiB"
        )
    file = archive.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        raise DatasetError(f"{name} is cut short; fetch it again")
    return data
