"""Random numbers in Keras: the same seed draws other numbers on every backend."""

import keras
import numpy as np


def right():
    """Drawn once, by NumPy, whose streams are promised, and handed to everyone."""
    return keras.ops.convert_to_tensor(np.random.default_rng(0).normal(size=(4, 5)))


def wrong():
    return keras.random.normal((4, 5), seed=0, dtype="float64")
