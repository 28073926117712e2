"""Building the network, and canonical weights in and out of it, layer by layer name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from resnet_keras.init import Draw
from resnet_keras.model import ResNet
from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.errors import FrameworkError
from shared.weights.canonical import (
    Weights,
    cast_exactly,
    check_weights,
    from_channels_last,
    to_channels_last,
)
from shared.weights.dtypes import FLOATS, dtype_name, float_dtype

# Keras' name of a variable -> the canonical leaf.
LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


MIXED = ("mixed_bfloat16", "mixed_float16")


def build(spec: ResNetSpec, *, seed: int = 0, dtype: Any = "float32") -> ResNet:
    """A freshly initialised network, with the weights of `initial_weights(spec, seed)`.

    `dtype` is a name, the object that NumPy or the backend has for it, or one of Keras' policies
    `mixed_bfloat16` and `mixed_float16`, whose weights are float32. No global generator, dtype
    policy or floatx is read or changed. Raises `SpecError` for an unknown dtype, and
    `FrameworkError` for float64 on a JAX that has it switched off.
    """
    policy = dtype_name(dtype, (*FLOATS, *MIXED))
    model = ResNet(make_plan(spec), dtype=policy, seed=seed)
    expected, found = (
        model.variable_dtype,
        keras.backend.standardize_dtype(model.variables[0].value.dtype),
    )
    if found != expected:
        raise FrameworkError(
            f"asked for {expected}, but Keras' {keras.backend.backend()} backend made {found}; "
            "set the environment variable JAX_ENABLE_X64=1"
        )
    return model


def load_weights(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Copy canonical weights into the model.

    Raises `CheckpointError` listing every tensor that is missing, extra, mis-shaped, not finite, or
    not exact in the model's dtype; the model is then as it was.
    """
    check_weights(make_plan(spec_of(model)), weights)
    variables = canonical_variables(model)
    exact = cast_exactly({name: weights[name] for name in variables}, weight_dtype(model))
    for name, variable in variables.items():
        # A copy: JAX may keep the memory that it is given.
        variable.assign(to_channels_last(name, exact[name]).copy())


def export_weights(model: keras.Model) -> Weights:
    """The model's weights under their canonical names, as arrays of their own."""
    return dict(iter_weights(model))


def iter_weights(model: keras.Model) -> Iterator[tuple[str, np.ndarray]]:
    """`export_weights`, one tensor at a time."""
    dtype = float_dtype(weight_dtype(model))  # the PyTorch backend hands bfloat16 out as float32
    for name, variable in canonical_variables(model).items():
        array = from_channels_last(name, keras.ops.convert_to_numpy(variable))
        yield name, array.astype(dtype, copy=False)


def spec_of(model: keras.Model) -> ResNetSpec:
    """The spec of a network that `build` made, or `keras.models.clone_model` of such a one.

    Keras clones layer by layer and makes a plain functional model of them. Raises `FrameworkError`
    for a model whose layers have no spec.
    """
    if isinstance(model, ResNet):
        return model.spec
    for layer in getattr(model, "layers", ()):
        drawn = getattr(layer, "kernel_initializer", None)
        if isinstance(drawn, Draw):
            return drawn.spec
    raise FrameworkError(
        f"expected a ResNet that resnet_keras.build made, found {type(model).__name__}; "
        "pass the network itself"
    )


def weight_dtype(model: keras.Model) -> str:
    """The dtype that all weights share; images are given in it too."""
    return model.inputs[0].dtype


def policy_of(model: keras.Model) -> keras.DTypePolicy:
    """The dtype policy that all layers share."""
    return model.layers[-1].dtype_policy


def canonical_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Canonical name -> the model's own variable, in the plan's order.

    Dropout has a seed as well. Raises `FrameworkError` for a part of a network.
    """
    found = {
        f"{layer.name}.{LEAVES[variable.name]}": variable
        for layer in model.layers
        for variable in layer.variables
        if variable.name in LEAVES
    }
    spec = spec_of(model)
    names = list(make_plan(spec).tensors)
    missing = [name for name in names if name not in found]
    if missing:
        raise FrameworkError(
            f"the model is a part of {spec.name}: it has no {missing[0]}; pass the whole network"
        )
    return {name: found[name] for name in names}
