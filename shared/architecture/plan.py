"""`Plan`: a spec resolved into concrete layers. All architecture logic of the project is here.

A plan describes the network twice:

* as a tree (`stem`, `stages[i][j]`, `final_norm`, `head`) that the three framework packages turn
  into their own modules, attribute by attribute;
* as a graph (`nodes()`), in execution order, from which shapes, costs and the NumPy reference come.

Identical blocks of a stage are one `Block` object; a name is the path to where a block stands.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from shared.architecture.blocks import AntiAlias, Block, BlockKind, Shortcut, Stem
from shared.architecture.folded import fold_block, fold_stem
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
    BlurPool,
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
        """The named layers, in execution order.

        Raises `SpecError` for an image size that a layer cannot take.
        """
        shapes: dict[str, Shape] = {INPUT: (*self.image_size, self.spec.in_channels)}
        rows = []
        for node in self.nodes():
            op = node.op
            try:
                shape = shapes[node.name] = op.output(*(shapes[i] for i in node.inputs))
            except SpecError as error:
                height, width = self.image_size
                raise SpecError(
                    f"{self.spec.name} cannot take images of {height} x {width} pixels: "
                    f"{node.name}: {error}; a multiple of 32 fits most networks"
                ) from None
            if node.row:
                macs = op.macs(shape)
                rows.append(LayerRow(node.name, node.row, shape, op.params(), macs, op.describe()))
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
        try:
            return self._sum_of_costs()
        except SpecError:
            _ = self.layers  # its error names the layer
            raise

    def _sum_of_costs(self) -> tuple[Shape, int, int]:
        shape: Shape = (*self.image_size, self.spec.in_channels)
        shape, params, macs = cost_of(stem_nodes(self.stem), shape)
        for stage in self.stages:
            for _, run in itertools.groupby(stage, key=id):
                blocks = list(run)
                shape, more_params, more_macs = cost_of_block(blocks[0], shape)
                params, macs = params + len(blocks) * more_params, macs + len(blocks) * more_macs
        shape, more_params, more_macs = cost_of(self._head_nodes(), shape)
        return shape, params + more_params, macs + more_macs


def make_plan(spec: ResNetSpec, image_size: int | tuple[int, int] | None = None) -> Plan:
    """Resolve `spec` for images of `image_size` pixels: a side, (height, width), or by default the
    spec's own.

    >>> from shared import get_spec
    >>> plan = make_plan(get_spec("resnet18"), image_size=64)
    >>> plan.params, plan.layers[0].name, plan.layers[0].output
    (11689512, 'stem.conv1', (32, 32, 64))

    Raises `SpecError` for a size that the network cannot take; for the spec's own, only when a
    shape is asked for, because tensors do not depend on it.
    """
    size = image_size if image_size is not None else spec.image_size
    height, width = (size, size) if isinstance(size, int) else size
    if not (1 <= height <= MAX_IMAGE_SIZE and 1 <= width <= MAX_IMAGE_SIZE):
        raise SpecError(
            f"image size {height} x {width}: each side must be from 1 to {MAX_IMAGE_SIZE} pixels"
        )
    stem, stages = _make_stem(spec), _make_stages(spec)
    if spec.norm.folded:
        stem = fold_stem(stem)
        stages = [tuple(map(fold_block, stage)) for stage in stages]
    features = spec.widths[-1] * spec.expansion
    plan = Plan(
        spec=spec,
        image_size=(height, width),
        stem=stem,
        stages=tuple(stages),
        final_norm=_make_norm(spec, features) if spec.head.final == "norm_act" else None,
        final_act=spec.head.final != "none",
        pool=GlobalPool(spec.head.pool) if spec.head.pool != "none" else None,
        head=Linear(features, spec.num_classes) if spec.num_classes else None,
    )
    if image_size is not None:
        _ = plan.output
    return plan


def _make_norm(spec: ResNetSpec, channels: int, *, zero_init: bool = False) -> Norm:
    norm = spec.norm
    if norm.kind == "group":
        return GroupNorm(channels, norm.groups, norm.eps, zero_init)
    return BatchNorm(channels, norm.eps, norm.momentum, zero_init, norm.running_var == "unbiased")


def _make_input_norm(spec: ResNetSpec) -> BatchNorm | None:
    norm, kind = spec.norm, spec.stem.input_norm
    if kind == "none":
        return None
    unbiased, scale = norm.running_var == "unbiased", kind == "affine"
    return BatchNorm(spec.in_channels, norm.eps, norm.momentum, unbiased=unbiased, scale=scale)


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
    pool: MaxPool | AvgPool | None = None
    anti_alias: AntiAlias | None = None
    if stem.pool == "max":
        pool = MaxPool(padding=stem.pool_padding)
        if spec.anti_alias == "average":
            pool = AvgPool(padding="valid")
        elif spec.anti_alias == "blur":
            pool, anti_alias = MaxPool(stride=1, padding=stem.pool_padding), BlurPool()
    return Stem(_make_input_norm(spec), tuple(convs), tuple(norms), pool, anti_alias)


def _make_anti_alias(spec: ResNetSpec, place: _Place) -> AntiAlias | None:
    """In the place of the block's stride, or, as timm has it, of one that dilation has replaced."""
    if place.stride == 1 and place.first_dilation == place.dilation:
        return None
    if spec.anti_alias == "blur":
        return BlurPool(place.stride)
    # Over 1 x 1 pixels, where dilation has replaced the stride, an average is the identity.
    return AvgPool(padding="valid") if spec.anti_alias == "average" and place.stride > 1 else None


class _Place(NamedTuple):
    """All that distinguishes one block of a network from another."""

    in_channels: int
    width: int
    stride: int
    dilation: int
    first_dilation: int  # of the convolution that would have carried the stride
    entry: bool  # first of its stage
    first: bool  # first of all


def _make_stages(spec: ResNetSpec) -> list[Stage]:
    stages: list[Stage] = []
    channels, dilation = spec.stem.convs[-1][2], 1
    for i, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True)):
        # Dilation instead of stride: the block that would have strided still sees the old
        # dilation, those behind it the new one (torchvision, timm).
        stage_stride, old_dilation = spec.strides[i], dilation
        if spec.dilate[i]:
            dilation *= stage_stride
            stage_stride = 1
        striding = 0 if spec.block.stride_block == "first" else depth - 1
        # One object for equal blocks, so that what is computed for one is known for all.
        known: dict[_Place, Block] = {}
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
    return stages


def _make_block(spec: ResNetSpec, place: _Place) -> Block:
    block, shortcut = spec.block, spec.shortcut
    out_channels = place.width * spec.expansion
    anti_alias = _make_anti_alias(spec, place)
    convs = _make_convs(spec, place, 1 if anti_alias else place.stride)
    preact = block.order in ("full_pre", "act_only_pre") and (block.first_preact or not place.first)
    path = _make_shortcut(spec, place, out_channels)
    sees_preact = preact and (
        (shortcut.preact == "projection" and path.conv is not None)
        or (shortcut.preact == "stage_entry" and place.entry)
        or shortcut.preact == "always"
    )
    gate = None
    if shortcut.join in ("exclusive_gate", "shortcut_gate"):
        gate = Conv(place.in_channels, out_channels, 1, place.stride, bias=True)
    kinds: dict[tuple[str, str], BlockKind] = {
        ("post", "basic"): "BasicBlock",
        ("post", "bottleneck"): "Bottleneck",
        ("full_pre", "basic"): "PreActBasicBlock",
        ("full_pre", "bottleneck"): "PreActBottleneck",
    }
    kind = kinds.get((block.order, block.kind), "AblationBlock")
    if shortcut.join != "add" or (block.dropout and kind != "PreActBasicBlock"):
        kind = "AblationBlock"
    return Block(
        kind=kind,
        order=block.order,
        preact=preact,
        convs=convs,
        norms=_make_norms(spec, convs, preact),
        dropout=Dropout(block.dropout) if block.dropout else None,
        anti_alias=anti_alias,
        shortcut=path,
        shortcut_preact=sees_preact,
        shortcut_dropout=Dropout(shortcut.dropout) if shortcut.join == "dropout" else None,
        gate=gate,
        join=Merge(
            "add" if shortcut.join == "dropout" else shortcut.join,
            shortcut.scales if shortcut.join == "scale" else (1.0, 1.0),
        ),
    )


def _make_convs(spec: ResNetSpec, place: _Place, stride: int) -> tuple[Conv, ...]:
    """The convolutions of a block, of which one has this stride."""
    block, width, dilations = spec.block, place.width, (place.first_dilation, place.dilation)
    common: dict[str, Any] = {"padding": block.padding, "weight_std_eps": spec.weight_std_eps}
    inner, last = {**common, "bias": block.bias}, {**common, "bias": block.last_bias}
    if block.kind == "basic":
        return (
            Conv(place.in_channels, width, 3, stride, dilations[0], **inner),
            Conv(width, width, 3, 1, dilations[1], **last),
        )
    mid = int(width * block.base_width / 64) * block.groups
    strides = (stride, 1) if block.stride_conv == 1 else (1, stride)
    return (
        Conv(place.in_channels, mid, 1, strides[0], **inner),
        Conv(mid, mid, 3, strides[1], dilations[0], block.groups, **inner),
        Conv(mid, width * spec.expansion, 1, **last),
    )


def _make_norms(spec: ResNetSpec, convs: tuple[Conv, ...], preact: bool) -> tuple[Norm | None, ...]:
    """The norms of a block, for each convolution one: in front of it in full_pre, else behind."""
    if spec.block.order == "full_pre":
        first = _make_norm(spec, convs[0].in_channels) if preact else None
        return (first, *(_make_norm(spec, conv.in_channels) for conv in convs[1:]))
    *inner, last = (conv.out_channels for conv in convs)
    zero_init = spec.init.zero_residual
    return (
        *(_make_norm(spec, channels) for channels in inner),
        _make_norm(spec, last, zero_init=zero_init),
    )


def _make_shortcut(spec: ResNetSpec, place: _Place, out_channels: int) -> Shortcut:
    shortcut, in_channels, stride = spec.shortcut, place.in_channels, place.stride
    widens = in_channels != out_channels
    projects = {
        "never": False,
        "channels": widens,
        "shape": widens or stride != 1,
        "entry": place.entry,
        "always": True,
    }[shortcut.projection]
    if projects:
        pool = None
        if shortcut.pool == "avg" and (stride != 1 or place.dilation != 1):
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
