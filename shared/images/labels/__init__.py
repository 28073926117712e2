"""Class names of the datasets that released weights were trained on.

ImageNet-1k's are the names that torchvision's metadata has, in the order of the synsets.
"""

from __future__ import annotations

from pathlib import Path

from shared.architecture.spec import ResNetSpec
from shared.errors import SpecError, nearest

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION_MNIST = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DATASETS = ("imagenet-1k", "imagenet-1k-background", "cifar10", "fashion-mnist", "none")


def class_names(dataset: str) -> tuple[str, ...]:
    """The names by class; empty for `none`. Raises `SpecError` for a dataset that is not known."""
    if dataset == "none":
        return ()
    if dataset == "cifar10":
        return CIFAR10
    if dataset == "fashion-mnist":
        return FASHION_MNIST
    if dataset not in DATASETS:
        raise SpecError(
            f"unknown labels {dataset!r}{nearest(dataset, DATASETS)}; known are "
            f"{', '.join(DATASETS)}"
        )
    names = (Path(__file__).parent / "imagenet-1k.txt").read_text(encoding="utf-8").splitlines()
    return ("background", *names) if dataset == "imagenet-1k-background" else tuple(names)


def guess_dataset(spec: ResNetSpec) -> str:
    """The dataset with as many classes and channels as the network."""
    if spec.num_classes == 1000:
        return "imagenet-1k"
    if spec.num_classes == 1001:  # TensorFlow's class 0 is the background
        return "imagenet-1k-background"
    if spec.num_classes == 10:
        return "fashion-mnist" if spec.in_channels == 1 else "cifar10"
    return "none"
