"""`Plan`: a spec resolved into concrete layers. All architecture logic of the project is here.

A plan says the same thing twice, for two kinds of reader:

* as a tree (`stem`, `stages[i][j]`, `final_norm`, `head`) that the three framework packages turn
  into their own modules, attribute by attribute;
* as a graph (`nodes()`), in execution order, from which shapes, costs and the NumPy reference come.

Identical blocks of a stage are one `Block` object; names are paths, given by where a block stands.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from shared.architecture.blocks import Block, BlockKind, Shortcut, Stem
from shared.architecture.graph import (
    INPUT,
    Node,
    block_nodes,
    cost_of,
    cost_of_block,
    head_nodes,
    stem_nodes,
)
from shared.architecture.ops import (
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    GlobalPool,
    GroupNorm,
    Linear,
    MaxPool,
    Merge,
    Norm,
    ReLU,
    Shape,
    Subsample,
)
from shared.architecture.spec import MAX_IMAGE_SIZE, ResNetSpec
from shared.errors import SpecError


class LayerRow(NamedTuple):
    """A named layer with its output shape for one image, trainable parameters and multiply-adds."""

    name: str
    op: str
    output: Shape
    params: int
    macs: int
    about: str  # kernel, stride and the like


Stage = tuple[Block, ...]


@dataclass(frozen=True)
class Plan:
    """Every layer of a network. Made by `make_plan`."""

    spec: ResNetSpec
    image_size: tuple[int, int]
    stem: Stem
    stages: tuple[Stage, ...]
    final_norm: Norm | None
    final_act: bool
    pool: GlobalPool | None
    head: Linear | None

    def _head_nodes(self) -> list[Node]:
        return head_nodes(self.final_norm, ReLU() if self.final_act else None, self.pool, self.head)

    def blocks(self) -> Iterator[tuple[str, Block]]:
        """(canonical name, block), in order."""
        for i, stage in enumerate(self.stages):
            for j, block in enumerate(stage):
                yield f"stages.{i}.blocks.{j}", block

    def nodes(self) -> Iterator[Node]:
        """The whole computation in execution order; the last node is the network's output."""
        last = INPUT
        for node in stem_nodes(self.stem):
            yield node
            last = node.name
        for name, block in self.blocks():
            for node in block_nodes(block):
                inputs = tuple(last if i == INPUT else f"{name}.{i}" for i in node.inputs)
                yield Node(f"{name}.{node.name}" if node.name else name, node.op, inputs, node.row)
            last = name
        for node in self._head_nodes():
            yield node._replace(inputs=tuple(last if i == INPUT else i for i in node.inputs))

    @functools.cached_property
    def layers(self) -> tuple[LayerRow, ...]:
        """The named layers, in execution order."""
        shapes: dict[str, Shape] = {INPUT: (*self.image_size, self.spec.in_channels)}
        rows = []
        for node in self.nodes():
            shape = shapes[node.name] = node.op.output(*(shapes[i] for i in node.inputs))
            if node.row:
                op = node.op
                rows.append(
                    LayerRow(node.name, node.row, shape, op.params(), op.macs(shape), op.describe())
                )
        return tuple(rows)

    @functools.cached_property
    def tensors(self) -> dict[str, Shape]:
        """Every canonical tensor and its shape, in execution order."""
        return {
            f"{node.name}.{leaf}": shape
            for node in self.nodes()
            for leaf, shape in node.op.tensors().items()
        }

    @property
    def params(self) -> int:
        """Trainable parameters."""
        return self._cost[1]

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and linear layers, for one image."""
        return self._cost[2]

    @property
    def output(self) -> Shape:
        """What the network returns for one image: logits, features or a feature map."""
        return self._cost[0]

    @functools.cached_property
    def _cost(self) -> tuple[Shape, int, int]:
        """(output, params, macs); equal blocks in a row are counted once and multiplied."""
        shape, params, macs = cost_of(
            stem_nodes(self.stem), (*self.image_size, self.spec.in_channels)
        )
        for stage in self.stages:
            for _, run in itertools.groupby(stage, key=id):
                blocks = list(run)
                shape, more_params, more_macs = cost_of_block(blocks[0], shape)
                params, macs = params + len(blocks) * more_params, macs + len(blocks) * more_macs
        shape, more_params, more_macs = cost_of(self._head_nodes(), shape)
        return shape, params + more_params, macs + more_macs


def make_plan(spec: ResNetSpec, image_size: int | tuple[int, int] | None = None) -> Plan:
    """Resolve `spec` for an image of `image_size` pixels: a side, (height, width), or the spec's
    own.

    >>> from shared import get_spec
    >>> plan = make_plan(get_spec("resnet18"), image_size=64)
    >>> plan.params, plan.layers[0].name, plan.layers[0].output
    (11689512, 'stem.conv1', (32, 32, 64))

    Raises `SpecError` for an impossible size.
    """
    size = image_size if image_size is not None else spec.image_size
    height, width = (size, size) if isinstance(size, int) else size
    if not (1 <= height <= MAX_IMAGE_SIZE and 1 <= width <= MAX_IMAGE_SIZE):
        raise SpecError(
            f"image size {height} x {width}: each side must be from 1 to {MAX_IMAGE_SIZE} pixels"
        )
    stages = _make_stages(spec)
    features = spec.widths[-1] * spec.expansion
    return Plan(
        spec=spec,
        image_size=(height, width),
        stem=_make_stem(spec),
        stages=stages,
        final_norm=_make_norm(spec, features) if spec.head.final == "norm_act" else None,
        final_act=spec.head.final != "none",
        pool=GlobalPool(spec.head.pool) if spec.head.pool != "none" else None,
        head=Linear(features, spec.num_classes) if spec.num_classes else None,
    )


def _make_norm(spec: ResNetSpec, channels: int, *, zero_init: bool = False) -> Norm:
    norm = spec.norm
    if norm.kind == "group":
        return GroupNorm(channels, norm.groups, norm.eps, zero_init)
    return BatchNorm(channels, norm.eps, norm.momentum, zero_init, norm.running_var == "unbiased")


def _make_stem(spec: ResNetSpec) -> Stem:
    stem = spec.stem
    convs, norms, channels = [], [], spec.in_channels
    for i, (kernel, stride, width) in enumerate(stem.convs):
        convs.append(
            Conv(
                channels,
                width,
                kernel,
                stride,
                padding=stem.padding,
                bias=stem.bias,
                weight_std_eps=spec.weight_std_eps,
            )
        )
        has_norm = stem.norm_act or i < len(stem.convs) - 1
        norms.append(_make_norm(spec, width) if has_norm else None)
        channels = width
    pool = MaxPool(padding=stem.pool_padding) if stem.pool == "max" else None
    return Stem(tuple(convs), tuple(norms), pool)


class _Place(NamedTuple):
    """What tells one block of a network from another."""

    in_channels: int
    width: int
    stride: int
    dilation: int
    first_dilation: int  # of the convolution that would have carried the stride
    entry: bool  # first of its stage
    first: bool  # first of all


def _make_stages(spec: ResNetSpec) -> tuple[Stage, ...]:
    stages = []
    channels, dilation = spec.stem.convs[-1][2], 1
    for i, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True)):
        # Dilation instead of stride: the block that would have strided still sees the old
        # dilation, those behind it the new one (torchvision, timm).
        stage_stride, old_dilation = spec.strides[i], dilation
        if spec.dilate[i]:
            dilation *= stage_stride
            stage_stride = 1
        striding = 0 if spec.block.stride_block == "first" else depth - 1
        known: dict[
            _Place, Block
        ] = {}  # one object for equal blocks: what is cached for one serves all
        blocks: list[Block] = []
        for j in range(depth):
            place = _Place(
                in_channels=channels,
                width=width,
                stride=stage_stride if j == striding else 1,
                dilation=old_dilation if j < striding else dilation,
                first_dilation=old_dilation if j <= striding else dilation,
                entry=j == 0,
                first=i == j == 0,
            )
            if place not in known:
                known[place] = _make_block(spec, place)
            blocks.append(known[place])
            channels = width * spec.expansion
        stages.append(tuple(blocks))
    return tuple(stages)


def _make_block(spec: ResNetSpec, place: _Place) -> Block:
    in_channels, width, stride, dilation, first_dilation, entry, first = place
    unit, shortcut = spec.block, spec.shortcut
    out_channels = width * spec.expansion
    common: dict[str, Any] = {"padding": unit.padding, "weight_std_eps": spec.weight_std_eps}
    conv3 = None
    if unit.kind == "basic":
        conv1 = Conv(in_channels, width, 3, stride, first_dilation, bias=unit.bias, **common)
        conv2 = Conv(width, width, 3, 1, dilation, bias=unit.last_bias, **common)
    else:
        mid = int(width * unit.base_width / 64) * unit.groups
        strides = (stride, 1) if unit.stride_conv == 1 else (1, stride)
        conv1 = Conv(in_channels, mid, 1, strides[0], bias=unit.bias, **common)
        conv2 = Conv(mid, mid, 3, strides[1], first_dilation, unit.groups, bias=unit.bias, **common)
        conv3 = Conv(mid, out_channels, 1, bias=unit.last_bias, **common)
    convs = [conv1, conv2] + ([conv3] if conv3 else [])

    preact = unit.order in ("full_pre", "act_only_pre") and (unit.first_preact or not first)
    norms: list[Norm | None] = []
    for k, conv in enumerate(convs):
        if unit.order == "full_pre":
            norms.append(_make_norm(spec, conv.in_channels) if k or preact else None)
        else:
            last = k == len(convs) - 1
            norms.append(
                _make_norm(spec, conv.out_channels, zero_init=last and spec.init.zero_residual)
            )

    path = _make_shortcut(spec, in_channels, out_channels, stride, dilation, entry)
    sees_preact = preact and (
        (shortcut.preact == "projection" and path.conv is not None)
        or (shortcut.preact == "stage_entry" and entry)
    )
    gated = shortcut.join in ("exclusive_gate", "shortcut_gate")
    kinds: dict[tuple[str, str], BlockKind] = {
        ("post", "basic"): "BasicBlock",
        ("post", "bottleneck"): "Bottleneck",
        ("full_pre", "basic"): "PreActBasicBlock",
        ("full_pre", "bottleneck"): "PreActBottleneck",
    }
    plain = shortcut.join == "add"
    return Block(
        kind=kinds.get((unit.order, unit.kind), "AblationBlock") if plain else "AblationBlock",
        order=unit.order,
        preact=preact,
        conv1=conv1,
        norm1=norms[0],
        conv2=conv2,
        norm2=norms[1],
        conv3=conv3,
        norm3=norms[2] if conv3 else None,
        shortcut=path,
        shortcut_preact=sees_preact,
        dropout=Dropout(shortcut.dropout) if shortcut.join == "dropout" else None,
        gate=Conv(in_channels, out_channels, 1, stride, bias=True) if gated else None,
        join=Merge(
            "add" if shortcut.join == "dropout" else shortcut.join,
            shortcut.scales if shortcut.join == "scale" else (1.0, 1.0),
        ),
    )


def _make_shortcut(
    spec: ResNetSpec, in_channels: int, out_channels: int, stride: int, dilation: int, entry: bool
) -> Shortcut:
    shortcut = spec.shortcut
    widens = in_channels != out_channels
    projects = {
        "never": False,
        "channels": widens,
        "shape": widens or stride != 1,
        "entry": entry,
        "always": True,
    }[shortcut.projection]
    if projects:
        pool = None
        if shortcut.pool == "avg" and (stride != 1 or dilation != 1):
            pool = AvgPool(stride=stride, count_pad=stride == 1)
        return Shortcut(
            pool=pool,
            conv=Conv(
                in_channels,
                out_channels,
                1,
                1 if shortcut.pool == "avg" else stride,
                bias=shortcut.bias,
                weight_std_eps=spec.weight_std_eps,
            ),
            norm=_make_norm(spec, out_channels) if shortcut.norm else None,
        )
    if stride == 1 and not widens:
        return Shortcut()
    zeros = out_channels - in_channels
    before = zeros // 2 if shortcut.zero_pad == "split" else 0
    return Shortcut(subsample=Subsample(stride, before, zeros - before))
