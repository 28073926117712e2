"""Small datasets in the published layouts."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from shared.datasets import ArraySource

BATCHES = (
    "data_batch_1",
    "data_batch_2",
    "data_batch_3",
    "data_batch_4",
    "data_batch_5",
    "test_batch",
)


def pictures(
    count: int, shape: tuple[int, int, int], seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 [count, *shape], and labels 0 to 9, uint8 [count]."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape), np.uint8), rng.integers(0, 10, count, np.uint8)


def array_source(
    count: int = 50, shape: tuple[int, int, int] = (8, 8, 3), seed: int = 0
) -> ArraySource:
    return ArraySource(*pictures(count, shape, seed), 10)


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()


def write_fashion_mnist(
    folder: Path, train: int = 12, test: int = 5, *, packed: bool = True
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate((("train", train), ("t10k", test))):
        images, labels = pictures(count, (28, 28, 1), seed)
        for kind, array in (("images-idx3", images[..., 0]), ("labels-idx1", labels)):
            path = folder / f"{name}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    return folder


def planes(images: np.ndarray) -> np.ndarray:
    """uint8 [n, 3072]: red, green, blue, as CIFAR-10 has them."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def binary_batch(images: np.ndarray, labels: np.ndarray) -> bytes:
    return np.concatenate([labels[:, None], planes(images)], axis=1).tobytes()


def python2_batch(images: np.ndarray, labels: np.ndarray) -> bytes:
    """The opcodes that Python 2's cPickle wrote for a batch."""
    raw = planes(images).tobytes()
    return b"".join(
        (
            b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5"
            b"q\x03U\x06labelsq\x04]q\x05(",
            *(b"K" + bytes([label]) for label in labels.tolist()),
            b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09",
            b"(K\x01M"
            + len(images).to_bytes(2, "little")
            + b"M\x00\x0c\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b",
            b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
            + len(raw).to_bytes(4, "little")
            + raw,
            b"tbU\tfilenamesq\x0c]q\x0d(",
            *(b"U\x05a.png" for _ in labels),
            b"eu.",
        )
    )


def cifar_batches(count: int = 3) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {name: pictures(count, (32, 32, 3), seed) for seed, name in enumerate(BATCHES)}


def cifar_files(*, binary: bool, count: int = 3) -> dict[str, bytes]:
    made = cifar_batches(count)
    if binary:
        return {f"{name}.bin": binary_batch(*made[name]) for name in made}
    return {name: python2_batch(*made[name]) for name in made}


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def archive(files: Mapping[str, bytes], folder: str) -> bytes:
    """A .tar.gz with the files in a folder, as it is published."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for name, data in {"readme.html": b"<html>", **files}.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def write_images(
    root: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 3, test: str = "val"
) -> Path:
    """A folder of images of several sizes, PNG so that their pixels are known: all of one colour,
    told by `colour`.
    """
    for split in ("train", test):
        for number, name in enumerate(classes):
            for i in range(each):
                path = root / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (20 + 4 * i, 24), colour(split, number, i)).save(path)
    return root


def colour(split: str, number: int, i: int) -> tuple[int, int, int]:
    return (200 if split == "train" else 50, 10 * number, i)
