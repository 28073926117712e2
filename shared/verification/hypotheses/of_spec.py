"""Mistakes that are another network: every field of the spec that changes what is computed.

Values of fields with a short list (`Literal`, bool) come from the spec itself; those of numbers are
the ones that frameworks and published networks use.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import typing
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any, Literal

from shared.architecture.fields import field_types
from shared.architecture.spec import ResNetSpec
from shared.verification.hypotheses.hypothesis import Hypothesis, Port, respecced, setting

# What a field is called in a sentence.
WORDS = {
    "anti_alias": "the anti-aliasing",
    "block.bias": "the bias of the convolutions inside the blocks",
    "block.dropout": "the dropout between the convolutions of a block",
    "block.first_preact": "the pre-activation of the very first block",
    "block.last_bias": "the bias of the last convolution of each block",
    "block.order": "the order of norm, activation and convolution",
    "block.padding": "the padding of the convolutions in the blocks",
    "block.stride_block": "the block of a stage that strides",
    "block.stride_conv": "the convolution of a block that strides",
    "depths": "the number of blocks of each stage",
    "dilate": "the stages that dilate instead of striding",
    "head.final": "what follows the last block",
    "head.pool": "the global pool",
    "norm.eps": "the norms' epsilon",
    "norm.folded": "the folding of the norms into the convolutions",
    "norm.groups": "the number of groups of the norms",
    "norm.momentum": "the momentum of the running statistics (the weight of the old value)",
    "norm.running_var": "the variance that is stored",
    "shortcut.bias": "the bias of the projections",
    "shortcut.join": "how shortcut and branch are merged",
    "shortcut.norm": "the norm behind the projections",
    "shortcut.pool": "the pool in front of the projections",
    "shortcut.preact": "which shortcuts see the activated tensor",
    "shortcut.projection": "where projections stand",
    "shortcut.scales": "the scales of shortcut and branch",
    "shortcut.zero_pad": "the side of the zero channels",
    "stem.bias": "the bias of the stem's convolutions",
    "stem.convs": "the stem's convolutions (kernel, stride, width)",
    "stem.input_norm": "the norm of the images",
    "stem.norm_act": "the norm and ReLU behind the stem",
    "stem.padding": "the padding of the stem's convolutions",
    "stem.pool": "the stem's pool",
    "stem.pool_padding": "what the stem's pool sees outside the image",
    "strides": "the strides of the stages",
    "weight_std_eps": "the epsilon of weight standardisation",
}
REMARKS = {
    ("block.padding", "same"): "TensorFlow's SAME, the default of Flax: the odd pixel at the end",
    ("stem.padding", "same"): "TensorFlow's SAME, the default of Flax: the odd pixel at the end",
    ("stem.pool_padding", "same"): "TensorFlow's SAME grid",
    ("stem.pool_padding", "zero"): "zeros that compete with the image, not -inf",
    ("stem.pool_padding", "symmetric"): "one pixel of -inf on each side",
    ("stem.pool_padding", "ceil"): "Caffe's rounding up",
    ("stem.pool_padding", "valid"): "no padding, the default of Keras",
    ("stem.input_norm", "affine"): "with gamma and beta",
    ("stem.input_norm", "shift"): "with beta alone, as MXNet's bn_data",
    ("shortcut.preact", "always"): "identities, too",
    ("block.stride_conv", 1): "the first 1 x 1, as the paper and keras.applications have it",
    ("block.stride_conv", 2): "the 3 x 3, V1.5 as torchvision has it",
    ("norm.eps", 1e-3): "the default of Keras",
    ("norm.eps", 1.001e-5): "that of keras.applications",
    ("norm.eps", 1e-5): "the default of PyTorch and Flax",
    ("norm.folded", True): "of the network alone: kernels and biases are as without it",
    ("norm.running_var", "biased"): "as Keras 3 and Flax store it",
    ("norm.running_var", "unbiased"): "n / (n - 1) times the biased one, as PyTorch stores it",
}

EPS = (0.0, 1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1.001e-5, 2e-5, 1e-4, 1e-3, 1e-2)
MOMENTA = (0.0, 0.01, 0.1, 0.9, 0.99, 0.997, 0.999)
STD_EPS = (None, 1e-10, 1e-8, 1e-6, 1e-5, 1e-3)
STRIDES = (
    (1, 2, 2, 2),
    (2, 2, 2, 1),
    (1, 2, 2, 1),
    (1, 2, 1, 1),
    (1, 1, 2, 2),
    (1, 2, 1, 2),
    (2, 2, 2, 2),
    (1, 1, 1, 1),
)
# Fields whose mistakes are seen most.
LIKELY = (
    "block.padding",
    "stem.padding",
    "stem.pool_padding",
    "norm.eps",
    "block.stride_conv",
    "stem.pool",
)
# Whole networks of another convention: their parts are single mistakes, too.
TOGETHER: tuple[Mapping[str, Any], ...] = (
    {"stem.padding": "same", "block.padding": "same"},
    {"stem.padding": "same", "stem.pool_padding": "same"},
    {"stem.pool_padding": "same", "block.padding": "same"},
    {"stem.padding": "same", "stem.pool_padding": "same", "block.padding": "same"},
    {"stem.padding": "symmetric", "block.padding": "symmetric"},
    {"stem.padding": "symmetric", "stem.pool_padding": "symmetric", "block.padding": "symmetric"},
)
# Without effect on what given weights compute, or fixed by the shapes of the tensors and images.
_NOT_MISTAKES = {"block.kind", "norm.kind", "block.order", "block.dropout", "shortcut.dropout"}
TRAINING_FIELDS = ("norm.momentum", "norm.running_var")  # evaluation does not depend on them


def spec_change(value: Any, key: str, **more: Any) -> Hypothesis:
    """A field with another value; `more` are fields that go with it, as `group.field`."""
    changes = {key: value, **more}
    name = " ".join(setting(k, v) for k, v in changes.items())
    return Hypothesis(
        "spec",
        name,
        _sentence(changes),
        functools.partial(respecced, changes=changes),
        set=changes,
        rank=0 if key in LIKELY else 1,
        shows_in="training" if key in TRAINING_FIELDS else "everything",
    )


def _sentence(changes: Mapping[str, Any]) -> str:
    parts = []
    for key, value in changes.items():
        remark = REMARKS.get((key, value)) if not isinstance(value, (list, tuple)) else None
        shown = setting(key, value).partition("=")[2]
        shown = {"true": "there", "false": "left out"}.get(shown, shown)
        parts.append(f"{WORDS.get(key, key)} is {shown}" + (f" ({remark})" if remark else ""))
    return " and ".join(parts)


def of_spec(spec: ResNetSpec) -> Iterator[Hypothesis]:
    """Every change of `spec` to another network."""
    for key, values in _values(spec).items():
        for value in values:
            if value != attrgetter(key)(spec):
                yield spec_change(value, key)
    for changes in TOGETHER:
        if sum(attrgetter(key)(spec) != value for key, value in changes.items()) > 1:
            (key, value), *rest = changes.items()
            yield spec_change(value, key, **dict(rest))
    yield from _orders(spec)
    yield from _dilations(spec)
    yield from _depths(spec)


@functools.lru_cache(maxsize=64)
def _values(spec: ResNetSpec) -> dict[str, tuple[Any, ...]]:
    """Field -> the values that are tried."""
    values: dict[str, tuple[Any, ...]] = {
        "norm.eps": EPS,
        "weight_std_eps": STD_EPS if spec.weight_std_eps is not None else (1e-10, 1e-5),
        "norm.momentum": tuple(dict.fromkeys((round(1 - spec.norm.momentum, 9), *MOMENTA))),
        "anti_alias": ("none", "average", "blur"),
    }
    for group in ("stem", "block", "shortcut", "norm", "head"):
        for name, annotation in field_types(type(getattr(spec, group))).items():
            key = f"{group}.{name}"
            if key in _NOT_MISTAKES:
                continue
            if annotation is bool:
                values[key] = (True, False)
            elif typing.get_origin(annotation) is Literal:
                values[key] = typing.get_args(annotation)
    if spec.norm.kind == "group":
        values["norm.groups"] = tuple(dict.fromkeys((*(2**k for k in range(9)), *spec.widths)))
    if spec.shortcut.join == "scale":
        keep, take = spec.shortcut.scales
        values["shortcut.scales"] = ((1.0, take), (keep, 1.0), (1.0, 1.0), (take, keep))
    if spec.shortcut.projection != "never" and spec.shortcut.join == "add":
        values["shortcut.join"] = ()
    stages = len(spec.depths)
    strides = {*(s[:stages] for s in STRIDES), *itertools.permutations(spec.strides)}
    values["strides"] = tuple(sorted(s for s in strides if len(s) == stages))
    values["stem.convs"] = tuple(_stem_strides(spec))
    return values


def _stem_strides(spec: ResNetSpec) -> Iterator[tuple[tuple[int, int, int], ...]]:
    """The stem's convolutions with the stride of one changed."""
    convs = spec.stem.convs
    for i, (kernel, stride, width) in enumerate(convs):
        yield (*convs[:i], (kernel, 1 if stride > 1 else 2, width), *convs[i + 1 :])


def _orders(spec: ResNetSpec) -> Iterator[Hypothesis]:
    """Another order of norm, activation and convolution, and the end of the network that goes
    with it.
    """
    for order in ("post", "norm_after_add", "act_before_add", "act_only_pre", "full_pre"):
        if order == spec.block.order:
            continue
        ends = {"act_only_pre": "act", "full_pre": "norm_act"}
        wanted = ends.get(order, "none") if spec.block.order in ends else "none"
        more = {} if wanted == spec.head.final else {"head.final": wanted}
        yield spec_change(order, "block.order", **more)


def _dilations(spec: ResNetSpec) -> Iterator[Hypothesis]:
    """Stages that dilate instead of striding, or no longer; and that do neither."""
    stages = len(spec.depths)
    for first in range(1, stages + 1):
        dilate = (False,) * first + (True,) * (stages - first)
        if dilate != spec.dilate:
            yield spec_change(dilate, "dilate")
    if any(spec.dilate):
        strides = tuple(1 if d else s for s, d in zip(spec.strides, spec.dilate, strict=True))
        if strides != spec.strides:
            yield spec_change(strides, "strides", dilate=(False,) * stages)
        return
    for i, stride in enumerate(spec.strides):
        if i and stride == 1:
            strides = tuple(2 if j == i else s for j, s in enumerate(spec.strides))
            dilate = tuple(j == i for j in range(stages))
            yield spec_change(strides, "strides", dilate=dilate)


def _depths(spec: ResNetSpec) -> Iterator[Hypothesis]:
    """A stage without its last block."""
    for i, depth in enumerate(spec.depths):
        if depth > 1:
            yield spec_change(tuple(d - (j == i) for j, d in enumerate(spec.depths)), "depths")


def parts_of(hypothesis: Hypothesis) -> tuple[Hypothesis, ...]:
    """The changes of single fields that a change of several consists of."""
    if len(hypothesis.set) < 2:
        return (hypothesis,)
    return tuple(spec_change(value, key) for key, value in hypothesis.set.items())


def in_training_only(hypothesis: Hypothesis) -> Hypothesis:
    """A change of the spec that only the training branch has."""

    def change(port: Port) -> Port | None:
        changed = hypothesis(port)
        if changed is None or changed.weights.keys() != port.weights.keys():
            return None
        return dataclasses.replace(port, training_spec=changed.spec)

    return dataclasses.replace(
        hypothesis,
        name=f"{hypothesis.name} in training only",
        what=f"in training only, {hypothesis.what}",
        change=change,
        rank=hypothesis.rank + 1,
        shows_in="training",
    )
