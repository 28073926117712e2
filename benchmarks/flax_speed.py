"""`resnet_flax` against a plain NNX ResNet-50 whose convolutions are all `nnx.Conv`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import resnet_flax
from benchmarks.plain_nnx import PlainResNet50
from benchmarks.timing import BATCH, SIZE, Result, race
from shared import get_spec


def _inference(model: nnx.Module, x: jax.Array) -> Callable[[], object]:
    graph, state = nnx.split(nnx.view(model, use_running_average=True))

    @jax.jit
    def forward(state: nnx.State, x: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(x)

    return lambda: forward(state, x).block_until_ready()


def _training_step(model: nnx.Module, x: jax.Array, y: jax.Array) -> Callable[[], object]:
    model.train()
    optimizer = nnx.Optimizer(model, optax.sgd(0.01, momentum=0.9), wrt=nnx.Param)

    @nnx.jit
    def step(model: nnx.Module, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> jax.Array:
        def loss_of(model: nnx.Module) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        loss, gradients = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, gradients)
        return loss

    return lambda: step(model, optimizer, x, y).block_until_ready()


def main() -> list[Result]:
    x = jax.random.normal(jax.random.key(0), (BATCH, SIZE, SIZE, 3))
    y = jnp.arange(BATCH)
    name = "plain nnx.Conv"
    ours, peer = resnet_flax.build(get_spec("torchvision/resnet50")), PlainResNet50(nnx.Rngs(0))
    return [
        race("resnet_flax inference", name, _inference(ours, x), _inference(peer, x)),
        race("resnet_flax training step", name, _training_step(ours, x, y), _training_step(peer, x, y)),
    ]
