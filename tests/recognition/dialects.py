"""Networks renamed as other projects name their layers, and with their layouts: what there is to
recognise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from shared import make_plan
from shared.architecture.ops import Shape
from shared.architecture.spec import ResNetSpec
from shared.formats.containers.archive import Entry
from shared.naming.names import TensorPosition, leaf_kind, place_of

FLOAT32 = np.dtype(np.float32)


def unreadable() -> np.ndarray:
    raise AssertionError("recognising a tensor needs none of its values")


def entry(*shape: int) -> Entry:
    return Entry(tuple(shape), FLOAT32, unreadable)


class Dialect(NamedTuple):
    """How a project calls a layer, and its leaves; kernels are OIHW unless `last`."""

    layer: Callable[[TensorPosition, ResNetSpec], str]
    leaves: Mapping[str, str]  # kind.leaf -> template with {layer}
    last: bool = False
    shape: Callable[[str, Shape], Shape] = lambda tensor, shape: shape


def _leaves(names: str, joint: str = ".") -> dict[str, str]:
    """Templates of a kernel, a bias, and of a norm's scale, offset, mean and variance."""
    kernel, bias, scale, offset, mean, var = ("{layer}" + joint + name for name in names.split())
    norm = {"weight": scale, "bias": offset, "running_mean": mean, "running_var": var}
    return {
        **{f"{kind}.weight": kernel for kind in ("conv", "linear")},
        **{f"{kind}.bias": bias for kind in ("conv", "linear")},
        **{f"norm.{leaf}": template for leaf, template in norm.items()},
    }


def _split(leaves: Mapping[str, str], statistics: str) -> dict[str, str]:
    """Parameters and statistics in collections of their own."""
    return {
        key: f"{statistics if 'running' in key else 'params'}/{template}"
        for key, template in leaves.items()
    }


TORCH = _leaves("weight bias weight bias running_mean running_var")
KERAS = _leaves("kernel bias gamma beta moving_mean moving_variance", "/")
CAFFE2 = _leaves("w b s b rm riv", "_")
GLUON = _leaves("weight bias gamma beta running_mean running_var", "_")
SLIM = _leaves("weights biases gamma beta moving_mean moving_variance", "/")
PADDLE = _leaves("weight bias weight bias _mean _variance")
HAIKU = _split(_leaves("w b scale offset ~/mean_ema/average ~/var_ema/average", "/"), "state")
FLAX = _split(_leaves("kernel bias scale bias mean var", "/"), "batch_stats")


def table(
    stem: str, stem_norm: str, block: str, layers: str, last: str, head: str
) -> Callable[[TensorPosition, ResNetSpec], str]:
    """Names by templates: of the stem's convolutions and norms, of a block, of a block's
    convolutions, norms, shortcut, its norm and its gate, of the last norm and the head.

    In them `s` is the stage, `b` the block, `n` the block through all stages, `k` the convolution;
    `s1` counts from 1, `s2` from 2, `k0` from 0; `i` and `j` are places in a sequence of
    convolution, norm and activation.
    """
    inner = [f"{block}{layer}" for layer in layers.split()]
    kinds = ("conv", "norm", "shortcut.conv", "shortcut.norm", "gate")
    rows = dict(zip(kinds, inner, strict=True))
    rows |= {"stem.conv": stem, "stem.norm": stem_norm, "final_norm": last, "head": head}
    rows["stem.input_norm"] = re.sub(r"[^./]*$", "data_bn", stem)

    def name(place: TensorPosition, spec: ResNetSpec) -> str:
        kind = place.kind.rstrip("0123456789")
        k = place.number or int(place.kind[len(kind) :] or 0)
        s, b = place.stage, place.block
        counts = {"s": s, "s1": s + 1, "s2": s + 2, "s4": s + 4, "b": b, "b1": b + 1}
        counts |= {"k": k, "k0": k - 1, "i": 3 * k - 3, "j": 3 * k - 2}
        counts["n"] = sum(spec.depths[:s]) + b
        return rows[kind].format(**counts, abc="?abc"[k], letter=chr(ord("a") + b))

    return name


def counted(spec: ResNetSpec, start: int = 0, gap: int = 1, *, side_first: bool = True) -> Dialect:
    """Keras' names of layers that nobody has named: counted by kind from `start`, in the order in
    which the code makes them, with gaps.
    """
    counts = dict.fromkeys(("conv", "norm", "linear"), start)
    bases = {"conv": "conv2d", "norm": "batch_normalization", "linear": "dense"}
    names: dict[str, str] = {}
    for layer in _in_order(spec, side_first=side_first):
        kind = leaf_kind(place_of(layer).kind)
        number = counts[kind]
        names[layer] = bases[kind] + (f"_{number}" if number else "")
        counts[kind] += gap if number % 3 else 1
    return Dialect(lambda place, _: names[place.layer], KERAS, last=True)


def _in_order(spec: ResNetSpec, *, side_first: bool) -> list[str]:
    """The layers as code makes them, a shortcut before the block's others or after them; a
    pre-activation's first norm is made before both.
    """
    layers = dict.fromkeys(name.rpartition(".")[0] for name in make_plan(spec).tensors)
    pre = spec.block.order == "full_pre"

    def key(layer: str) -> tuple[float, ...]:
        place = place_of(layer)
        norm = "norm" in place.kind
        if place.kind == "stem.input_norm":
            return (0, 0, 0, 0, True)
        if place.kind.startswith("stem"):
            return (0, 0, 0, int(place.kind[-1]), norm)
        if place.kind in ("final_norm", "head"):
            return (2, 0, 0, 0, place.kind == "head")
        if place.kind.startswith(("shortcut", "gate")):
            return (1, place.stage, place.block, 0.5 if side_first else 9, norm)
        number = place.number - 0.6 if pre and norm else place.number
        return (1, place.stage, place.block, number, norm)

    return sorted(layers, key=key)


_TV = "conv{k} bn{k} downsample.0 downsample.1 gate"
_CHILDREN = table("0.{i}", "0.{j}", "{s4}.{b}.", _TV, "8", "10")


def _children(place: TensorPosition, spec: ResNetSpec) -> str:
    """As `nn.Sequential(*model.children())` has it; a deep stem is a sequence in it."""
    last = len(spec.stem.convs)
    if place.kind == "stem.input_norm":
        return "data_bn"
    if place.kind == f"stem.norm{last}":
        return "1"
    return "0" if place.kind == "stem.conv1" and last == 1 else _CHILDREN(place, spec)


def _turned_head(tensor: str, shape: Shape) -> Shape:
    return shape[::-1] if tensor == "head.weight" else shape


def _conv_head(tensor: str, shape: Shape) -> Shape:
    return (1, 1, *shape) if tensor == "head.weight" else shape


def _spread(tensor: str, shape: Shape) -> Shape:
    return (1, 1, 1, *shape) if "norm" in tensor else shape


_BRANCHES = "branch2{abc} branch2{abc}_bn branch1 branch1_bn gate"
_HF = "layer/{k0}/convolution layer/{k0}/normalization shortcut/convolution shortcut/normalization"
_LINEN = "Conv_{k0} BatchNorm_{k0} Projection_0/Conv_0 Projection_0/BatchNorm_0 gate"
_CV = "body.conv{k}.conv body.conv{k}.bn identity_conv.conv identity_conv.bn gate"
_SLIM = "conv{k} conv{k}/BatchNorm shortcut shortcut/BatchNorm gate"
_HK = "conv_{k0} batchnorm_{k0} shortcut_conv shortcut_batchnorm gate"
_CAFFE_ROWS = table(
    "conv{k}",
    "bn_conv{k}",
    "{s2}{letter}_",
    "branch2{abc} branch2{abc} branch1 branch1 gate",
    "bn_last",
    "fc1000",
)


def _caffe(place: TensorPosition, spec: ResNetSpec) -> str:
    """Layers of a block begin with what they are."""
    prefix = "bn" if "norm" in place.kind else "res"
    inner = place.kind in ("conv", "norm", "shortcut.conv", "shortcut.norm", "gate")
    return (prefix if inner else "") + _CAFFE_ROWS(place, spec)


DIALECTS: dict[str, Dialect] = {
    "short": Dialect(
        table(
            "stem.c{k}",
            "stem.n{k}",
            "stage{s1}.{b}.",
            "c{k} n{k} skip.0 skip.1 gate",
            "last.norm",
            "classify",
        ),
        TORCH,
    ),
    "pytorchcv": Dialect(
        table(
            "features.init_block.conv{k}.conv",
            "features.init_block.conv{k}.bn",
            "features.stage{s1}.unit{b1}.",
            _CV,
            "features.post_activ.bn",
            "output",
        ),
        TORCH,
    ),
    "features": Dialect(
        table(
            "features.0.{i}",
            "features.0.{j}",
            "features.{s4}.unit{b}.",
            "body.conv{k} body.bn{k} id.conv id.bn gate",
            "features.9",
            "fc.1",
        ),
        TORCH,
    ),
    "children": Dialect(_children, TORCH),
    "fastai": Dialect(
        table(
            "0.0.{k0}.0",
            "0.0.{k0}.1",
            "0.{s4}.{b}.",
            "convs.{k0}.0 convs.{k0}.1 idpath.0 idpath.1 gate",
            "0.8",
            "1.8",
        ),
        TORCH,
    ),
    "sequential": Dialect(
        table(
            "conv1.{i}",
            "conv1.{j}",
            "conv{s2}_x.{b}.",
            "residual_function.{i} residual_function.{j} shortcut.0 shortcut.1 gate",
            "norm",
            "fc",
        ),
        TORCH,
    ),
    "detectron2": Dialect(
        table(
            "stem.conv{k}",
            "stem.conv{k}.norm",
            "res{s2}.{b}.",
            "conv{k} conv{k}.norm shortcut shortcut.norm gate",
            "norm",
            "linear",
        ),
        TORCH,
    ),
    "caffe2": Dialect(
        table("conv{k}", "res_conv{k}_bn", "res{s2}_{b}_", _BRANCHES, "final_bn", "pred"), CAFFE2
    ),
    "caffe": Dialect(_caffe, KERAS, last=True),
    "mxnet": Dialect(
        table(
            "conv{k0}",
            "bn{k0}",
            "stage{s1}_unit{b1}_",
            "conv{k} bn{k} sc sc_bn gate",
            "bn_last",
            "fc1",
        ),
        GLUON,
    ),
    "paddle": Dialect(
        table(
            "stem{k}._conv",
            "stem{k}._batch_norm",
            "bb_{s}_{b}.",
            "conv{k0}._conv conv{k0}._batch_norm short._conv short._batch_norm gate",
            "norm",
            "out",
        ),
        PADDLE,
        shape=_turned_head,
    ),
    "slim": Dialect(
        table(
            "resnet/conv{k}",
            "resnet/conv{k}/BatchNorm",
            "resnet/block{s1}/unit_{b1}/bottleneck_v1/",
            _SLIM,
            "resnet/postnorm",
            "resnet/logits",
        ),
        SLIM,
        last=True,
        shape=_conv_head,
    ),
    "haiku": Dialect(
        table(
            "res_net50/~/initial_conv_{k0}",
            "res_net50/~/initial_batchnorm_{k0}",
            "res_net50/~/block_group_{s}/~/block_{b}/~/",
            _HK,
            "res_net50/~/final_batchnorm",
            "res_net50/~/logits",
        ),
        HAIKU,
        last=True,
        shape=_spread,
    ),
    "hf-flax": Dialect(
        table(
            "resnet/embedder/embedder/{k0}/convolution",
            "resnet/embedder/embedder/{k0}/normalization",
            "resnet/encoder/stages/{s}/layers/{b}/",
            f"{_HF} gate",
            "resnet/norm",
            "classifier/1",
        ),
        FLAX,
        last=True,
    ),
    "linen": Dialect(
        table(
            "backbone/Stem_0/Conv_{k0}",
            "backbone/Stem_0/BatchNorm_{k0}",
            "backbone/Unit_{n}/",
            _LINEN,
            "backbone/BatchNorm_0",
            "Dense_0",
        ),
        FLAX,
        last=True,
    ),
}


def renamed(spec: ResNetSpec, dialect: Dialect) -> tuple[dict[str, Entry], dict[str, str]]:
    """The network's tensors in a dialect, and canonical name -> the dialect's."""
    entries, truth = {}, {}
    for tensor, shape in make_plan(spec).tensors.items():
        layer, _, leaf = tensor.rpartition(".")
        place = place_of(layer)
        name = dialect.leaves[f"{leaf_kind(place.kind)}.{leaf}"].format(
            layer=dialect.layer(place, spec)
        )
        if spec.norm.kind == "group" and dialect.leaves is CAFFE2:
            name = name.replace("_bn_", "_gn_")  # as Caffe2 calls them
        if dialect.last:
            axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(len(shape), (0,))
            shape = tuple(shape[axis] for axis in axes)
        entries[name], truth[tensor] = entry(*dialect.shape(tensor, shape)), name
    assert len(entries) == len(truth)  # no name is two tensors'
    return entries, truth
