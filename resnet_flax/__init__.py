"""The specification rendered in Flax NNX."""

import resnet_rosetta

resnet_rosetta.require_shared()  # before anything is imported from it

from resnet_flax.inference import fold, inference
from resnet_flax.model import ResNet
from resnet_flax.trace import trace
from resnet_flax.train import Trainer
from resnet_flax.weights import build, export_weights, load_weights

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
