"""The specification rendered in PyTorch."""

from resnet_torch.model import ResNet
from resnet_torch.trace import trace
from resnet_torch.weights import build, export_weights, load_weights

__all__ = ["ResNet", "build", "export_weights", "load_weights", "trace"]
