"""Which specs a network may be: field by field, from what its units show. What is ambiguous gives
several candidates; `overlay` decides among them.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from shared.architecture.spec import ResNetSpec
from shared.errors import SpecError
from shared.graphs.compare import ACTIVATIONS, has_scale
from shared.graphs.net import Net, Node
from shared.graphs.overlay import Target
from shared.graphs.structure import NORMS, Trunk, Unit, trunk_of

T = TypeVar("T")
Fields = dict[str, Any]


class NotResNet(Exception):
    """Why no spec can be inferred."""


def candidates(target: Target) -> list[ResNetSpec]:
    """Specs that the network may be, likeliest first. Raises `NotResNet` with the reason."""
    trunk = trunk_of(target.shape, target.first, target.net.output)
    found = []
    problem = ""
    for fields in _Evidence(target, trunk).specs():
        try:
            found.append(ResNetSpec().replace(**fields))
        except SpecError as error:
            problem = problem or str(error)
    if not found:
        raise NotResNet(problem)
    return found


def commonest(values: Iterable[T]) -> T:
    """The value that occurs most often, of equals the first."""
    return Counter(values).most_common(1)[0][0]


class _Evidence:
    """What a network's trunk says about the fields of a spec."""

    def __init__(self, target: Target, trunk: Trunk):
        self.net: Net = target.net
        self.source: Node = target.net.nodes[target.first]
        self.stem, self.units, self.behind = trunk.stem, trunk.units, trunk.behind
        self.nodes = target.order
        if not self.units:
            self._plain()
        counts = Counter(len(self._counted(unit)) for unit in self.units)
        self.count = counts.most_common(1)[0][0]
        if self.count not in (2, 3):
            plural = "" if self.count == 1 else "s"
            raise NotResNet(
                f"its residual branches have {self.count} convolution{plural}, not 2 or 3"
            )
        self.convs = [self._counted(unit) for unit in self.units]
        self.kind = "basic" if self.count == 2 else "bottleneck"
        self.stages = self._stages()

    def _plain(self) -> None:
        """A network without shortcuts (He et al. 2015): 3 x 3 convolutions, two by two."""
        chain = self.stem
        pools = [k for k, node in enumerate(chain) if node.op == "MaxPool"]
        convs = [k for k, node in enumerate(chain) if node.op == "Conv"]
        start = pools[0] + 1 if pools else convs[1] if len(convs) > 1 else len(chain)
        inner = [k for k in convs if k >= start]
        small = all(chain[k].attrs["kernel"] == (3, 3) for k in inner)
        if len(inner) < 2 or len(inner) % 2 or not small:
            raise NotResNet("there is no addition of a residual branch and its shortcut")
        ends = [*inner[2::2], len(chain)]
        for begin, end in zip(inner[::2], ends, strict=True):
            last = next((k for k in range(begin, end) if chain[k].op == "GlobalPool"), end)
            relu = max((k for k in range(begin, last) if chain[k].op == "ReLU"), default=last)
            branch = chain[begin:relu]
            fork = chain[begin - 1] if begin else self.source
            self.units.append(Unit(fork, branch[-1], branch, [], "plain", (0.0, 1.0)))
            self.behind.append(chain[relu:end])
        self.stem = chain[: inner[0]]

    @staticmethod
    def _counted(unit: Unit) -> list[Node]:
        """The branch's convolutions, without those of a gate, which see one pixel."""
        return [node for node in unit.convs if node.image != (1, 1) or unit.join.image == (1, 1)]

    def specs(self) -> list[Fields]:
        fields = {
            **self._whole(),
            **self._block(),
            **self._norm(),
            **self._stem(),
            **self._shortcut(),
        }
        return [{**fields, **variant} for variant in self._variants()]

    # Stages.

    def _dilation(self, k: int) -> int:
        return max((conv.attrs["dilation"][0] for conv in self.convs[k]), default=1)

    def _stages(self) -> list[list[int]]:
        """The numbers of the units in each stage."""
        stages, current = [], [0]
        for k in range(1, len(self.units)):
            unit, before = self.units[k], self.units[k - 1]
            widens = unit.join.channels != before.join.channels
            moves = unit.stride > 1 and unit.projects
            dilates = self._dilation(k) != self._dilation(k - 1) and bool(unit.skip)
            if widens or moves or dilates:
                stages.append(current)
                current = [k]
            else:
                current.append(k)
        return [*stages, current]

    def _whole(self) -> Fields:
        expansion = 4 if self.kind == "bottleneck" else 1
        head = self.behind[-1]
        linear = [node for node in head if node.op == "Linear"]
        pools = [node for node in head if node.op == "GlobalPool"]
        standardised = Counter(n.attrs["weight_std_eps"] for n in self.nodes if n.op == "Conv")
        strides, dilate = self._strides()
        last = any(self.units[s[-1]].stride > 1 and len(s) > 1 for s in self.stages)
        return {
            "in_channels": self.source.channels,
            "image_size": self.source.image[0],
            "num_classes": linear[-1].channels if linear else 0,
            "head.pool": pools[0].attrs["mode"] if pools else "avg" if linear else "none",
            "depths": tuple(len(stage) for stage in self.stages),
            "widths": tuple(self.units[s[0]].join.channels // expansion for s in self.stages),
            "strides": strides,
            "dilate": dilate,
            "block.stride_block": "last" if last else "first",
            "weight_std_eps": standardised.most_common(1)[0][0],
        }

    def _strides(self) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Of each stage, where dilation that grows stands for a stride."""
        strides, dilate, before = [], [], 1
        for stage in self.stages:
            dilation = self._dilation(stage[-1])
            grows = dilation > before
            moved = max(self.units[k].stride for k in stage)
            strides.append(dilation // before if grows else moved)
            dilate.append(grows)
            before = dilation
        return tuple(strides), tuple(dilate)

    # Units.

    def _block(self) -> Fields:
        inner = [conv for convs in self.convs for conv in convs[:-1]]
        last = [convs[-1] for convs in self.convs if convs]
        fields: Fields = {
            "block.kind": self.kind,
            "block.bias": any("bias" in conv.tensors for conv in inner),
            "block.last_bias": any("bias" in conv.tensors for conv in last),
            "block.padding": _padding([conv for convs in self.convs for conv in convs]),
            "block.stride_conv": 1,
            "anti_alias": self._anti_alias(),
        }
        if self.kind == "bottleneck":
            fields |= self._bottleneck()
        return fields

    def _bottleneck(self) -> Fields:
        whole = [convs for convs in self.convs if len(convs) == self.count]
        groups = commonest(convs[1].attrs["groups"] for convs in whole)
        width = whole[0][-1].channels // 4
        mid = whole[0][0].channels
        fields: Fields = {"block.groups": groups}
        for base in (64, mid // groups * 64 / width):
            if base == int(base) and int(width * int(base) / 64) * groups == mid:
                fields["block.base_width"] = int(base)
                break
        else:
            raise NotResNet(f"a width of {mid} in {groups} groups is none of a stage of {width}")
        strided = [c for u, c in zip(self.units, self.convs, strict=True) if u.stride > 1]
        first = [convs[0].attrs["stride"][0] > 1 for convs in strided if convs]
        fields["block.stride_conv"] = 1 if first and sum(first) * 2 > len(first) else 2
        return fields

    def _anti_alias(self) -> str:
        for op, name in (("BlurPool", "blur"), ("AvgPool", "average")):
            if any(node.op == op for unit in self.units for node in unit.branch):
                return name
        return "none"

    def _norm(self) -> Fields:
        norms = [node for node in self.nodes if node.op in ("BatchNorm", "GroupNorm")]
        if not norms:
            return {}
        kind = commonest(node.op for node in norms)
        same = [node for node in norms if node.op == kind]
        fields: Fields = {}
        if kind == "GroupNorm":
            groups = commonest(node.attrs["groups"] for node in same)
            fields = {"norm.kind": "group", "norm.groups": groups}
        known = [node.attrs["eps"] for node in same if node.attrs["eps"] is not None]
        if known:
            fields["norm.eps"] = commonest(known)
        momenta = [m for n in same if (m := n.attrs.get("momentum")) is not None]
        if momenta and 0 <= commonest(momenta) < 1:  # 1: the statistics are kept some other way
            fields["norm.momentum"] = commonest(momenta)
        return fields

    def _stem(self) -> Fields:
        convs = [node for node in self.stem if node.op == "Conv"]
        if not convs:
            raise NotResNet("there is no convolution in front of the first residual unit")
        pools = [node for node in self.stem if node.op == "MaxPool"]
        averages = any(node.op == "AvgPool" for node in self.stem)
        norm = self.stem[0] if self.stem[0].op == "BatchNorm" else None
        fields: Fields = {
            "stem.convs": tuple(
                (c.attrs["kernel"][0], c.attrs["stride"][0], c.channels) for c in convs
            ),
            "stem.input_norm": "none" if norm is None else _with_or_without_scale(norm),
            "stem.bias": any("bias" in conv.tensors for conv in convs),
            "stem.padding": _padding(convs),
            "stem.pool": "max" if pools or averages else "none",
        }
        return fields

    def _pool_paddings(self) -> list[str]:
        """Of the stem; what is SAME at one size may be a window cut at the border at another."""
        pools = [node for node in self.stem if node.op == "MaxPool"]
        if not pools:
            return ["symmetric"]
        (top, bottom), _ = pools[0].attrs["pads"]
        if top == 0 and bottom <= 0:  # on an odd image the last window ends at the border
            return ["valid"] if bottom else ["ceil", "valid"]
        if top < bottom:
            return ["same"] if top else ["same", "ceil"]
        found = ["zero"] if pools[0].attrs["pad_value"] == 0 else ["symmetric"]
        return [*found, "same"] if self.net.nodes[pools[0].ins[0]].image[0] % 2 else found

    # Shortcuts.

    def _shortcut(self) -> Fields:
        fields: Fields = {}
        projections = [unit.skip for unit in self.units if unit.projects]
        nodes = [node for skip in projections for node in skip]
        if projections:
            convs = [node for node in nodes if node.op == "Conv"]
            fields["shortcut.norm"] = any(_normed(skip) for skip in projections)
            fields["shortcut.bias"] = any("bias" in conv.tensors for conv in convs)
            pooled = any(node.op == "AvgPool" for node in nodes)
            fields["shortcut.pool"] = "avg" if pooled else "none"
        padded = [n for u in self.units for n in u.skip if n.op == "Subsample"]
        padded = [n for n in padded if n.attrs["before"] or n.attrs["after"]]
        if padded:
            fields["shortcut.zero_pad"] = "split" if padded[0].attrs["before"] else "tail"
        mode = commonest(unit.mode for unit in self.units)
        scales = commonest(unit.scales for unit in self.units)
        if mode != "plain":
            fields["shortcut.join"] = mode
        elif scales != (1.0, 1.0):
            fields |= {"shortcut.join": "scale", "shortcut.scales": scales}
        return fields

    def _projections(self) -> list[str]:
        """Every rule that says of each unit what it does."""
        entries = {stage[0] for stage in self.stages}

        def widens(k: int) -> bool:
            return self.units[k].fork.channels != self.units[k].join.channels

        rules: dict[str, Callable[[int], bool]] = {
            "shape": lambda k: widens(k) or self.units[k].stride != 1,
            "channels": widens,
            "entry": lambda k: k in entries,
            "always": lambda k: True,
            "never": lambda k: False,
        }
        wrong = {
            name: sum(rule(k) != unit.projects for k, unit in enumerate(self.units))
            for name, rule in rules.items()
        }
        least = min(wrong.values())
        return [name for name, count in wrong.items() if count == least]

    # What several readings are left of.

    def _variants(self) -> list[Fields]:
        """Order, projection, where the first activation stands: every way that the evidence has."""
        tails = [_letters(unit.branch)[-1:] for unit in self.units]
        orders = {
            "B": ["post", "act_only_pre"],
            "C": ["full_pre", "norm_after_add"],
            "R": ["act_before_add"],
        }.get(commonest(tails), ["post", "full_pre"])
        last = max((k for k, n in enumerate(self.stem) if n.op == "Conv"), default=0)
        ops = [node.op for node in self.stem[last + 1 : last + 3]]
        activated = len(ops) == 2 and ops[0] in NORMS and ops[1] in ACTIVATIONS
        behind = _letters(self.behind[-1])[:1]
        found: list[Fields] = []
        late: list[Fields] = []  # what has another name, too
        several = itertools.product(orders, self._projections(), self._pool_paddings())
        for order, projection, pool in several:
            common = {
                "block.order": order,
                "shortcut.projection": projection,
                "stem.pool_padding": pool,
            }
            if order not in ("full_pre", "act_only_pre"):
                found.append({**common, "stem.norm_act": activated})
                continue
            final = {"B": "norm_act", "R": "act"}.get(behind, "none")
            stems = [(False, True)] + ([(True, False), (True, True)] if activated else [])
            sights = ("projection", "stage_entry", "never", "always")
            for (norm_act, first), sight in itertools.product(stems, sights):
                (late if sight == "always" else found).append(
                    {
                        **common,
                        "stem.norm_act": norm_act,
                        "block.first_preact": first,
                        "shortcut.preact": sight,
                        "head.final": final,
                    }
                )
        return [*found, *late]


def _with_or_without_scale(norm: Node) -> str:
    return "affine" if has_scale(norm) else "shift"


def _padding(convs: Sequence[Node]) -> str:
    """Where a strided convolution shows it."""
    strided = [c for c in convs if c.attrs["stride"][0] > 1 and c.attrs["kernel"][0] > 1]
    same = [c.attrs["pads"][0][0] < c.attrs["pads"][0][1] for c in strided]
    return "same" if sum(same) * 2 > len(same) else "symmetric"


def _normed(skip: Sequence[Node]) -> bool:
    """Whether a norm stands behind the projection."""
    conv = next(k for k, node in enumerate(skip) if node.op == "Conv")
    return any(node.op in NORMS for node in skip[conv + 1 :])


def _letters(nodes: Sequence[Node]) -> str:
    """One letter an operator: C convolution, B norm, R ReLU."""
    known = {"Conv": "C", "ReLU": "R", **dict.fromkeys(NORMS, "B")}
    return "".join(known.get(node.op, "?") for node in nodes)
