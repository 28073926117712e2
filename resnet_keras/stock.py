"""The network in Keras' own layers alone: what it is saved as opens where this package is not."""

from __future__ import annotations

from typing import Any

import keras

from resnet_keras import dropout, layers
from resnet_keras.weights import spec_of
from shared.errors import FrameworkError

Config = dict[str, Any]


def stock_model(model: keras.Model) -> keras.Model:
    """The same network, with weights of its own, as a plain functional model of Keras' own layers.

    Layer names are the canonical names. `model` is a network that `build` made; it is left as it
    was. A model of Keras' layers knows no spec: the way back is `build(spec)`, whose `set_weights`
    takes its `get_weights()`. Raises `FrameworkError` naming the first layer that has no stock
    layer: one that standardises its filters or averages unbiased variances, say; and where Keras
    has no float64 on its backend.

    >>> stock_model(build(get_spec("keras/resnet50"))).save("resnet50.keras")
    """
    spec, backend = spec_of(model), keras.backend.backend()
    dtype = model.inputs[0].dtype
    if backend == "torch" or (backend == "jax" and dtype == "float64"):
        why = "layer names with dots" if backend == "torch" else f"{dtype} in its own layers"
        raise FrameworkError(f"Keras' {backend} backend has no {why}; use TensorFlow's")
    activated = spec.stem.norm_act

    def stock(layer: keras.layers.Layer) -> keras.layers.Layer:
        kind, config = type(layer), layer.get_config()
        if kind.__module__.startswith("keras."):
            return kind.from_config(without_draws(config))
        if kind is dropout.MaskedDropout:
            return keras.layers.Dropout.from_config(config)
        # A ReLU leaves nothing below zero: in front of a maximum, zeros are as good as -inf.
        if kind is layers.InfinityPadding2D and activated:
            return keras.layers.ZeroPadding2D.from_config(config)
        if kind is layers.Subsample and not any(layer.channels):
            return _subsample(config)
        raise FrameworkError(
            f"{spec.name} is not of Keras' own layers alone: none of them is {layer.name}, "
            f"a {kind.__name__}{_shown(config)}"
        )

    clone = keras.models.clone_model(model, clone_function=stock)
    clone.set_weights(model.get_weights())
    return clone


def without_draws(config: Config) -> Config:
    """Without our initialisers: Keras' own are the default."""
    drawn = ("kernel_initializer", "bias_initializer")
    return {name: value for name, value in config.items() if name not in drawn}


def _subsample(config: Config) -> keras.layers.Layer:
    """Every `stride`-th pixel is a pool of one."""
    return keras.layers.MaxPooling2D(
        1,
        strides=config["stride"],
        data_format=layers.CHANNELS_LAST,
        name=config["name"],
        dtype=config["dtype"],
    )


def _shown(config: Config) -> str:
    """What a layer of `resnet_keras.corrected` corrects."""
    given = [
        f"{name}={config[name]}"
        for name in ("weight_std_eps", "grid", "unbiased")
        if config.get(name)
    ]
    return f" with {', '.join(given)}" if given else ""
