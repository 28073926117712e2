"""Precision in Keras: a policy a layer; inputs of another one are cast without a word."""

import keras
from keras import layers


def output(features, weight, dtype):
    layer = layers.Dense(3, use_bias=False, dtype=dtype)
    layer.build(features.shape)
    layer.set_weights([keras.ops.transpose(weight)])
    return layer(features)


def right(features, weight):
    return output(features, weight, "float64")


def wrong(features, weight):
    """The default."""
    return output(features, weight, None)
