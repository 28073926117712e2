"""ONNX files (.onnx) whose batch norms are still there: their initializers by layers' names, with
kernels OIHW and matrices [out, in].

Values in files beside it are read from its own folder alone. Whole numbers (shapes and axes) are no
weights, and left out. Of a tensor that several layers have, each gets it.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np

from shared.formats.containers import spans
from shared.formats.containers.archive import MAX_TENSORS, Archive, Entry
from shared.formats.containers.onnx.layers import WEIGHT, Part, parts_of, refusal
from shared.formats.containers.onnx.messages import Graph, Tensor, read_graph
from shared.formats.containers.protobuf import BYTES, FIXED32, Field, Source, varints
from shared.formats.containers.spans import Span, shown
from shared.weights.dtypes import float_dtype

_DTYPES = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
_WHOLE = (2, 3, 4, 5, 6, 7, 8, 9, 12, 13)  # of whole numbers, texts and truth
_FLOATS, _SMALL, _RAW, _DOUBLES = 4, 5, 9, 10  # fields of values
_MAX_OFFSET = 20  # digits
_SLACK = 1 << 20  # bytes


def read(path: Path) -> Archive:
    """The weights of a graph. Raises `CheckpointError`, which says so where norms are folded or
    tensors are quantised.
    """
    fail = spans.failing(path, "an ONNX file")
    size = spans.file_size(path)
    try:
        with path.open("rb") as file:
            source = Source(file, fail)
            graph = read_graph(source)
            if why := refusal(graph):
                raise type(fail(""))(f"{path}: {why}")
            entries, files = _entries(path, graph, source)
    except OSError as error:
        raise spans.cannot_read(path, error) from None
    total = sum(entry.nbytes for entry in entries.values())
    whole = size + sum(spans.file_size(beside) for beside in files)
    if total > 4 * whole + _SLACK:
        raise fail(f"its layers have {total:,} bytes of weights, its files {whole:,}")
    return Archive("onnx", entries, _metadata(graph))


def _metadata(graph: Graph) -> dict[str, str]:
    found = {"producer": graph.producer} if graph.producer.isprintable() else {}
    values = Counter(node.epsilon for node in graph.nodes if node.epsilon is not None)
    if values:
        found["epsilon"] = ", ".join(f"{value:.6g}" for value in sorted(values)[:8])
    return found


def _entries(path: Path, graph: Graph, source: Source) -> tuple[dict[str, Entry], set[Path]]:
    entries: dict[str, Entry] = {}
    files: set[Path] = set()
    parts = parts_of(graph)
    for name, tensor in graph.tensors.items():
        if tensor.code in _WHOLE and not any(part.leaf == WEIGHT for part in parts.get(name, ())):
            continue
        entry, beside = _entry(path, tensor, source)
        files |= beside
        for part in dict.fromkeys(parts.get(name, ())):
            whole = f"{part.layer}.{part.leaf}"
            if whole in entries:
                raise source.fail(f"two of its layers are called {shown(part.layer)}")
            entries[whole] = _oriented(entry, part)
        if name not in parts:
            if name in entries:
                raise source.fail(f"two of its tensors are called {shown(name)}")
            entries[name] = entry
        if len(entries) > MAX_TENSORS:
            raise source.fail(f"it has more than {MAX_TENSORS:,} tensors")
    return entries, files


def _oriented(entry: Entry, part: Part) -> Entry:
    if part.is_transposed and len(entry.shape) == 2:
        return entry.map(entry.shape[::-1], np.transpose)
    return entry


def _entry(path: Path, tensor: Tensor, source: Source) -> tuple[Entry, set[Path]]:
    """A tensor, and the file beside it that has its values."""
    fail = source.fail
    if tensor.code not in _DTYPES:
        raise fail(
            f"{shown(tensor.name)} has the dtype number {tensor.code}; floats of 16 to 64 bits are "
            "read"
        )
    dtype = float_dtype(_DTYPES[tensor.code])
    nbytes = math.prod(tensor.shape) * dtype.itemsize
    if tensor.external is not None:
        span = _external(path, tensor, nbytes, source)
        return spans.span_entry([span], tensor.shape, dtype, path), {span.path}
    there = {number: part for number, part in tensor.values.items() if _extent(part)}
    wanted = {1: _FLOATS, 10: _SMALL, 11: _DOUBLES, 16: _SMALL}[tensor.code]
    if len(there) > 1 or not set(there) <= {_RAW, wanted}:
        raise fail(f"the values of {shown(tensor.name)} are there twice, or of another dtype")
    number, place = next(iter(there.items()), (_RAW, None))
    start, size = (0, 0) if place is None else (place.start, _extent(place))
    if number == _SMALL:
        return _of_varints(path, tensor, dtype, start, size, source), set()
    if size != nbytes:
        raise fail(
            f"{shown(tensor.name)} has {size} bytes, which does not follow from its shape "
            f"{list(tensor.shape)} and dtype {dtype.name}"
        )
    return spans.span_entry([Span(path, start, size)], tensor.shape, dtype, path), set()


def _extent(part: Field) -> int:
    """Bytes of values, of which a single one need not be packed."""
    return part.end - part.start if part.kind in (BYTES, FIXED32) else 0


def _of_varints(
    path: Path, tensor: Tensor, dtype: np.dtype, start: int, size: int, source: Source
) -> Entry:
    """Numbers of 16 bits, each written as a whole number."""
    count = math.prod(tensor.shape)
    fail = source.fail
    if not count <= size <= 10 * count:
        raise fail(f"{shown(tensor.name)} has {size} bytes for {count} numbers")

    def load() -> np.ndarray:
        raw = spans.empty((size,), np.dtype("uint8"), path)
        spans.read_into(raw, [Span(path, start, size)])
        numbers = varints(raw, count)
        if numbers is None or (count and numbers.max() > 0xFFFF):
            raise fail(f"{shown(tensor.name)} is not written as numbers of 16 bits")
        return numbers.astype("<u2").view(dtype).reshape(tensor.shape)

    return Entry(tensor.shape, dtype, load)


def _external(path: Path, tensor: Tensor, nbytes: int, source: Source) -> Span:
    """Where in a file of the same folder a tensor's values are."""
    said = tensor.external or {}
    numbers = []
    for key, usual in (("offset", "0"), ("length", str(nbytes))):
        text = said.get(key, usual)
        if not (text.isascii() and text.isdigit()) or len(text) > _MAX_OFFSET:
            raise source.fail(f"the {key} of {shown(tensor.name)} is {shown(text)}")
        numbers.append(int(text))
    offset, length = numbers
    beside = spans.file_in(path.parent, said.get("location"))
    if length != nbytes or offset + length > spans.file_size(beside):
        raise source.fail(
            f"{shown(tensor.name)} has {length} bytes at byte {offset} of {beside.name}, which is "
            f"not there, or does not follow from its shape {list(tensor.shape)}"
        )
    return Span(beside, offset, length)
