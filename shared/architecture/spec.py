"""`ResNetSpec`: the description of a ResNet, of either version and any known family.

A spec is frozen, is validated when it is created, and round-trips through JSON. Each field exists
because at least one published network needs it. What a field does to the layers is decided in
`shared.architecture.plan` alone.

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

from shared.architecture.fields import CheckedDataclass, coerce, field_types, is_sequence, require
from shared.architecture.groups import (
    BlockSpec,
    HeadSpec,
    InitSpec,
    NormSpec,
    ShortcutSpec,
    StemSpec,
)
from shared.errors import SpecError, nearest

MAX_CHANNELS = 1 << 16
MAX_BLOCKS = 1 << 12
MAX_IMAGE_SIZE = 1 << 13


@dataclass(frozen=True, kw_only=True)
class ResNetSpec(CheckedDataclass):
    """One ResNet. Raises `SpecError` naming the field, the value and what is allowed.

    `anti_alias` is timm's `aa_layer`, how an image is halved (Zhang 2019, arXiv:1904.11486):

    * none: by the convolution that strides, and by the stem's max pool;
    * average: by a 2 x 2 average pool in front of the last convolution of a block that strides,
      whose convolutions then do not, and in the place of the stem's max pool;
    * blur: by a 3 x 3 binomial filter in the same place of a block, and behind the stem's max pool,
      which then does not stride.

    The shortcut of such a block strides as in any other.

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
    depths: tuple[int, ...] = (3, 4, 6, 3)  # blocks of each stage
    # "Planes" of each stage; the output of a bottleneck is four times as wide.
    widths: tuple[int, ...] = (64, 128, 256, 512)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    dilate: tuple[bool, ...] = (False, False, False, False)  # trade a stage's stride for dilation
    anti_alias: Literal["none", "average", "blur"] = "none"
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

    @property
    def drops(self) -> bool:
        """Whether it has dropout."""
        return self.shortcut.join == "dropout" or self.block.dropout > 0

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


def _require(condition: bool, where: str, value: Any, allowed: str) -> None:
    """`require`, with the value as `--set` and JSON have it."""
    if not condition:
        require(False, where, value if isinstance(value, str) else json.dumps(value), allowed)


def _in_range(where: str, value: int, low: int, high: int) -> None:
    _require(low <= value <= high, where, value, f"must be from {low} to {high}")


def _validate(spec: ResNetSpec) -> None:
    """Refuse what no network can be; the message names the field, the value and what is allowed."""
    _in_range("in_channels", spec.in_channels, 1, MAX_CHANNELS)
    _in_range("image_size", spec.image_size, 1, MAX_IMAGE_SIZE)
    _in_range("num_classes", spec.num_classes, 0, 1 << 20)
    _validate_stages(spec)
    _validate_stem(spec.stem)
    _validate_block(spec)
    _validate_order(spec)
    _validate_shortcut(spec)
    _validate_norm(spec)
    _validate_anti_alias(spec)
    _require(
        not (spec.num_classes and spec.head.pool == "none"),
        "head.pool",
        spec.head.pool,
        "a classifier needs pooled features; use avg or max, or num_classes=0",
    )


def _validate_stages(spec: ResNetSpec) -> None:
    stages = len(spec.depths)
    _in_range("number of stages (depths)", stages, 1, 8)
    for name in ("widths", "strides", "dilate"):
        entries = getattr(spec, name)
        allowed = f"must have one entry for each of the {stages} stages in depths"
        _require(len(entries) == stages, name, entries, allowed)
    allowed = "every stage needs at least one block"
    _require(all(depth >= 1 for depth in spec.depths), "depths", spec.depths, allowed)
    allowed = f"at most {MAX_BLOCKS} blocks in all"
    _require(sum(spec.depths) <= MAX_BLOCKS, "depths", spec.depths, allowed)
    for width in spec.widths:
        _in_range("widths", width, 1, MAX_CHANNELS)
    for stride in spec.strides:
        _in_range("strides", stride, 1, 4)


def _validate_stem(stem: StemSpec) -> None:
    _require(len(stem.convs) >= 1, "stem.convs", stem.convs, "at least one convolution")
    for kernel, stride, width in stem.convs:
        possible = kernel % 2 == 1 and 1 <= kernel <= 15
        _require(possible, "stem.convs kernel", kernel, "must be odd, from 1 to 15")
        _in_range("stem.convs stride", stride, 1, 4)
        _in_range("stem.convs width", width, 1, MAX_CHANNELS)


def _validate_block(spec: ResNetSpec) -> None:
    block = spec.block
    _in_range("block.groups", block.groups, 1, MAX_CHANNELS)
    _in_range("block.base_width", block.base_width, 1, MAX_CHANNELS)
    if block.kind == "basic":
        hint = "basic blocks have no groups and no width of their own; use block.kind=bottleneck"
        _require(block.groups == 1, "block.groups", block.groups, hint)
        _require(block.base_width == 64, "block.base_width", block.base_width, hint)
        hint = "basic blocks stride in convolution 1"
        _require(block.stride_conv == 1, "block.stride_conv", block.stride_conv, hint)
    _require(0.0 <= block.dropout < 1.0, "block.dropout", block.dropout, "must be in [0, 1)")
    allowed = "must be 0 where there are not two convolutions; use block.kind=basic"
    possible = not block.dropout or block.kind == "basic"
    _require(possible, "block.dropout", block.dropout, allowed)
    for width, mid in zip(spec.widths, _mid_widths(spec), strict=True):
        _in_range(f"mid width of width {width}", mid, 1, MAX_CHANNELS)


def _mid_widths(spec: ResNetSpec) -> list[int]:
    """Of a bottleneck's 3 x 3 convolution, stage by stage."""
    return [int(width * spec.block.base_width / 64) * spec.block.groups for width in spec.widths]


def _validate_order(spec: ResNetSpec) -> None:
    """The fields that the order of norm, activation and convolution allows."""
    order, head, first_preact = spec.block.order, spec.head, spec.block.first_preact
    if order != "full_pre":
        allowed = "norm_act belongs to block.order=full_pre"
        _require(head.final != "norm_act", "head.final", head.final, allowed)
    if order not in ("full_pre", "act_only_pre"):
        allowed = f"must be none for block.order={order}"
        _require(head.final == "none", "head.final", head.final, allowed)
        allowed = "only pre-activation orders can skip the first one"
        _require(first_preact, "block.first_preact", False, allowed)
    allowed = "must be true when block.first_preact is false"
    _require(first_preact or spec.stem.norm_act, "stem.norm_act", False, allowed)


def _validate_shortcut(spec: ResNetSpec) -> None:
    shortcut = spec.shortcut
    possible = shortcut.pool != "avg" or max(spec.strides) <= 2
    _require(possible, "strides", spec.strides, "at most 2 where shortcut.pool=avg pools 2 x 2")
    possible = 0.0 <= shortcut.dropout < 1.0
    _require(possible, "shortcut.dropout", shortcut.dropout, "must be in [0, 1)")
    if shortcut.projection == "never":
        channels = [spec.stem.convs[-1][2], *(width * spec.expansion for width in spec.widths)]
        allowed = f"zero-padding cannot drop channels, and these shrink: {channels}"
        _require(channels == sorted(channels), "shortcut.projection", "never", allowed)


def _validate_norm(spec: ResNetSpec) -> None:
    norm, eps = spec.norm, spec.weight_std_eps
    _require(norm.eps >= 0, "norm.eps", norm.eps, "must not be negative")
    allowed = "must be in [0, 1): the weight of the old running value"
    _require(0.0 <= norm.momentum < 1.0, "norm.momentum", norm.momentum, allowed)
    _require(eps is None or eps > 0, "weight_std_eps", eps, "must be positive or null")
    _require(
        norm.kind == "batch" or not norm.folded,
        "norm.folded",
        norm.folded,
        "must be false for group norms: they have no fixed scale",
    )
    input_norm = spec.stem.input_norm
    allowed = "must be none where norm.kind=group: it is a batch norm"
    _require(norm.kind == "batch" or input_norm == "none", "stem.input_norm", input_norm, allowed)
    if norm.kind == "group":
        _in_range("norm.groups", norm.groups, 1, MAX_CHANNELS)
        outputs = (width * spec.expansion for width in spec.widths)
        normed = {*(width for _, _, width in spec.stem.convs), *_mid_widths(spec), *outputs}
        for width in sorted(normed):
            allowed = f"does not divide {width} channels"
            _require(width % norm.groups == 0, "norm.groups", norm.groups, allowed)


def _validate_anti_alias(spec: ResNetSpec) -> None:
    """Anti-aliasing is defined for the networks that timm has, and for no others."""
    if spec.anti_alias == "none":
        return
    block, pads = spec.block, spec.stem.pool_padding
    here = f"where anti_alias={spec.anti_alias}"
    _require(block.order == "post", "block.order", block.order, f"must be post {here}")
    _require(block.dropout == 0, "block.dropout", block.dropout, f"must be 0 {here}")
    join = spec.shortcut.join
    _require(join == "add", "shortcut.join", join, f"must be add {here}")
    if block.kind == "bottleneck":
        allowed = f"must be 2 {here}"
        _require(block.stride_conv == 2, "block.stride_conv", block.stride_conv, allowed)
    _require(max(spec.strides) <= 2, "strides", spec.strides, f"at most 2 {here}")
    _require(pads == "symmetric", "stem.pool_padding", pads, f"must be symmetric {here}")
