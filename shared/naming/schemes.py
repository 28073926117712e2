"""The naming schemes of other projects, each a table: how it calls a layer, and what it assumes.

A template is a format string over where a layer stands:

    {s} {s1} {c}            stage from 0, from 1, from 2
    {b} {b1} {u} {letter}   block from 0, from 1, as 01, as a
    {k} {k0} {abc}          convolution from 1, from 0, as a
    {n}                     block, counted through all stages

Sources of the names are those of the families in `shared.architecture.presets`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Table = Mapping[str, str]

# (kind of layer, canonical leaf) -> the leaf's template, in which {layer} is the layer's own name.
TORCH_LEAVES: Table = {
    f"{kind}.{leaf}": "{layer}." + leaf
    for kind, leaves in {
        "conv": ("weight", "bias"),
        "norm": ("weight", "bias", "running_mean", "running_var"),
        "linear": ("weight", "bias"),
    }.items()
    for leaf in leaves
}
KERAS_LEAVES: Table = {
    "conv.weight": "{layer}/kernel",
    "conv.bias": "{layer}/bias",
    "linear.weight": "{layer}/kernel",
    "linear.bias": "{layer}/bias",
    "norm.weight": "{layer}/gamma",
    "norm.bias": "{layer}/beta",
    "norm.running_mean": "{layer}/moving_mean",
    "norm.running_var": "{layer}/moving_variance",
}
LINEN_LEAVES: Table = {
    "conv.weight": "params/{layer}/kernel",
    "conv.bias": "params/{layer}/bias",
    "linear.weight": "params/{layer}/kernel",
    "linear.bias": "params/{layer}/bias",
    "norm.weight": "params/{layer}/scale",
    "norm.bias": "params/{layer}/bias",
    "norm.running_mean": "batch_stats/{layer}/mean",
    "norm.running_var": "batch_stats/{layer}/var",
}
NNX_LEAVES: Table = {
    key: template.replace("params/", "").replace("batch_stats/", "")
    for key, template in LINEN_LEAVES.items()
}
BIT_LEAVES: Table = {
    "conv.weight": "{layer}/standardized_conv2d/kernel",
    "norm.weight": "{layer}/group_norm/gamma",
    "norm.bias": "{layer}/group_norm/beta",
    "linear.weight": "{layer}/conv2d/kernel",
    "linear.bias": "{layer}/conv2d/bias",
}

# What the constructors of most projects let one choose; all else is as the scheme's convention has
# it.
SIZES = ("depths", "widths", "num_classes", "in_channels", "block.kind", "block.stride_conv")


@dataclass(frozen=True)
class Scheme:
    """One way of naming the layers of a family of networks.

    `convention` is the preset that says what tensors cannot tell (eps, padding, stride placement),
    with `changes` where the code behind the names differs from it. `free` are the fields that this
    code lets one choose; None: all of them. `requires` are canonical tensors without which a file is
    another project's that has the same names.
    """

    layers: Table
    leaves: Table
    convention: str
    families: tuple[str, ...]
    changes: Mapping[str, Any] = field(default_factory=dict)
    free: tuple[str, ...] | None = SIZES
    channels_last: bool = False
    head_is_conv: bool = False  # the classifier is a 1 x 1 convolution
    requires: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """A scheme, or several variants of it, and the containers in which it occurs."""

    name: str
    title: str
    containers: tuple[str, ...]
    schemes: tuple[Scheme, ...]
    read_only: tuple[str, ...] = ()  # containers in which it is read, and not written


def _torch(layers: Table, convention: str, *families: str, **options: Any) -> Scheme:
    return Scheme(
        layers, TORCH_LEAVES, convention, families or (convention.partition("/")[0],), **options
    )


def _keras(layers: Table, convention: str, *families: str, **options: Any) -> Scheme:
    families = families or (convention.partition("/")[0],)
    return Scheme(layers, KERAS_LEAVES, convention, families, channels_last=True, **options)


_PLAIN = {
    "stem.conv1": "conv1",
    "stem.norm1": "bn1",
    "conv": "layer{s1}.{b}.conv{k}",
    "norm": "layer{s1}.{b}.bn{k}",
    "shortcut.conv": "layer{s1}.{b}.downsample.0",
    "shortcut.norm": "layer{s1}.{b}.downsample.1",
    "head": "fc",
}
_DEEP = {
    "stem.conv1": "conv1.0",
    "stem.norm1": "conv1.1",
    "stem.conv2": "conv1.3",
    "stem.norm2": "conv1.4",
    "stem.conv3": "conv1.6",
    "stem.norm3": "bn1",
}
_AVG_DOWN = {
    "shortcut.conv": "layer{s1}.{b}.downsample.1",
    "shortcut.norm": "layer{s1}.{b}.downsample.2",
}
_TIMM_FREE = (*SIZES[:-1], "block.groups", "block.base_width", "dilate", "stem.convs", "head.pool")
_TIMM_V1_FREE = (*_TIMM_FREE, "anti_alias")  # aa_layer
_TIMM_V2 = {
    "stem.conv1": "stem.conv",
    "stem.norm1": "stem.norm",
    "conv": "stages.{s}.blocks.{b}.conv{k}",
    "norm": "stages.{s}.blocks.{b}.norm{k}",
    "shortcut.conv": "stages.{s}.blocks.{b}.downsample.conv",
    "final_norm": "norm",
    "head": "head.fc",
}
_TIMM_V2_DEEP = {
    key: template
    for i in (1, 2, 3)
    for key, template in ((f"stem.conv{i}", f"stem.conv{i}"), (f"stem.norm{i}", f"stem.norm{i}"))
}
_HF = {
    "stem.conv1": "resnet.embedder.embedder.convolution",
    "stem.norm1": "resnet.embedder.embedder.normalization",
    "conv": "resnet.encoder.stages.{s}.layers.{b}.layer.{k0}.convolution",
    "norm": "resnet.encoder.stages.{s}.layers.{b}.layer.{k0}.normalization",
    "shortcut.conv": "resnet.encoder.stages.{s}.layers.{b}.shortcut.convolution",
    "shortcut.norm": "resnet.encoder.stages.{s}.layers.{b}.shortcut.normalization",
    "head": "classifier.1",
}
_HF_FREE = (*SIZES, "strides", "stem.convs")
_LINEAR = {
    **_PLAIN,
    "shortcut.conv": "layer{s1}.{b}.shortcut.0",
    "shortcut.norm": "layer{s1}.{b}.shortcut.1",
    "head": "linear",
}
_KERAS_V1 = {
    "stem.conv1": "conv1_conv",
    "stem.norm1": "conv1_bn",
    "conv": "conv{c}_block{b1}_{k}_conv",
    "norm": "conv{c}_block{b1}_{k}_bn",
    "shortcut.conv": "conv{c}_block{b1}_0_conv",
    "shortcut.norm": "conv{c}_block{b1}_0_bn",
    "head": "predictions",
}
_KERAS_V2 = {
    **_KERAS_V1,
    "norm": "conv{c}_block{b1}_{k0}_bn",
    "norm1": "conv{c}_block{b1}_preact_bn",
    "final_norm": "post_bn",
}
_CAFFE = {
    "stem.conv1": "conv1",
    "stem.norm1": "bn_conv1",
    "conv": "res{c}{letter}_branch2{abc}",
    "norm": "bn{c}{letter}_branch2{abc}",
    "shortcut.conv": "res{c}{letter}_branch1",
    "shortcut.norm": "bn{c}{letter}_branch1",
    "head": "fc1000",
}
_HUB = {
    **{
        key: f"conv{i}_{kind}"
        for i in (1, 2, 3)
        for key, kind in ((f"stem.conv{i}", "conv"), (f"stem.norm{i}", "bn"))
    },
    "conv": "stack{s}_block{b}_{k}_conv",
    "norm": "stack{s}_block{b}_{k}_bn",
    "shortcut.conv": "stack{s}_block{b}_0_conv",
    "shortcut.norm": "stack{s}_block{b}_0_bn",
    "head": "predictions",
}
_HUB_V2 = {
    **_HUB,
    "norm": "stack{s}_block{b}_{k0}_bn",
    "norm1": "stack{s}_block{b}_pre_activation_bn",
    "final_norm": "post_bn",
}
_BIT = {
    "stem.conv1": "resnet/root_block",
    "conv": "resnet/block{s1}/unit{u}/{abc}",
    "norm": "resnet/block{s1}/unit{u}/{abc}",
    "shortcut.conv": "resnet/block{s1}/unit{u}/a/proj",
    "final_norm": "resnet",
    "head": "resnet/head",
}


def _linen(block: str) -> dict[str, str]:
    return {
        "stem.conv1": "conv_init",
        "stem.norm1": "bn_init",
        "conv": block + "_{n}/Conv_{k0}",
        "norm": block + "_{n}/BatchNorm_{k0}",
        "shortcut.conv": block + "_{n}/conv_proj",
        "shortcut.norm": block + "_{n}/norm_proj",
        "head": "Dense_0",
    }


def _own(separator: str) -> dict[str, str]:
    """Canonical names, the levels of a path joined by `separator`."""
    block = "stages.{s}.blocks.{b}."
    names = {
        f"stem.{kind}{i}": f"stem.{kind}{i}" for i in (1, 2, 3, 4) for kind in ("conv", "norm")
    }
    names |= {"conv": block + "conv{k}", "norm": block + "norm{k}", "gate": block + "gate"}
    names |= {f"shortcut.{kind}": f"{block}shortcut.{kind}" for kind in ("conv", "norm")}
    names |= {name: name for name in ("stem.input_norm", "final_norm", "head")}
    return {key: name.replace(".", separator) for key, name in names.items()}


def _ours(leaves: Table, separator: str, *, channels_last: bool) -> tuple[Scheme, ...]:
    """Our own names, of whatever network; without its spec the tensors are read as the best-known
    family with them.
    """
    conventions = ("torchvision/resnet50", "timm/resnetv2_50", "bit/r50x1", "cifar/resnet20", "keras/resnet50",
                   "keras/resnet50v2", "timm/resnet50d", "timm/resnetv2_50d_gn", "d2l/resnet18",
                   "kuangliu/resnet18", "kuangliu/preact_resnet18", "cifar/resnet164", "cifar/preresnet20",
                   "cifar/preresnet164", "fb/preresnet50", "ablation/resnet110_act_only_pre",
                   "ablation/resnet110_exclusive_gate_b0")  # fmt: skip
    layers = _own(separator)
    return tuple(
        Scheme(
            layers, leaves, name, (name.partition("/")[0],), free=None, channels_last=channels_last
        )
        for name in conventions
    )


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("canonical", "canonical weights", ("safetensors",), _ours(TORCH_LEAVES, ".", channels_last=False)),
        Format("torchvision", "torchvision", ("torch", "safetensors"), (
            _torch(_PLAIN, "torchvision/resnet50", free=(*SIZES[:-1], "block.groups", "block.base_width", "dilate")),
        )),
        Format("timm", "timm resnet and resnetv2", ("torch", "safetensors"), (
            _torch(_PLAIN, "timm/resnet50", free=_TIMM_V1_FREE),
            _torch({**_PLAIN, **_DEEP}, "timm/resnet50c", free=_TIMM_V1_FREE),
            _torch({**_PLAIN, **_DEEP, **_AVG_DOWN}, "timm/resnet50d", free=_TIMM_V1_FREE),
            _torch({**_PLAIN, **_AVG_DOWN}, "timm/resnet50", changes={"shortcut.pool": "avg"}, free=_TIMM_V1_FREE),
            _torch(_PLAIN, "timm/resnet50_gn", free=_TIMM_V1_FREE),
            _torch(_TIMM_V2, "timm/resnetv2_50", head_is_conv=True, free=_TIMM_FREE),
            _torch({**_TIMM_V2, **_TIMM_V2_DEEP}, "timm/resnetv2_50d", head_is_conv=True, free=_TIMM_FREE),
            _torch({**_TIMM_V2, **_TIMM_V2_DEEP}, "timm/resnetv2_50d_gn", head_is_conv=True, free=_TIMM_FREE),
            _torch(_TIMM_V2, "timm/resnetv2_50x1_bit", head_is_conv=True, free=_TIMM_FREE),
        )),
        Format("huggingface", "Hugging Face transformers", ("huggingface", "safetensors", "torch"), (
            _torch(_HF, "torchvision/resnet50", free=_HF_FREE),
            _torch({key: name.removeprefix("resnet.") for key, name in _HF.items()}, "torchvision/resnet50",
                   free=_HF_FREE),
        )),
        Format("akamaster", "akamaster/pytorch_resnet_cifar10", ("torch", "safetensors"), (
            _torch(_LINEAR, "cifar/resnet20", free=("depths", "num_classes")),
            _torch(_LINEAR, "cifar/resnet20", changes={"shortcut.projection": "shape"}, free=("depths", "num_classes")),
        )),
        Format("kuangliu", "kuangliu/pytorch-cifar", ("torch", "safetensors"), (
            _torch(_LINEAR, "kuangliu/resnet18", free=("depths", "block.kind", "num_classes")),
            _torch(_LINEAR, "kuangliu/preact_resnet18", free=("depths", "block.kind", "num_classes")),
        )),
        Format("torch", "resnet_torch state_dict", ("torch", "safetensors"),
               _ours(TORCH_LEAVES, ".", channels_last=False)),
        Format("keras-applications", "keras.applications", ("hdf5", "keras-weights", "keras", "tfjs"), (
            _keras(_KERAS_V1, "keras/resnet50", free=("depths", "num_classes")),
            _keras(_KERAS_V2, "keras/resnet50v2", free=("depths", "num_classes")),
        )),
        # Before 2019 the norms had Keras' default eps (keras-applications 1.0.7 resnet50.py).
        Format("keras-caffe", "Keras ResNet-50 before 2019, Caffe's names", ("hdf5", "tfjs"), (
            # TensorFlow's official Keras model has these names, too, and no biases.
            _keras(_CAFFE, "keras/resnet50", changes={"norm.eps": 1e-3}, free=("num_classes",),
                   requires=("stem.conv1.bias",)),
        )),
        Format("keras-hub", "KerasHub", ("keras-weights", "keras", "hdf5"), (
            _keras(_HUB, "keras_hub/resnet_50", free=SIZES[:-1]),
            _keras(_HUB, "keras_hub/resnet_vd_50", free=SIZES[:-1]),
            _keras(_HUB_V2, "keras_hub/resnet_v2_50", free=SIZES[:-1]),
        ), read_only=("keras-weights", "keras", "hdf5")),
        Format("keras", "resnet_keras", ("keras-weights", "keras", "hdf5", "tfjs"),
               _ours(KERAS_LEAVES, ".", channels_last=True)),
        Format("linen", "Flax Linen ImageNet example", ("msgpack", "orbax"), tuple(
            Scheme(_linen(block), LINEN_LEAVES, f"flax/resnet{depth}", ("flax",), channels_last=True,
                   free=("depths", "widths", "num_classes", "in_channels", "stem.convs"))
            for block, depth in (("BottleneckResNetBlock", 50), ("ResNetBlock", 18))
        )),
        Format("nnx", "resnet_flax nnx.State", ("safetensors", "orbax"), _ours(NNX_LEAVES, "/", channels_last=True)),
        Format("bit", "Big Transfer npz", ("npz",), (
            Scheme(_BIT, BIT_LEAVES, "bit/r50x1", ("bit",), channels_last=True, head_is_conv=True,
                   free=("depths", "widths", "stem.convs", "num_classes")),
        )),
        # The five articles' own listings.
        Format("article-000", "article 000, ResNet-34", ("torch",), (
            _torch({**_PLAIN, "stem.conv1": "pre.0", "stem.norm1": "pre.1",
                    "shortcut.conv": "layer{s1}.{b}.downsample.0"}, "article/resnet34", free=("num_classes",)),
        )),
        Format("d2l", "Dive into Deep Learning, article 001", ("torch",), (
            _torch({"stem.conv1": "0", "stem.norm1": "1", "conv1": "resnet_block{s1}.{b}.conv1",
                    "conv2": "resnet_block{s1}.{b}.conv2", "norm": "resnet_block{s1}.{b}.bn{k}",
                    "shortcut.conv": "resnet_block{s1}.{b}.conv3",
                    "head": "fc.1"}, "d2l/resnet18", free=("depths", "num_classes", "in_channels")),
        )),
        Format("article-003", "article 003, ResNet50V2", ("torch",), (
            _torch({"stem.conv1": "conv1.conv", "conv": "conv{c}.conv.{b}.conv{k}.0",
                    "conv3": "conv{c}.conv.{b}.conv3", "norm": "conv{c}.conv.{b}.conv{k0}.1",
                    "norm1": "conv{c}.conv.{b}.preact.0", "shortcut.conv": "conv{c}.conv.{b}.short",
                    "final_norm": "post.bn", "head": "post.fc"}, "article/resnet50v2", free=("num_classes",)),
        )),
    )
}  # fmt: skip
