"""A scheme's names from canonical ones, and back."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from shared.architecture.plan import Plan, make_plan
from shared.architecture.spec import ResNetSpec
from shared.naming.schemes import Scheme

# PyTorch counts the batches that a norm has seen; no function of the network depends on it.
COUNTER = "num_batches_tracked"

Items = tuple[tuple[str, str], ...]  # of a table

_PLACES = {
    "s": r"(?:0|[1-7])",
    "s1": r"[1-8]",
    "c": r"[2-9]",
    "b": r"(?:0|[1-9]\d{0,3})",
    "b1": r"[1-9]\d{0,3}",
    "u": r"\d\d",
    "letter": r"[a-z]",
    "k": r"[1-3]",
    "k0": r"[0-2]",
    "abc": r"[abc]",
    "n": r"(?:0|[1-9]\d{0,3})",
}


class TensorPosition(NamedTuple):
    """Where a layer stands: its kind (`conv`, `shortcut.norm`, `stem.conv1`), stage, block and
    number in the block.

    A stage of -1 says that `block` is counted through all stages.
    """

    kind: str
    stage: int = 0
    block: int = 0
    number: int = 0

    @property
    def layer(self) -> str:
        """The canonical name."""
        if self.kind in ("conv", "norm", "gate", "shortcut.conv", "shortcut.norm"):
            return f"stages.{self.stage}.blocks.{self.block}.{self.kind}{self.number or ''}"
        return self.kind


_BLOCK = re.compile(
    r"stages\.(\d+)\.blocks\.(\d+)\.(conv|norm|gate|shortcut\.conv|shortcut\.norm)(\d?)"
)


def place_of(layer: str) -> TensorPosition:
    """The place of a canonical layer name."""
    match = _BLOCK.fullmatch(layer)
    if match is None:
        return TensorPosition(layer)
    return TensorPosition(match[3], int(match[1]), int(match[2]), int(match[4] or 0))


@functools.lru_cache(maxsize=16)
def plan_of(spec: ResNetSpec) -> Plan:
    """`make_plan`, kept for those who ask next: a conversion asks for the same one
    several times.
    """
    return make_plan(spec)


def leaf_kind(kind: str) -> str:
    """Which leaves a layer has: those of a `conv`, a `norm` or a `linear` one."""
    if kind == "head":
        return "linear"
    return "norm" if "norm" in kind else "conv"


def foreign_names(scheme: Scheme, plan: Plan) -> tuple[dict[str, str], list[str]]:
    """Canonical tensor -> the scheme's name, in the plan's order; and the tensors that it has no
    name for.
    """
    names, unmapped = _foreign_names(
        tuple(scheme.layers.items()), tuple(scheme.leaves.items()), plan.spec
    )
    return dict(names), list(unmapped)


@functools.lru_cache(maxsize=16)
def _foreign_names(
    layer_table: Items, leaf_table: Items, spec: ResNetSpec
) -> tuple[dict[str, str], list[str]]:
    layers, leaves = dict(layer_table), dict(leaf_table)
    starts = [sum(spec.depths[:i]) for i in range(len(spec.depths))]
    names, unmapped = {}, []
    for tensor in plan_of(spec).tensors:
        layer, _, leaf = tensor.rpartition(".")
        place = place_of(layer)
        template = layers.get(f"{place.kind}{place.number}", layers.get(place.kind))
        outer = leaves.get(f"{leaf_kind(place.kind)}.{leaf}")
        if template is None or outer is None:
            unmapped.append(tensor)
            continue
        s, b, k = place.stage, place.block, place.number
        inner = template.format(
            s=s,
            s1=s + 1,
            c=s + 2,
            b=b,
            b1=b + 1,
            u=f"{b + 1:02d}",
            letter=chr(ord("a") + b),
            k=k,
            k0=k - 1,
            abc="?abc"[k],
            n=starts[s] + b,
        )
        names[tensor] = outer.format(layer=inner)
    return names, unmapped


def stem_name(scheme: Scheme) -> str:
    """What the scheme calls the kernel of the first convolution, which every network has."""
    return scheme.leaves["conv.weight"].format(layer=scheme.layers["stem.conv1"])


class _Pattern(NamedTuple):
    regex: re.Pattern[str]
    kind: str
    number: int | None  # of a template for one number alone
    taken: frozenset[int]  # numbers that have a template of their own
    leaf: str


def _patterns(scheme: Scheme) -> Mapping[str, list[_Pattern]]:
    """By what follows the last dot or slash, in which no template has a place."""
    return _make_patterns(tuple(scheme.layers.items()), tuple(scheme.leaves.items()))


@functools.cache
def _make_patterns(layers: Items, leaves: Items) -> Mapping[str, list[_Pattern]]:
    found: dict[str, list[_Pattern]] = {}
    keys = {key for key, _ in layers}
    for key, template in layers:
        alone = re.fullmatch(r"(conv|norm)(\d)", key)
        kind, number = (alone[1], int(alone[2])) if alone else (key, None)
        taken = frozenset(k for k in (1, 2, 3) if not alone and f"{key}{k}" in keys)
        for leaf_key, outer in leaves:
            family, _, leaf = leaf_key.partition(".")
            if family == leaf_kind(kind):
                pattern = _Pattern(
                    _regex(outer.replace("{layer}", template)), kind, number, taken, leaf
                )
                found.setdefault(_tail(outer), []).append(pattern)
    return found


def _tail(name: str) -> str:
    return name[max(name.rfind("."), name.rfind("/")) + 1 :]


def _regex(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(
            f"(?P<{part}>{_PLACES[part]})" if i % 2 else re.escape(part)
            for i, part in enumerate(parts)
        )
    )


def canonical_names(scheme: Scheme, names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The scheme's names -> canonical ones, and the names that are not the scheme's."""
    patterns = _patterns(scheme)
    places: dict[str, tuple[TensorPosition, str]] = {}
    unrecognised = []
    for name in names:
        found = _match(patterns.get(_tail(name), ()), name)
        if found:
            places[name] = found
        else:
            unrecognised.append(name)
    stages = _stages([place for place, _ in places.values()])
    return {
        name: f"{(stages[place.block](place) if place.stage < 0 else place).layer}.{leaf}"
        for name, (place, leaf) in places.items()
    }, unrecognised


def _match(patterns: Iterable[_Pattern], name: str) -> tuple[TensorPosition, str] | None:
    for pattern in patterns:
        match = pattern.regex.fullmatch(name)
        if match is None:
            continue
        where = match.groupdict()
        number = pattern.number or _number(where)
        if number in pattern.taken:
            continue
        block = _block(where)
        if block is not None:
            return TensorPosition(pattern.kind, _stage(where), block, number), pattern.leaf
    return None


def _number(where: Mapping[str, str]) -> int:
    if "k" in where:
        return int(where["k"])
    if "k0" in where:
        return int(where["k0"]) + 1
    return "abc".index(where["abc"]) + 1 if "abc" in where else 0


def _block(where: Mapping[str, str]) -> int | None:
    if "u" in where:
        return int(where["u"]) - 1 if where["u"] != "00" else None
    if "letter" in where:
        return ord(where["letter"]) - ord("a")
    return int(where["b1"]) - 1 if "b1" in where else int(where.get("b", where.get("n", "0")))


def _stage(where: Mapping[str, str]) -> int:
    if "n" in where:
        return -1
    if "s1" in where:
        return int(where["s1"]) - 1
    return int(where["c"]) - 2 if "c" in where else int(where.get("s", "0"))


def _stages(places: list[TensorPosition]) -> dict[int, functools.partial[TensorPosition]]:
    """For blocks counted through all stages: a stage begins where a block projects its shortcut."""
    starts = sorted(
        {0} | {place.block for place in places if place.stage < 0 and place.kind == "shortcut.conv"}
    )
    return {place.block: functools.partial(_restage, starts) for place in places if place.stage < 0}


def _restage(starts: list[int], place: TensorPosition) -> TensorPosition:
    stage = max(i for i, start in enumerate(starts) if start <= place.block)
    return place._replace(stage=stage, block=place.block - starts[stage])
