"""The logical network: what is left of a raw graph when layouts and spellings are gone.

Operators, with their attributes (windows are (height, width)):

    Input
    Conv        kernel, stride, dilation, groups, pads, weight_std_eps; tensors weight OIHW, bias
    Linear      tensors weight [out, in], bias
    BatchNorm   eps (None: folded away), momentum; GroupNorm: groups, eps
    MaxPool     kernel, stride, dilation, pads, pad_value; AvgPool: count_pad, divisor
    BlurPool    kernel, stride, pads, mode, taps: one fixed filter for every channel
    GlobalPool  mode (avg, max); GlobalSum: count; SumPool: as AvgPool
    ReLU Sigmoid SiLU Softmax LogSoftmax … LeakyReLU (slope), Max(x, c), Min(x, c)
    Add Mul Max Dropout
    Scale       a x + b, literals; Affine: a x + b for each channel, tensors scale, shift
    Subsample   stride; before, after: zero channels
    Pad Slice Reverse PartMean
    Other       what: an operator that no ResNet has

`pads` are what the windows touch beyond the image: ((top, bottom), (left, right)), negative at the
end where the last rows are read by no window. So SAME, explicit and ceil padding compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.graphs.axes import Dims
from shared.graphs.primitives import Array

Pads = tuple[tuple[int, int], tuple[int, int]]
NO_PADS: Pads = ((0, 0), (0, 0))
HIDDEN = (
    "bias",
    "computed",
    "decomposed",
    "filter",
    "momentum",
    "what",
)  # attributes that no text shows


@dataclass
class Node:
    """One operator of the network."""

    id: int
    op: str
    ins: list[int]
    attrs: dict[str, Any]
    size: dict[str, int]  # of the output, by logical axis
    tensors: dict[str, Array] = field(default_factory=dict)  # by leaf, in canonical layout
    names: dict[str, str | None] = field(default_factory=dict)  # the user's, by leaf
    where: str = ""
    line: str = ""
    notes: list[str] = field(default_factory=list)
    value: tuple[int, Dims] | None = None  # the raw value that is its output, and its dimensions

    @property
    def image(self) -> tuple[int, int]:
        return self.size.get("H", 1), self.size.get("W", 1)

    @property
    def channels(self) -> int:
        return self.size.get("C", 1)

    @property
    def label(self) -> str:
        """The operator as a sentence names it."""
        return self.attrs["what"] if self.op == "Other" else self.op

    def __str__(self) -> str:
        shown = {
            key: value
            for key, value in self.attrs.items()
            if key not in HIDDEN and value not in (None, False, 1, (1, 1), NO_PADS)
        }
        if shown.get("mode") not in (None, "constant", "avg", "max"):
            shown.pop("value", None)
        listed = ", ".join(f"{key.replace('_', ' ')} {described(v)}" for key, v in shown.items())
        return self.label + (f" ({listed})" if listed else "")


@dataclass
class Net:
    """Operators in topological order."""

    nodes: list[Node]
    input: int
    output: int

    def readers(self) -> list[list[Node]]:
        """For each node those that read it."""
        found: list[list[Node]] = [[] for _ in self.nodes]
        for node in self.nodes:
            for i in dict.fromkeys(node.ins):
                found[i].append(node)
        return found


def compacted(nodes: Sequence[Node], source: int, output: int) -> Net:
    """The nodes that the output depends on, numbered anew; they are changed in place."""
    live, waiting = {source}, [output]
    while waiting:
        i = waiting.pop()
        if i not in live:
            live.add(i)
            waiting.extend(nodes[i].ins)
    kept = [node for node in nodes if node.id in live]
    number = {node.id: k for k, node in enumerate(kept)}
    for k, node in enumerate(kept):
        node.id, node.ins = k, [number[i] for i in node.ins]
    return Net(kept, number[source], number[output])


def effective(
    image: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> Pads:
    """What the windows touch beyond the image, whatever the padding was called."""
    rows, columns = (
        (lo, (o - 1) * s + d * (k - 1) + 1 - n - lo)
        for n, o, k, s, d, (lo, _) in zip(image, out, kernel, stride, dilation, pads, strict=True)
    )
    return rows, columns


def touches(pads: Pads) -> bool:
    """Whether any window reaches beyond the image."""
    return any(side > 0 for axis in pads for side in axis)


def module_of(name: str | None) -> str:
    """The module path in a parameter's name; empty where it has none."""
    if not name or name.startswith("onnx::") or " " in name:
        return ""
    separator = "." if "." in name else "/"
    return name.rpartition(separator)[0]


def described(value: Any) -> str:
    """As a person writes it: 3 x 3, 1 top 2 bottom, 1e-05."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], tuple):
        return "none" if value == NO_PADS else _padding(value)
    if isinstance(value, tuple) and len(value) == 2:
        first, second = value
        return f"{first:g}" if first == second else f"{first:g} x {second:g}"
    if isinstance(value, tuple):
        return ", ".join(map(described, value))
    if isinstance(value, dict):
        return " ".join(f"{key} {described(each)}" for key, each in value.items())
    return str(value)


def _padding(pads: Any) -> str:
    """(before, after) where height and width have the same."""
    if pads[0] == pads[1]:
        return "({}, {})".format(*pads[0])
    return "({}, {}) x ({}, {})".format(*pads[0], *pads[1])
