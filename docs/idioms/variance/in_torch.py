"""Batch norm's stored variance in PyTorch: unbiased, n / (n - 1) times what it normalises by."""

import torch
from torch import Tensor, nn


def right(images: Tensor) -> Tensor:
    norm = nn.BatchNorm2d(3, momentum=0.1).double()
    norm(images)
    return norm.running_var


def wrong(images: Tensor) -> Tensor:
    """As the other frameworks store it."""
    biased = torch.var(images, (0, 2, 3), correction=0)
    return 0.9 * torch.ones(3, dtype=torch.float64) + 0.1 * biased
