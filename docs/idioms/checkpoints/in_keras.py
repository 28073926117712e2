"""Checkpoints in Keras: a `.weights.h5`, which is read into a model that is built already."""

import keras
from keras import layers


def model_of(units):
    dense = layers.Dense(units, use_bias=False, name="head", dtype="float64")
    return keras.Sequential([keras.Input((4,), dtype="float64"), dense])


def saved(weight, folder):
    trained = model_of(3)
    trained.set_weights([keras.ops.transpose(weight)])  # kernels are [in, out]
    trained.save_weights(folder / "model.weights.h5")
    return folder / "model.weights.h5"


def right(features, weight, folder):
    model = model_of(3)
    model.load_weights(saved(weight, folder))  # refuses what is missing or of another shape
    return model(features)


def wrong(features, weight, folder):
    """A head of another size is passed over, with a warning at most."""
    model = model_of(5)
    model.load_weights(saved(weight, folder), skip_mismatch=True)
    return model(features)[:, :3]
