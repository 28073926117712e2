"""`resnet_flax` against a plain NNX ResNet-50 whose convolutions are all `nnx.Conv`."""

from __future__ import annotations

from collections.abc import Callable

import jax
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


def main() -> list[Result]:
    x = jax.random.normal(jax.random.key(0), (BATCH, SIZE, SIZE, 3))
    ours, peer = resnet_flax.build(get_spec("torchvision/resnet50")), PlainResNet50(nnx.Rngs(0))
    name, theirs = "plain nnx.Conv", _inference(peer, x)
    deployed = resnet_flax.inference(ours)
    return [
        race("resnet_flax", name, _inference(ours, x), theirs),
        race("resnet_flax.inference", name, lambda: deployed(x).block_until_ready(), theirs),
    ]
