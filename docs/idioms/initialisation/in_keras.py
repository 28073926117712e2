"""Initialisation in Keras: `he_normal` is by fan-in and truncated, so write the scaling out."""

from keras import initializers, layers


def std(**settings):
    conv = layers.Conv2D(256, 3, **settings)
    conv.build((None, 8, 8, 256))
    return conv.kernel.numpy().std()


def right():
    """The standard deviation of a kernel of 3 x 3, 256 channels: sqrt(2 / (9 * 256))."""
    he = initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal", seed=0)
    return std(kernel_initializer=he)


def wrong():
    """The default: Glorot's, uniform."""
    return std()
