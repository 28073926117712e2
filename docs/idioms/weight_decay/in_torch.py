"""Weight decay in PyTorch: `weight_decay` of SGD is added to the gradient."""

import torch
from torch import Tensor


def right(weight: Tensor, gradients: Tensor) -> Tensor:
    """The weights after a step for each gradient."""
    parameter = torch.nn.Parameter(weight)
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=0.01)
    for gradient in gradients:
        parameter.grad = gradient
        optimizer.step()
    return parameter


def wrong(weight: Tensor, gradients: Tensor) -> Tensor:
    """Decoupled: the velocity does not hear of it."""
    parameter = torch.nn.Parameter(weight)
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    for gradient in gradients:
        parameter.grad = gradient
        with torch.no_grad():
            parameter.mul_(1 - 0.1 * 0.01)
        optimizer.step()
    return parameter
