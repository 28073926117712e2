"""Label smoothing in Keras: the loss takes one-hot rows, and probabilities unless told."""

import keras


def right(logits, labels):
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=0.1, dtype="float64"
    )
    return loss(keras.ops.one_hot(labels, 10, dtype="float64"), logits)


def wrong(logits, labels):
    """The sparse loss, which takes class numbers, has no smoothing."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")(
        labels, logits
    )
