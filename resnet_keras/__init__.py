"""The specification rendered in Keras 3, for its TensorFlow, JAX and PyTorch backends."""

import resnet_rosetta

resnet_rosetta.require_shared()  # before anything is imported from it

from resnet_keras.inference import fold, inference
from resnet_keras.model import ResNet
from resnet_keras.stock import stock_model
from resnet_keras.trace import trace
from resnet_keras.train import Trainer
from resnet_keras.weights import build, export_weights, load_weights

__all__ = [
    "ResNet",
    "Trainer",
    "build",
    "export_weights",
    "fold",
    "inference",
    "load_weights",
    "stock_model",
    "trace",
]
