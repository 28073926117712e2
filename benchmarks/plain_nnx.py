"""The peers of `resnet_flax`: ResNet-50 (V1.5) and ResNet-20 as one would write them with stock NNX
layers; a training step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from flax import nnx

from benchmarks.timing import StepFunction
from shared.architecture.ops import Shape
from shared.training.config import OptimizerConfig

NAMES = {"resnet50": "plain nnx.Conv", "resnet20": "plain nnx.Conv"}


def _conv(cin: int, cout: int, kernel: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    pad = kernel // 2
    return nnx.Conv(
        cin,
        cout,
        (kernel, kernel),
        stride,
        padding=((pad, pad), (pad, pad)),
        use_bias=False,
        rngs=rngs,
    )


def _norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(channels, use_running_average=False, momentum=0.9, epsilon=1e-5, rngs=rngs)


class PlainBottleneck(nnx.Module):
    def __init__(self, cin: int, width: int, stride: int, rngs: nnx.Rngs):
        cout = 4 * width
        self.conv1, self.norm1 = _conv(cin, width, 1, 1, rngs), _norm(width, rngs)
        self.conv2, self.norm2 = _conv(width, width, 3, stride, rngs), _norm(width, rngs)
        self.conv3, self.norm3 = _conv(width, cout, 1, 1, rngs), _norm(cout, rngs)
        projects = stride != 1 or cin != cout
        self.conv0 = _conv(cin, cout, 1, stride, rngs) if projects else None
        self.norm0 = _norm(cout, rngs) if projects else None

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = (
            self.norm0(self.conv0(x)) if self.conv0 is not None and self.norm0 is not None else x
        )
        x = nnx.relu(self.norm1(self.conv1(x)))
        x = nnx.relu(self.norm2(self.conv2(x)))
        return nnx.relu(self.norm3(self.conv3(x)) + shortcut)


class PlainResNet50(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, channels: int = 3, classes: int = 1000):
        self.conv1, self.norm1 = _conv(channels, 64, 7, 2, rngs), _norm(64, rngs)
        blocks, cin = [], 64
        for depth, width, stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)):
            for j in range(depth):
                blocks.append(PlainBottleneck(cin, width, stride if j == 0 else 1, rngs))
                cin = 4 * width
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(cin, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm1(self.conv1(x)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))


class PlainBasicBlock(nnx.Module):
    def __init__(self, cin: int, width: int, stride: int, rngs: nnx.Rngs):
        self.conv1, self.norm1 = _conv(cin, width, 3, stride, rngs), _norm(width, rngs)
        self.conv2, self.norm2 = _conv(width, width, 3, 1, rngs), _norm(width, rngs)
        self.stride, self.zeros = stride, (width - cin) // 2

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x
        if self.stride > 1:  # every second pixel, and zero channels on both sides
            shortcut = jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (self.zeros, self.zeros)))
        x = nnx.relu(self.norm1(self.conv1(x)))
        return nnx.relu(self.norm2(self.conv2(x)) + shortcut)


class PlainResNet20(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, channels: int, classes: int):
        self.conv1, self.norm1 = _conv(channels, 16, 3, 1, rngs), _norm(16, rngs)
        blocks, cin = [], 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            for j in range(3):
                blocks.append(PlainBasicBlock(cin, width, stride if j == 0 else 1, rngs))
                cin = width
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(cin, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm1(self.conv1(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))


def build(net: str, image: Shape, classes: int) -> nnx.Module:
    return {"resnet50": PlainResNet50, "resnet20": PlainResNet20}[net](
        nnx.Rngs(0), image[2], classes
    )


def training_step(model: nnx.Module, how: OptimizerConfig, learning_rate: float) -> StepFunction:
    """As NNX' own examples do it."""
    model.train()
    sgd = optax.chain(
        optax.add_decayed_weights(how.weight_decay), optax.sgd(learning_rate, how.momentum)
    )
    optimizer = nnx.Optimizer(model, sgd, wrt=nnx.Param)

    @nnx.jit
    def train_step(
        model: nnx.Module, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array
    ) -> jax.Array:
        def loss_of(model: nnx.Module) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        loss, gradients = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, gradients)
        return loss

    def step(images: np.ndarray, labels: np.ndarray) -> float:
        return float(train_step(model, optimizer, jnp.asarray(images), jnp.asarray(labels)))

    return step
