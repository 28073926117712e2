"""Initialisation in Flax NNX: He's normal distribution by fan-out has to be asked for."""

import jax
from flax import nnx


def right() -> jax.Array:
    """The standard deviation of a kernel of 3 x 3, 256 channels: sqrt(2 / (9 * 256))."""
    he = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
    return nnx.Conv(256, 256, (3, 3), kernel_init=he, rngs=nnx.Rngs(0)).kernel[...].std()


def wrong() -> jax.Array:
    """The default: LeCun's, by fan-in."""
    return nnx.Conv(256, 256, (3, 3), rngs=nnx.Rngs(0)).kernel[...].std()
