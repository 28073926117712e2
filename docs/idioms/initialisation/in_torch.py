"""Initialisation in PyTorch: He's normal distribution by fan-out has to be asked for."""

from torch import Tensor, nn


def right() -> Tensor:
    """The standard deviation of a kernel of 3 x 3, 256 channels: sqrt(2 / (9 * 256))."""
    conv = nn.Conv2d(256, 256, 3)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv.weight.std()


def wrong() -> Tensor:
    """The default: uniform, by fan-in, with a sixth of that variance."""
    return nn.Conv2d(256, 256, 3).weight.std()
