"""The layers of Flax that are written in another way than Flax's own: the same function, and the
same gradients.
"""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")
nnx = pytest.importorskip("flax.nnx")

import jax.numpy as jnp
from jax import lax

from resnet_flax.layers import AvgPool, BatchNorm, Conv, MaxPool
from shared.architecture import ops
from tests.probes import relative_error

pytestmark = pytest.mark.usefixtures("x64")

# Float64, the same function written in two ways (product and convolution). Measured: at most
# 6.0e-16.
SAME_LIMIT = 1e-13


def normal(*shape: int, seed: int = 0, dtype: str = "float64") -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def with_gradients(function, *inputs: jax.Array) -> list[np.ndarray]:
    """The output of a function and the gradients of its weighted sum."""
    output, pull = jax.vjp(function, *inputs)
    return [np.asarray(a) for a in (output, *pull(normal(*output.shape, seed=9)))]


@pytest.fixture(params=["cpu", "gpu"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the layers take the backend for: they choose by it how to say one and the same."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)
    return request.param


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [8, 9])
def test_the_1x1_product_is_the_convolution(size: int, stride: int, bias: bool) -> None:
    layer = Conv(ops.Conv(6, 4, 1, stride, bias=bias), rngs=nnx.Rngs(0), dtype="float64")
    offset = normal(4, seed=2) if bias else 0.0
    if bias:
        layer.bias[...] = offset
    graphdef, state = nnx.split(layer)

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        layer = nnx.merge(graphdef, state, copy=True)
        layer.kernel[...] = kernel
        return layer(x)

    def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        return (
            lax.conv_general_dilated(
                x, kernel, (stride, stride), "VALID", dimension_numbers=numbers
            )
            + offset
        )

    inputs = normal(2, size, size, 6), normal(1, 1, 6, 4, seed=1)
    pairs = zip(with_gradients(product, *inputs), with_gradients(convolution, *inputs), strict=True)
    assert max(relative_error(a, b) for a, b in pairs) <= SAME_LIMIT


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("size", [8, 9])
def test_max_pool_is_flaxs(size: int, padding: str, backend: str) -> None:
    """Also its gradient, and where zeros of a ReLU are equal."""
    x = jax.nn.relu(normal(2, size, size, 3))
    flax_padding = "SAME" if padding == "same" else ((1, 1), (1, 1))
    found = with_gradients(MaxPool(ops.MaxPool(padding=padding)), x)
    expected = with_gradients(lambda x: nnx.max_pool(x, (3, 3), (2, 2), flax_padding), x)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("position", [(0, 0), (1, 1), (2, 2)], ids=str)
def test_max_pool_shows_nan(position: tuple[int, int], backend: str) -> None:
    x = normal(1, 4, 4, 1).at[0, position[0], position[1], 0].set(jnp.nan)
    assert np.isnan(MaxPool(ops.MaxPool())(x)).any()


def test_what_is_fast_on_a_cpu_is_for_cpus(backend: str) -> None:
    conv = Conv(ops.Conv(6, 4, 1, 2), rngs=nnx.Rngs(0), dtype="float64")
    pool = MaxPool(ops.MaxPool())
    program = str(jax.make_jaxpr(lambda x: pool(conv(x)))(normal(1, 8, 8, 6)))
    assert ("conv_general_dilated" in program) == (backend == "gpu")
    assert ("reduce_window" in program) == (backend == "gpu")


@pytest.mark.parametrize("unbiased", [False, True])
def test_batch_norm_over_devices_is_that_of_the_whole_batch(unbiased: bool) -> None:
    """For `pmap` and `shard_map`; the count of values is that of all devices, too."""
    op, x = ops.BatchNorm(3, momentum=0.75, unbiased=unbiased), normal(8, 5, 5, 3)
    whole, parts = (BatchNorm(op, rngs=nnx.Rngs(0), dtype="float64") for _ in range(2))
    parts.set_attributes(axis_name="devices")
    graph, state = nnx.split(parts)

    def part(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        layer = nnx.merge(graph, state, copy=True)
        return layer(images), layer.var[...]

    y, variances = jax.vmap(part, axis_name="devices")(x.reshape(4, 2, 5, 5, 3))
    assert relative_error(np.asarray(y.reshape(x.shape)), np.asarray(whole(x))) <= SAME_LIMIT
    assert all(
        relative_error(np.asarray(v), np.asarray(whole.var[...])) <= SAME_LIMIT for v in variances
    )


def test_average_pool_keeps_float32_under_x64() -> None:
    assert AvgPool(ops.AvgPool())(normal(1, 5, 5, 2, dtype="float32")).dtype == jnp.float32


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_batch_norm_statistics_of_a_large_mean(dtype: str) -> None:
    """E[x^2] - E[x]^2 would lose every digit of this variance in float32."""
    x = 1e4 + normal(4, 5, 5, 3)
    layer = BatchNorm(
        ops.BatchNorm(3, momentum=0.75, unbiased=False), rngs=nnx.Rngs(0), dtype=dtype
    )
    y = layer(x.astype(dtype))
    rounded = np.asarray(x.astype(dtype), np.float64)
    mean, variance = rounded.mean((0, 1, 2)), rounded.var((0, 1, 2))
    limit = SAME_LIMIT if dtype == "float64" else 1e-3  # float32 holds 1e4 to 5e-4
    assert {layer.mean.dtype.name, layer.var.dtype.name, y.dtype.name} == {dtype}
    assert relative_error(np.asarray(layer.mean[...]), 0.25 * mean) <= limit
    assert relative_error(np.asarray(layer.var[...]), 0.75 + 0.25 * variance) <= limit
