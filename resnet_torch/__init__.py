"""The specification rendered in PyTorch."""

import resnet_rosetta

resnet_rosetta.require_shared()  # before anything is imported from it

from resnet_torch.inference import fold, inference
from resnet_torch.model import ResNet
from resnet_torch.trace import trace
from resnet_torch.train import Trainer
from resnet_torch.weights import build, export_weights, load_weights

__all__ = [
    "ResNet",
    "Trainer",
    "build",
    "export_weights",
    "fold",
    "inference",
    "load_weights",
    "trace",
]
