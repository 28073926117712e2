"""Layouts in Flax NNX: images [N, H, W, C], kernels HWIO and [in, out], flattened channels last."""

import jax
import jax.numpy as jnp
from flax import nnx


def output(images: jax.Array, kernel: jax.Array) -> jax.Array:
    layer = nnx.Linear(48, 3, use_bias=False, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    layer.kernel[...] = kernel
    return layer(images.reshape(len(images), -1))


def right(images: jax.Array, weight: jax.Array) -> jax.Array:
    """PyTorch's weight [3, C * H * W], its columns brought into the order of the features here."""
    return output(images, weight.reshape(3, 3, 4, 4).transpose(2, 3, 1, 0).reshape(48, 3))


def wrong(images: jax.Array, weight: jax.Array) -> jax.Array:
    """Transposed, and no more: every shape fits."""
    return output(images, weight.T)
