"""The peers of `resnet_keras`: keras.applications' ResNet-50, and ResNet-20 of stock layers; a
training step.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from benchmarks.timing import StepFunction
from shared.architecture.ops import Shape
from shared.training.config import OptimizerConfig

NAMES = {"resnet50": "keras.applications", "resnet20": "plain keras.layers"}


def _conv_norm(x: Any, width: int, stride: int = 1) -> Any:
    if stride > 1:  # "same" would pad on the right and below alone, which is another function
        x = keras.layers.ZeroPadding2D(1)(x)
    padding = "same" if stride == 1 else "valid"
    x = keras.layers.Conv2D(
        width, 3, stride, padding=padding, use_bias=False, kernel_initializer="he_normal"
    )(x)
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def plain_resnet20(image: Shape, classes: int) -> keras.Model:
    inputs = keras.Input(image)
    x, cin = keras.layers.ReLU()(_conv_norm(inputs, 16)), 16
    for width, first in ((16, 1), (32, 2), (64, 2)):
        for j in range(3):
            stride = first if j == 0 else 1
            shortcut = x
            if stride > 1:  # every second pixel, and zero channels on both sides
                shortcut = keras.ops.pad(
                    x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (cin // 2, cin // 2))
                )
            x = keras.layers.ReLU()(_conv_norm(x, width, stride))
            x = keras.layers.ReLU()(keras.layers.Add()([_conv_norm(x, width), shortcut]))
            cin = width
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


def build(net: str, image: Shape, classes: int) -> keras.Model:
    if net == "resnet50":
        return keras.applications.ResNet50(
            weights=None, input_shape=image, classes=classes, classifier_activation=None
        )
    return plain_resnet20(image, classes)


def training_step(model: keras.Model, how: OptimizerConfig, learning_rate: float) -> StepFunction:
    """Keras' own, with its own optimizer. The decay is decoupled there, which costs as much."""
    optimizer = keras.optimizers.SGD(
        learning_rate, momentum=how.momentum, weight_decay=how.weight_decay
    )
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def step(images: np.ndarray, labels: np.ndarray) -> float:
        return float(model.train_on_batch(images, labels))

    return step
