"""A plan as a `Net`, so that a spec and anybody's model are compared like two models."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shared.architecture import ops
from shared.architecture.graph import INPUT
from shared.architecture.plan import Plan, make_plan
from shared.architecture.spec import ResNetSpec
from shared.graphs.net import Net, Node, effective
from shared.graphs.structure import Shape

PadRule = Callable[[tuple[int, int]], ops.Pads]


@dataclass
class Planned:
    """The plan's graph. Nodes have canonical names as their place; `ops` are the plan's own, and
    `pads` how a window pads an image of another size.
    """

    spec: ResNetSpec
    net: Net
    ops: dict[int, ops.Op] = field(default_factory=dict)
    pads: dict[int, PadRule] = field(default_factory=dict)

    @functools.cached_property
    def order(self) -> list[int]:
        return Shape(self.net).order()


def planned(spec: ResNetSpec, image: tuple[int, int]) -> Planned:
    """Raises `SpecError` for a size that the network cannot take."""
    plan = make_plan(spec, image)
    return _Builder(plan).built()


class _Builder:
    def __init__(self, plan: Plan):
        self.plan = plan
        height, width = plan.image_size
        size = {"C": plan.spec.in_channels, "H": height, "W": width}
        self.nodes = [Node(0, "Input", [], {}, size, where=INPUT)]
        self.ops: dict[int, ops.Op] = {}
        self.pads: dict[int, PadRule] = {}
        self.at = {INPUT: 0}

    def built(self) -> Planned:
        last = 0
        for node in self.plan.nodes():
            last = self._add(node.name, node.op, [self.at[name] for name in node.inputs])
            self.at[node.name] = last
        return Planned(self.plan.spec, Net(self.nodes, 0, last), self.ops, self.pads)

    def _new(
        self, name: str, op: str, ins: list[int], attrs: dict[str, Any], size: dict[str, int]
    ) -> int:
        self.nodes.append(Node(len(self.nodes), op, ins, attrs, size, where=name))
        return len(self.nodes) - 1

    def _add(self, name: str, op: ops.Op, ins: list[int]) -> int:
        if isinstance(op, (ops.Dropout, ops.FoldedNorm)):
            return ins[0]
        if isinstance(op, ops.Merge):
            return self._merge(name, op, ins)
        source = self.nodes[ins[0]]
        shape = op.output(_shape(source))
        size = dict(zip("HWC", shape, strict=True)) if len(shape) == 3 else {"C": shape[0]}
        kind, attrs = _described(op)
        i = self._new(name, kind, ins, attrs, size)
        self.ops[i] = op
        if isinstance(op, (ops.Conv, ops.MaxPool, ops.AvgPool, ops.BlurPool)):
            rule = _blur_pads(op) if isinstance(op, ops.BlurPool) else op.pads
            self.pads[i] = rule
            attrs["pads"] = padded(self.nodes[i], rule, source.image)
        return i

    def _merge(self, name: str, op: ops.Merge, ins: list[int]) -> int:
        shortcut, branch, *gates = ins
        size = self.nodes[branch].size
        if op.mode in ("add", "scale"):
            terms = []
            for i, factor in zip((shortcut, branch), op.scales, strict=True):
                if factor == 0.0:
                    continue
                if factor != 1.0:
                    how = {"scale": factor, "shift": 0.0}
                    i = self._new(name, "Scale", [i], how, self.nodes[i].size)
                terms.append(i)
            return terms[0] if len(terms) == 1 else self._new(name, "Add", terms, {}, size)
        gate = self._new(name, "Sigmoid", gates, {}, size)
        rest = self._new(name, "Scale", [gate], {"scale": -1.0, "shift": 1.0}, size)
        kept = self._new(name, "Mul", [rest, shortcut], {}, size)
        if op.mode == "exclusive_gate":
            branch = self._new(name, "Mul", [gate, branch], {}, size)
        return self._new(name, "Add", [kept, branch], {}, size)


def _shape(node: Node) -> ops.Shape:
    return (*node.image, node.channels) if "H" in node.size else (node.channels,)


def _blur_pads(op: ops.BlurPool) -> PadRule:
    sides = (op.pad, op.pad)
    return lambda image: (sides, sides)


def padded(node: Node, rule: PadRule, image: tuple[int, int]) -> ops.Pads:
    """What the windows of a planned node touch beyond an image."""
    attrs, pads = node.attrs, rule(image)
    kernel, stride, dilation = attrs["kernel"], attrs["stride"], attrs.get("dilation", (1, 1))
    out = [
        (n + sum(sides) - d * (k - 1) - 1) // s + 1
        for n, sides, k, s, d in zip(image, pads, kernel, stride, dilation, strict=True)
    ]
    return effective(image, out, kernel, stride, dilation, pads)


def _described(op: ops.Op) -> tuple[str, dict[str, Any]]:
    """The operator's name and attributes in a `Net`."""
    match op:
        case ops.Conv():
            return "Conv", {
                "kernel": (op.kernel_size,) * 2,
                "stride": (op.stride,) * 2,
                "dilation": (op.dilation,) * 2,
                "groups": op.groups,
                "weight_std_eps": op.weight_std_eps,
                "bias": op.bias,
            }
        case ops.BatchNorm():
            return "BatchNorm", {"eps": op.eps, **({} if op.scale else {"scale": False})}
        case ops.GroupNorm():
            return "GroupNorm", {"groups": op.groups, "eps": op.eps}
        case ops.MaxPool():
            how = {"kernel": (op.kernel_size,) * 2, "stride": (op.stride,) * 2}
            return "MaxPool", {**how, "dilation": (1, 1), "pad_value": op.pad_value}
        case ops.AvgPool():
            how = {"kernel": (op.kernel_size,) * 2, "stride": (op.stride,) * 2}
            return "AvgPool", {**how, "dilation": (1, 1), "count_pad": op.count_pad}
        case ops.BlurPool():
            taps = tuple(a * b for a in op.taps for b in op.taps)
            how = {"kernel": (op.kernel_size,) * 2, "stride": (op.stride,) * 2}
            return "BlurPool", {**how, "mode": "reflect", "filter": taps}
        case ops.Subsample():
            before, after = op.channels_before, op.channels_after
            return "Subsample", {"stride": (op.stride,) * 2, "before": before, "after": after}
        case ops.GlobalPool():
            return "GlobalPool", {"mode": op.mode}
        case ops.Linear():
            return "Linear", {}
        case ops.ReLU():
            return "ReLU", {}
    raise TypeError(f"{op!r} has no form in a Net")
