"""Padding at stride 2 in Keras: pad by a layer, and let the convolution pad nothing."""

import keras
from keras import layers


def right(images, kernel):
    conv = layers.Conv2D(8, 3, strides=2, use_bias=False, dtype="float64")
    model = keras.Sequential([layers.ZeroPadding2D(1, dtype="float64"), conv])
    model.build(images.shape)
    conv.set_weights([kernel])
    return model(images)


def wrong(images, kernel):
    """On even sizes, "same" is nothing in front and one pixel behind."""
    conv = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, dtype="float64")
    conv.build(images.shape)
    conv.set_weights([kernel])
    return conv(images)
