"""Batch norm's stored variance in Flax NNX: biased; a subclass of a few lines stores PyTorch's."""

import jax
import jax.numpy as jnp
from flax import nnx


class BatchNorm(nnx.BatchNorm):
    def __call__(self, x: jax.Array, use_running_average: bool | None = None) -> jax.Array:
        kept = self.momentum * self.var[...]
        y = super().__call__(x, use_running_average)
        frozen = self.use_running_average if use_running_average is None else use_running_average
        if not frozen:
            n = x.size // x.shape[-1]
            self.var[...] = kept + (self.var[...] - kept) * n / (n - 1)
        return y


def variance(images: jax.Array, layer: type[nnx.BatchNorm]) -> jax.Array:
    # Fast variances are E[x^2] - E[x]^2, which cancels where the mean is large.
    norm = layer(
        3, momentum=0.9, use_fast_variance=False, param_dtype=jnp.float64, rngs=nnx.Rngs(0)
    )
    norm.mean.set_value(jnp.zeros(3, jnp.float64))  # new statistics are float32, always
    norm.var.set_value(jnp.ones(3, jnp.float64))
    norm(images, use_running_average=False)
    return norm.var[...]


def right(images: jax.Array) -> jax.Array:
    return variance(images, BatchNorm)


def wrong(images: jax.Array) -> jax.Array:
    """The stock layer."""
    return variance(images, nnx.BatchNorm)
