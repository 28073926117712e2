"""Precision in PyTorch: `double()` converts the parameters; inputs have to match, or it refuses."""

from torch import Tensor, nn


def right(features: Tensor, weight: Tensor) -> Tensor:
    layer = nn.Linear(4, 3, bias=False).double()
    layer.load_state_dict({"weight": weight})
    return layer(features)


def wrong(features: Tensor, weight: Tensor) -> Tensor:
    """float64 weights are rounded to the parameters' float32 without a word."""
    layer = nn.Linear(4, 3, bias=False)
    layer.load_state_dict({"weight": weight})
    return layer(features.float())
