"""A training step in PyTorch: `backward`, and the learning rate outside the velocity."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def right(features: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """The weights after a step at a learning rate of 0.1, and one of 0.01."""
    model = nn.Linear(4, 3, bias=False).double()
    model.load_state_dict({"weight": weight})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for rate in (0.1, 0.01):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        cross_entropy(model(features), labels).backward()
        optimizer.step()
    return model.weight


def wrong(features: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Without `zero_grad`: the second gradient has the first one in it."""
    model = nn.Linear(4, 3, bias=False).double()
    model.load_state_dict({"weight": weight})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for rate in (0.1, 0.01):
        optimizer.param_groups[0]["lr"] = rate
        cross_entropy(model(features), labels).backward()
        optimizer.step()
    return model.weight
