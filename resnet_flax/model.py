"""ResNet V1 and V2 in Flax NNX.

He et al. 2015 (arXiv:1512.03385) and 2016 (arXiv:1603.05027). Every number comes from the plan
(`shared.architecture.plan`); attribute paths are the canonical layer names. Arrays are NHWC.
`resnet_torch/model.py` and `resnet_keras/model.py` say the same line by line.
"""

from __future__ import annotations

import jax
from flax import nnx
from jax.nn import relu

from resnet_flax.ablation import AblationBlock
from resnet_flax.layers import (
    Conv,
    Dropout,
    Dtype,
    GlobalPool,
    Identity,
    Linear,
    Norm,
    Pool,
    Shortcut,
)
from shared.architecture import plan as p


class BasicBlock(nnx.Module):
    """V1: 3 x 3, 3 x 3, add, ReLU."""

    def __init__(self, plan: p.Block, *, rngs: nnx.Rngs, dtype: Dtype):
        self.shortcut = Shortcut(plan.shortcut, rngs=rngs, dtype=dtype)
        self.conv1 = Conv(plan.conv1, rngs=rngs, dtype=dtype)
        self.norm1 = Norm(plan.norm1, rngs=rngs, dtype=dtype)
        self.anti_alias = Pool(plan.anti_alias)
        self.conv2 = Conv(plan.conv2, rngs=rngs, dtype=dtype)
        self.norm2 = Norm(plan.norm2, rngs=rngs, dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = self.shortcut(x)
        x = relu(self.norm1(self.conv1(x)))
        x = self.norm2(self.conv2(self.anti_alias(x)))
        return relu(x + shortcut)


class Bottleneck(nnx.Module):
    """V1: 1 x 1 down, 3 x 3, 1 x 1 up, add, ReLU. The plan says which of them strides."""

    def __init__(self, plan: p.Block, *, rngs: nnx.Rngs, dtype: Dtype):
        self.shortcut = Shortcut(plan.shortcut, rngs=rngs, dtype=dtype)
        self.conv1 = Conv(plan.conv1, rngs=rngs, dtype=dtype)
        self.norm1 = Norm(plan.norm1, rngs=rngs, dtype=dtype)
        self.conv2 = Conv(plan.conv2, rngs=rngs, dtype=dtype)
        self.norm2 = Norm(plan.norm2, rngs=rngs, dtype=dtype)
        self.anti_alias = Pool(plan.anti_alias)
        self.conv3 = Conv(plan.conv3, rngs=rngs, dtype=dtype)
        self.norm3 = Norm(plan.norm3, rngs=rngs, dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = self.shortcut(x)
        x = relu(self.norm1(self.conv1(x)))
        x = relu(self.norm2(self.conv2(x)))
        x = self.norm3(self.conv3(self.anti_alias(x)))
        return relu(x + shortcut)


class PreActBasicBlock(nnx.Module):
    """V2: norm, ReLU and convolution, twice; nothing after the addition."""

    def __init__(self, plan: p.Block, *, rngs: nnx.Rngs, dtype: Dtype):
        self.shortcut_preact = plan.shortcut_preact
        # None: the stem has activated already.
        self.norm1 = Norm(plan.norm1, rngs=rngs, dtype=dtype) if plan.preact else None
        self.shortcut = Shortcut(plan.shortcut, rngs=rngs, dtype=dtype)
        self.conv1 = Conv(plan.conv1, rngs=rngs, dtype=dtype)
        self.norm2 = Norm(plan.norm2, rngs=rngs, dtype=dtype)
        self.inner_dropout = Dropout(plan.dropout, rngs=rngs) if plan.dropout else Identity()
        self.conv2 = Conv(plan.conv2, rngs=rngs, dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        preact = relu(self.norm1(x)) if self.norm1 is not None else x
        shortcut = self.shortcut(preact if self.shortcut_preact else x)
        x = self.conv1(preact)
        x = relu(self.norm2(x))
        x = self.conv2(self.inner_dropout(x))
        return x + shortcut


class PreActBottleneck(nnx.Module):
    """V2: norm, ReLU and convolution, three times; nothing after the addition."""

    def __init__(self, plan: p.Block, *, rngs: nnx.Rngs, dtype: Dtype):
        self.shortcut_preact = plan.shortcut_preact
        # None: the stem has activated already.
        self.norm1 = Norm(plan.norm1, rngs=rngs, dtype=dtype) if plan.preact else None
        self.shortcut = Shortcut(plan.shortcut, rngs=rngs, dtype=dtype)
        self.conv1 = Conv(plan.conv1, rngs=rngs, dtype=dtype)
        self.norm2 = Norm(plan.norm2, rngs=rngs, dtype=dtype)
        self.conv2 = Conv(plan.conv2, rngs=rngs, dtype=dtype)
        self.norm3 = Norm(plan.norm3, rngs=rngs, dtype=dtype)
        self.conv3 = Conv(plan.conv3, rngs=rngs, dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        preact = relu(self.norm1(x)) if self.norm1 is not None else x
        shortcut = self.shortcut(preact if self.shortcut_preact else x)
        x = self.conv1(preact)
        x = self.conv2(relu(self.norm2(x)))
        x = self.conv3(relu(self.norm3(x)))
        return x + shortcut


BLOCKS = {
    "BasicBlock": BasicBlock,
    "Bottleneck": Bottleneck,
    "PreActBasicBlock": PreActBasicBlock,
    "PreActBottleneck": PreActBottleneck,
    "AblationBlock": AblationBlock,
}


class Stem(nnx.Module):
    """A norm of the images, convolutions with norm and ReLU between them, the pool: those that the
    plan has.
    """

    def __init__(self, plan: p.Stem, *, rngs: nnx.Rngs, dtype: Dtype):
        self.input_norm = Norm(plan.input_norm, rngs=rngs, dtype=dtype) if plan.input_norm else None
        self.depth = len(plan.convs)
        for k, (conv, norm) in enumerate(zip(plan.convs, plan.norms, strict=True), start=1):
            setattr(self, f"conv{k}", Conv(conv, rngs=rngs, dtype=dtype))
            setattr(self, f"norm{k}", Norm(norm, rngs=rngs, dtype=dtype) if norm else None)
        self.pool = Pool(plan.pool)
        self.anti_alias = Pool(plan.anti_alias)

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.input_norm is not None:
            x = self.input_norm(x)
        for k in range(1, self.depth + 1):
            x = getattr(self, f"conv{k}")(x)
            norm = getattr(self, f"norm{k}")
            if norm is not None:  # a V2 stem ends in a bare convolution
                x = relu(norm(x))
        return self.anti_alias(self.pool(x))


class Stage(nnx.Module):
    """Residual blocks, one after the other."""

    def __init__(self, plan: p.Stage, *, rngs: nnx.Rngs, dtype: Dtype):
        self.blocks = nnx.List(
            [BLOCKS[block.kind](block, rngs=rngs, dtype=dtype) for block in plan]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = block(x)
        return x


class ResNet(nnx.Module):
    """Images [N, H, W, C] to logits [N, classes]; without a classifier, to features or a feature
    map.
    """

    def __init__(self, plan: p.Plan, *, rngs: nnx.Rngs, dtype: Dtype = "float32"):
        self.spec = plan.spec
        self.stem = Stem(plan.stem, rngs=rngs, dtype=dtype)  # (N, 56, 56, 64) in a ResNet-50 at 224
        self.stages = nnx.List(
            [Stage(stage, rngs=rngs, dtype=dtype) for stage in plan.stages]
        )  # (N, 7, 7, 2048)
        self.final_norm = Norm(plan.final_norm, rngs=rngs, dtype=dtype) if plan.final_norm else None
        self.final_act = plan.final_act
        self.pool = GlobalPool(plan.pool) if plan.pool else None  # (N, 2048)
        self.head = Linear(plan.head, rngs=rngs, dtype=dtype) if plan.head else None  # (N, 1000)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        if self.final_norm is not None:
            x = self.final_norm(x)
        if self.final_act:
            x = relu(x)
        if self.pool is not None:
            x = self.pool(x)
        return self.head(x) if self.head is not None else x
