"""What the network computes, layer by layer, through taps in a copy of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnet_flax.layers import get_layer
from resnet_flax.model import ResNet
from resnet_flax.weights import iter_weights, model_dtype, require_x64
from shared.checks import EVAL, OUTPUT, require_known
from shared.plan import make_plan
from shared.trace import Trace, provenance


class Tap(nnx.Module):
    """A layer that hands its output on to `keep` as well.

    `nnx.capture` collects outputs too, but not in the order in which the layers ran, and not those of
    an inherited `__call__`.
    """

    def __init__(self, layer: nnx.Module, keep: Callable[[jax.Array], None]):
        self.layer = layer
        self.keep = keep

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.layer(x)
        self.keep(x)
        return x


class CompiledTap(Tap):
    """A `Tap` on a layer without taps inside.

    Layers are compiled one by one, equal ones once: XLA takes minutes for the deepest networks as one
    program, and for a single layer less time than for each operation in it.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        x = _run(self.layer, x)
        self.keep(x)
        return x


@nnx.jit
def _run(layer: nnx.Module, x: jax.Array) -> jax.Array:
    return layer(x)


def trace(model: ResNet, images: np.ndarray, labels: Any = None, *, checks: tuple[str, ...] = ("eval",)) -> Trace:
    """Run `images` [batch, height, width, channels] and keep the output of every named layer, as NHWC.

    What runs is a copy in evaluation mode that shares the model's arrays: the model is left as it was.
    Raises `FrameworkError` for a float64 model in a process where JAX has float64 switched off.
    """
    require_known(checks)
    dtype = model_dtype(model)
    require_x64(dtype)
    arrays: dict[str, np.ndarray] = {}
    plan = make_plan(model.spec, (images.shape[1], images.shape[2]))
    blocks = {name for name, _ in plan.blocks()}
    copy = nnx.with_attributes(model, deterministic=True, use_running_average=True, raise_if_not_found=False)
    for row in plan.layers:  # a block comes after its layers

        def keep(output: jax.Array, name: str = row.name) -> None:
            arrays[f"{EVAL}/{name}"] = _to_numpy(output)

        tap = Tap if row.name in blocks else CompiledTap
        _replace(copy, row.name, tap(get_layer(copy, row.name), keep))
    with jax.default_matmul_precision("highest"):
        arrays[f"{EVAL}/{OUTPUT}"] = _to_numpy(copy(jnp.asarray(images, dtype)))
    return Trace(model.spec, "flax", dtype, arrays, provenance(iter_weights(model), images, "flax", "jax"))


def _replace(model: nnx.Module, name: str, layer: nnx.Module) -> None:
    path, _, last = name.rpartition(".")
    parent = get_layer(model, path) if path else model
    if isinstance(parent, nnx.List):
        parent[int(last)] = layer
    else:
        setattr(parent, last, layer)


def _to_numpy(array: jax.Array) -> np.ndarray:
    """Half precisions widen to float32, which holds them exactly."""
    return np.asarray(array.astype(jnp.float32) if array.itemsize < 4 else array)
