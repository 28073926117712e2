"""Building the network, and canonical weights in and out of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnet_flax.layers import get_layer
from resnet_flax.model import ResNet
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
from shared.weights.dtypes import dtype_name
from shared.weights.initial import iter_initial_weights

# Canonical leaf -> NNX attribute, of layers with a kernel and of norms.
KERNEL_LEAVES = {"weight": "kernel", "bias": "bias"}
NORM_LEAVES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def build(
    spec: ResNetSpec, *, seed: int = 0, dtype: Any = "float32", param_dtype: Any = None
) -> ResNet:
    """A freshly initialised network in training mode, with the weights of
    `initial_weights(spec, seed)`.

    `dtype` is that of the computation, `param_dtype` that of parameters and running statistics,
    `dtype` by default: names, or JAX's or NumPy's dtypes. Under `nnx.jit` the values are constants
    of the program. Raises `SpecError` for an unknown dtype, and `FrameworkError` for float64 in a
    process where JAX has it switched off.
    """
    compute = dtype_name(dtype)
    stored = compute if param_dtype is None else dtype_name(param_dtype)
    for name in (compute, stored):
        require_x64(name)
    model = ResNet(make_plan(spec), rngs=nnx.Rngs(seed), dtype=stored)
    if compute != stored:
        model.set_attributes(dtype=compute)
    variables = _canonical_variables(model)
    for tensor, array in iter_initial_weights(spec, seed, stored):
        variables[tensor][...] = jnp.asarray(to_channels_last(tensor, array))
    return model


def load_weights(model: ResNet, weights: Mapping[str, np.ndarray]) -> None:
    """Copy canonical weights into the model.

    Raises `CheckpointError` listing every tensor that is missing, extra, mis-shaped, not finite, or
    not exact in the model's dtype; the model is then as it was.
    """
    check_weights(make_plan(model.spec), weights)
    variables = _canonical_variables(model)
    dtype = model_dtype(model)
    require_x64(dtype)
    exact = cast_exactly({name: weights[name] for name in variables}, dtype)
    for name, variable in variables.items():
        # A copy, because JAX may go on using NumPy's memory; where the model's own array is.
        array = np.array(to_channels_last(name, exact[name]), order="C")
        variable[...] = jax.device_put(array, variable[...].sharding)


def export_weights(model: ResNet) -> Weights:
    """The model's weights under their canonical names, as arrays of their own."""
    return dict(iter_weights(model))


def iter_weights(model: ResNet) -> Iterator[tuple[str, np.ndarray]]:
    """`export_weights`, one tensor at a time."""
    for name, variable in _canonical_variables(model).items():
        yield name, from_channels_last(name, np.asarray(variable[...]))


def model_dtype(model: ResNet) -> str:
    """The dtype that all weights share."""
    return next(iter(_canonical_variables(model).values())).dtype.name


def compute_dtype(model: ResNet) -> str:
    """The dtype in which all layers compute."""
    return dtype_name(model.stem.conv1.dtype)  # type: ignore[attr-defined]


def require_x64(dtype: str) -> None:
    """Raise `FrameworkError` where JAX would silently make float32 of `dtype`."""
    if jax.dtypes.canonicalize_dtype(dtype) != jnp.dtype(dtype):
        raise FrameworkError(
            f"JAX computes {dtype} as float32 in this process: set JAX_ENABLE_X64=1 before it "
            "starts, "
            "or call jax.config.update('jax_enable_x64', True)"
        )


def _canonical_variables(model: ResNet) -> dict[str, nnx.Variable]:
    """Canonical name -> the model's own variable."""
    variables = {}
    for name in make_plan(model.spec).tensors:
        path, _, leaf = name.rpartition(".")
        layer = get_layer(model, path)
        leaves = KERNEL_LEAVES if hasattr(layer, "kernel") else NORM_LEAVES
        variables[name] = getattr(layer, leaves[leaf])
    return variables
