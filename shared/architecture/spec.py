"""`ResNetSpec`: what a person writes to describe a ResNet, of either version and any known family.

A spec is frozen, is validated when it is created, and round-trips through JSON. Each field exists
because at least one published network needs it; what a field does to the layers is decided in
`shared.architecture.plan`, once.

Sources of the fields: He et al. 2015 (arXiv:1512.03385, "V1") and 2016 (arXiv:1603.05027, "V2"),
and the reference implementations that `shared.architecture.presets` names family by family.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import typing
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from shared.architecture.fields import CheckedDataclass, coerce, field_types, is_sequence
from shared.errors import SpecError, nearest

MAX_CHANNELS = 1 << 16
MAX_BLOCKS = 1 << 12
MAX_IMAGE_SIZE = 1 << 13

Padding = Literal["symmetric", "same"]
Order = Literal["post", "norm_after_add", "act_before_add", "act_only_pre", "full_pre"]


@dataclass(frozen=True, kw_only=True)
class StemSpec:
    """The layers in front of the first stage.

    `convs` are (kernel, stride, width) triples, with norm and ReLU between them always.
    `padding="same"` is TensorFlow's: at stride 2 and an even size it pads (k//2 - 1, k//2).
    """

    convs: tuple[tuple[int, int, int], ...] = ((7, 2, 64),)
    norm_act: bool = True  # norm and ReLU after the last convolution; V2 stems end bare
    bias: bool = False
    padding: Padding = "symmetric"
    pool: Literal["none", "max"] = "max"  # max: 3 x 3, stride 2
    # What the max pool sees outside the image: -inf, a zero that competes with negative
    # values (keras.applications, BiT), or -inf on TensorFlow's SAME grid.
    pool_padding: Literal["symmetric", "zero", "same"] = "symmetric"


@dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """The residual unit.

    `order` is the order of norm, activation and convolution (V2 paper, figure 4): `post` (a)
    original, `norm_after_add` (b), `act_before_add` (c), `act_only_pre` (d), `full_pre` (e).
    """

    kind: Literal["basic", "bottleneck"] = "bottleneck"
    order: Order = "post"
    # Which convolution carries the stride. Bottleneck: 1 = the first 1 x 1 (V1 as published),
    # 2 = the 3 x 3 ("V1.5", torchvision). Basic blocks stride in their first.
    stride_conv: Literal[1, 2] = 2
    stride_block: Literal["first", "last"] = "first"  # last: keras.applications V2
    groups: int = 1
    base_width: int = 64  # mid width of a bottleneck: int(width * base_width / 64) * groups
    bias: bool = False  # on the convolutions that a norm follows inside the block
    last_bias: bool = False  # on the block's last convolution
    padding: Padding = "symmetric"
    # False: the very first unit skips its own pre-activation, because the stem has done it
    # (V2 paper, appendix; fb.resnet.torch).
    first_preact: bool = True


@dataclass(frozen=True, kw_only=True)
class ShortcutSpec:
    """The path around the residual branch, and how the two are joined."""

    # Where a 1 x 1 projection stands: never (option A), where the channels change (B),
    # where the shape changes, in the first block of every stage, in every block (C).
    projection: Literal["never", "channels", "shape", "entry", "always"] = "shape"
    norm: bool = True  # norm after the projection
    bias: bool = False
    pool: Literal["none", "avg"] = (
        "none"  # avg: ResNet-D, 2 x 2 average pool, then an unstrided 1 x 1
    )
    # In pre-activation units: which shortcuts see the activated tensor instead of the raw one.
    preact: Literal["never", "projection", "stage_entry"] = "projection"
    zero_pad: Literal["split", "tail"] = "split"  # side of option A's zero channels
    # How the shortcut x and the branch F(x) are joined (V2 paper, table 1). With the gate
    # g(x) = sigmoid(W x + b): exclusive_gate (1-g) x + g F, shortcut_gate (1-g) x + F.
    join: Literal["add", "scale", "exclusive_gate", "shortcut_gate", "dropout"] = "add"
    scales: tuple[float, float] = (1.0, 1.0)  # of shortcut and branch, for join="scale"
    dropout: float = 0.5  # rate on the shortcut while training, for join="dropout"


@dataclass(frozen=True, kw_only=True)
class NormSpec:
    """Batch or group normalisation. `momentum` is the weight of the old running value."""

    kind: Literal["batch", "group"] = "batch"
    eps: float = 1e-5
    momentum: float = 0.9
    # Of which variance of a batch the running one is an average. The batch itself is normalised by
    # the biased one everywhere; PyTorch, Caffe and TensorFlow's fused kernels store n / (n - 1)
    # times it, Keras 3 and Flax store it as it is.
    running_var: Literal["unbiased", "biased"] = "unbiased"
    groups: int = 32  # of group normalisation


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """What follows the last stage."""

    # V2 nets normalise and activate once more after the last addition; an activation-only
    # unit (order act_only_pre) needs just the activation.
    final: Literal["none", "act", "norm_act"] = "none"
    pool: Literal["none", "avg", "max"] = "avg"


@dataclass(frozen=True, kw_only=True)
class InitSpec:
    """How fresh weights are drawn. Ports and proofs do not depend on it; training does."""

    conv: Literal[
        "kaiming_normal_fan_out",
        "kaiming_normal_fan_in",
        "he_normal_truncated",
        "glorot_uniform",
        "lecun_normal",
        "torch_default",
    ] = "kaiming_normal_fan_out"
    head: Literal[
        "torch_default",
        "glorot_uniform",
        "lecun_normal",
        "normal_0.01",
        "kaiming_normal_fan_in",
        "zeros",
    ] = "torch_default"
    zero_residual: bool = False  # gamma of each block's last norm starts at 0
    gate_bias: float = 0.0  # b_g of the gated joins


@dataclass(frozen=True, kw_only=True)
class ResNetSpec(CheckedDataclass):
    """One ResNet. Raises `SpecError` naming the field, the value and what is allowed.

    >>> ResNetSpec(depths=(2, 2), widths=(16, 32), strides=(1, 2), dilate=(False, False)).depths
    (2, 2)
    >>> ResNetSpec().replace(depths=[3, 4, 23, 3], norm_eps=1e-3).norm.eps
    0.001
    """

    label: ClassVar[str] = "spec"

    name: str = "custom"
    in_channels: int = 3
    image_size: int = 224  # side of the square image that the published network takes, in pixels
    num_classes: int = 1000  # 0: no classifier; the network returns what the pooling leaves
    depths: tuple[int, ...] = (3, 4, 6, 3)  # blocks a stage
    widths: tuple[int, ...] = (
        64,
        128,
        256,
        512,
    )  # "planes"; a bottleneck stage is four times as wide
    strides: tuple[int, ...] = (1, 2, 2, 2)
    dilate: tuple[bool, ...] = (False, False, False, False)  # trade a stage's stride for dilation
    weight_std_eps: float | None = None  # weight standardisation of every convolution (BiT)
    stem: StemSpec = field(default_factory=StemSpec)
    block: BlockSpec = field(default_factory=BlockSpec)
    shortcut: ShortcutSpec = field(default_factory=ShortcutSpec)
    norm: NormSpec = field(default_factory=NormSpec)
    head: HeadSpec = field(default_factory=HeadSpec)
    init: InitSpec = field(default_factory=InitSpec)

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate(self)

    @property
    def expansion(self) -> int:
        """Output channels of a block over its width."""
        return 4 if self.block.kind == "bottleneck" else 1

    def replace(self, /, **changes: Any) -> ResNetSpec:
        """A copy with fields changed.

        A key is a field (`num_classes`), or a field of a group written `group.field` or
        `group_field` (`norm.eps`, `norm_eps`); a group may also be given whole. A change of
        `depths` to another number of stages cuts the other per-stage fields to that length.
        """
        top: dict[str, Any] = {}
        groups: dict[str, dict[str, Any]] = {}
        for key, value in changes.items():
            path = _field_paths().get(key)
            if path is None:
                raise SpecError(f"spec has no field {key!r}{nearest(key, _field_paths())}")
            if len(path) == 2:
                groups.setdefault(path[0], {})[path[1]] = value
            else:
                top[path[0]] = value
        stages = len(top.get("depths", self.depths)) if is_sequence(top.get("depths", ())) else 0
        for per_stage in ("widths", "strides", "dilate"):
            if per_stage not in top and 0 < stages < len(self.depths):
                top[per_stage] = getattr(self, per_stage)[:stages]
        for group, values in groups.items():
            current = top.get(group, getattr(self, group))
            if not dataclasses.is_dataclass(current):
                current = coerce(current, field_types(ResNetSpec)[group], group)
            coerced = {
                name: coerce(value, field_types(type(current))[name], f"{group}.{name}")
                for name, value in values.items()
            }
            top[group] = dataclasses.replace(current, **coerced)
        return dataclasses.replace(self, **top)


def parse_setting(text: str) -> tuple[str, Any]:
    """`key=value` from the command line as a pair for `ResNetSpec.replace`.

    Values are JSON, or bare words, or comma-separated lists: `depths=2,2,2,2`, `stem.pool=none`.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise SpecError(f"--set {text!r} is not of the form key=value, for example num_classes=10")
    key, value = key.strip(), value.strip()
    for candidate in (value, f"[{value}]", value.lower()):
        try:
            parsed = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        return key, parsed
    return key, value


@functools.cache
def _field_paths() -> dict[str, tuple[str, ...]]:
    """Every way to write a field in `replace`, and where the field is."""
    paths: dict[str, tuple[str, ...]] = {}
    for name, annotation in field_types(ResNetSpec).items():
        if dataclasses.is_dataclass(annotation):
            for inner in field_types(typing.cast(type, annotation)):
                paths[f"{name}.{inner}"] = paths[f"{name}_{inner}"] = (name, inner)
        paths[name] = (name,)
    return paths


def _validate(spec: ResNetSpec) -> None:
    """Refuse what no network can be; the message names the field, the value and what is allowed."""

    def require(condition: bool, where: str, value: Any, allowed: str) -> None:
        if not condition:
            raise SpecError(f"{where} = {_show(value)}: {allowed}")

    def in_range(where: str, value: int, low: int, high: int) -> None:
        require(low <= value <= high, where, value, f"must be from {low} to {high}")

    block, shortcut, norm, head, stem = spec.block, spec.shortcut, spec.norm, spec.head, spec.stem
    in_range("in_channels", spec.in_channels, 1, MAX_CHANNELS)
    in_range("image_size", spec.image_size, 1, MAX_IMAGE_SIZE)
    in_range("num_classes", spec.num_classes, 0, 1 << 20)
    stages = len(spec.depths)
    in_range("number of stages (depths)", stages, 1, 8)
    for per_stage in ("widths", "strides", "dilate"):
        value = getattr(spec, per_stage)
        require(
            len(value) == stages,
            per_stage,
            value,
            f"must have one entry for each of the {stages} stages in depths",
        )
    require(
        all(d >= 1 for d in spec.depths),
        "depths",
        spec.depths,
        "every stage needs at least one block",
    )
    require(
        sum(spec.depths) <= MAX_BLOCKS, "depths", spec.depths, f"at most {MAX_BLOCKS} blocks in all"
    )
    for width in spec.widths:
        in_range("widths", width, 1, MAX_CHANNELS)
    for stride in spec.strides:
        in_range("strides", stride, 1, 4)
    require(len(stem.convs) >= 1, "stem.convs", stem.convs, "at least one convolution")
    for kernel, stride, width in stem.convs:
        require(
            kernel % 2 == 1 and 1 <= kernel <= 15,
            "stem.convs kernel",
            kernel,
            "must be odd, from 1 to 15",
        )
        in_range("stem.convs stride", stride, 1, 4)
        in_range("stem.convs width", width, 1, MAX_CHANNELS)
    in_range("block.groups", block.groups, 1, MAX_CHANNELS)
    in_range("block.base_width", block.base_width, 1, MAX_CHANNELS)
    if block.kind == "basic":
        hint = "basic blocks have no groups and no width of their own; use block.kind=bottleneck"
        require(block.groups == 1, "block.groups", block.groups, hint)
        require(block.base_width == 64, "block.base_width", block.base_width, hint)
        require(
            block.stride_conv == 1,
            "block.stride_conv",
            block.stride_conv,
            "basic blocks stride in convolution 1",
        )
    for width in spec.widths:
        mid = int(width * block.base_width / 64) * block.groups
        in_range(f"mid width of width {width}", mid, 1, MAX_CHANNELS)
    if block.order != "full_pre":
        require(
            head.final != "norm_act",
            "head.final",
            head.final,
            "norm_act belongs to block.order=full_pre",
        )
    if block.order not in ("full_pre", "act_only_pre"):
        require(
            head.final == "none",
            "head.final",
            head.final,
            f"must be none for block.order={block.order}",
        )
        require(
            block.first_preact,
            "block.first_preact",
            False,
            "only pre-activation orders can skip the first one",
        )
    if not block.first_preact:
        require(
            stem.norm_act, "stem.norm_act", False, "must be true when block.first_preact is false"
        )
    require(
        not (shortcut.pool == "avg" and max(spec.strides) > 2),
        "strides",
        spec.strides,
        "at most 2 where shortcut.pool=avg pools 2 x 2",
    )
    require(
        0.0 <= shortcut.dropout < 1.0, "shortcut.dropout", shortcut.dropout, "must be in [0, 1)"
    )
    require(norm.eps > 0, "norm.eps", norm.eps, "must be positive")
    require(
        0.0 <= norm.momentum < 1.0,
        "norm.momentum",
        norm.momentum,
        "must be in [0, 1): the weight of the old running value",
    )
    require(
        spec.weight_std_eps is None or spec.weight_std_eps > 0,
        "weight_std_eps",
        spec.weight_std_eps,
        "must be positive or null",
    )
    require(
        not (spec.num_classes and head.pool == "none"),
        "head.pool",
        head.pool,
        "a classifier needs pooled features; use avg or max, or num_classes=0",
    )
    if shortcut.projection == "never":
        channels = [stem.convs[-1][2], *(w * spec.expansion for w in spec.widths)]
        require(
            channels == sorted(channels),
            "shortcut.projection",
            "never",
            f"zero-padding cannot drop channels, and these shrink: {channels}",
        )
    if norm.kind == "group":
        in_range("norm.groups", norm.groups, 1, MAX_CHANNELS)
        mids = [int(w * block.base_width / 64) * block.groups for w in spec.widths]
        for normed in sorted(
            {*(w for _, _, w in stem.convs), *mids, *(w * spec.expansion for w in spec.widths)}
        ):
            require(
                normed % norm.groups == 0,
                "norm.groups",
                norm.groups,
                f"does not divide {normed} channels",
            )


def _show(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value
