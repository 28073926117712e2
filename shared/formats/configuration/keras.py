"""What a Keras configuration says about a network: compared with a plan, value by value, and the
spec that it describes.

The plan's graph and the file's are the same function when every layer with weights has the same
settings and reads the same value, and the outputs are the same value.
"""

from __future__ import annotations

import typing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from shared.architecture.fields import field_types
from shared.architecture.graph import INPUT
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
    Op,
    Subsample,
)
from shared.architecture.plan import Plan, make_plan
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, RosettaError
from shared.formats.configuration.keras_layers import Layer, shown_kind, shown_value
from shared.formats.configuration.keras_values import SAME, SYMMETRIC, ZERO, Facts, Network, grid
from shared.formats.containers.spans import shown
from shared.naming.names import plan_of

Make = Callable[[Mapping[str, Any]], ResNetSpec]  # the spec of a file's tensors with fields changed

_PASSES = 3  # over all choices; a second one repairs what the first order of them missed
_NORM_FIELDS = {"epsilon": "norm.eps", "momentum": "norm.momentum", "groups": "norm.groups"}
_SEARCHED = (
    "anti_alias",
    "stem.padding",
    "stem.pool",
    "stem.pool_padding",
    "block.padding",
    "block.order",
    "block.first_preact",
    "shortcut.pool",
    "shortcut.preact",
    "head.final",
    "head.pool",
)


class Departure(NamedTuple):
    """Where a configuration is not what a plan has: a setting of a layer, under Keras' name."""

    layer: Layer | None
    key: str
    theirs: Any
    ours: Any

    def error(self, whose: str) -> CheckpointError:
        """`whose` is the network that has something else."""
        if self.theirs is None:
            return CheckpointError(f"it has no {self.key} {shown_value(self.ours)}")
        layer = self.layer
        where = f" in the layer {shown(layer.name)} ({shown_kind(layer)})" if layer else ""
        return CheckpointError(
            f"{self.key} = {shown_value(self.theirs)}{where}; {whose} has {shown_value(self.ours)}"
        )


def departures(net: Network, plan: Plan, names: Mapping[str, str]) -> list[Departure]:
    """Every difference, in the plan's order. `names`: canonical tensor -> `<layer>/<leaf>`."""
    return list(_departures(net, plan, names))


def _departures(net: Network, plan: Plan, names: Mapping[str, str]) -> Iterator[Departure]:
    values, last = {INPUT: 0}, INPUT
    for node in plan.nodes():
        sources = tuple(values[name] for name in node.inputs)
        last, lacking = node.name, -len(values)
        if isinstance(node.op, Dropout):
            values[last] = sources[0]
            continue
        family, facts = _described(net, node.op, sources)
        if node.op.tensors():
            layer = names[f"{node.name}.weight"].rpartition("/")[0]
            number = net.weighted.get(layer, lacking)
            if number < 0:
                yield Departure(None, "layer", None, layer)
        else:
            number = _unnamed(net, plan, family, facts, sources) or lacking
        values[last] = number
        if number > 0:
            step = net.steps[number]
            if step.family != family and node.op.tensors():
                yield Departure(step.layer, "its kind", step.family, family)
            for key, ours in facts.items() if step.family == family else ():
                if step.facts.get(key) != ours:
                    yield Departure(step.layer, key, step.facts.get(key), ours)
            if node.op.tensors() and step.sources != sources:
                theirs, ours = net.title(step.sources[0]), node.inputs[0]
                ours = net.title(sources[0]) if sources[0] >= 0 else ours
                yield Departure(step.layer, "input", theirs, ours)
    if values[last] != net.output and not net.part:
        yield Departure(None, "output_layers", net.title(net.output), last)


def _unnamed(
    net: Network, plan: Plan, family: str, facts: Facts, sources: tuple[int, ...]
) -> int | None:
    """The value of an operator without weights: the same one, or the only one of its kind that
    reads the same; None where there is none."""
    known = net.plain.get((family, tuple(sorted(sources))), [])
    same = [number for number in known if net.steps[number].facts == facts]
    if same or len(known) == 1:
        return (same or known)[0]
    return _whole_pool(net, plan, sources) if family == "global_pool" else None


def _whole_pool(net: Network, plan: Plan, sources: tuple[int, ...]) -> int | None:
    """The value of a pool over a window as large as the features, and flattened: Keras 1's and
    early 2's way to pool globally, at one size of images."""
    height, width = (net.input_shape or (None, None))[:2]
    if height is None or width is None or plan.spec.head.pool != "avg":
        return None
    features = next(
        row.output
        for row in reversed(make_plan(plan.spec, (height, width)).layers)
        if len(row.output) == 3
    )
    for pool in net.plain.get(("avg_pool", sources), []):
        size, padding = (net.steps[pool].facts[key] for key in ("pool_size", "padding"))
        if features[:2] == (size, size) and padding in ("valid", SYMMETRIC, SAME):
            return next(iter(net.plain.get(("flatten", (pool,)), [])), None)
    return None


def _described(net: Network, op: Op, sources: tuple[int, ...]) -> tuple[str, Facts]:
    """An operator of the plan as Keras would configure it."""
    if isinstance(op, Conv):
        pads = ((op.symmetric_pad,) * 2,) * 2
        same = op.padding == SAME
        facts: dict[str, Any] = {
            "filters": op.out_channels,
            "kernel_size": op.kernel_size,
            "strides": op.stride,
            "padding": grid(op.kernel_size, op.stride, op.dilation, SAME if same else pads),
            "dilation_rate": op.dilation,
            "groups": op.groups,
            "use_bias": op.bias,
        }
        if op.weight_std_eps is not None:  # which no layer of Keras does
            facts["weight_std_eps"] = op.weight_std_eps
        return "conv", facts
    if isinstance(op, Linear):
        return "dense", {"units": op.out_features, "use_bias": True}
    if isinstance(op, BatchNorm):
        return "batch_norm", {"epsilon": op.eps, "momentum": op.momentum}
    if isinstance(op, GroupNorm):
        return "group_norm", {"epsilon": op.eps, "groups": op.groups}
    if isinstance(op, MaxPool):
        relu = sources[0] > 0 and net.steps[sources[0]].family == "relu"
        # Behind a ReLU, zero is as good as minus infinity.
        padding = ZERO if op.padding == SYMMETRIC and relu else op.padding
        size = {"pool_size": op.kernel_size, "strides": op.stride}
        return "max_pool", size | {"padding": padding}
    if isinstance(op, AvgPool):
        size = {"pool_size": op.kernel_size, "strides": op.stride}
        return "avg_pool", size | {"padding": ZERO if op.count_pad else op.padding}
    if isinstance(op, Subsample):
        facts = {"strides": op.stride}
        if op.channels_before or op.channels_after:  # neither has Keras a layer for them
            facts["zero channels"] = op.channels_before + op.channels_after
        return "subsample", facts
    if isinstance(op, GlobalPool):
        return "global_pool", {"pooling": op.mode}
    return ("add" if isinstance(op, Merge) and op.mode == "add" else op.kind), {}


def describe(
    net: Network, names: Mapping[str, str], make: Make
) -> tuple[ResNetSpec, list[Departure]]:
    """The spec that the configuration describes, and where it is still another network.

    `make({})` is the network of the file's tensors as the convention of its names has it. What the
    layers say directly is taken first; then each field that no tensor tells takes the value that
    leaves the fewest departures.
    """
    changes: dict[str, Any] = {}
    spec = make(changes)
    tensors, left = plan_of(spec).tensors, departures(net, plan_of(spec), names)
    for _ in range(_PASSES):
        before = len(left)
        for fields in _choices(net, names, spec):
            if not left:
                return spec, left
            try:
                other = make(changes | fields)
            except RosettaError:  # no network is like that
                continue
            found = departures(net, plan_of(other), names)
            if len(found) < len(left) and plan_of(other).tensors == tensors:
                spec, left, changes = other, found, changes | fields
        if len(left) == before:
            break
    return spec, left


def _choices(net: Network, names: Mapping[str, str], spec: ResNetSpec) -> Iterator[dict[str, Any]]:
    """Changes of fields that no tensor tells: as the layers say, all together and one by one, and
    then all values of those that only the order of the layers shows."""
    read = _usual(net) | _strides(net, names, spec)
    yield read
    yield from ({field: value} for field, value in read.items())
    for field in _SEARCHED:
        group, _, name = field.rpartition(".")
        annotation = field_types(type(getattr(spec, group) if group else spec))[name]
        values = typing.get_args(annotation) or (True, False)
        yield from ({field: value} for value in values)


def _usual(net: Network) -> dict[str, Any]:
    """The most frequent settings of the norms."""
    found: dict[str, Counter[Any]] = {}
    for number in net.weighted.values():
        step = net.steps[number]
        if step.family in ("batch_norm", "group_norm"):
            for key, value in step.facts.items():
                found.setdefault(_NORM_FIELDS[key], Counter())[value] += 1
    return {field: counter.most_common(1)[0][0] for field, counter in found.items()}


def _strides(net: Network, names: Mapping[str, str], spec: ResNetSpec) -> dict[str, Any]:
    """Where the strides and the dilations are."""

    def fact(layer: str, key: str) -> int:
        number = net.weighted.get(names.get(f"{layer}.weight", "").rpartition("/")[0], 0)
        return net.steps[number].facts.get(key, 1)

    stem = [
        (kernel, fact(f"stem.conv{i}", "strides"), width)
        for i, (kernel, _, width) in enumerate(spec.stem.convs, start=1)
    ]
    changes: dict[str, Any] = {"stem.convs": stem}
    strides, dilate, dilation = [], [], 1
    for i, depth in enumerate(spec.depths):
        convs = {
            (j, k): fact(f"stages.{i}.blocks.{j}.conv{k}", "strides")
            for j in range(depth)
            for k in (1, 2, 3)
        }
        place = max(convs, key=lambda where: convs[where])  # the first of the largest
        dilated = fact(f"stages.{i}.blocks.{depth - 1}.conv2", "dilation_rate")
        dilate.append(dilated > dilation)
        strides.append(dilated // dilation if dilate[-1] else convs[place])
        dilation = max(dilation, dilated)
        if convs[place] > 1:
            changes["block.stride_block"] = "last" if 0 < place[0] == depth - 1 else "first"
            changes["block.stride_conv"] = place[1]
    return changes | {"strides": strides, "dilate": dilate}
