"""Networks renamed as other projects name their layers, and with their layouts: what there is to
recognise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from shared import make_plan
from shared.architecture.ops import Shape
from shared.architecture.spec import ResNetSpec
from shared.formats.containers.archive import Entry
from shared.formats.naming.names import TensorPosition, leaf_kind, place_of

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
    classifier: bool = True  # the head is one of the tensors, and known for one
    shape: Callable[[str, Shape], Shape] = lambda tensor, shape: shape


def _leaves(kernel: str, bias: str, scale: str, offset: str, mean: str, var: str, joint: str = ".") -> dict[str, str]:
    layer = "{layer}" + joint
    return {
        "conv.weight": layer + kernel,
        "conv.bias": layer + bias,
        "linear.weight": layer + kernel,
        "linear.bias": layer + bias,
        "norm.weight": layer + scale,
        "norm.bias": layer + offset,
        "norm.running_mean": layer + mean,
        "norm.running_var": layer + var,
    }


TORCH = _leaves("weight", "bias", "weight", "bias", "running_mean", "running_var")
KERAS = _leaves("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "/")
CAFFE2 = _leaves("w", "b", "s", "b", "rm", "riv", "_")
GLUON = _leaves("weight", "bias", "gamma", "beta", "running_mean", "running_var", "_")
SLIM = _leaves("weights", "biases", "gamma", "beta", "moving_mean", "moving_variance", "/")
PADDLE = _leaves("weight", "bias", "weight", "bias", "_mean", "_variance")
HAIKU = {
    "conv.weight": "params/{layer}/w",
    "conv.bias": "params/{layer}/b",
    "linear.weight": "params/{layer}/w",
    "linear.bias": "params/{layer}/b",
    "norm.weight": "params/{layer}/scale",
    "norm.bias": "params/{layer}/offset",
    "norm.running_mean": "state/{layer}/~/mean_ema/average",
    "norm.running_var": "state/{layer}/~/var_ema/average",
}
FLAX = {
    "conv.weight": "params/{layer}/kernel",
    "conv.bias": "params/{layer}/bias",
    "linear.weight": "params/{layer}/kernel",
    "linear.bias": "params/{layer}/bias",
    "norm.weight": "params/{layer}/scale",
    "norm.bias": "params/{layer}/bias",
    "norm.running_mean": "batch_stats/{layer}/mean",
    "norm.running_var": "batch_stats/{layer}/var",
}


def _table(rows: Mapping[str, str]) -> Callable[[TensorPosition, ResNetSpec], str]:
    """Names by templates of stage `s`, block `b`, number `k`, counted from 1 as `s1`, `b1`, from 0
    as `k0`, and blocks through all stages as `n`. A row may be for a kind, or one number of it.
    """

    def name(place: TensorPosition, spec: ResNetSpec) -> str:
        kind = place.kind.rstrip("0123456789")
        number = place.number or int(place.kind[len(kind) :] or 0)
        template = rows.get(f"{kind}{number}") or rows[kind]
        s, b = place.stage, place.block
        return template.format(
            s=s, s1=s + 1, s2=s + 2, b=b, b1=b + 1, k=number, k0=number - 1, i=3 * (number - 1),
            j=3 * (number - 1) + 1, n=sum(spec.depths[:s]) + b, abc="?abc"[number],
            letter=chr(ord("a") + b), t=s + 4,
        )

    return name


def counted(spec: ResNetSpec, start: int = 0, gap: int = 1, side_first: bool = True) -> Callable[[TensorPosition, ResNetSpec], str]:
    """Keras' names of layers that nobody has named: counted by kind, in the order in which the
    code makes them.
    """
    counts = {"conv": start, "norm": start, "linear": start}
    bases = {"conv": "conv2d", "norm": "batch_normalization", "linear": "dense"}
    names: dict[str, str] = {}
    for layer in in_order(spec, side_first=side_first):
        kind = leaf_kind(place_of(layer).kind)
        number = counts[kind]
        names[layer] = bases[kind] + (f"_{number}" if number else "")
        counts[kind] += gap if number % 3 else 1
    return lambda place, _: names[place.layer]


def in_order(spec: ResNetSpec, *, side_first: bool) -> Iterator[str]:
    """The layers as code would make them: norms in front of their convolutions or behind them."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in make_plan(spec).tensors))
    pre = spec.block.order == "full_pre"

    def key(layer: str) -> tuple[int, int, int, int, int]:
        place = place_of(layer)
        if place.kind.startswith("stem"):
            return (0, 0, 0, int(place.kind[-1]), "norm" in place.kind)
        if place.kind in ("final_norm", "head"):
            return (2, 0, 0, 0, place.kind == "head")
        side = place.kind.startswith(("shortcut", "gate"))
        at = (0.5 if pre else 0) if side_first else 9
        number = at if side else place.number
        norm = "norm" in place.kind
        within = (not norm if pre and not side else norm)
        # a pre-activation's first norm stands before the shortcut's convolution
        if pre and place.kind == "norm" and place.number == 1:
            number = 0
        return (1, place.stage, place.block, int(number * 10), within)

    return iter(sorted(layers, key=key))


_BODY = _table(
    {
        "stem.conv": "0.{i}",
        "stem.norm": "0.{j}",
        "conv": "{t}.{b}.conv{k}",
        "norm": "{t}.{b}.bn{k}",
        "shortcut.conv": "{t}.{b}.downsample.0",
        "shortcut.norm": "{t}.{b}.downsample.1",
        "gate": "{t}.{b}.gate",
        "final_norm": "8",
        "head": "10",
    }
)


def _children(place: TensorPosition, spec: ResNetSpec) -> str:
    """As `nn.Sequential(*model.children())` has it; a deep stem is a sequence in it."""
    last = len(spec.stem.convs)
    if place.kind == f"stem.norm{last}":
        return "1"
    return "0" if place.kind == "stem.conv1" and last == 1 else _BODY(place, spec)


DIALECTS: dict[str, Dialect] = {
    "short": Dialect(_table({
        "stem.conv": "stem.c{k}", "stem.norm": "stem.n{k}", "conv": "stage{s1}.{b}.c{k}", "norm": "stage{s1}.{b}.n{k}",
        "shortcut.conv": "stage{s1}.{b}.skip.0", "shortcut.norm": "stage{s1}.{b}.skip.1", "gate": "stage{s1}.{b}.gate",
        "final_norm": "last.norm", "head": "classify"}), TORCH),
    "pytorchcv": Dialect(_table({
        "stem.conv": "features.init_block.conv{k}.conv", "stem.norm": "features.init_block.conv{k}.bn",
        "conv": "features.stage{s1}.unit{b1}.body.conv{k}.conv", "norm": "features.stage{s1}.unit{b1}.body.conv{k}.bn",
        "shortcut.conv": "features.stage{s1}.unit{b1}.identity_conv.conv",
        "shortcut.norm": "features.stage{s1}.unit{b1}.identity_conv.bn", "gate": "features.stage{s1}.unit{b1}.gate",
        "final_norm": "features.post_activ.bn", "head": "output"}), TORCH),
    "features": Dialect(_table({
        "stem.conv": "features.0.{i}", "stem.norm": "features.0.{j}", "conv": "features.{t}.unit{b}.body.conv{k}",
        "norm": "features.{t}.unit{b}.body.bn{k}", "shortcut.conv": "features.{t}.unit{b}.id.conv",
        "shortcut.norm": "features.{t}.unit{b}.id.bn", "gate": "features.{t}.unit{b}.gate", "final_norm": "features.9",
        "head": "fc.1"}), TORCH),
    "children": Dialect(_children, TORCH),
    "fastai": Dialect(_table({
        "stem.conv": "0.0.{k0}.0", "stem.norm": "0.0.{k0}.1", "conv": "0.{t}.{b}.convs.{k0}.0",
        "norm": "0.{t}.{b}.convs.{k0}.1", "shortcut.conv": "0.{t}.{b}.idpath.0", "shortcut.norm": "0.{t}.{b}.idpath.1",
        "gate": "0.{t}.{b}.gate", "final_norm": "0.8", "head": "1.8"}), TORCH),
    "sequential": Dialect(_table({
        "stem.conv": "conv1.{i}", "stem.norm": "conv1.{j}", "conv": "conv{s2}_x.{b}.residual_function.{i}",
        "norm": "conv{s2}_x.{b}.residual_function.{j}", "shortcut.conv": "conv{s2}_x.{b}.shortcut.0",
        "shortcut.norm": "conv{s2}_x.{b}.shortcut.1", "gate": "conv{s2}_x.{b}.gate", "final_norm": "norm", "head": "fc"}),
        TORCH),
    "detectron2": Dialect(_table({
        "stem.conv": "stem.conv{k}", "stem.norm": "stem.conv{k}.norm", "conv": "res{s2}.{b}.conv{k}",
        "norm": "res{s2}.{b}.conv{k}.norm", "shortcut.conv": "res{s2}.{b}.shortcut",
        "shortcut.norm": "res{s2}.{b}.shortcut.norm", "gate": "res{s2}.{b}.gate", "final_norm": "norm", "head": "linear"}),
        TORCH),
    "caffe2": Dialect(_table({
        "stem.conv": "conv{k}", "stem.norm": "res_conv{k}_bn", "conv": "res{s2}_{b}_branch2{abc}",
        "norm": "res{s2}_{b}_branch2{abc}_bn", "shortcut.conv": "res{s2}_{b}_branch1",
        "shortcut.norm": "res{s2}_{b}_branch1_bn", "gate": "res{s2}_{b}_gate", "final_norm": "final_bn", "head": "pred"}),
        CAFFE2),
    "caffe": Dialect(_table({
        "stem.conv": "conv{k}", "stem.norm": "bn_conv{k}", "conv": "res{s2}{letter}_branch2{abc}",
        "norm": "bn{s2}{letter}_branch2{abc}", "shortcut.conv": "res{s2}{letter}_branch1",
        "shortcut.norm": "bn{s2}{letter}_branch1", "gate": "res{s2}{letter}_gate", "final_norm": "bn_last", "head": "fc1000"}),
        KERAS, last=True),
    "mxnet": Dialect(_table({
        "stem.conv": "conv{k0}", "stem.norm": "bn{k0}", "conv": "stage{s1}_unit{b1}_conv{k}",
        "norm": "stage{s1}_unit{b1}_bn{k}", "shortcut.conv": "stage{s1}_unit{b1}_sc",
        "shortcut.norm": "stage{s1}_unit{b1}_sc_bn", "gate": "stage{s1}_unit{b1}_gate", "final_norm": "bn_last", "head": "fc1"}),
        GLUON),
    "paddle": Dialect(_table({
        "stem.conv": "stem{k}._conv", "stem.norm": "stem{k}._batch_norm", "conv": "bb_{s}_{b}.conv{k0}._conv",
        "norm": "bb_{s}_{b}.conv{k0}._batch_norm", "shortcut.conv": "bb_{s}_{b}.short._conv",
        "shortcut.norm": "bb_{s}_{b}.short._batch_norm", "gate": "bb_{s}_{b}.gate", "final_norm": "norm", "head": "out"}),
        PADDLE, shape=lambda tensor, shape: shape[::-1] if tensor == "head.weight" else shape),
    "slim": Dialect(_table({
        "stem.conv": "resnet/conv{k}", "stem.norm": "resnet/conv{k}/BatchNorm", "conv": "resnet/block{s1}/unit_{b1}/bottleneck_v1/conv{k}",
        "norm": "resnet/block{s1}/unit_{b1}/bottleneck_v1/conv{k}/BatchNorm",
        "shortcut.conv": "resnet/block{s1}/unit_{b1}/bottleneck_v1/shortcut",
        "shortcut.norm": "resnet/block{s1}/unit_{b1}/bottleneck_v1/shortcut/BatchNorm",
        "gate": "resnet/block{s1}/unit_{b1}/bottleneck_v1/gate", "final_norm": "resnet/postnorm", "head": "resnet/logits"}),
        SLIM, last=True, shape=lambda tensor, shape: (1, 1, *shape) if tensor == "head.weight" else shape),
    "haiku": Dialect(_table({
        "stem.conv": "res_net50/~/initial_conv_{k0}", "stem.norm": "res_net50/~/initial_batchnorm_{k0}",
        "conv": "res_net50/~/block_group_{s}/~/block_{b}/~/conv_{k0}", "norm": "res_net50/~/block_group_{s}/~/block_{b}/~/batchnorm_{k0}",
        "shortcut.conv": "res_net50/~/block_group_{s}/~/block_{b}/~/shortcut_conv",
        "shortcut.norm": "res_net50/~/block_group_{s}/~/block_{b}/~/shortcut_batchnorm",
        "gate": "res_net50/~/block_group_{s}/~/block_{b}/~/gate", "final_norm": "res_net50/~/final_batchnorm",
        "head": "res_net50/~/logits"}), HAIKU, last=True,
        shape=lambda tensor, shape: (1, 1, 1, *shape) if "norm" in tensor else shape),
    "hf-flax": Dialect(_table({
        "stem.conv": "resnet/embedder/embedder/{k0}/convolution", "stem.norm": "resnet/embedder/embedder/{k0}/normalization",
        "conv": "resnet/encoder/stages/{s}/layers/{b}/layer/{k0}/convolution",
        "norm": "resnet/encoder/stages/{s}/layers/{b}/layer/{k0}/normalization",
        "shortcut.conv": "resnet/encoder/stages/{s}/layers/{b}/shortcut/convolution",
        "shortcut.norm": "resnet/encoder/stages/{s}/layers/{b}/shortcut/normalization",
        "gate": "resnet/encoder/stages/{s}/layers/{b}/gate", "final_norm": "resnet/norm", "head": "classifier/1"}), FLAX, last=True),
    "linen": Dialect(_table({
        "stem.conv": "backbone/Stem_0/Conv_{k0}", "stem.norm": "backbone/Stem_0/BatchNorm_{k0}",
        "conv": "backbone/Unit_{n}/Conv_{k0}", "norm": "backbone/Unit_{n}/BatchNorm_{k0}",
        "shortcut.conv": "backbone/Unit_{n}/Projection_0/Conv_0", "shortcut.norm": "backbone/Unit_{n}/Projection_0/BatchNorm_0",
        "gate": "backbone/Unit_{n}/gate", "final_norm": "backbone/BatchNorm_0", "head": "Dense_0"}), FLAX, last=True),
}  # fmt: skip


def renamed(spec: ResNetSpec, dialect: Dialect) -> tuple[dict[str, Entry], dict[str, str]]:
    """The network's tensors in a dialect, and canonical name -> the dialect's."""
    entries, truth = {}, {}
    for tensor, shape in make_plan(spec).tensors.items():
        layer, _, leaf = tensor.rpartition(".")
        place = place_of(layer)
        name = dialect.leaves[f"{leaf_kind(place.kind)}.{leaf}"].format(
            layer=dialect.layer(place, spec)
        )
        if dialect.last:
            shape = tuple(shape[axis] for axis in {4: (2, 3, 1, 0), 2: (1, 0)}.get(len(shape), range(len(shape))))
        entries[name], truth[tensor] = entry(*dialect.shape(tensor, shape)), name
    assert len(entries) == len(truth)
    return entries, truth
