"""Weight decay in Keras: the optimizers' is decoupled; a regulariser's is in the gradient."""

import keras


def right(weight, gradients):
    """The weights after a step for each gradient. In a layer: `kernel_regularizer=L2(0.01 / 2)`."""
    variable = keras.Variable(weight, dtype="float64")
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([gradient + 0.01 * variable.value], [variable])
    return variable


def wrong(weight, gradients):
    """Decoupled: the velocity does not hear of it."""
    variable = keras.Variable(weight, dtype="float64")
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01)
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([gradient], [variable])
    return variable
