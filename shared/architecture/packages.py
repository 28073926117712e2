"""Presets of networks as packages and papers beside the well-known families have them.

As in `shared.architecture.presets`, of which this is the second half: a family's entry cites the
source that defines it, and each preset is changes to the default `ResNetSpec`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from shared.architecture.recipes import (
    BASIC,
    BASIC_DEPTHS,
    DEPTHS,
    PREACT,
    Changes,
    Family,
    cifar,
    grouped,
    imagenet,
)

PACKAGE_FAMILIES = {
    "haiku": Family(
        "dm-haiku V1 and V2", "google-deepmind/dm-haiku haiku/_src/nets/resnet.py", "imagenet"
    ),
    "slim": Family(
        "TF-slim V1 and V2", "google-research/tf-slim tf_slim/nets/resnet_v{1,2}.py", "tf_official"
    ),
    "wrn": Family(
        "Wide ResNets",
        "arXiv:1605.07146; szagoruyko/wide-residual-networks models/wide-resnet.lua",
        "cifar",
    ),
    "transformers": Family(
        "Hugging Face transformers",
        "huggingface/transformers models/resnet/modeling_resnet.py; microsoft/resnet-*",
        "imagenet",
    ),
    "fbresnet": Family(
        "Cadene's port of fb.resnet.torch",
        "Cadene/pretrained-models.pytorch pretrainedmodels/models/fbresnet.py",
        "imagenet",
    ),
    "keras_resnet": Family(
        "keras-resnet", "broadinstitute/keras-resnet keras_resnet/models/_2d.py", "caffe"
    ),
    "keras2": Family(
        "keras.applications before 2019",
        "fchollet/deep-learning-models resnet50.py; keras-team/keras-applications resnet50.py",
        "caffe",
    ),
    "image_classifiers": Family(
        "image-classifiers",
        "qubvel/classification_models classification_models/models/res{net,next}.py",
        "0 to 255",
    ),
    "deepvision": Family(
        "DeepVision",
        "DavidLandup0/deepvision models/classification/resnet/resnetv2_{pt,tf}.py",
        "unit",
    ),
    "pytorchcv": Family(
        "pytorchcv", "osmr/imgclsmob pytorch/pytorchcv/models/{,pre}resnet.py", "imagenet"
    ),
}


def _haiku() -> Iterator[tuple[str, Changes]]:
    """Its running statistics are averages without bias towards their start, which no spec has."""
    common = {
        "stem.padding": "same",
        "stem.pool_padding": "same",
        "block.padding": "same",
        "norm.running_var": "biased",
        "init.conv": "lecun_normal",
        "init.head": "zeros",
    }
    for depth in (18, 34, 50, 101, 152, 200):
        zero = {"init.zero_residual": depth not in BASIC_DEPTHS}
        yield f"resnet{depth}_v1", {**imagenet(depth), **common, **zero}
    for depth in (18, 34, 50, 101, 152, 200):
        yield f"resnet{depth}_v2", {**imagenet(depth), **common, **PREACT}


def _slim() -> Iterator[tuple[str, Changes]]:
    common = {
        "strides": (2, 2, 2, 1),
        "block.stride_block": "last",
        "shortcut.projection": "channels",
        "stem.pool_padding": "same",
        "norm.momentum": 0.997,
        "init.conv": "he_normal_truncated",
        "init.head": "he_normal_truncated",
    }
    # A convolution of slim has a bias where no norm follows it.
    biases = {"stem.bias": True, "block.last_bias": True, "shortcut.bias": True}
    for depth in (50, 101, 152, 200):
        yield f"resnet_v1_{depth}", {**imagenet(depth), **common}
    for depth in (50, 101, 152, 200):
        v2 = {**PREACT, **biases, "num_classes": 1001}
        yield f"resnet_v2_{depth}", {**imagenet(depth), **common, **v2}


def _wrn() -> Iterator[tuple[str, Changes]]:
    """Tables 4 and 6, and the repository's README: (depth, width factor), rate of dropout."""
    plain = (
        *((40, 1), (40, 2), (40, 4), (40, 8), (28, 10), (28, 12), (22, 8), (22, 10)),
        *((16, 4), (16, 8), (16, 10)),
    )
    for depth, factor in plain:
        yield f"wrn{depth}_{factor}", _wide(depth, factor)
    # 0.3 on CIFAR, 0.4 on SVHN.
    for depth, factor, rate in ((16, 4, 0.4), (16, 8, 0.4), (28, 10, 0.3), (40, 10, 0.3)):
        yield (f"wrn{depth}_{factor}_dropout", {**_wide(depth, factor), "block.dropout": rate})


def _wide(depth: int, factor: int) -> dict[str, Any]:
    """Depth 6n + 4: the projections of three stages count."""
    return {
        **cifar((depth - 4) // 6),
        **BASIC,
        **PREACT,
        "widths": (16 * factor, 32 * factor, 64 * factor),
        "shortcut.projection": "channels",
    }


def _transformers() -> Iterator[tuple[str, Changes]]:
    for depth in (18, 26, 34, 50, 101, 152):
        yield f"resnet{depth}", imagenet(depth)
    yield "resnet50_downsample_in_bottleneck", {**imagenet(50), "block.stride_conv": 1}
    yield "resnet50_downsample_in_first_stage", {**imagenet(50), "strides": (2, 2, 2, 2)}


def _fbresnet() -> Iterator[tuple[str, Changes]]:
    biases = dict.fromkeys(("stem.bias", "block.bias", "block.last_bias", "shortcut.bias"), True)
    yield "fbresnet152", {**imagenet(152), **biases}


def _keras_resnet() -> Iterator[tuple[str, Changes]]:
    """By default its norms are frozen in training, too."""
    common = {
        "stem.padding": "same",
        "stem.pool_padding": "same",
        "block.stride_conv": 1,
        "shortcut.projection": "entry",
        "norm.momentum": 0.99,
        "init.conv": "he_normal_truncated",
        "init.head": "glorot_uniform",
    }
    for depth in (18, 34, 50, 101, 152, 200):
        yield f"resnet{depth}", {**imagenet(depth), **common}


def _keras2() -> Iterator[tuple[str, Changes]]:
    common = {
        **imagenet(50),
        "norm.eps": 1e-3,
        "norm.momentum": 0.99,
        "stem.bias": True,
        "block.bias": True,
        "block.last_bias": True,
        "block.stride_conv": 1,
        "shortcut.projection": "channels",
        "shortcut.bias": True,
        "init.conv": "glorot_uniform",
        "init.head": "glorot_uniform",
    }
    # deep-learning-models, with the first weights; keras-applications 1.0.8 pads the pool.
    yield "resnet50_valid_pool", {**common, "stem.pool_padding": "valid"}
    yield "resnet50", {**common, "stem.pool_padding": "zero", "init.conv": "he_normal_truncated"}


def _image_classifiers() -> Iterator[tuple[str, Changes]]:
    """What it calls ResNet is V2, with MXNet's norm of the images and its eps."""
    common = {
        "stem.input_norm": "shift",
        "stem.pool_padding": "zero",
        "norm.eps": 2e-5,
        "norm.momentum": 0.99,
        "init.head": "glorot_uniform",
    }
    v2 = {
        **PREACT,
        "stem.norm_act": True,
        "shortcut.projection": "entry",
        "init.conv": "he_uniform",
    }
    for depth in (18, 34, 50, 101, 152):
        yield f"resnet{depth}", {**imagenet(depth), **common, **v2}
    for depth in (50, 101):
        yield (
            f"resnext{depth}",
            {**grouped(32, 4, depth), **common, "init.conv": "glorot_uniform"},
        )


def _deepvision() -> Iterator[tuple[str, Changes]]:
    """Every shortcut starts behind the activation. ResNet-18 and -34 stride in the second
    convolution of a block, which no spec has.
    """
    common = {
        **PREACT,
        "block.stride_block": "last",
        "shortcut.projection": "channels",
        "shortcut.preact": "always",
        "stem.bias": True,
        "block.last_bias": True,
        "shortcut.bias": True,
    }
    torch = {"init.conv": "torch_default"}
    tensorflow = {
        "stem.padding": "same",
        "stem.pool_padding": "same",
        "block.padding": "same",
        "norm.eps": 1.001e-5,
        "norm.momentum": 0.99,
        "init.conv": "glorot_uniform",
        "init.head": "glorot_uniform",
    }
    for name, changes in (("torch", torch), ("tensorflow", tensorflow)):
        for depth in (50, 101, 152):
            yield f"resnet{depth}v2_{name}", {**imagenet(depth), **common, **changes}


# Blocks of each stage; those of 26 layers are not torchvision's.
_BASIC = {"18": DEPTHS[18], "26": (3, 3, 3, 3), "34": DEPTHS[34]}
_SHALLOW = {"bc26b": (2, 2, 2, 2), "bc38b": (3, 3, 3, 3)}  # of bottlenecks


def _pytorchcv() -> Iterator[tuple[str, Changes]]:
    """`b`: the 3 x 3 strides; without it the first 1 x 1 does. Those of 18 layers and more, whose
    blocks of a stage are equally wide.
    """
    uniform = {"init.conv": "he_uniform"}
    v2 = {**uniform, **PREACT, "stem.norm_act": True}
    for prefix, common in (("resnet", uniform), ("preresnet", v2)):
        for name, depths in _BASIC.items():
            yield f"{prefix}{name}", {**common, **BASIC, "depths": depths}
        for name, depths in _SHALLOW.items():
            yield f"{prefix}{name}", {**common, "depths": depths}
        for depth in (50, 101, 152, 200):
            yield f"{prefix}{depth}", {**common, **imagenet(depth), "block.stride_conv": 1}
            yield f"{prefix}{depth}b", {**common, **imagenet(depth)}
    yield "preresnet269b", {**v2, "depths": (3, 30, 48, 8)}


PACKAGE_BUILDERS: Mapping[str, Callable[[], Iterator[tuple[str, Changes]]]] = {
    "haiku": _haiku,
    "slim": _slim,
    "wrn": _wrn,
    "transformers": _transformers,
    "fbresnet": _fbresnet,
    "keras_resnet": _keras_resnet,
    "keras2": _keras2,
    "image_classifiers": _image_classifiers,
    "deepvision": _deepvision,
    "pytorchcv": _pytorchcv,
}

# Released weights that want another preprocessing than their family's.
PACKAGE_PREPROCESSING = (("slim/resnet_v2_", "half"),)
