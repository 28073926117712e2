"""Layouts in Keras: images [N, H, W, C], kernels HWIO and [in, out], flattened channels last."""

import keras
from keras import layers, ops


def output(images, kernel):
    model = keras.Sequential(
        [layers.Flatten(dtype="float64"), layers.Dense(3, use_bias=False, dtype="float64")]
    )
    model.build(images.shape)
    model.set_weights([kernel])
    return model(images)


def right(images, weight):
    """PyTorch's weight [3, C * H * W], its columns brought into the order of the features here."""
    kernel = ops.transpose(ops.reshape(weight, (3, 3, 4, 4)), (2, 3, 1, 0))
    return output(images, ops.reshape(kernel, (48, 3)))


def wrong(images, weight):
    """Transposed, and no more: every shape fits."""
    return output(images, ops.transpose(weight))
