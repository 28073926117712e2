"""Padding at stride 2 in Flax NNX: say `padding=1`; the default is "SAME"."""

import jax
import jax.numpy as jnp
from flax import nnx


def right(images: jax.Array, kernel: jax.Array) -> jax.Array:
    conv = nnx.Conv(
        3,
        8,
        (3, 3),
        strides=2,
        padding=1,
        use_bias=False,
        param_dtype=jnp.float64,
        rngs=nnx.Rngs(0),
    )
    conv.kernel[...] = kernel
    return conv(images)


def wrong(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """On even sizes, "SAME" is nothing in front and one pixel behind."""
    conv = nnx.Conv(
        3, 8, (3, 3), strides=2, use_bias=False, param_dtype=jnp.float64, rngs=nnx.Rngs(0)
    )
    conv.kernel[...] = kernel
    return conv(images)
