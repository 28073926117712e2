"""Batch norm's stored variance in Keras: biased; a subclass of a few lines stores PyTorch's."""

from keras import layers, ops


class BatchNormalization(layers.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        kept = self.momentum * ops.convert_to_tensor(self.moving_variance)
        outputs = super().call(inputs, training=training, mask=mask)
        if training and self.trainable:
            moved = ops.convert_to_tensor(self.moving_variance) - kept
            images, height, width, _ = ops.shape(inputs)
            n = ops.cast(images * height * width, moved.dtype)
            self.moving_variance.assign(kept + moved * n / (n - 1))
        return outputs


def right(images):
    norm = BatchNormalization(momentum=0.9, dtype="float64")
    norm(images, training=True)
    return norm.moving_variance


def wrong(images):
    """The stock layer."""
    norm = layers.BatchNormalization(momentum=0.9, dtype="float64")
    norm(images, training=True)
    return norm.moving_variance
