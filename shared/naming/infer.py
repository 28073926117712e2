"""The spec of a network from its tensors, and the presets that it could be.

Tensors tell depths, widths, groups, biases, and which layers there are. They cannot tell eps,
strides, padding, pools, or the side of zero channels: those come from the convention of whoever
named the tensors.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from shared.architecture.ops import Shape
from shared.architecture.plan import Plan, make_plan
from shared.architecture.presets import get_spec, list_presets
from shared.architecture.spec import InitSpec, ResNetSpec
from shared.errors import CheckpointError, SpecError
from shared.naming.names import place_of

# What no tensor tells, as `inspect` says it.
NOT_INFERABLE = (
    "norm.eps",
    "norm.groups",
    "weight_std_eps",
    "strides",
    "dilate",
    "anti_alias",
    "stem.padding",
    "stem.pool",
    "stem.pool_padding",
    "block.order",
    "block.stride_conv",
    "block.stride_block",
    "block.padding",
    "shortcut.pool",
    "shortcut.preact",
    "shortcut.zero_pad",
    "shortcut.join",
    "head.pool",
)


# What tensors tell beside sizes and the kernels of the stem: `infer_spec` sets these.
TOLD_BY_TENSORS = (
    "norm.kind",
    "stem.input_norm",
    "stem.bias",
    "stem.norm_act",
    "block.bias",
    "block.last_bias",
    "block.first_preact",
    "shortcut.projection",
    "shortcut.norm",
    "shortcut.bias",
    "head.final",
)


MAX_BLOCKS = 1 << 10  # ResNet-1202 has 600


def not_inferable(spec: ResNetSpec) -> dict[str, Any]:
    """The fields of `NOT_INFERABLE` that have a say in this network, and their values."""
    matters = {
        "norm.groups": spec.norm.kind == "group",
        "stem.pool_padding": spec.stem.pool != "none",
        "shortcut.preact": spec.block.order == "full_pre",
        "shortcut.zero_pad": spec.shortcut.projection == "never",
        "weight_std_eps": spec.weight_std_eps is not None,
        "block.stride_block": spec.block.stride_block != "first",
        "dilate": any(spec.dilate),
        "anti_alias": spec.block.order == "post",
        "shortcut.join": spec.shortcut.join != "add",
        "head.pool": spec.head.pool != "avg",
    }
    return {name: field_of(spec, name) for name in NOT_INFERABLE if matters.get(name, True)}


def field_of(spec: ResNetSpec, name: str) -> Any:
    """A field by its path: `depths`, `norm.eps`."""
    group, _, inner = name.rpartition(".")
    return getattr(getattr(spec, group) if group else spec, inner)


def check_blocks(depths: tuple[int, ...], tensors: int) -> None:
    """Raise `CheckpointError` for more blocks than a file of so many tensors can hold, before they
    are laid out.
    """
    if sum(depths) > min(MAX_BLOCKS, tensors):
        raise CheckpointError(
            f"depths = {list(depths[:8])}: {sum(depths)} blocks in a file of {tensors} tensors; "
            f"one for each tensor, and {MAX_BLOCKS}, at most are read"
        )


def infer_spec(
    shapes: Mapping[str, Shape], convention: ResNetSpec, told: Mapping[str, Any] | None = None
) -> ResNetSpec:
    """The spec whose plan has tensors of these canonical names and shapes, as nearly as there is
    one.

    Args:
        shapes: by canonical name.
        convention: has what no tensor tells.
        told: fields that the file says otherwise, as `ResNetSpec.replace` takes them.

    Raises `CheckpointError` when there are no residual blocks, `SpecError` when no network is like
    that.
    """
    found = _Tensors(shapes)
    changes: dict[str, Any] = {
        "in_channels": found.axis("stem.conv1.weight", 1, convention.in_channels),
        "num_classes": found.axis("head.weight", 0, 0),
        "depths": found.depths,
        "block.bias": found.any("conv1.bias"),
        "block.last_bias": found.any("conv3.bias" if found.bottleneck else "conv2.bias"),
        "stem.input_norm": _input_norm(shapes),
        "stem.bias": "stem.conv1.bias" in shapes,
        "stem.convs": found.stem(convention),
        "shortcut.norm": found.any("shortcut.norm.weight")
        if found.projected
        else convention.shortcut.norm,
        "shortcut.bias": found.any("shortcut.conv.bias")
        if found.projected
        else convention.shortcut.bias,
        "norm.kind": "batch" if any(name.endswith("running_mean") for name in shapes) else "group",
        "widths": found.widths,
    }
    changes["stem.norm_act"] = f"stem.norm{len(changes['stem.convs'])}.weight" in shapes
    if len(found.depths) != len(convention.depths):
        changes["strides"] = (convention.strides[0], *(2,) * (len(found.depths) - 1))
        changes["dilate"] = (False,) * len(found.depths)
    changes |= found.grouping(convention)
    if convention.block.order == "full_pre":
        changes["block.first_preact"] = "stages.0.blocks.0.norm1.weight" in shapes
        changes["head.final"] = "norm_act" if "final_norm.weight" in shapes else "none"
    if not found.any("gate.weight") and convention.shortcut.join.endswith("gate"):
        changes["shortcut.join"] = "add"
    spec = convention.replace(name="custom", **(changes | dict(told or {})))
    return _with_projection(spec, found.projected)


def _input_norm(shapes: Mapping[str, Shape]) -> str:
    if "stem.input_norm.bias" not in shapes:
        return "none"
    return "affine" if "stem.input_norm.weight" in shapes else "shift"


class _Tensors:
    """What the names and shapes say."""

    def __init__(self, shapes: Mapping[str, Shape]):
        self.shapes = shapes
        places = [place_of(name.rpartition(".")[0]) for name in shapes]
        inner = [
            p
            for p in places
            if p.kind in ("conv", "norm", "gate", "shortcut.conv", "shortcut.norm")
        ]
        if not any(p.kind == "conv" for p in inner):
            raise CheckpointError("there are no residual blocks in it")
        blocks = {(p.stage, p.block) for p in inner if p.kind == "conv"}
        stages = 1 + max(stage for stage, _ in blocks)
        self.depths = tuple(
            1 + max((b for s, b in blocks if s == i), default=0) for i in range(stages)
        )
        check_blocks(self.depths, len(shapes))
        self.bottleneck = any(p.kind == "conv" and p.number == 3 for p in inner)
        self.projected = {(p.stage, p.block) for p in inner if p.kind == "shortcut.conv"}
        self._leaves = {
            name.partition("blocks.")[2].partition(".")[2] for name in shapes if "blocks." in name
        }

    def any(self, leaf: str) -> bool:
        """Whether some block has this tensor."""
        return leaf in self._leaves

    def axis(self, name: str, axis: int, otherwise: int) -> int:
        shape = self.shapes.get(name, ())
        return shape[axis] if axis < len(shape) else otherwise

    @property
    def widths(self) -> tuple[int, ...]:
        last, expansion = (3, 4) if self.bottleneck else (2, 1)
        return tuple(
            self._first(stage, f"conv{last}.weight", 0, 1) // expansion or 1
            for stage in range(len(self.depths))
        )

    def _first(self, stage: int, leaf: str, axis: int, otherwise: int) -> int:
        """An axis of the first block of the stage that has the tensor."""
        for block in range(min(self.depths[stage], 64)):
            size = self.axis(f"stages.{stage}.blocks.{block}.{leaf}", axis, 0)
            if size:
                return size
        return otherwise

    def stem(self, convention: ResNetSpec) -> tuple[tuple[int, int, int], ...]:
        usual = convention.stem.convs
        convs = [
            self.shapes[name]
            for i in range(1, 9)
            if len(self.shapes.get(name := f"stem.conv{i}.weight", ())) == 4
        ]
        if not convs:
            return usual
        kernels = [shape[2] for shape in convs]
        if kernels == [kernel for kernel, _, _ in usual]:
            strides = [stride for _, stride, _ in usual]
        else:
            strides = [
                2 if i == 0 and (len(convs) > 1 or kernels[0] > 3) else 1 for i in range(len(convs))
            ]
        return tuple((k, s, shape[0]) for k, s, shape in zip(kernels, strides, convs, strict=True))

    def grouping(self, convention: ResNetSpec) -> dict[str, Any]:
        """Kind of block, groups, and the width of a group."""
        if not self.bottleneck:
            return {
                "block.kind": "basic",
                "block.stride_conv": 1,
                "block.groups": 1,
                "block.base_width": 64,
            }
        mid, width = self._first(0, "conv2.weight", 0, 1), self.widths[0]
        groups = max(1, mid // max(1, self._first(0, "conv2.weight", 1, 1)))
        stride = convention.block.stride_conv if convention.block.kind == "bottleneck" else 2
        base = max(1, round(mid / groups * 64 / width))
        return {
            "block.kind": "bottleneck",
            "block.stride_conv": stride,
            "block.groups": groups,
            "block.base_width": base,
        }


def _with_projection(spec: ResNetSpec, projected: set[tuple[int, int]]) -> ResNetSpec:
    """The spec with the rule that puts projections just where they are; its own if none does."""
    for rule in dict.fromkeys(
        (spec.shortcut.projection, "shape", "channels", "entry", "always", "never")
    ):
        try:
            candidate = spec.replace(**{"shortcut.projection": rule})
        except SpecError:  # zero-padding cannot drop channels
            continue
        stages = make_plan(candidate).stages
        if projected == {
            (i, j) for i, stage in enumerate(stages) for j, b in enumerate(stage) if b.shortcut.conv
        }:
            return candidate
    return spec


def same_function(a: ResNetSpec, b: ResNetSpec) -> bool:
    """Whether equal weights give equal outputs in eval mode, at every image size."""
    return _resolved(_plain(a)) == _resolved(_plain(b))


@functools.lru_cache(maxsize=1024)
def _plain(spec: ResNetSpec) -> ResNetSpec:
    """The spec without what does not reach the output: names, initialisation, momentum."""
    changes: dict[str, Any] = {
        "name": "",
        "init": InitSpec(),
        "norm.momentum": 0.9,
        "norm.running_var": "unbiased",
        "image_size": 224,
        "block.dropout": 0.0,
    }
    if spec.stem.norm_act and spec.stem.pool_padding == "zero":
        changes["stem.pool_padding"] = (
            "symmetric"  # behind a ReLU, zero is as good as minus infinity
        )
    return spec.replace(**changes)


@functools.lru_cache(maxsize=1024)
def _resolved(spec: ResNetSpec) -> tuple[Any, ...]:
    """All that the plan says, without the spec that it came from."""
    plan = make_plan(spec)
    return tuple(
        getattr(plan, f.name)
        for f in dataclasses.fields(Plan)
        if f.name not in ("spec", "image_size")
    )


def differences(a: ResNetSpec, b: ResNetSpec) -> list[str]:
    """The fields whose change to `b`'s value changes the function of `a`: `norm.eps is 1e-05 there,
    1.001e-05 here`.
    """
    found = []
    for field, ours, theirs in _fields(_plain(a), _plain(b)):
        try:
            matters = not same_function(a.replace(**{field: theirs}), a)
        except SpecError:
            matters = True
        if matters:
            found.append(f"{field} is {_show(theirs)} there, {_show(ours)} here")
    return found


def _fields(a: ResNetSpec, b: ResNetSpec) -> list[tuple[str, Any, Any]]:
    pairs = []
    for f in dataclasses.fields(ResNetSpec):
        ours, theirs = getattr(a, f.name), getattr(b, f.name)
        if dataclasses.is_dataclass(ours):
            inner = [g.name for g in dataclasses.fields(ours)]
            pairs += [
                (f"{f.name}.{name}", getattr(ours, name), getattr(theirs, name)) for name in inner
            ]
        else:
            pairs.append((f.name, ours, theirs))
    return [pair for pair in pairs if pair[1] != pair[2]]


def _show(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def find_preset(spec: ResNetSpec, families: tuple[str, ...]) -> str | None:
    """The preset that the spec is, but for its classes and input channels; one of `families` if it
    can be.
    """
    same_size_presets = _same_size_presets(spec.depths, spec.widths, spec.block.kind)
    matches = [name for name in same_size_presets if is_preset(spec, name)]
    return next(
        (name for name in matches if name.partition("/")[0] in families),
        matches[0] if matches else None,
    )


def is_preset(spec: ResNetSpec, name: str) -> bool:
    """Whether the spec is this preset, but for its classes and input channels."""
    return _resolved(_sizeless(spec)) == _resolved(_sizeless(get_spec(name)))


def candidates(spec: ResNetSpec) -> list[str]:
    """Every preset with just the same tensors: what the file could be as well, as far
    as they tell.
    """
    tensors = make_plan(_sizeless(spec)).tensors
    same_size_presets = _same_size_presets(spec.depths, spec.widths, spec.block.kind)
    return [
        name
        for name in same_size_presets
        if make_plan(_sizeless(get_spec(name))).tensors == tensors
    ]


@functools.cache
def _same_size_presets(
    depths: tuple[int, ...], widths: tuple[int, ...], kind: str
) -> tuple[str, ...]:
    """The presets of these sizes."""
    sizes = (depths, widths, kind)
    specs = ((name, get_spec(name)) for name in list_presets())
    return tuple(name for name, s in specs if (s.depths, s.widths, s.block.kind) == sizes)


@functools.lru_cache(maxsize=1024)
def _sizeless(spec: ResNetSpec) -> ResNetSpec:
    """The spec without what anybody may change in a preset and still call it that."""
    return _plain(spec).replace(num_classes=0, in_channels=3, **{"head.pool": "avg"})
