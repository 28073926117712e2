"""What the network computes, layer by layer, through taps in a copy of it; and how it learns."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnet_flax.layers import get_layer, set_layer
from resnet_flax.model import ResNet
from resnet_flax.train import Trainer, in_evaluation, in_training, layer_by_layer
from resnet_flax.weights import compute_dtype, iter_weights, model_dtype, require_x64
from shared.architecture.plan import Plan
from shared.training.config import PROBE, Training, dropout_masks
from shared.verification.recording import EVAL, OUTPUT, TRAIN, Arrays, Recording, widened
from shared.verification.trace import Trace, provenance


class Tap(nnx.Module):
    """A layer that hands its output on to `keep` as well.

    `nnx.capture` collects outputs too, but not in the order in which the layers ran, and not those
    of an inherited `__call__`.
    """

    def __init__(self, layer: nnx.Module, keep: Callable[[jax.Array], None]):
        self.layer = layer
        self.keep = keep

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.layer(x)
        self.keep(x)
        return x


def trace(
    model: ResNet,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    checks: tuple[str, ...] = (EVAL,),
    training: Training = PROBE,
) -> Trace:
    """Run `images` [batch, height, width, channels] and record what `shared.verification.recording`
    says of each of `checks`.

    `labels` are class numbers [batch], random ones where none are given. The model is left as it
    was: what runs are copies, with variables of their own where a check changes them. Raises
    `FrameworkError` for a float64 model in a process where JAX has float64 switched off.
    """
    recording = Recording.of(model.spec, images, labels, checks, training)
    require_x64(model_dtype(model))
    about = provenance(iter_weights(model), images, "flax", "jax", "optax") | recording.about
    arrays: Arrays = {}
    with jax.default_matmul_precision("highest"):
        if EVAL in recording.checks:
            arrays |= _record_layers(in_evaluation(model), images, recording.plan, EVAL)
        if TRAIN in recording.checks:
            arrays |= _record_train(nnx.clone(model), images, recording.plan, training)
        arrays |= recording.of_trainers(lambda: Trainer(nnx.clone(model), training, compiled=False))
    return Trace(model.spec, "flax", compute_dtype(model), widened(arrays), about)


def _record_train(model: ResNet, images: np.ndarray, plan: Plan, training: Training) -> Arrays:
    """Trains nothing, but moves the running statistics."""
    masks = {name: jnp.asarray(mask) for name, mask in dropout_masks(plan, len(images), 0).items()}
    arrays = _record_layers(in_training(model, training, masks), images, plan, TRAIN)
    statistics = {name: array for name, array in iter_weights(model) if ".running_" in name}
    return arrays | {f"stats/{name}": array for name, array in statistics.items()}


def _record_layers(model: ResNet, images: np.ndarray, plan: Plan, check: str) -> Arrays:
    """The output of every named layer of a model whose layers may be replaced."""
    arrays: Arrays = {}
    x = jnp.asarray(images, model_dtype(model))
    layer_by_layer(model)
    for row in plan.layers:  # a block comes after its layers

        def keep(output: jax.Array, name: str = row.name) -> None:
            arrays[f"{check}/{name}"] = np.array(output)

        set_layer(model, row.name, Tap(get_layer(model, row.name), keep))
    arrays[f"{check}/{OUTPUT}"] = np.array(model(x))
    return arrays
