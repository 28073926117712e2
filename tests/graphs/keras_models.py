"""Small networks in Keras and TensorFlow as people write them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from benchmarks.others import spread_out


def _unit(x: Any, filters: int, stride: int = 1, **conv: Any) -> Any:
    y = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False, **conv)(x)
    y = layers.Activation("relu")(layers.BatchNormalization(epsilon=1e-5)(y))
    y = layers.ZeroPadding2D(1)(y)
    y = layers.BatchNormalization(scale=False)(layers.Conv2D(filters, 3)(y))
    if stride > 1 or x.shape[-1] != filters:
        x = layers.Conv2D(filters, 1, stride)(x)
    return layers.ReLU()(layers.Add()([x, y]))


def functional(size: int | None = 32) -> keras.Model:
    images = keras.Input((size, size, 3))
    x = layers.Conv2D(8, 7, strides=2, padding="same", name="stem")(images)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    x = _unit(_unit(x, 8), 16, 2)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(5, activation="softmax", name="head")(x))


def nested() -> keras.Model:
    """What surrounds a network in practice: rescaling, augmentation, another model, a head."""
    inner = keras.Input((None, None, 3))
    features = keras.Model(inner, _unit(inner, 8, 2), name="backbone")
    scaled = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Rescaling(1 / 127.5, offset=-1),
            scaled,
            layers.RandomFlip(),
            features,
            layers.AveragePooling2D(3, 2, padding="same"),
            layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, activation="silu"),
            layers.GroupNormalization(4),
            layers.Cropping2D(((0, 1), (1, 0))),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(5),
        ]
    )


def operators() -> keras.Model:
    """Functions and operators in place of layers."""
    images = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, padding="same", groups=1)(images / 255.0)
    y = ops.relu(layers.Conv2D(8, 3, padding="same", dilation_rate=2)(x) * 0.5 + x)
    y = layers.Concatenate()([y, layers.Multiply()([x, y]), layers.Average()([x, y])])
    y = ops.mean(ops.pad(y, ((0, 0), (1, 2), (0, 1), (0, 0))), axis=(1, 2))
    return keras.Model(images, layers.Dense(4)(y))


class Unit(layers.Layer):
    def __init__(self, filters: int, stride: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)
        self.norm = layers.BatchNormalization()
        self.project = layers.Conv2D(filters, 1, stride)
        self.drop = layers.Dropout(0.5)

    def call(self, x: Any, training: Any = None) -> Any:
        y = self.drop(self.norm(self.conv(x), training=training), training=training)
        return ops.relu(y + self.project(x))


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.unit = Unit(8, 2)
        self.head = layers.Dense(4)

    def call(self, images: Any, training: Any = None) -> dict[str, Any]:
        x = ops.flip(ops.transpose(images, (0, 2, 1, 3)), axis=-1)
        x = ops.max_pool(self.unit(x, training=training), 3, 2, padding="same")
        return {"features": x, "logits": self.head(ops.mean(x, axis=(1, 2)))}


def subclassed() -> keras.Model:
    model = Subclassed()
    model(np.zeros((1, 32, 32, 3), np.float32))
    return model


MODELS = {
    "functional": functional,
    "of any size": lambda: functional(None),
    "nested": nested,
    "operators": operators,
    "subclassed": subclassed,
}


def varied(model: keras.Model) -> keras.Model:
    """The model with other weights."""
    for k, variable in enumerate(model.variables):
        value = keras.ops.convert_to_numpy(variable)
        if value.dtype.kind == "f":
            variable.assign(spread_out(value, k))
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # which computes with copies of its variables
    return model
