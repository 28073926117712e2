"""`bare_torch.py` for files of Keras, on TensorFlow."""

import keras
import numpy as np
import running
import safetensors.numpy
import tensorflow as tf

keras.config.set_floatx("float64")
LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def step(model, images, labels, rate):
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        loss = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        loss = keras.ops.mean(loss)
    variables = model.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
        variable.assign(variable - rate * gradient)


def canonical(array):
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def by_tools(model, images, folder):
    """What Keras makes of the network: a file that it reads again, a clone, a compiled function."""
    model.save(folder / "model.keras")
    yield "load_model", keras.saving.load_model(folder / "model.keras")(images).numpy()
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    yield "clone_model", clone(images).numpy()
    yield "tf.function", tf.function(model)(images).numpy()


for folder, model, batch in running.loaded(safetensors):
    found = {"output": model(batch["images"]).numpy()}
    if (folder / "tools").exists():
        running.same(found["output"], by_tools(model, batch["images"], folder))
    step(model, batch["images"], batch["labels"], float(batch["rate"]))
    for layer in model.layers:
        for variable in layer.weights:
            found[f"{layer.name}.{LEAVES[variable.name]}"] = canonical(variable.numpy())
    np.savez(folder / "found.npz", **found)

running.nothing_of_ours()
