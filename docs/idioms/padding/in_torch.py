"""Padding at stride 2 in PyTorch: `padding=1` is one pixel on every side."""

from torch import Tensor, nn


def right(images: Tensor, kernel: Tensor) -> Tensor:
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
    conv.weight = nn.Parameter(kernel)
    return conv(images)


def wrong(images: Tensor, kernel: Tensor) -> Tensor:
    """What `padding="same"` of the others does; PyTorch itself refuses it at stride 2."""
    return nn.functional.conv2d(nn.functional.pad(images, (0, 1, 0, 1)), kernel, stride=2)
