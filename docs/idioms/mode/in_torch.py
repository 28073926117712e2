"""Batch norm's mode in PyTorch: a flag of the module, and a new module trains."""

from torch import Tensor, nn


def norm_of(mean: Tensor, variance: Tensor) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(3).double()
    norm.load_state_dict({"running_mean": mean, "running_var": variance}, strict=False)
    return norm


def right(images: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """In evaluation, by the stored statistics."""
    return norm_of(mean, variance).eval()(images)


def wrong(images: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Without gradients is not yet evaluation: the batch's statistics are used, and stored."""
    return norm_of(mean, variance).requires_grad_(False)(images)
