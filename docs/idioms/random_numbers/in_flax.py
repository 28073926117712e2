"""Random numbers in Flax NNX: keys, and what is drawn depends on their names and order."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def right() -> jax.Array:
    """Drawn once, by NumPy, whose streams are promised, and handed to everyone."""
    return jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)))


def wrong() -> jax.Array:
    return jax.random.normal(nnx.Rngs(0).params(), (4, 5), dtype=jnp.float64)
