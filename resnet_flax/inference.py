"""The network as it is deployed: batch norms folded, compiled by XLA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from resnet_flax.model import ResNet
from resnet_flax.weights import compute_dtype, export_weights, load_weights, model_dtype
from shared.architecture.plan import make_plan
from shared.weights.folding import fold_norms


def fold(model: ResNet) -> ResNet:
    """The network in evaluation mode with its batch norms folded into the convolutions in front of
    them, as `shared.weights.folding` has it.

    A network of its own, in the dtypes and with the layer names of `model`, which is left as it
    was.
    """
    spec, weights = fold_norms(model.spec, export_weights(model))
    folded = ResNet(make_plan(spec), rngs=nnx.Rngs(0), dtype=model_dtype(model))
    if compute_dtype(model) != model_dtype(model):
        folded.set_attributes(dtype=compute_dtype(model))
    load_weights(folded, weights)
    folded.eval()
    return folded


def inference(model: ResNet) -> Callable[[Any], jax.Array]:
    """The network as a function of images [N, H, W, C], folded and compiled.

    The weights are those of now. XLA compiles at the first call, and again for another shape. They
    are arguments of the program, not constants in it: XLA on a CPU makes nothing better of
    constants, and compiling them takes longer.
    """
    graph, state = nnx.split(fold(model))

    @jax.jit
    def run(state: nnx.State, images: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(images)

    def infer(images: Any) -> jax.Array:
        return run(state, jnp.asarray(images))

    return infer
