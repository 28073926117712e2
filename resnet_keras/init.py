"""Fresh weights, as Keras asks for them: by initialisers that are arguments of the layers.

`Scope` carries what every layer needs for that down the network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import initializers
from keras.saving import register_keras_serializable

from shared.architecture.spec import ResNetSpec
from shared.weights.canonical import canonical_shape, to_channels_last
from shared.weights.dtypes import float_dtype
from shared.weights.initial import initial_distributions
from shared.weights.random import named_rng


@register_keras_serializable(package="resnet_rosetta")
class Draw(initializers.Initializer):
    """The tensor of `initial_weights(spec, seed)` with this canonical name.

    NumPy draws it, so it is the same on every backend. Keras' own initialisers draw with the
    backend, and JAX compiles its generator anew for each shape: 13 seconds for a ResNet-50.
    """

    def __init__(self, spec: ResNetSpec, tensor: str, seed: int):
        self.spec, self.tensor, self.seed = spec, tensor, seed

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        dtype = keras.backend.standardize_dtype(dtype)
        distribution = initial_distributions(self.spec)[self.tensor]
        values = distribution.draw(self.tensor, canonical_shape(shape), self.seed)
        array = to_channels_last(self.tensor, values.astype(float_dtype(dtype)))
        return keras.ops.convert_to_tensor(array, dtype)

    def get_config(self) -> dict[str, Any]:
        return {"spec": self.spec.to_dict(), "tensor": self.tensor, "seed": self.seed}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Draw:
        return cls(**{**config, "spec": ResNetSpec.from_dict(config["spec"])})


@dataclass(frozen=True)
class Scope:
    """Where in the network a layer is (its canonical name), and how its variables are made.

    `scope / "conv1"` is the scope of a layer below. `dtype` is the name of a dtype policy.
    """

    name: str
    dtype: str
    spec: ResNetSpec
    seed: int

    def __truediv__(self, leaf: str) -> Scope:
        return replace(self, name=f"{self.name}.{leaf}" if self.name else leaf)

    def initializers(self) -> dict[str, Draw]:
        """Of kernel and bias, as the constructor of a layer takes them."""
        return {
            f"{argument}_initializer": Draw(self.spec, f"{self.name}.{leaf}", self.seed)
            for argument, leaf in (("kernel", "weight"), ("bias", "bias"))
        }

    def dropout_seed(self) -> int:
        """Without a seed of its own a dropout layer draws one from Python's global generator."""
        return int(named_rng(f"{self.name}.seed", self.seed).integers(2**31))
