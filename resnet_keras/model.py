"""ResNet V1 and V2 in Keras 3, with the functional API.

He et al. 2015 (arXiv:1512.03385) and 2016 (arXiv:1603.05027). Every number comes from the plan
(`shared.architecture.plan`); layer names are the canonical ones. Tensors are NHWC. A block takes
its plan and the scope that names its layers, and returns a function of a symbolic tensor.
`resnet_torch/model.py` and `resnet_flax/model.py` say the same line by line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.saving import register_keras_serializable

from resnet_keras.ablation import AblationBlock
from resnet_keras.dropout import Dropout
from resnet_keras.init import Scope
from resnet_keras.layers import (
    Add,
    Apply,
    Conv2D,
    GlobalPool2D,
    Linear,
    Norm2D,
    Pool2D,
    ReLU,
    Shortcut,
)
from shared.architecture import plan as p
from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec


def BasicBlock(plan: p.Block, scope: Scope) -> Apply:
    """V1: 3 x 3, 3 x 3, add, ReLU."""

    def apply(x: Any) -> Any:
        shortcut = Shortcut(plan.shortcut, scope / "shortcut")(x)
        x = Conv2D(plan.conv1, scope / "conv1")(x)
        x = Norm2D(plan.norm1, scope / "norm1")(x)
        x = ReLU(scope / "relu1")(x)
        x = Pool2D(plan.anti_alias, scope / "anti_alias")(x)
        x = Conv2D(plan.conv2, scope / "conv2")(x)
        x = Norm2D(plan.norm2, scope / "norm2")(x)
        x = Add(scope / "add")([shortcut, x])
        return ReLU(scope)(x)

    return apply


def Bottleneck(plan: p.Block, scope: Scope) -> Apply:
    """V1: 1 x 1 down, 3 x 3, 1 x 1 up, add, ReLU. The plan says which of them strides."""

    def apply(x: Any) -> Any:
        shortcut = Shortcut(plan.shortcut, scope / "shortcut")(x)
        x = Conv2D(plan.conv1, scope / "conv1")(x)
        x = Norm2D(plan.norm1, scope / "norm1")(x)
        x = ReLU(scope / "relu1")(x)
        x = Conv2D(plan.conv2, scope / "conv2")(x)
        x = Norm2D(plan.norm2, scope / "norm2")(x)
        x = ReLU(scope / "relu2")(x)
        x = Pool2D(plan.anti_alias, scope / "anti_alias")(x)
        x = Conv2D(plan.conv3, scope / "conv3")(x)
        x = Norm2D(plan.norm3, scope / "norm3")(x)
        x = Add(scope / "add")([shortcut, x])
        return ReLU(scope)(x)

    return apply


def PreActBasicBlock(plan: p.Block, scope: Scope) -> Apply:
    """V2: norm, ReLU and convolution, twice; nothing after the addition."""

    def apply(x: Any) -> Any:
        preact = x  # where the unit does not activate it, the stem has already
        if plan.preact:
            preact = Norm2D(plan.norm1, scope / "norm1")(x)
            preact = ReLU(scope / "relu1")(preact)
        shortcut = Shortcut(plan.shortcut, scope / "shortcut")(
            preact if plan.shortcut_preact else x
        )
        x = Conv2D(plan.conv1, scope / "conv1")(preact)
        x = Norm2D(plan.norm2, scope / "norm2")(x)
        x = ReLU(scope / "relu2")(x)
        if plan.dropout:
            x = Dropout(plan.dropout, scope / "inner_dropout")(x)
        x = Conv2D(plan.conv2, scope / "conv2")(x)
        return Add(scope)([shortcut, x])

    return apply


def PreActBottleneck(plan: p.Block, scope: Scope) -> Apply:
    """V2: norm, ReLU and convolution, three times; nothing after the addition."""

    def apply(x: Any) -> Any:
        preact = x  # where the unit does not activate it, the stem has already
        if plan.preact:
            preact = Norm2D(plan.norm1, scope / "norm1")(x)
            preact = ReLU(scope / "relu1")(preact)
        shortcut = Shortcut(plan.shortcut, scope / "shortcut")(
            preact if plan.shortcut_preact else x
        )
        x = Conv2D(plan.conv1, scope / "conv1")(preact)
        x = Norm2D(plan.norm2, scope / "norm2")(x)
        x = ReLU(scope / "relu2")(x)
        x = Conv2D(plan.conv2, scope / "conv2")(x)
        x = Norm2D(plan.norm3, scope / "norm3")(x)
        x = ReLU(scope / "relu3")(x)
        x = Conv2D(plan.conv3, scope / "conv3")(x)
        return Add(scope)([shortcut, x])

    return apply


BLOCKS = {
    "BasicBlock": BasicBlock,
    "Bottleneck": Bottleneck,
    "PreActBasicBlock": PreActBasicBlock,
    "PreActBottleneck": PreActBottleneck,
    "AblationBlock": AblationBlock,
}


def Stem(plan: p.Stem, scope: Scope) -> Apply:
    """A norm of the images, convolutions with norm and ReLU between them, the pool: those that the
    plan has.
    """

    def apply(x: Any) -> Any:
        if plan.input_norm is not None:
            x = Norm2D(plan.input_norm, scope / "input_norm")(x)
        for k, (conv, norm) in enumerate(zip(plan.convs, plan.norms, strict=True), start=1):
            x = Conv2D(conv, scope / f"conv{k}")(x)
            if norm is not None:  # a V2 stem ends in a bare convolution
                x = Norm2D(norm, scope / f"norm{k}")(x)
                x = ReLU(scope / f"relu{k}")(x)
        x = Pool2D(plan.pool, scope / "pool")(x)
        return Pool2D(plan.anti_alias, scope / "anti_alias")(x)

    return apply


def Stage(plan: p.Stage, scope: Scope) -> Apply:
    """Residual blocks, one after the other."""

    def apply(x: Any) -> Any:
        for j, block in enumerate(plan):
            x = BLOCKS[block.kind](block, scope / f"blocks.{j}")(x)
        return x

    return apply


@register_keras_serializable(package="resnet_rosetta")
class ResNet(keras.Model):
    """Images [N, H, W, C] to logits [N, classes]; without a classifier, to features or a feature
    map.

    A functional model; its configuration is the spec, from which loading a `.keras` file builds it
    anew. `dtype` is the name of a dtype policy of all layers: `mixed_bfloat16` computes in bfloat16
    with variables of float32.
    """

    def __init__(
        self,
        plan: p.Plan,
        *,
        dtype: str = "float32",
        seed: int = 0,
        name: str = "resnet",
        **kwargs: Any,
    ):
        policy, scope = keras.DTypePolicy(dtype), Scope("", dtype, plan.spec, seed)
        shape = (None, None, plan.spec.in_channels)
        images = keras.Input(shape, dtype=policy.variable_dtype, name="images")
        x = Stem(plan.stem, scope / "stem")(images)  # (N, 56, 56, 64) in a ResNet-50 at 224
        for i, stage in enumerate(plan.stages):
            x = Stage(stage, scope / f"stages.{i}")(x)  # (N, 7, 7, 2048)
        if plan.final_norm:
            x = Norm2D(plan.final_norm, scope / "final_norm")(x)
        if plan.final_act:
            x = ReLU(scope / "final_relu")(x)
        if plan.pool:
            x = GlobalPool2D(plan.pool, scope / "pool")(x)  # (N, 2048)
        if plan.head:
            x = Linear(plan.head, scope / "head")(x)  # (N, 1000)
        with _recursion_limit(1000 + 16 * sum(plan.spec.depths)):
            super().__init__(images, x, name=name, **kwargs)
        self.dtype_policy = policy  # `compile` scales the loss of mixed_float16
        self.spec = plan.spec
        self.seed = seed

    def get_config(self) -> dict[str, Any]:
        return {
            "spec": self.spec.to_dict(),
            "dtype": self.dtype_policy.name,
            "seed": self.seed,
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ResNet:
        arguments = {name: value for name, value in config.items() if name != "spec"}
        return cls(make_plan(ResNetSpec.from_dict(config["spec"])), **arguments)


@contextmanager
def _recursion_limit(depth: int) -> Iterator[None]:
    """Keras walks a graph with one Python frame a layer, and ResNet-1202 is 4200 layers deep."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, depth))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
