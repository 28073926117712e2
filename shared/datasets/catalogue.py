"""What is known of each dataset: shapes, statistics, where its files are published, and their
hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from shared.architecture.preprocessing import PREPROCESSING
from shared.errors import DatasetError, nearest

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True)
class RemoteFile:
    """A file to download: the same bytes at every one of `urls`."""

    name: str
    urls: tuple[str, ...]
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """A dataset that can be trained on.

    `mean` and `std` are per channel, of values in [0, 1]. `contents` are hashes, `algorithm:hex`,
    of the published files uncompressed: a file that was compressed again is still the published
    dataset.
    """

    name: str
    title: str
    image_shape: (
        tuple[int, int, int] | None
    )  # height, width, channels; None: photographs of any size
    num_classes: int | None  # None: as many as there are folders
    labels: str | None  # of `shared.images.labels.class_names`
    mean: tuple[float, ...]
    std: tuple[float, ...]
    examples: Mapping[str, int] = field(
        default_factory=lambda: MappingProxyType({}), hash=False
    )  # by split
    files: tuple[RemoteFile, ...] = ()  # none: cannot be downloaded
    contents: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({}), hash=False, repr=False
    )
    hint: str = ""  # how else to get it

    @property
    def channels(self) -> int:
        return self.image_shape[2] if self.image_shape else 3

    def is_published(self, name: str, content: bytes | memoryview) -> bool:
        """Whether this is what the published file of that name holds."""
        algorithm, _, expected = self.contents.get(name, "").partition(":")
        return (
            bool(expected)
            and hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() == expected
        )


def get_dataset(name: str) -> Dataset:
    """Raises `DatasetError` for a name that is not known."""
    if name not in DATASETS:
        raise DatasetError(
            f"unknown dataset {name!r}{nearest(name, DATASETS)}; known are {', '.join(DATASETS)}"
        )
    return DATASETS[name]


# torchvision/datasets/mnist.py and keras/src/datasets/fashion_mnist.py. The SHA-256 are of the
# files with the MD5 that torchvision has. Debian's package compresses without the name and time of
# the file, which changes nothing else.
_FASHION_URLS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
)
# Name, bytes, SHA-256; then SHA-256 of the content.
_FASHION_FILES = (
    (
        "train-images-idx3-ubyte",
        26421880,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    (
        "train-labels-idx1-ubyte",
        29515,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    (
        "t10k-images-idx3-ubyte",
        4422102,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    (
        "t10k-labels-idx1-ubyte",
        5148,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
)

# torchvision/datasets/cifar.py (MD5 of the Python batches), keras/src/datasets/cifar10.py (SHA-256
# of the archive), mxnet/gluon/data/vision/datasets.py (SHA-1 of the binary batches).
_CIFAR_CONTENTS = {
    "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
    "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
    "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "md5:40351d587109b95175f43aff81a1287e",
    "data_batch_1.bin": "sha1:aadd24acce27caa71bf4b10992e9e7b2d74c2540",
    "data_batch_2.bin": "sha1:c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
    "data_batch_3.bin": "sha1:1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
    "data_batch_4.bin": "sha1:aab85764eb3584312d3c7f65fd2fd016e36a258e",
    "data_batch_5.bin": "sha1:26e2849e66a845b7f1e4614ae70f4889ae604628",
    "test_batch.bin": "sha1:67eb016db431130d61cd03c7ad570b013799c88c",
}

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="fashion-mnist",
            title="Fashion-MNIST",
            image_shape=(28, 28, 1),
            num_classes=10,
            labels="fashion-mnist",
            mean=PREPROCESSING["fashion-mnist"].mean[:1],
            std=PREPROCESSING["fashion-mnist"].std[:1],
            examples=MappingProxyType({"train": 60000, "test": 10000}),
            files=tuple(
                RemoteFile(
                    f"{name}.gz", tuple(f"{url}{name}.gz" for url in _FASHION_URLS), size, sha256
                )
                for name, size, sha256, _ in _FASHION_FILES
            ),
            contents=MappingProxyType(
                {name: f"sha256:{content}" for name, _, _, content in _FASHION_FILES}
            ),
            hint="Debian and Ubuntu have it as the package dataset-fashion-mnist",
        ),
        Dataset(
            name="cifar10",
            title="CIFAR-10",
            image_shape=(32, 32, 3),
            num_classes=10,
            labels="cifar10",
            # Over all pixels; the smaller std (0.2023, 0.1994, 0.2010) that many programs have is a
            # mean over images.
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            examples=MappingProxyType({"train": 50000, "test": 10000}),
            files=(
                RemoteFile(
                    "cifar-10-python.tar.gz",
                    ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
                    170498071,
                    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
                ),
            ),
            contents=MappingProxyType(_CIFAR_CONTENTS),
        ),
        Dataset(
            name="imagenet",
            title="ImageNet-1k",
            image_shape=None,
            num_classes=1000,
            labels="imagenet-1k",
            mean=PREPROCESSING["imagenet"].mean,
            std=PREPROCESSING["imagenet"].std,
            examples=MappingProxyType({"train": 1281167, "test": 50000}),
            hint="it has to be asked for at image-net.org, and unpacked into train/<synset>/ and "
            "val/<synset>/",
        ),
        Dataset(
            name="folder",
            title="a folder of images",
            image_shape=None,
            num_classes=None,
            labels=None,
            # Of photographs in general, and what weights to start from were trained with.
            mean=PREPROCESSING["imagenet"].mean,
            std=PREPROCESSING["imagenet"].std,
            hint="give the folder that has train/<class>/ and val/<class>/ or test/<class>/",
        ),
    )
}
