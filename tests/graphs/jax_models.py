"""Small networks in JAX as people write them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax import lax

from benchmarks.others import spread_out


class LinenUnit(linen.Module):
    filters: int
    conv: Any
    norm: Any
    strides: tuple[int, int] = (1, 1)

    @linen.compact
    def __call__(self, x: Any) -> Any:
        y = linen.relu(self.norm()(self.conv(self.filters, (1, 1))(x)))
        y = linen.relu(self.norm()(self.conv(self.filters, (3, 3), self.strides)(y)))
        y = self.norm()(self.conv(self.filters * 4, (1, 1))(y))
        if x.shape != y.shape:
            x = self.conv(self.filters * 4, (1, 1), self.strides, name="conv_proj")(x)
            x = self.norm(name="norm_proj")(x)
        return linen.relu(x + y)


class LinenNet(linen.Module):
    stages: tuple[int, ...] = (1, 1)
    width: int = 4
    dtype: Any = None

    @linen.compact
    def __call__(self, x: Any, train: bool = True) -> Any:
        conv = partial(linen.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(linen.BatchNorm, use_running_average=not train, dtype=self.dtype)
        x = conv(self.width, (7, 7), (2, 2), padding=[(3, 3), (3, 3)], name="conv_init")(x)
        x = linen.relu(norm(name="bn_init")(x))
        x = linen.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for i, count in enumerate(self.stages):
            for j in range(count):
                strides = (2, 2) if i and not j else (1, 1)
                x = LinenUnit(self.width * 2**i, conv, norm, strides)(x)
        return linen.Dense(5, dtype=self.dtype)(jnp.mean(x, axis=(1, 2)))


class NnxUnit(nnx.Module):
    def __init__(self, width: int, groups: bool, rngs: nnx.Rngs):
        self.conv = nnx.Conv(width, width, (3, 3), padding=1, use_bias=False, rngs=rngs)
        self.norm = (
            nnx.GroupNorm(width, num_groups=2, rngs=rngs)
            if groups
            else nnx.BatchNorm(width, rngs=rngs)
        )
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        y = x + self.drop(self.norm(self.conv(x)))
        return jnp.where(y > 0, y, 0)


class NnxNet(nnx.Module):
    """Left in training mode, which a reader has to see to."""

    def __init__(self, groups: bool = False):
        rngs = nnx.Rngs(0)
        self.stem = nnx.Conv(3, 8, (3, 3), padding=1, rngs=rngs)
        self.units = nnx.List([NnxUnit(8, groups, rngs) for _ in range(2)])
        self.fc = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x: Any) -> dict[str, Any]:
        x = jax.nn.relu(self.stem(x))
        x = nnx.avg_pool(x, (3, 3), strides=(2, 2), padding="SAME", count_include_pad=False)
        for unit in self.units:
            x = unit(x)
        return {"features": x, "logits": self.fc(x.mean(axis=(1, 2)))}


def varied(tree: Any) -> Any:
    """A tree of arrays with other values."""
    leaves, structure = jax.tree_util.tree_flatten(tree)
    found = [
        spread_out(np.asarray(leaf), k)
        if jnp.issubdtype(getattr(leaf, "dtype", int), jnp.floating)
        else leaf
        for k, leaf in enumerate(leaves)
    ]
    return jax.tree_util.tree_unflatten(structure, found)


def filled(init: Callable[..., Any], *arguments: Any) -> Any:
    """What `init` returns, with other values; it is traced and not run, which would compile every
    operator.
    """
    shapes = jax.eval_shape(init, *arguments)
    return varied(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes))


def linen_net(**how: Any) -> tuple[LinenNet, Any]:
    module = LinenNet(**how)
    init = partial(module.init, train=False)
    return module, filled(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def nnx_net(groups: bool = False) -> NnxNet:
    net = NnxNet(groups)
    nnx.update(net, varied(nnx.state(net)))
    return net


def _kernel(seed: int, *shape: int) -> np.ndarray:
    return spread_out(np.zeros(shape, np.float32), seed)


def scanned() -> tuple[Callable[[Any, Any], Any], Any]:
    """Four units whose parameters are stacked, each computed anew for the gradient."""

    @jax.checkpoint
    def unit(x: Any, p: Any) -> tuple[Any, None]:
        y = lax.conv_general_dilated(x, p["w"], (1, 1), "SAME", dimension_numbers=_NUMBERS)
        return jax.nn.relu(x + y * p["scale"] + p["shift"]), None

    def net(params: Any, x: Any) -> Any:
        x = lax.conv_general_dilated(x, params["stem"], (2, 2), "SAME", dimension_numbers=_NUMBERS)
        x, _ = lax.scan(unit, x, params["units"])
        return x.mean((1, 2)) @ params["head"]

    units = {
        "w": 0.2 * _kernel(1, 4, 3, 3, 6, 6),
        "scale": _kernel(2, 4, 6),
        "shift": _kernel(3, 4, 6),
    }
    return net, {"stem": _kernel(4, 3, 3, 3, 6), "units": units, "head": _kernel(5, 6, 5)}


_NUMBERS = ("NHWC", "HWIO", "NHWC")


def spellings() -> tuple[Callable[[Any, Any], Any], Any]:
    """What a network's glue may be written with, one after the other."""

    def net(params: Any, x: Any) -> Any:
        x = x[:, ::-1, :, jnp.array([2, 1, 0])]
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=0.5)
        x = lax.conv_general_dilated(x, params["w"], (2, 2), "VALID", dimension_numbers=_NUMBERS)
        x = jnp.clip(x, 0, 6) + jax.nn.gelu(x, approximate=False) + jax.nn.silu(x) + x**3
        x = jnp.stack([x, -x], axis=-1).reshape(*x.shape[:3], -1)
        first, second = jnp.split(x, 2, axis=3)
        x = jnp.concatenate([first * second, jnp.maximum(first, second)], axis=-1)[:, 1::2, ::2]
        x = jax.vmap(lambda one: linen.max_pool(one[None], (2, 2), (2, 2))[0])(x)
        x = lax.fori_loop(0, 2, lambda _, y: y * 0.5, x) if params.get("loop") is not None else x
        x = jnp.einsum("nhwc,cd->nd", x, params["head"])
        return jax.nn.log_softmax(x)

    return net, {"w": _kernel(1, 3, 3, 3, 4), "head": 0.1 * _kernel(2, 8, 5)}
