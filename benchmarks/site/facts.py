"""What the page says of a part of a network: shapes and parameters of the plan, and errors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from benchmarks.site.networks import units_of
from shared.architecture.plan import LayerRow, Plan

CHECKS = {
    "eval": "evaluation",
    "train": "training mode",
    "gradients": "gradients",
    "steps": "training steps",
}
SHORT = {"keras:tensorflow": "Keras", "torch": "PyTorch", "flax": "Flax", "reference": "NumPy"}


class Shape(NamedTuple):
    """Layers of one kind: where they stand, what the first one is, and their sum."""

    where: str
    what: str
    output: str
    params: int


class Error(NamedTuple):
    """The errors of a part in one check."""

    check: str
    worst: float
    name: str
    limit: float | None
    pairs: Mapping[str, float]


def shapes(plan: Plan, unit: str) -> list[Shape]:
    """One row a stage; one a layer, where the part is no block's."""
    layers = [row for row in plan.layers if unit in units_of(row.name)]
    if unit in ("norm", "conv"):
        return list(_by_kind(layers))
    if unit.startswith("stages."):
        return list(_by_layer(layers))
    found = []
    for stage, group in itertools.groupby(layers, key=_stage):
        rows = list(group)
        if not stage:
            found += [Shape(r.name, _what(r), _size(r), r.params) for r in rows]
            continue
        first = next((row for row in rows if row.op == "conv"), rows[-1])
        if unit == "block":
            first = rows[_first_block(rows) - 1]
        blocks = len({row.name.split(".")[3] for row in rows})
        many = f"stage {stage}, {blocks} block{'s' * (blocks > 1)}"
        found.append(Shape(many, _what(first), _size(first), sum(r.params for r in rows)))
    return found


def _stage(row: LayerRow) -> str:
    return row.name.split(".")[1] if row.name.startswith("stages.") else ""


def _first_block(rows: list[LayerRow]) -> int:
    """How many rows the first block of a stage has."""
    block = rows[0].name.split(".")[3]
    return sum(row.name.split(".")[3] == block for row in rows)


def _what(row: LayerRow) -> str:
    return f"{row.op.replace('_', ' ')} {row.about}".strip()


def _size(row: LayerRow) -> str:
    return " x ".join(map(str, row.output))


def _by_kind(layers: list[LayerRow]) -> Iterator[Shape]:
    kinds: dict[str, list[LayerRow]] = {}
    for row in layers:
        about = row.about if row.op != "conv" else row.about.partition(",")[0]
        kinds.setdefault(f"{row.op.replace('_', ' ')} {about}", []).append(row)
    for kind, rows in kinds.items():
        sizes = list(dict.fromkeys(_size(row) for row in rows))
        shown = sizes[0] if len(sizes) == 1 else f"{sizes[0]} … {sizes[-1]}"
        yield Shape(f"{len(rows)} layers", kind, shown, sum(row.params for row in rows))


def _by_layer(layers: list[LayerRow]) -> Iterator[Shape]:
    """The layers of a stage's first block that make its shapes, and the stage as a whole."""
    for row in layers[: _first_block(layers)]:
        if "norm" not in row.op and row.name.count(".") > 3:
            name = row.name.partition(".blocks.0.")[2]
            yield Shape(name, _what(row), _size(row), row.params)
    blocks = len({row.name.split(".")[3] for row in layers})
    total = sum(row.params for row in layers)
    yield Shape("the stage", f"{blocks} blocks, norms too", _size(layers[-1]), total)


def errors(measured: Mapping[str, Any], unit: str) -> list[Error]:
    """Of each check in which the part has tensors."""
    of_unit = measured["units"].get(unit, {})
    return [
        Error(CHECKS[check], entry["worst"][0], entry["worst"][1], entry["limit"], entry["pairs"])
        for check in CHECKS
        if (entry := of_unit.get(check))
    ]


def pair_name(pair: str) -> str:
    """ "torch keras:tensorflow" -> "PyTorch / Keras"."""
    return " / ".join(SHORT[side] for side in pair.split(" "))
