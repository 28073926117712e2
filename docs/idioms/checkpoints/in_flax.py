"""Checkpoints in Flax NNX: a model's state, saved by Orbax and restored into its own shapes."""

from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx


def model_of(seed: int) -> nnx.Linear:
    return nnx.Linear(4, 3, use_bias=False, param_dtype=jnp.float64, rngs=nnx.Rngs(seed))


def saved(weight: jax.Array, folder: Path) -> Path:
    trained = model_of(0)
    trained.kernel[...] = weight.T  # kernels are [in, out]
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", nnx.state(trained))
    return folder / "state"


def right(features: jax.Array, weight: jax.Array, folder: Path) -> jax.Array:
    model = model_of(1)
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(saved(weight, folder), nnx.state(model))
    nnx.update(model, state)
    return model(features)


def wrong(features: jax.Array, weight: jax.Array, folder: Path) -> jax.Array:
    """An update by an empty state, as of a filter that fits nothing: no word of it."""
    model = model_of(1)
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(saved(weight, folder), nnx.state(model))
    nnx.update(model, nnx.filter_state(state, nnx.BatchStat))
    return model(features)
