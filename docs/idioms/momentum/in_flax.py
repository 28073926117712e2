"""Batch norm's momentum in Flax NNX: the part of the old value, 0.9; the default is 0.99."""

import jax
import jax.numpy as jnp
from flax import nnx


def running_mean(images: jax.Array, **settings: float) -> jax.Array:
    norm = nnx.BatchNorm(3, param_dtype=jnp.float64, rngs=nnx.Rngs(0), **settings)
    norm.mean.set_value(jnp.zeros(3, jnp.float64))  # new statistics are float32, always
    norm.var.set_value(jnp.ones(3, jnp.float64))
    norm(images, use_running_average=False)
    return norm.mean[...]


def right(images: jax.Array) -> jax.Array:
    return running_mean(images, momentum=0.9)


def wrong(images: jax.Array) -> jax.Array:
    """PyTorch's number: nearly all that is kept is the last batch."""
    return running_mean(images, momentum=0.1)
