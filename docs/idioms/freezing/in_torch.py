"""Freezing in PyTorch: `requires_grad_(False)` stops gradients, and nothing else."""

from torch import Tensor, nn


def right(images: Tensor) -> Tensor:
    """The running mean of a frozen norm after the network has trained: as it was."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)).double()
    model.train()
    model[0].requires_grad_(False).eval()
    model(images).sum().backward()
    return model[0].running_mean


def wrong(images: Tensor) -> Tensor:
    """Its statistics go on to move."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)).double()
    model.train()
    model[0].requires_grad_(False)
    model(images).sum().backward()
    return model[0].running_mean
