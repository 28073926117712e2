"""Pools and borders that are written out in slices are what they compute."""

from __future__ import annotations

from typing import Any

import pytest

from shared.graphs.net import Net
from shared.graphs.normal import normalise

jax = pytest.importorskip("jax")
pytest.importorskip("flax")

import jax.numpy as jnp

from resnet_flax.read import read_graph

TAPS = (0.25, 0.5, 0.25)


def net_of(pool: Any, size: int = 16) -> Net:
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 4))

    def model(params: Any, images: Any) -> Any:
        x = jax.lax.conv_general_dilated(
            images, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return pool(x).mean((1, 2))

    return normalise(read_graph((model, {"kernel": kernel}), size))


def blurred(x: Any, taps: Any = TAPS, stride: int = 2) -> Any:
    n = x.shape[1]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    x = sum(t * x[:, k : k + n : stride] for k, t in enumerate(taps))
    return sum(t * x[:, :, k : k + n : stride] for k, t in enumerate(taps))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_filter_in_slices_is_a_blur_pool(stride: int) -> None:
    net = net_of(lambda x: blurred(x, stride=stride))
    assert [node.op for node in net.nodes] == ["Input", "Conv", "BlurPool", "GlobalPool"]
    attrs = net.nodes[2].attrs
    assert (attrs["kernel"], attrs["stride"], attrs["mode"]) == ((3, 3), (stride,) * 2, "reflect")
    assert attrs["filter"] == tuple(a * b for a in TAPS for b in TAPS)


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: blurred(x, taps=(0.5, 0.5, 0.5)),  # no mean
        lambda x: jnp.maximum(blurred(x), -1e5),  # as one while numbers are small
        lambda x: blurred(x * jnp.arange(1.0, 5.0)),  # another filter for each channel
    ],
    ids=["sum", "bound", "channels"],
)
def test_what_is_no_blur_is_none(pool: Any) -> None:
    ops = [node.op for node in net_of(pool).nodes]
    assert ops != ["Input", "Conv", "BlurPool", "GlobalPool"]
