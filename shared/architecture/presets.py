"""Every published ResNet that the project knows, as changes to the default `ResNetSpec`.

A family's entry cites the source that defines it. The default spec is torchvision's ResNet-50.
Depths, widths, strides and deviations from the papers are here and nowhere else.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from shared.architecture.packages import PACKAGE_BUILDERS, PACKAGE_FAMILIES, PACKAGE_PREPROCESSING
from shared.architecture.recipes import (
    BASIC,
    BASIC_DEPTHS,
    PREACT,
    Changes,
    Family,
    cifar,
    grouped,
    imagenet,
)
from shared.architecture.spec import ResNetSpec
from shared.errors import SpecError, nearest


class Preset(NamedTuple):
    """A named spec and where its definition comes from."""

    name: str
    changes: Changes
    source: str
    preprocessing: str  # of the released weights; a key of architecture.preprocessing.PREPROCESSING

    @property
    def family(self) -> str:
        return self.name.partition("/")[0]


FAMILIES = {
    "torchvision": Family(
        "torchvision (V1.5)", "pytorch/vision torchvision/models/resnet.py", "imagenet"
    ),
    "timm": Family(
        "timm ResNet and ResNetV2",
        "huggingface/pytorch-image-models timm/models/resnet{,v2}.py",
        "imagenet",
    ),
    "he": Family(
        "He et al. 2015, Caffe", "arXiv:1512.03385; KaimingHe/deep-residual-networks", "caffe"
    ),
    "keras": Family(
        "keras.applications V1 and V2", "keras-team/keras applications/resnet{,_v2}.py", "caffe"
    ),
    "keras_hub": Family(
        "KerasHub", "keras-team/keras-hub models/resnet/resnet_backbone.py", "imagenet"
    ),
    "flax": Family(
        "Flax (Linen) ImageNet example", "google/flax examples/imagenet/models.py", "imagenet"
    ),
    "tf": Family("TensorFlow official", "tensorflow/models official/r1/resnet", "tf_official"),
    "fb": Family(
        "fb.resnet.torch pre-activation",
        "facebook/fb.resnet.torch models/preresnet.lua",
        "imagenet",
    ),
    "bit": Family("Big Transfer", "google-research/big_transfer bit_pytorch/models.py", "half"),
    "cifar": Family(
        "CIFAR V1 and pre-activation",
        "arXiv:1512.03385 §4.2; akamaster/pytorch_resnet_cifar10; "
        "KaimingHe/resnet-1k-layers; fb.resnet.torch",
        "imagenet",
    ),
    "kuangliu": Family(
        "kuangliu CIFAR", "kuangliu/pytorch-cifar models/{resnet,preact_resnet}.py", "cifar"
    ),
    "d2l": Family(
        "Dive into Deep Learning", "d2l-ai/d2l-en chapter_convolutional-modern/resnet.md", "unit"
    ),
    "article": Family("as printed in the articles", "the articles' own listings", "unit"),
    "ablation": Family("V2 paper's ablations", "arXiv:1603.05027 tables 1 and 2", "imagenet"),
    **PACKAGE_FAMILIES,
}


def _stem3(first: int, second: int, third: int) -> Changes:
    """Three 3 x 3 convolutions instead of the 7 x 7."""
    return {"stem.convs": ((3, 2, first), (3, 1, second), (3, 1, third))}


DEEP_STEM = _stem3(32, 32, 64)
TIERED_STEM = _stem3(24, 32, 64)
WIDE_DEEP_STEM = _stem3(64, 64, 128)
AVG_DOWN: Changes = {"shortcut.pool": "avg"}

# (name, groups, base width, depth)
GROUPED = (
    ("resnext50_32x4d", 32, 4, 50),
    ("resnext101_32x8d", 32, 8, 101),
    ("resnext101_64x4d", 64, 4, 101),
    ("wide_resnet50_2", 1, 128, 50),
    ("wide_resnet101_2", 1, 128, 101),
)


def _torchvision() -> Iterator[tuple[str, Changes]]:
    for depth in (18, 34, 50, 101, 152):
        yield f"resnet{depth}", imagenet(depth)
    for name, *grouping in GROUPED:
        yield name, grouped(*grouping)


def _timm() -> Iterator[tuple[str, Changes]]:
    zero = {"init.zero_residual": True}
    tiered = {**zero, **TIERED_STEM, **AVG_DOWN}
    yield "resnet10t", {**BASIC, **tiered, "depths": (1, 1, 1, 1)}
    yield "resnet14t", {**tiered, "depths": (1, 1, 1, 1)}
    for depth in (18, 26, 34, 50, 101, 152, 200):
        yield f"resnet{depth}", {**imagenet(depth), **zero}
    for depth in (50, 101, 152):
        yield f"resnet{depth}c", {**imagenet(depth), **zero, **DEEP_STEM}
    for depth in (18, 26, 34, 50, 101, 152, 200):
        yield f"resnet{depth}d", {**imagenet(depth), **zero, **DEEP_STEM, **AVG_DOWN}
    for depth in (50, 101, 152):
        yield f"resnet{depth}s", {**imagenet(depth), **zero, **WIDE_DEEP_STEM}
    for depth in (26, 50):
        yield f"resnet{depth}t", {**imagenet(depth), **tiered}
    yield "resnet50_gn", {**imagenet(50), **zero, "norm.kind": "group"}
    yield from _timm_anti_aliased(zero)
    for name, *grouping in (*GROUPED, ("resnext101_32x4d", 32, 4, 101)):
        yield name, {**grouped(*grouping), **zero}
    yield "resnext50d_32x4d", {**grouped(32, 4, 50), **zero, **DEEP_STEM, **AVG_DOWN}

    v2 = {**PREACT, "init.head": "normal_0.01"}
    for depth in (18, 34, 50, 101, 152):
        yield f"resnetv2_{depth}", {**imagenet(depth), **v2}
        yield f"resnetv2_{depth}d", {**imagenet(depth), **v2, **DEEP_STEM, **AVG_DOWN}
    yield "resnetv2_50t", {**imagenet(50), **v2, **TIERED_STEM, **AVG_DOWN}
    yield "resnetv2_50d_gn", {**imagenet(50), **v2, **DEEP_STEM, **AVG_DOWN, "norm.kind": "group"}
    # timm's port of BiT standardises with another eps than the original.
    for name, changes in _bit():
        yield f"resnetv2_{name.removeprefix('r')}_bit", {**changes, "weight_std_eps": 1e-8}


def _timm_anti_aliased(zero: Changes) -> Iterator[tuple[str, Changes]]:
    """timm's `aa_layer`: nn.AvgPool2d or BlurPool2d."""
    deep = {**DEEP_STEM, **AVG_DOWN}
    average, blur = {**zero, "anti_alias": "average"}, {**zero, "anti_alias": "blur"}
    yield "resnetaa34d", {**imagenet(34), **average, **deep}
    yield "resnetaa50", {**imagenet(50), **average}
    yield "resnetaa50d", {**imagenet(50), **average, **deep}
    yield "resnetaa101d", {**imagenet(101), **average, **deep}
    yield "resnetblur18", {**imagenet(18), **blur}
    yield "resnetblur50", {**imagenet(50), **blur}
    yield "resnetblur50d", {**imagenet(50), **blur, **deep}
    yield "resnetblur101d", {**imagenet(101), **blur, **deep}


def _he() -> Iterator[tuple[str, Changes]]:
    # Caffe rounds the number of a pool's windows up (BVLC/caffe pooling_layer.cpp).
    v1 = {"block.stride_conv": 1, "stem.pool_padding": "ceil", "init.conv": "kaiming_normal_fan_in"}
    options = {
        "a": {"shortcut.projection": "never", "shortcut.zero_pad": "tail"},
        "b": {"shortcut.projection": "channels"},
        "c": {"shortcut.projection": "always"},
    }
    for depth in BASIC_DEPTHS:
        plain = {**options["a"], "shortcut.join": "scale", "shortcut.scales": (0.0, 1.0)}
        yield f"plain{depth}", {**v1, **imagenet(depth), **plain}
        for option, changes in options.items():
            yield f"resnet{depth}_{option}", {**v1, **imagenet(depth), **changes}
    for depth in (50, 101, 152):
        # The released ResNet-50 has a stem bias, the deeper two have none (their prototxt files).
        yield f"resnet{depth}", {**v1, **imagenet(depth), "stem.bias": depth == 50}
        for option in ("a", "c"):
            yield f"resnet{depth}_{option}", {**v1, **imagenet(depth), **options[option]}
    # As ported to PyTorch, with torchvision's names (ruotianluo/pytorch-resnet resnet50-caffe.pth;
    # the ports of the deeper two have the tensors of the original).
    yield "resnet50_no_bias", {**v1, **imagenet(50)}


def _keras() -> Iterator[tuple[str, Changes]]:
    common = {
        "norm.eps": 1.001e-5,
        "norm.momentum": 0.99,
        "norm.running_var": "biased",
        "stem.bias": True,
        "stem.pool_padding": "zero",
        "block.last_bias": True,
        "shortcut.projection": "channels",
        "shortcut.bias": True,
        "init.conv": "glorot_uniform",
        "init.head": "glorot_uniform",
    }
    for depth in (50, 101, 152):
        yield (
            f"resnet{depth}",
            {**imagenet(depth), **common, "block.bias": True, "block.stride_conv": 1},
        )
    v2 = {**PREACT, "block.stride_block": "last", "strides": (2, 2, 2, 1)}
    for depth in (50, 101, 152):
        yield f"resnet{depth}v2", {**imagenet(depth), **common, **v2}


def _keras_hub() -> Iterator[tuple[str, Changes]]:
    glorot = {
        "init.conv": "glorot_uniform",
        "init.head": "glorot_uniform",
        "norm.running_var": "biased",
    }
    for depth in (18, 34, 50, 101, 152):
        yield f"resnet_{depth}", {**imagenet(depth), **glorot}
    vd = {**glorot, **DEEP_STEM, **AVG_DOWN, "shortcut.projection": "entry"}
    for depth in (18, 34, 50, 101, 152):
        yield f"resnet_vd_{depth}", {**imagenet(depth), **vd}
    yield "resnet_vd_200", {**vd, "depths": (3, 12, 48, 3)}
    for depth in (50, 101):
        yield f"resnet_v2_{depth}", {**imagenet(depth), **PREACT, **glorot}


def _flax() -> Iterator[tuple[str, Changes]]:
    linen = {
        "stem.pool_padding": "same",
        "block.padding": "same",
        "init.zero_residual": True,
        "norm.running_var": "biased",
        "init.conv": "lecun_normal",
        "init.head": "lecun_normal",
    }
    for depth in (18, 34, 50, 101, 152, 200):
        yield f"resnet{depth}", {**imagenet(depth), **linen}


def _tf() -> Iterator[tuple[str, Changes]]:
    official = {
        "num_classes": 1001,
        "shortcut.projection": "entry",
        "stem.pool_padding": "same",
        "norm.momentum": 0.997,
        "init.conv": "lecun_normal",
        "init.head": "glorot_uniform",
    }
    for depth in (18, 34, 50, 101, 152, 200):
        yield f"resnet{depth}_v1", {**imagenet(depth), **official}
    yield (
        "resnet50_v1.5",
        {
            **imagenet(50),
            "stem.pool_padding": "same",
            "block.padding": "same",
            "init.conv": "he_normal_truncated",
            "init.head": "normal_0.01",
        },
    )
    for depth in (18, 34, 50, 101, 152, 200):
        yield f"resnet{depth}_v2", {**imagenet(depth), **official, **PREACT}
    for depth in (20, 32, 56, 110):
        yield (
            f"cifar_resnet{depth}_v2",
            {**_cifar_basic(depth), **official, **PREACT, "num_classes": 10},
        )


def _fb() -> Iterator[tuple[str, Changes]]:
    preresnet = {
        **PREACT,
        "stem.norm_act": True,
        "block.first_preact": False,
        "shortcut.projection": "channels",
        "shortcut.preact": "stage_entry",
    }
    for depth in (18, 34, 50, 101, 152, 200):
        yield f"preresnet{depth}", {**imagenet(depth), **preresnet}


def _bit() -> Iterator[tuple[str, Changes]]:
    for depth, factor in ((50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4)):
        yield (
            f"r{depth}x{factor}",
            {
                **imagenet(depth),
                **PREACT,
                "stem.convs": ((7, 2, 64 * factor),),
                "stem.pool_padding": "zero",
                "widths": tuple(factor * width for width in ResNetSpec().widths),
                "norm.kind": "group",
                "weight_std_eps": 1e-10,
                "init.head": "zeros",
            },
        )


def _cifar_basic(depth: int) -> dict[str, Any]:
    """Depth 6n + 2."""
    return {**cifar((depth - 2) // 6), **BASIC, "shortcut.projection": "never"}


def _cifar_bottleneck(depth: int) -> dict[str, Any]:
    """Depth 9n + 2, the stride on the first 1 x 1 (KaimingHe/resnet-1k-layers)."""
    return {**cifar((depth - 2) // 9), "block.stride_conv": 1, "shortcut.projection": "channels"}


def _cifar_presets() -> Iterator[tuple[str, Changes]]:
    fan_in = {"init.conv": "kaiming_normal_fan_in", "init.head": "kaiming_normal_fan_in"}
    for depth in (20, 32, 44, 56, 110, 1202):
        yield f"resnet{depth}", {**_cifar_basic(depth), **fan_in}  # akamaster: zeros on both sides
    for depth in (164, 1001):
        yield f"resnet{depth}", _cifar_bottleneck(depth)
    basic_preact = {**PREACT, "shortcut.preact": "stage_entry", "shortcut.zero_pad": "tail"}
    for depth in (20, 32, 44, 56, 110, 1202):
        yield f"preresnet{depth}", {**_cifar_basic(depth), **basic_preact}  # fb.resnet.torch
    for depth in (164, 1001):
        yield f"preresnet{depth}", {**_cifar_bottleneck(depth), **PREACT}


def _kuangliu() -> Iterator[tuple[str, Changes]]:
    cifar = {
        "image_size": 32,
        "num_classes": 10,
        "stem.convs": ((3, 1, 64),),
        "stem.pool": "none",
        "init.conv": "torch_default",
    }
    for depth in (18, 34, 50, 101, 152):
        yield f"resnet{depth}", {**imagenet(depth), **cifar}
    for depth in (18, 34, 50, 101, 152):
        # Deviates from the paper: nothing is normalised or activated before the pooling.
        yield f"preact_resnet{depth}", {**imagenet(depth), **cifar, **PREACT, "head.final": "none"}


def _d2l() -> Iterator[tuple[str, Changes]]:
    yield (
        "resnet18",
        {
            **imagenet(18),
            "in_channels": 1,
            "num_classes": 10,
            "stem.bias": True,
            "block.bias": True,
            "block.last_bias": True,
            "shortcut.bias": True,
            "shortcut.norm": False,
            "init.conv": "torch_default",
        },
    )


def _article() -> Iterator[tuple[str, Changes]]:
    yield "resnet34", {**imagenet(34), "init.conv": "torch_default"}
    # ResNet50V2 as listed: the Keras layout with the biases, eps and pool padding of PyTorch.
    yield (
        "resnet50v2",
        {
            **imagenet(50),
            **PREACT,
            "num_classes": 100,
            "strides": (2, 2, 2, 1),
            "block.stride_block": "last",
            "shortcut.projection": "channels",
            "stem.bias": True,
            "init.conv": "torch_default",
        },
    )


def _ablation() -> Iterator[tuple[str, Changes]]:
    bases = {110: dict(_cifar_presets())["resnet110"], 164: dict(_cifar_presets())["resnet164"]}

    def merged(join: str, **changes: Any) -> dict[str, Any]:
        return {**bases[110], "shortcut.join": join, **changes}

    # Table 1: kinds of shortcut, on ResNet-110.
    for name, scales in (("0_1", (0.0, 1.0)), ("0.5_1", (0.5, 1.0)), ("0.5_0.5", (0.5, 0.5))):
        yield f"resnet110_scale_{name}", merged("scale", **{"shortcut.scales": scales})
    for bias in range(0, -8, -1):
        yield (
            f"resnet110_exclusive_gate_b{-bias}",
            merged("exclusive_gate", **{"init.gate_bias": float(bias)}),
        )
    for bias in (0, -6):
        yield (
            f"resnet110_shortcut_gate_b{-bias}",
            merged("shortcut_gate", **{"init.gate_bias": float(bias)}),
        )
    yield "resnet110_conv_shortcut", {**bases[110], "shortcut.projection": "always"}
    yield "resnet110_dropout_shortcut", merged("dropout", **{"shortcut.dropout": 0.5})

    # Table 2: order of norm, activation and convolution. In the pre-activation orders the first
    # block reads the activated stem, and the last addition is activated once more (appendix).
    first_last = {"block.first_preact": False, "stem.norm_act": True}
    orders: dict[str, Changes] = {
        "original": {},
        "norm_after_add": {"block.order": "norm_after_add"},
        "act_before_add": {"block.order": "act_before_add"},
        "act_only_pre": {"block.order": "act_only_pre", "head.final": "act", **first_last},
        "full_pre": {**PREACT, **first_last},
    }
    for depth, base in bases.items():
        for name, changes in orders.items():
            yield f"resnet{depth}_{name}", {**base, **changes}


_BUILDERS = {
    "torchvision": _torchvision,
    "timm": _timm,
    "he": _he,
    "keras": _keras,
    "keras_hub": _keras_hub,
    "flax": _flax,
    "tf": _tf,
    "fb": _fb,
    "bit": _bit,
    "cifar": _cifar_presets,
    "kuangliu": _kuangliu,
    "d2l": _d2l,
    "article": _article,
    "ablation": _ablation,
    **PACKAGE_BUILDERS,
}

# Released weights that want another preprocessing than their family's.
_PREPROCESSING = (
    ("keras/resnet50v2", "half"),
    ("keras/resnet101v2", "half"),
    ("keras/resnet152v2", "half"),
    ("timm/resnetv2_", "half"),
    *PACKAGE_PREPROCESSING,
)


@functools.cache
def presets() -> dict[str, Preset]:
    """Every preset by its full name, in the order of the families."""
    table = {}
    for family, builder in _BUILDERS.items():
        about = FAMILIES[family]
        for short, changes in builder():
            name = f"{family}/{short}"
            preprocessing = next(
                (p for prefix, p in _PREPROCESSING if name.startswith(prefix)), about.preprocessing
            )
            table[name] = Preset(name, changes, about.source, preprocessing)
    return table


@functools.cache
def aliases() -> dict[str, str]:
    """Bare names: torchvision's for the plain ones, the papers' for `_v1` and `_v2`, else whatever
    is unique, in the families of `PACKAGE_FAMILIES` or else in the others.
    """
    table: dict[str, str] = {}
    for packages in (True, False):
        bare: dict[str, list[str]] = {}
        for name, preset in presets().items():
            if (preset.family in PACKAGE_FAMILIES) == packages:
                bare.setdefault(name.partition("/")[2], []).append(name)
        table |= {short: names[0] for short, names in bare.items() if len(names) == 1}
    table |= {n.partition("/")[2]: n for n in presets() if n.startswith("torchvision/")}
    table |= {f"resnet{depth}_v1": f"he/resnet{depth}_a" for depth in BASIC_DEPTHS}
    table |= {f"resnet{depth}_v1": f"he/resnet{depth}" for depth in (50, 101, 152)}
    table |= {f"resnet{depth}_v2": f"fb/preresnet{depth}" for depth in (18, 34, 50, 101, 152, 200)}
    return table


def list_presets() -> list[str]:
    """Full names of all presets.

    >>> [name for name in list_presets() if name.startswith("d2l/")]
    ['d2l/resnet18']
    """
    return list(presets())


def get_preset(name: str) -> Preset:
    """The preset of a full or bare name. Raises `SpecError` with the nearest names."""
    full = name if name in presets() else aliases().get(name, "")
    if full not in presets():
        known: Iterable[str] = [*presets(), *aliases()]
        raise SpecError(f"unknown preset {name!r}{nearest(name, known)}; `rosetta list` shows all")
    return presets()[full]


_DEFAULT = ResNetSpec()


@functools.lru_cache(maxsize=512)
def _base_spec(name: str) -> ResNetSpec:
    preset = get_preset(name)
    return _DEFAULT.replace(name=preset.name, **preset.changes)


def get_spec(preset: str, **changes: Any) -> ResNetSpec:
    """The spec of a preset, with fields changed as `ResNetSpec.replace` takes them.

    >>> get_spec("torchvision/resnet50", num_classes=10, norm_eps=1e-3).norm.eps
    0.001
    """
    return _base_spec(preset).replace(**changes) if changes else _base_spec(preset)


MINIATURE_WIDTH = 8
MINIATURE_DEPTH = 2


def miniature(spec: ResNetSpec) -> ResNetSpec:
    """The same structure with at most two blocks a stage and narrow ones: every kind of layer,
    cheaply.

    Group counts shrink with the widths, so that a group still holds several channels.

    >>> miniature(get_spec("resnet50")).widths
    (8, 16, 32, 64)
    """
    factor = MINIATURE_WIDTH / min(spec.widths)
    grouped = spec.block.groups > 1
    return spec.replace(
        depths=tuple(min(depth, MINIATURE_DEPTH) for depth in spec.depths),
        widths=tuple(round(width * factor) for width in spec.widths),
        num_classes=min(spec.num_classes, 10),
        **{
            "stem.convs": tuple(
                (k, s, max(4, round(width * factor))) for k, s, width in spec.stem.convs
            ),
            "block.groups": 4 if grouped else 1,
            "block.base_width": 32 if grouped else spec.block.base_width,
            "norm.groups": min(spec.norm.groups, 4),
        },
    )
