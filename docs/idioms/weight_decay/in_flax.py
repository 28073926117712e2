"""Weight decay with optax: where it stands in the chain says which one it is."""

import jax
import optax


def after(
    weight: jax.Array, gradients: jax.Array, optimizer: optax.GradientTransformation
) -> jax.Array:
    state = optimizer.init(weight)
    for gradient in gradients:
        update, state = optimizer.update(gradient, state, weight)
        weight = optax.apply_updates(weight, update)
    return weight


def right(weight: jax.Array, gradients: jax.Array) -> jax.Array:
    """In front of the momentum: part of the gradient."""
    return after(
        weight, gradients, optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, 0.9))
    )


def wrong(weight: jax.Array, gradients: jax.Array) -> jax.Array:
    """Behind the momentum, as in `optax.adamw`: decoupled."""
    trace, decay = (optax.trace(0.9), optax.add_decayed_weights(0.01))
    return after(weight, gradients, optax.chain(trace, decay, optax.scale_by_learning_rate(0.1)))
