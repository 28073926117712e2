"""The peer of `resnet_flax`: ResNet-50 (V1.5) as one would write it with stock NNX layers."""

from __future__ import annotations

import jax
from flax import nnx


def _conv(cin: int, cout: int, kernel: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    pad = kernel // 2
    return nnx.Conv(cin, cout, (kernel, kernel), stride, padding=((pad, pad), (pad, pad)), use_bias=False, rngs=rngs)


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
        shortcut = self.norm0(self.conv0(x)) if self.conv0 is not None and self.norm0 is not None else x
        x = nnx.relu(self.norm1(self.conv1(x)))
        x = nnx.relu(self.norm2(self.conv2(x)))
        return nnx.relu(self.norm3(self.conv3(x)) + shortcut)


class PlainResNet50(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv1, self.norm1 = _conv(3, 64, 7, 2, rngs), _norm(64, rngs)
        blocks, cin = [], 64
        for depth, width, stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)):
            for j in range(depth):
                blocks.append(PlainBottleneck(cin, width, stride if j == 0 else 1, rngs))
                cin = 4 * width
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(cin, 1000, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm1(self.conv1(x)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))
