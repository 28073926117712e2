"""Batch norm's momentum in PyTorch: the part of the new value, 0.1."""

from torch import Tensor, nn


def running_mean(images: Tensor, momentum: float) -> Tensor:
    norm = nn.BatchNorm2d(3, momentum=momentum).double()
    norm(images)  # a new module is in training mode
    return norm.running_mean


def right(images: Tensor) -> Tensor:
    return running_mean(images, momentum=0.1)


def wrong(images: Tensor) -> Tensor:
    """Keras' or Flax' number: nearly all that is kept is the last batch."""
    return running_mean(images, momentum=0.9)
