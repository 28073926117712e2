"""LiteRT's (TensorFlow Lite's) model: the tensors and the operators of its first subgraph, which is
the one that runs.

Fields by their places in tensorflow/lite/schema/schema.fbs, version 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from shared.errors import CheckpointError, shown
from shared.formats.containers import spans
from shared.formats.containers.archive import MAX_DIMENSIONS, MAX_TENSORS
from shared.graphs.files.flatbuffer import Flatbuffer, Table
from shared.graphs.files.litert_schema import ENUMS, OPERATORS, OPTIONS, TYPES

IDENTIFIER = b"TFL3"
MAX_OPERATORS, MAX_PORTS = 1 << 16, 1 << 18
_CUSTOM = "CUSTOM"
_INSIDE = 1  # the most that the offset of a buffer is where the buffer is inside

DTYPES: dict[str, Any] = {
    **{"FLOAT64": "<f8", "FLOAT32": "<f4", "FLOAT16": "<f2", "BFLOAT16": ml_dtypes.bfloat16},
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    "BOOL": np.bool_,
}


@dataclass(frozen=True)
class Tensor:
    """`shape` is that of its values; `free` has -1 where any size will do. `start` and `nbytes` are
    where its values are.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    free: tuple[int, ...]
    start: int
    nbytes: int
    variable: bool


@dataclass(frozen=True)
class Operator:
    """`inputs` and `outputs` are tensors; an input that is left out is -1."""

    type: str
    inputs: list[int]
    outputs: list[int]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """`results` names the outputs, as the file's signature does where it has one."""

    tensors: list[Tensor]
    operators: list[Operator]
    inputs: list[int]
    outputs: list[int]
    results: list[str]
    subgraphs: int


def parse(file: BinaryIO, fail: spans.Fail) -> Model:
    """Raises `CheckpointError` for what is no such file, and for a network that does not hold
    together, whose numbers are quantised, or lie in other files.
    """
    buffer = Flatbuffer(file, fail, IDENTIFIER)
    root = buffer.root()
    version = root.number(0, "<I")
    if version != 3:
        raise fail(f"its version of the schema is {version}, expected 3")
    subgraphs = root.tables(2)
    if not subgraphs:
        raise fail("it has no subgraph")
    main = subgraphs[0]
    tensors = _tensors(main, _spans(root, buffer.size, fail), fail)
    operators = _operators(main, _codes(root), fail)
    inputs, outputs = (_ports(main, k, len(tensors), fail) for k in (1, 2))
    if not inputs:
        raise fail("it has no input for images")
    named = _signature(root)
    results = [named.get(k) or tensors[k].name for k in outputs]
    _check(operators, tensors, inputs, outputs, fail)
    return Model(tensors, operators, inputs, outputs, results, len(subgraphs))


def _codes(root: Table) -> list[str]:
    """The operators that the file uses, by name; custom ones by their own."""
    found = []
    for code in root.tables(1):
        number = max(code.number(0, "<b"), code.number(3, "<i"))
        name = _named(OPERATORS, number)
        found.append(code.text(1) or name if name == _CUSTOM else name)
    return found


def _spans(root: Table, size: int, fail: spans.Fail) -> list[tuple[int, int]]:
    """Where the bytes of each buffer start, and how many; they may be behind the tables, too."""
    found = []
    for buffer in root.tables(4):
        start, count = buffer.number(1, "<Q"), buffer.number(2, "<Q")
        if start <= _INSIDE:
            start, count = buffer.span(0)
        if start + count > size:
            raise fail(f"a buffer lies in bytes {start} to {start + count}, of {size}")
        found.append((start, count))
    return found


def _tensors(main: Table, buffers: list[tuple[int, int]], fail: spans.Fail) -> list[Tensor]:
    found = []
    tables = main.tables(0)
    if len(tables) > MAX_TENSORS:
        raise fail(f"it has more than {MAX_TENSORS:,} tensors")
    for table in tables:
        name, kind = table.text(3), _named(TYPES, table.number(1, "<b"))
        _float(name, kind, table)
        shape, free = (tuple(table.numbers(k).tolist()) for k in (0, 7))
        if len(shape) > MAX_DIMENSIONS or min(shape, default=0) < 0:
            raise fail(f"{shown(name)} has the shape {shown(str(list(shape)))}")
        if len(free) != len(shape):
            free = shape
        at = table.number(2, "<I")
        if at >= len(buffers):
            raise fail(f"{shown(name)} lies in the buffer {at}, of {len(buffers)}")
        start, nbytes = buffers[at]
        variable = bool(table.number(5, "<b"))
        found.append(Tensor(name, kind, shape, free, start, nbytes, variable))
    return found


def _float(name: str, kind: str, table: Table) -> None:
    """Raises `CheckpointError` for what is not stored as numbers that are meant as they are."""
    scales = table.table(4)
    if scales is not None and scales.span(2, 4)[1] and kind not in ("FLOAT32", "FLOAT16"):
        raise Unread(
            f"is quantised: {shown(name)} holds {kind} with a scale; networks of floats are read, "
            "of float16, too: convert the model without quantisation"
        )
    if table.table(6) is not None:
        raise Unread(f"stores {shown(name)} as a sparse tensor; convert the model without sparsity")
    if table.number(10, "<I"):
        raise Unread(f"has {shown(name)} in another file; weights inside the file are read")


class Unread(CheckpointError):
    """A whole file, of a kind that is not read."""


def _operators(main: Table, codes: list[str], fail: spans.Fail) -> list[Operator]:
    tables, ports = main.tables(3), 0
    if len(tables) > MAX_OPERATORS:
        raise fail(f"it has more than {MAX_OPERATORS:,} operators")
    found = []
    for table in tables:
        at = table.number(0, "<I")
        if at >= len(codes):
            raise fail(f"an operator has the code {at}, of {len(codes)}")
        inputs, outputs = (table.numbers(k).tolist() for k in (1, 2))
        ports += len(inputs) + len(outputs)
        if ports > MAX_PORTS:
            raise fail(f"its operators have more than {MAX_PORTS:,} inputs and outputs")
        found.append(Operator(codes[at], inputs, outputs, _options(table, codes[at])))
    return found


def _options(operator: Table, name: str) -> dict[str, Any]:
    """What the file says of an operator, or the schema's defaults; nothing of what is not known."""
    number, fields = OPTIONS.get(name, (0, {}))
    table = operator.table(4) if operator.number(3, "<B") == number and number else None
    found: dict[str, Any] = {}
    for key, (place, form, default) in fields.items():
        if form == "[i]":
            found[key] = [] if table is None else table.numbers(place).tolist()
        else:
            value = default if table is None else table.number(place, form, default)
            known = ENUMS.get(key)
            found[key] = value if known is None else _named(known, value)
    return found


def _named(known: Sequence[str], number: int) -> str:
    return known[number] if 0 <= number < len(known) else f"number {number}"


def _ports(main: Table, place: int, count: int, fail: spans.Fail) -> list[int]:
    found: list[int] = main.numbers(place).tolist()
    if len(found) > MAX_PORTS:
        raise fail(f"it has more than {MAX_PORTS:,} inputs or outputs")
    for k in found:
        if not 0 <= k < count:
            raise fail(f"its inputs or outputs name the tensor {k}, of {count}")
    return found


def _signature(root: Table) -> dict[int, str]:
    """The names of the results of the first subgraph, by their tensors."""
    for signature in root.tables(7):
        if signature.number(4, "<I") == 0:
            return {row.number(1, "<I"): row.text(0) for row in signature.tables(1)}
    return {}


def _check(
    operators: list[Operator],
    tensors: list[Tensor],
    inputs: list[int],
    outputs: list[int],
    fail: spans.Fail,
) -> None:
    """Every tensor that is read is there before, and none is made twice."""
    computed = {k for operator in operators for k in operator.outputs}
    made = {k for k, t in enumerate(tensors) if t.nbytes or t.variable} | set(inputs)
    made |= {k for k, t in enumerate(tensors) if 0 in t.shape and k not in computed}
    for operator in operators:
        for k in operator.inputs:
            if k != -1 and k not in made:
                raise fail(f"{operator.type} reads the tensor {k}, which nothing has made")
        for k in operator.outputs:
            if not 0 <= k < len(tensors) or k in made:
                raise fail(f"{operator.type} makes the tensor {k}, which is not there or made")
            made.add(k)
    for k in outputs:
        if k not in made:
            raise fail(f"its output {shown(tensors[k].name)} is computed nowhere")
