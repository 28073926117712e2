"""Freezing in Flax NNX: a filter says what is differentiated; statistics have a flag."""

import jax
import jax.numpy as jnp
from flax import nnx


def trained(images: jax.Array, *, frozen: bool) -> jax.Array:
    """The running mean of a norm after the network has trained."""
    rngs = nnx.Rngs(0)
    norm = nnx.BatchNorm(3, momentum=0.9, param_dtype=jnp.float64, rngs=rngs)
    model = nnx.Sequential(norm, nnx.Conv(3, 8, (3, 3), param_dtype=jnp.float64, rngs=rngs))
    norm.mean.set_value(jnp.zeros(3, jnp.float64))  # new statistics are float32, always
    norm.var.set_value(jnp.ones(3, jnp.float64))
    model.train()
    if frozen:
        norm.eval()
    wrt = nnx.All(nnx.Param, nnx.Not(nnx.PathContains(0)))  # all but the first layer's
    nnx.grad(lambda model: model(images).sum(), argnums=nnx.DiffState(0, wrt))(model)
    return norm.mean[...]


def right(images: jax.Array) -> jax.Array:
    return trained(images, frozen=True)


def wrong(images: jax.Array) -> jax.Array:
    """Left out of the gradient only; its statistics go on to move."""
    return trained(images, frozen=False)
