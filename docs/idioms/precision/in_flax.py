"""Precision in Flax NNX: float32 unless told, and without `jax_enable_x64` always."""

import jax
import jax.numpy as jnp
from flax import nnx


def right(features: jax.Array, weight: jax.Array) -> jax.Array:
    layer = nnx.Linear(4, 3, use_bias=False, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    layer.kernel[...] = weight.T
    return layer(features)


def wrong(features: jax.Array, weight: jax.Array) -> jax.Array:
    """With x64 off, float64 arrays become float32 where they are made."""
    with jax.enable_x64(False):
        layer = nnx.Linear(4, 3, use_bias=False, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        layer.kernel[...] = jnp.asarray(weight.T, jnp.float32)
        return layer(jnp.asarray(features, jnp.float32))
