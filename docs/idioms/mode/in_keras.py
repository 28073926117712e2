"""Batch norm's mode in Keras: an argument of the call, and a plain call evaluates."""

from keras import layers


def norm_of(images, mean, variance):
    norm = layers.BatchNormalization(epsilon=1e-5, dtype="float64")
    norm.build(images.shape)
    norm.moving_mean.assign(mean)
    norm.moving_variance.assign(variance)
    return norm


def right(images, mean, variance):
    """In evaluation, by the stored statistics; so does `trainable = False`, whatever is said."""
    norm = norm_of(images, mean, variance)
    norm.trainable = False
    return norm(images, training=True)


def wrong(images, mean, variance):
    """Told that it trains, as in a loop of one's own that says so of every layer."""
    return norm_of(images, mean, variance)(images, training=True)
