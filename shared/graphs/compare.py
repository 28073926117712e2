"""What tells two nodes apart: a plan's, or another model's, and the user's."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from shared.graphs.net import Node, described, touches
from shared.graphs.planned import PadRule, padded

NORMS = ("BatchNorm", "GroupNorm", "Affine")
POOLS = ("AvgPool", "BlurPool", "GlobalPool", "MaxPool", "Subsample", "SumPool")
ACTIVATIONS = (
    *("ELU", "GELU", "GELU (tanh)", "HardSigmoid", "HardSwish", "LeakyReLU", "Max", "Mish"),
    *("ReLU", "ReLU6", "SiLU", "Sigmoid", "Softplus", "Tanh"),
)
FOLDED = "folded norm"
ZERO_BIAS = "no bias"
COMPUTED = "computed kernel"
NEUTRAL = "no scale or shift"


class Difference(NamedTuple):
    """An attribute of a node: as it is in the user's model, and as it should be."""

    what: str
    theirs: str
    ours: str


class Note(NamedTuple):
    """Something that makes no difference to the output, but may to training; with its place."""

    kind: str
    where: str


def alike(ours: Node, theirs: Node) -> bool:
    """Whether the nodes can stand for each other: of one kind, a norm that has been folded, or a
    linear layer of a map of one pixel.
    """
    if ours.op == "Linear" and theirs.op == "Conv":
        return theirs.attrs["kernel"] == (1, 1) and theirs.image == (1, 1)
    return ours.op == theirs.op or (ours.op == "BatchNorm" and theirs.op == "Affine")


def cost(ours: Node, theirs: Node) -> float:
    """Of taking one for the other; leaving both out costs 2."""
    if alike(ours, theirs):
        return min(0.9, 0.3 * _distance(ours, theirs))
    for kind in (NORMS, ACTIVATIONS):
        if ours.op in kind and theirs.op in kind:
            return 1.0
    if ours.op in POOLS and theirs.op in POOLS:
        return 1.2
    if theirs.op == "Other":
        return 1.0 if ours.op in NORMS and "normalisation" in theirs.label else 1.7
    return 2.5


def _distance(ours: Node, theirs: Node) -> int:
    keys = ("kernel", "stride", "dilation", "groups", "mode", "before", "after", "weight_std_eps")
    differ = sum(ours.attrs.get(key) != theirs.attrs.get(key) for key in keys)
    return differ + (ours.channels != theirs.channels)


def differences(
    ours: Node, theirs: Node, source: Node, rule: PadRule | None = None
) -> tuple[list[Difference], list[Note]]:
    """Of two nodes that are alike; `source` is what the user's node reads, and `rule` how a plan's
    window pads. What follows from an earlier difference (the size of an image, the channels that
    come in) is none.
    """
    found: list[Difference] = []
    notes: list[Note] = []

    def compare(what: str, mine: Any, its: Any) -> None:
        if mine != its:
            found.append(Difference(what, described(its), described(mine)))

    a, b = ours.attrs, theirs.attrs
    match ours.op:
        case "Conv":
            for key in ("kernel", "stride", "groups"):
                compare(key, tuple_of(a[key]), tuple_of(b[key]))
            if a["kernel"] != (1, 1):
                compare("dilation", a["dilation"], b["dilation"])
            compare("channels", ours.channels, theirs.channels)
            compare("weight_std_eps", a["weight_std_eps"], b["weight_std_eps"])
            if not found and source.op != "Pad":  # which is a departure of its own
                compare("padding", _pads(ours, theirs, source, rule), b["pads"])
            _bias(ours, theirs, found, notes)
            notes += [Note(COMPUTED, theirs.where) for note in theirs.notes if "computed" in note]
        case "BatchNorm":
            if theirs.op == "Affine" or b["eps"] is None:
                notes.append(Note(FOLDED, theirs.where))
            elif a["eps"] is not None:
                compare("eps", a["eps"], b["eps"])
                _neutral(ours, theirs, notes)
            if "scale" in a:
                compare("scale", a["scale"], has_scale(theirs))
        case "GroupNorm":
            compare("groups", a["groups"], b["groups"])
            compare("eps", a["eps"], b["eps"])
            _neutral(ours, theirs, notes)
        case "MaxPool" | "AvgPool" | "BlurPool":
            _compare_pools(ours, theirs, source, rule, compare)
        case "Linear":
            compare("outputs", ours.channels, theirs.channels)
            compare("weight_std_eps", a.get("weight_std_eps"), b.get("weight_std_eps"))
            _bias(ours, theirs, found, notes)
        case "Subsample":
            compare("stride", a["stride"], b["stride"])
            compare("zero channels", (a["before"], a["after"]), (b["before"], b["after"]))
        case "GlobalPool":
            compare("pool", a["mode"], b["mode"])
        case "Scale":
            same = all(math.isclose(a[key], b[key], rel_tol=1e-7) for key in ("scale", "shift"))
            if not same:
                compare("factor", (a["scale"], a["shift"]), (b["scale"], b["shift"]))
        case _:
            for key in sorted(set(a) | set(b)):
                compare("operator" if key == "what" else key, a.get(key), b.get(key))
    return found, notes


def _neutral(ours: Node, theirs: Node, notes: list[Note]) -> None:
    absent = {"no weight", "no bias"} & set(theirs.notes)
    if absent - (set() if ours.attrs.get("scale", True) else {"no weight"}):
        notes.append(Note(NEUTRAL, theirs.where))


def _compare_pools(
    ours: Node, theirs: Node, source: Node, rule: PadRule | None, compare: Any
) -> None:
    a, b = ours.attrs, theirs.attrs
    compare("window", a["kernel"], b["kernel"])
    compare("stride", a["stride"], b["stride"])
    compare("dilation", a.get("dilation", (1, 1)), b.get("dilation", (1, 1)))
    if a["kernel"] == b["kernel"] and a["stride"] == b["stride"]:
        compare("padding", _pads(ours, theirs, source, rule), b["pads"])
    outside = touches(b["pads"])
    if ours.op == "MaxPool" and outside and source.op not in ("ReLU", "ReLU6"):
        # Behind a ReLU no value is below 0: zeros and -inf around it are the same.
        compare("padding value", a["pad_value"], b["pad_value"])
    if ours.op == "AvgPool":
        compare("divisor", a.get("divisor"), b.get("divisor"))
        if outside:
            compare("zeros counted", bool(a.get("count_pad")), bool(b.get("count_pad")))
    if ours.op == "BlurPool":
        if outside:
            compare("border", a["mode"], b["mode"])
        near = len(a["filter"]) == len(b["filter"]) and all(
            math.isclose(x, y, rel_tol=1e-6) for x, y in zip(a["filter"], b["filter"], strict=True)
        )
        if not near:
            compare("filter", a["filter"], b["filter"])


def _pads(ours: Node, theirs: Node, source: Node, rule: PadRule | None) -> Any:
    """What our padding would be on the user's image."""
    if rule is not None:
        return padded(ours, rule, source.image)
    return ours.attrs["pads"]


def _bias(ours: Node, theirs: Node, found: list[Difference], notes: list[Note]) -> None:
    mine = ours.attrs.get("bias", "bias" in ours.tensors or ours.op == "Linear")
    if mine and "bias" not in theirs.tensors:
        notes.append(Note(ZERO_BIAS, theirs.where))
    elif "bias" in theirs.tensors and not mine:
        found.append(Difference("bias", "yes", "no"))


def has_scale(norm: Node) -> bool:
    """Whether a norm has a gamma, and not the ones that stand for none."""
    return "no weight" not in norm.notes


def tuple_of(value: Any) -> Any:
    return tuple(value) if isinstance(value, (tuple, list)) else value
