"""A training step in Flax NNX: gradients of a function of the model, and optax."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx


def after(
    features: jax.Array, labels: jax.Array, weight: jax.Array, tx: optax.GradientTransformation
) -> jax.Array:
    """The weights [out, in] after two steps."""
    model = nnx.Linear(4, 3, use_bias=False, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    model.kernel[...] = weight.T
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    def loss(model: nnx.Linear) -> jax.Array:
        each = optax.softmax_cross_entropy_with_integer_labels(model(features), labels)
        return each.mean()

    for _ in range(2):
        optimizer.update(model, nnx.grad(loss)(model))
    return model.kernel[...].T


def right(features: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
    """At a learning rate of 0.1, then of 0.01."""
    rate = optax.piecewise_constant_schedule(0.1, {1: 0.1})
    return after(features, labels, weight, optax.sgd(rate, momentum=0.9))


def wrong(features: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
    """The rate in front of the momentum, as in Keras: the old rate lives on in the velocity."""
    rate = optax.piecewise_constant_schedule(-0.1, {1: 0.1})
    chain = optax.chain(optax.scale_by_schedule(rate), optax.trace(0.9))
    return after(features, labels, weight, chain)
