"""A training step in Keras: its SGD has the learning rate inside the velocity."""

import keras
from keras import layers, ops


class SGD(keras.optimizers.SGD):
    """v = momentum v + g, w = w - rate v, as PyTorch's and optax'."""

    def update_step(self, gradient, variable, learning_rate):
        velocity = self.momentums[self._get_variable_index(variable)]
        self.assign(velocity, ops.multiply(velocity, self.momentum) + gradient)
        rate = ops.cast(learning_rate, variable.dtype)
        self.assign_sub(variable, ops.multiply(velocity, rate))


def after(features, labels, weight, optimizer):
    """The weights [out, in] after a step at a learning rate of 0.1, and one of 0.01."""
    model = keras.Sequential(
        [keras.Input((4,), dtype="float64"), layers.Dense(3, use_bias=False, dtype="float64")]
    )
    model.set_weights([ops.transpose(weight)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    model.compile(optimizer, loss)
    for rate in (0.1, 0.01):
        optimizer.learning_rate = rate
        model.train_on_batch(features, labels)
    return ops.transpose(model.get_weights()[0])


def right(features, labels, weight):
    return after(features, labels, weight, SGD(0.1, momentum=0.9))


def wrong(features, labels, weight):
    """Keras' own: v = momentum v - rate g, w = w + v; the old rate lives on in the velocity."""
    return after(features, labels, weight, keras.optimizers.SGD(0.1, momentum=0.9))
