"""Freezing in Keras: `trainable = False` stops gradients, and a norm evaluates from then on."""

import keras
from keras import layers


def model_of():
    norm = layers.BatchNormalization(momentum=0.9, dtype="float64")
    conv = layers.Conv2D(8, 3, dtype="float64")
    return keras.Sequential([keras.Input((8, 8, 3), dtype="float64"), norm, conv]), norm


def right(images):
    """The running mean of a frozen norm after the network has trained: as it was."""
    model, norm = model_of()
    norm.trainable = False
    model(images, training=True)
    return norm.moving_mean


def wrong(images):
    """Only its gamma and beta; its statistics go on to move."""
    model, norm = model_of()
    norm.gamma.trainable = norm.beta.trainable = False
    model(images, training=True)
    return norm.moving_mean
