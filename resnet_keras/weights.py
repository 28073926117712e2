"""Building the network, and canonical weights in and out of it, layer by layer name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import keras
import numpy as np

from resnet_keras.model import ResNet
from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.errors import FrameworkError
from shared.weights.canonical import (
    Weights,
    cast_exactly,
    check_weights,
    float_dtype,
    from_channels_last,
    to_channels_last,
)

# Keras' name of a variable -> the canonical leaf.
LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def build(spec: ResNetSpec, *, seed: int = 0, dtype: str = "float32") -> ResNet:
    """A freshly initialised network.

    `seed` draws the weights; no global generator, dtype policy or floatx is read or changed. Raises
    `FrameworkError` for float64 on a JAX that has it switched off.
    """
    model = ResNet(make_plan(spec), dtype=dtype, seed=seed)
    found = keras.backend.standardize_dtype(model.variables[0].value.dtype)
    if found != dtype:
        raise FrameworkError(
            f"asked for {dtype}, but Keras' {keras.backend.backend()} backend made {found}; "
            "set the environment variable JAX_ENABLE_X64=1"
        )
    return model


def load_weights(model: ResNet, weights: Mapping[str, np.ndarray]) -> None:
    """Copy canonical weights into the model.

    Raises `CheckpointError` listing every tensor that is missing, extra, mis-shaped, not finite, or
    not exact in the model's dtype; the model is then as it was.
    """
    check_weights(make_plan(model.spec), weights)
    variables = canonical_variables(model)
    exact = cast_exactly({name: weights[name] for name in variables}, model.inputs[0].dtype)
    for name, variable in variables.items():
        # A copy: JAX may keep the memory that it is given.
        variable.assign(to_channels_last(name, exact[name]).copy())


def export_weights(model: ResNet) -> Weights:
    """The model's weights under their canonical names, as arrays of their own."""
    return dict(iter_weights(model))


def iter_weights(model: ResNet) -> Iterator[tuple[str, np.ndarray]]:
    """`export_weights`, one tensor at a time."""
    dtype = float_dtype(model.inputs[0].dtype)  # the PyTorch backend hands bfloat16 out as float32
    for name, variable in canonical_variables(model).items():
        yield name, np.array(from_channels_last(name, keras.ops.convert_to_numpy(variable)), dtype)


def canonical_variables(model: ResNet) -> dict[str, keras.Variable]:
    """Canonical name -> the model's own variable, in the plan's order.

    Dropout has a seed as well.
    """
    found = {
        f"{layer.name}.{LEAVES[variable.name]}": variable
        for layer in model.layers
        for variable in layer.variables
        if variable.name in LEAVES
    }
    return {name: found[name] for name in make_plan(model.spec).tensors}
