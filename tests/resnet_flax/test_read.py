"""Models in JAX as people write them, read as graphs: what the graph means is what they compute."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("flax")
import jax.numpy as jnp

from resnet_flax.read import read_graph
from shared.errors import FrameworkError
from tests.graphs import jax_models, reading
from tests.zoo import rest_in_zoo

FUNCTIONS = {
    "linen": jax_models.linen_net,
    "linen in float32": lambda: jax_models.linen_net(dtype=jnp.float32),
    "nnx": jax_models.nnx_net,
    "nnx with group norms": lambda: jax_models.nnx_net(groups=True),
    "a scan of a checkpointed unit": jax_models.scanned,
    "spellings": jax_models.spellings,
}


# SAME padding differs from symmetric on even sides, and cuts windows on odd ones.
SIZES_SHORT = {*((name, 32) for name in FUNCTIONS), ("spellings", 33)}


@pytest.mark.parametrize(
    ("name", "size"), rest_in_zoo([*itertools.product(FUNCTIONS, (32, 33))], SIZES_SHORT)
)
def test_the_graph_means_what_the_model_computes(name: str, size: int) -> None:
    graph = read_graph(FUNCTIONS[name](), size)
    assert graph.image_size == size
    reading.assert_faithful(graph, "float64")


def test_a_graph_that_means_something_else_is_seen() -> None:
    """The comparison can fail: an eps of 1e-5 more is an error of more than the limit."""
    graph = read_graph(jax_models.linen_net(), 32)
    eps = next(n for n in graph.nodes if n.prim == "const" and n.name is None and n.value == 1e-5)
    eps.value = np.asarray(2e-5)
    assert reading.error(graph) > 1e-8


def test_parameters_and_operators_have_the_users_names() -> None:
    module, variables = jax_models.linen_net()
    graph = read_graph((module, variables), 32)
    paths = jax.tree_util.tree_leaves_with_path(variables)
    assert reading.names(graph) == {"/".join(key.key for key in path) for path, _ in paths}
    assert reading.places(graph)[0] == "LinenNet/conv_init"
    assert "LinenNet/LinenUnit_1/conv_proj" in reading.places(graph)
    assert all(line.startswith("jax_models.py:") for line in reading.lines(graph))


def test_parameters_keep_their_own_dtype() -> None:
    graph = read_graph(jax_models.linen_net(), 32)
    assert {str(n.value.dtype) for n in graph.nodes if n.name} == {"float32"}


def test_a_module_of_nnx_is_read_in_evaluation_mode_and_left_as_it_was() -> None:
    net = jax_models.nnx_net()
    graph = read_graph(net, 32)
    assert not net.units[0].drop.deterministic
    assert not net.units[0].norm.use_running_average
    assert {"units/1/norm/mean", "stem/kernel", "fc/bias"} <= reading.names(graph)
    assert [said for said in graph.remarks if "logits" in said]


def test_closed_over_constants_have_no_names() -> None:
    net, params = jax_models.scanned()
    graph = read_graph(lambda images: net(params, images), 32)
    reading.assert_faithful(graph, "float32")  # its own constants are
    assert reading.names(graph) == set()


def test_a_network_in_bfloat16_says_so() -> None:
    graph = read_graph(jax_models.linen_net(dtype=jnp.bfloat16), 32)
    assert graph.dtype == "bfloat16"
    assert reading.unknown(graph) == []
    assert reading.error(graph) < 0.1  # the model's own rounding


def test_channels_first_is_found_out() -> None:
    kernel = np.ones((3, 3, 3, 4), np.float32)
    numbers = ("NCHW", "HWIO", "NCHW")

    def net(w: Any, x: Any) -> Any:
        y = jax.lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=numbers)
        return y.mean((2, 3))

    graph = read_graph((net, kernel), 32)
    assert graph.layout == "NCHW"
    reading.assert_faithful(graph, "float64")


@pytest.mark.parametrize(
    ("fn", "what"),
    [
        (lambda x: jnp.sort(x, axis=1), "sort"),
        (lambda x: jax.lax.cumsum(x, 1), "cumsum"),
        (lambda x: jax.lax.while_loop(lambda y: y.sum() > 9, lambda y: y * 0.5, x), "while"),
    ],
)
def test_what_nobody_knows_is_opaque_with_its_shape(fn: Any, what: str) -> None:
    graph = read_graph(lambda x: fn(x).mean((1, 2)), 32)
    assert reading.unknown(graph) == [what]
    (node,) = [node for node in graph.nodes if node.prim == "opaque"]
    assert node.attrs["shape"] == (2, 32, 32, 3)


@pytest.mark.parametrize(("stride", "size"), [(1, 32), (2, 224)])
def test_the_size_follows_from_the_first_convolution(stride: int, size: int) -> None:
    kernel = np.ones((3, 3, 3, 4), np.float32)
    numbers = ("NHWC", "HWIO", "NHWC")

    def net(x: Any) -> Any:
        strides = (stride, stride)
        return jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=numbers)

    assert read_graph(net).image_size == size


@pytest.mark.parametrize(
    ("model", "says"), [(3, "found int"), ((jax_models.LinenNet(),), "give (module, variables)")]
)
def test_what_is_no_model_is_refused_in_one_line(model: Any, says: str) -> None:
    with pytest.raises(FrameworkError) as caught:
        read_graph(model)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_model_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        read_graph(lambda x: 1 // 0)


def test_haiku() -> None:
    hk = pytest.importorskip("haiku")

    def net(images: Any, is_training: bool = True) -> Any:
        return hk.nets.ResNet((1, 1, 1, 1), 5, bottleneck=False, channels_per_group=(4, 8, 8, 8))(
            images, is_training
        )

    transform = hk.transform_with_state(net)
    params, state = jax_models.filled(transform.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    graph = read_graph((transform, params, state), 32)
    reading.assert_faithful(graph, "float64")
    assert "res_net/~/initial_conv/w" in reading.names(graph)


def test_equinox() -> None:
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        conv: Any
        norm: Any
        head: Any

        def __init__(self) -> None:
            one, two = jax.random.split(jax.random.key(0))
            self.conv = eqx.nn.Conv2d(3, 8, 3, stride=2, padding=1, use_bias=False, key=one)
            self.norm = eqx.nn.BatchNorm(8, "batch", mode="ema")
            self.head = eqx.nn.Linear(8, 4, key=two)

        def __call__(self, x: Any, state: Any) -> Any:
            x, state = self.norm(self.conv(x), state)
            return self.head(jax.nn.relu(x).mean((1, 2))), state

    model, state = jax_models.varied(eqx.nn.make_with_state(Net)())
    graph = read_graph((model, state), 32)
    assert graph.layout == "NCHW"
    reading.assert_faithful(graph, "float64")
    assert {"conv/weight", "norm/weight", "head/bias"} <= reading.names(graph)
    assert [name for name in reading.names(graph) if name.startswith("norm/ema_state_index")]


def test_what_is_closed_over_is_computed_in_its_own_dtype() -> None:
    variance = jnp.full(3, 0.7, jnp.float32)

    def model(images: Any) -> Any:
        return (images / jnp.sqrt(variance + 1e-5)).mean((1, 2))

    graph = read_graph(model, 32)
    assert graph.dtype == "float32"
    assert reading.error(graph) < reading.LIMITS["float32"]


def test_a_haiku_transform_without_random_numbers() -> None:
    hk = pytest.importorskip("haiku")
    net = hk.without_apply_rng(hk.transform(lambda x: hk.Conv2D(4, 3)(x).mean((1, 2))))
    params = net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    reading.assert_faithful(read_graph((net, params), 32), "float64")
