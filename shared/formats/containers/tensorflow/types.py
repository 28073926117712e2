"""TensorFlow's numbers of dtypes, and its message of a shape.

Source: tensorflow, `core/framework/types.proto` and `tensor_shape.proto`.
"""

from __future__ import annotations

import numpy as np

from shared.architecture.ops import Shape
from shared.formats.containers import spans
from shared.formats.containers.protobuf import Field, Source
from shared.weights.dtypes import float_dtype

DTYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    19: "float16",
    22: "uint32",
    23: "uint64",
}
STRING = 7
QUANTISED = (11, 12, 13, 15, 16)  # qint8, quint8, qint32, qint16, quint16
_OTHERS = {8: "complex64", 18: "complex128", 20: "resource", 21: "variant"}


def dtype_of(name: str, code: int, fail: spans.Fail) -> np.dtype:
    """The dtype of a number that is one."""
    if code not in DTYPES:
        said = _OTHERS.get(code, f"number {code}")
        raise fail(f"{spans.shown(name)} has the dtype {said}; floats and integers are read")
    return float_dtype(DTYPES[code])


def shape_of(name: str, source: Source, field: Field | None) -> Shape:
    """The shape that a message says; none is that of a scalar."""
    sizes: list[int] = []
    for part in source.inside(field) if field is not None else ():
        if part.number == 3 and source.number(part):
            raise source.fail(f"{spans.shown(name)} has an unknown number of dimensions")
        if part.number == 2:
            if len(sizes) == 64:
                raise source.fail(f"{spans.shown(name)} has more than 64 dimensions")
            source.size_of(part)
            sizes.append(_size(source, source.single(part.start, part.end)))
    return spans.checked_shape(name, sizes, source.fail)


def _size(source: Source, dimension: dict[int, Field]) -> int:
    if 1 not in dimension:
        return 0
    source.number(dimension[1])
    return dimension[1].signed
