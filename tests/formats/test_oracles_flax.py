"""A Linen network written as Flax's ImageNet example is, and BiT's layout, as oracles of their
formats.

Source of the layout: google/flax examples/imagenet/models.py. Everything in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared import get_spec, probe_weights
from shared.architecture.spec import ResNetSpec
from shared.formats.checkpoint import open_checkpoint
from shared.formats.convert import convert
from shared.weights.canonical import save_weights
from tests.parity.rendering import package
from tests.probes import images_for, relative_error, small
from tests.zoo import in_zoo, rest_in_zoo

pytest.importorskip("flax")
jax = pytest.importorskip("jax")
from flax import linen as nn
from flax import serialization

LIMIT = 1e-12  # float64, other orders of sums
SIZE = (64, 65)


@pytest.fixture(autouse=True)
def _x64() -> None:
    jax.config.update("jax_enable_x64", True)


class BasicBlock(nn.Module):
    """Names inside are Linen's own counters; the class is called as the example's, below."""

    filters: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.relu(self.norm()(self.conv(self.filters, (3, 3), self.strides)(x)))
        y = self.norm()(self.conv(self.filters, (3, 3))(y))
        return nn.relu(_shortcut(self, x, self.filters, y.shape) + y)


class BottleneckBlock(nn.Module):
    filters: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.relu(self.norm()(self.conv(self.filters, (1, 1))(x)))
        y = nn.relu(self.norm()(self.conv(self.filters, (3, 3), self.strides)(y)))
        y = self.norm()(self.conv(4 * self.filters, (1, 1))(y))
        return nn.relu(_shortcut(self, x, 4 * self.filters, y.shape) + y)


def _shortcut(block: Any, x: Any, filters: int, shape: tuple[int, ...]) -> Any:
    if x.shape == shape:
        return x
    return block.norm(name="norm_proj")(
        block.conv(filters, (1, 1), block.strides, name="conv_proj")(x)
    )


class LinenResNet(nn.Module):
    depths: Sequence[int]
    widths: Sequence[int]
    block: type[nn.Module]
    stem: int
    classes: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        conv = partial(nn.Conv, use_bias=False, param_dtype=np.float64)
        norm = partial(nn.BatchNorm, use_running_average=True, epsilon=1e-5, param_dtype=np.float64)
        x = conv(self.stem, (7, 7), (2, 2), padding=[(3, 3), (3, 3)], name="conv_init")(x)
        x = nn.relu(norm(name="bn_init")(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            for j in range(depth):
                strides = (2, 2) if i > 0 and j == 0 else (1, 1)
                x = self.block(width, conv, norm, strides)(x)
        return nn.Dense(self.classes, param_dtype=np.float64)(x.mean(axis=(1, 2)))


# Linen counts modules by the names of their classes.
BasicBlock.__name__ = "ResNetBlock"
BottleneckBlock.__name__ = "BottleneckResNetBlock"


def linen(spec: ResNetSpec) -> LinenResNet:
    block = BottleneckBlock if spec.block.kind == "bottleneck" else BasicBlock
    return LinenResNet(spec.depths, spec.widths, block, spec.stem.convs[0][2], spec.num_classes)


def variables_of(net: LinenResNet, images: np.ndarray) -> dict[str, Any]:
    """Random ones, variances positive."""
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), images))
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        positive = path[-1].key in ("scale", "var")
        return rng.uniform(0.5, 1.5, leaf.shape) if positive else rng.normal(0, 0.1, leaf.shape)

    return jax.tree_util.tree_map_with_path(draw, shapes)


SPECS = [small(name, (2, 1)) for name in ("flax/resnet18", "flax/resnet50")]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.block.kind)
@pytest.mark.parametrize("framework", ["torch", *map(in_zoo, ("keras", "flax"))])
def test_a_linen_checkpoint_is_read(tmp_path: Path, spec: ResNetSpec, framework: str) -> None:
    images = images_for(spec, SIZE)
    net = linen(spec)
    variables = variables_of(net, images)
    state = {"step": 7, "opt_state": {"0": {"trace": variables["params"]}}, **variables}
    (tmp_path / "a.msgpack").write_bytes(serialization.msgpack_serialize(state))

    found = open_checkpoint(tmp_path / "a.msgpack")
    assert found.format.name == "linen"
    assert found.spec.depths == spec.depths
    rendering = package(framework)
    model = rendering.build(found.spec, dtype="float64")
    rendering.load_weights(model, found.weights())
    expected = np.asarray(net.apply(variables, images))
    assert relative_error(rendering.trace(model, images)["eval/output"], expected) <= LIMIT


@pytest.mark.parametrize("spec", rest_in_zoo(SPECS, SPECS[1:]), ids=lambda spec: spec.block.kind)
def test_our_file_loads_into_linen(tmp_path: Path, spec: ResNetSpec) -> None:
    images, weights = images_for(spec, SIZE), probe_weights(spec, dtype="float64")
    save_weights(tmp_path / "a.safetensors", weights, spec)
    convert(open_checkpoint(tmp_path / "a.safetensors"), tmp_path / "a.msgpack")
    net = linen(spec)
    restored = serialization.from_bytes(
        variables_of(net, images), (tmp_path / "a.msgpack").read_bytes()
    )
    rendering = package("flax")
    model = rendering.build(spec, dtype="float64")
    rendering.load_weights(model, weights)
    expected = rendering.trace(model, images)["eval/output"]
    assert relative_error(np.asarray(net.apply(restored, images)), expected) <= LIMIT


def test_an_orbax_folder_of_a_linen_state(tmp_path: Path) -> None:
    checkpointing = pytest.importorskip("orbax.checkpoint")
    spec = SPECS[0]
    images = images_for(spec, SIZE)
    variables = variables_of(linen(spec), images)
    with checkpointing.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "a", variables)
    found = open_checkpoint(tmp_path / "a")
    assert found.format.name == "linen"
    np.testing.assert_array_equal(
        found.entries["head.bias"].load(), variables["params"]["Dense_0"]["bias"]
    )
    convert(found, tmp_path / "b", "linen")
    with checkpointing.StandardCheckpointer() as checkpointer:
        back = checkpointer.restore(tmp_path / "b")
    jax.tree.map(np.testing.assert_array_equal, back, variables)


@pytest.mark.parametrize("classes", [0, 10])
def test_bit_npz_as_numpy_has_it(tmp_path: Path, classes: int) -> None:
    """Names and layouts of google-research/big_transfer, by hand."""
    narrow = {"stem.convs": ((7, 2, 32),), "widths": (32, 32, 64, 64), "depths": (1, 2, 1, 1)}
    spec = get_spec("bit/r50x1", num_classes=classes, **narrow)
    weights = probe_weights(spec)
    save_weights(tmp_path / "a.safetensors", weights, spec)
    convert(open_checkpoint(tmp_path / "a.safetensors"), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as npz:
        arrays = dict(npz)
    kernel = arrays["resnet/block2/unit01/b/standardized_conv2d/kernel"]
    np.testing.assert_array_equal(
        kernel, weights["stages.1.blocks.0.conv2.weight"].transpose(2, 3, 1, 0)
    )
    gamma = arrays["resnet/block2/unit02/c/group_norm/gamma"]
    np.testing.assert_array_equal(gamma, weights["stages.1.blocks.1.norm3.weight"])
    np.testing.assert_array_equal(arrays["resnet/group_norm/beta"], weights["final_norm.bias"])
    assert ("resnet/head/conv2d/kernel" in arrays) == bool(classes)
    np.savez(tmp_path / "b.npz", **arrays)
    for name, array in open_checkpoint(tmp_path / "b.npz").arrays():
        np.testing.assert_array_equal(array, weights[name])
