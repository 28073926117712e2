"""Layouts in PyTorch: images [N, C, H, W], kernels OIHW, and features flattened channels first."""

from torch import Tensor, nn


def right(images: Tensor, weight: Tensor) -> Tensor:
    """A linear layer behind `flatten`; its weight [3, C * H * W] is of this order."""
    layer = nn.Linear(48, 3, bias=False).double()
    layer.load_state_dict({"weight": weight})
    return layer(images.flatten(1))


def wrong(images: Tensor, weight: Tensor) -> Tensor:
    """Features in the order of the other frameworks: every shape fits."""
    layer = nn.Linear(48, 3, bias=False).double()
    layer.load_state_dict({"weight": weight})
    return layer(images.permute(0, 2, 3, 1).flatten(1))
