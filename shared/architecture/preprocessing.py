"""What published weights expect of an image: scale, mean and deviation, channel order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Preprocessing(NamedTuple):
    """(pixels / divisor - mean) / std per channel, in RGB, or BGR where `reverse` says so."""

    divisor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    reverse: bool = False


ZEROS = (0.0, 0.0, 0.0)
ONES = (1.0, 1.0, 1.0)
HALF = (0.5, 0.5, 0.5)

PREPROCESSING = {
    # of ImageNet's training split, as torchvision measured it; torchvision, timm resnet,
    # transformers, Flax
    "imagenet": Preprocessing(255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # keras.applications V1 and the Caffe networks: BGR, no scaling (keras imagenet_utils.py)
    "caffe": Preprocessing(1, (103.939, 116.779, 123.68), ONES, reverse=True),
    # x / 127.5 - 1: keras.applications V2, BiT, timm resnetv2
    "half": Preprocessing(255, HALF, HALF),
    # channel means, no scaling (tensorflow/models imagenet_preprocessing.py)
    "tf_official": Preprocessing(1, (123.68, 116.78, 103.94), ONES),
    # kuangliu main.py
    "cifar": Preprocessing(255, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    # grey; of the training split
    "fashion-mnist": Preprocessing(255, (0.2860,) * 3, (0.3530,) * 3),
    "unit": Preprocessing(255, ZEROS, ONES),  # ToTensor alone
    "0 to 255": Preprocessing(1, ZEROS, ONES),  # image-classifiers normalise in the network
}


def preprocess(pixels: np.ndarray, how: Preprocessing, channels: int = 3) -> np.ndarray:
    """RGB pixels [..., 3] of 0 to 255 as float64 [..., channels]; one channel is the mean of 3."""
    image = pixels.astype(np.float64)
    if how.reverse:
        image = image[..., ::-1]
    image = (image / how.divisor - how.mean) / how.std
    return image if channels == 3 else image.mean(axis=-1, keepdims=True)
