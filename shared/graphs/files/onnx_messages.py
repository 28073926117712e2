"""ONNX' messages, as far as a graph and its weights need them.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (IR version 13).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from shared.errors import CheckpointError, shown
from shared.formats.containers.archive import MAX_DIMENSIONS, MAX_ELEMENTS
from shared.graphs.files.messages import (
    BYTES,
    DOUBLE,
    FLOAT,
    INT,
    STRING,
    Record,
    Repeated,
    Schema,
    numbers,
)

_ENTRY = Schema({1: ("key", STRING), 2: ("value", STRING)})
TENSOR = Schema(
    {
        1: ("dims", Repeated(INT)),
        2: ("data_type", INT),
        4: ("float_data", Repeated(FLOAT)),
        5: ("int32_data", Repeated(INT)),
        7: ("int64_data", Repeated(INT)),
        8: ("name", STRING),
        9: ("raw_data", BYTES),
        10: ("double_data", Repeated(DOUBLE)),
        11: ("uint64_data", Repeated(INT)),
        13: ("external_data", Repeated(_ENTRY)),
        14: ("data_location", INT),
    }
)
ATTRIBUTE = Schema(
    {
        1: ("name", STRING),
        2: ("f", FLOAT),
        3: ("i", INT),
        4: ("s", BYTES),
        5: ("t", TENSOR),
        7: ("floats", Repeated(FLOAT)),
        8: ("ints", Repeated(INT)),
        20: ("type", INT),
        21: ("ref_attr_name", STRING),
    }
)
NODE = Schema(
    {
        1: ("input", Repeated(STRING)),
        2: ("output", Repeated(STRING)),
        3: ("name", STRING),
        4: ("op_type", STRING),
        5: ("attribute", Repeated(ATTRIBUTE)),
        7: ("domain", STRING),
        8: ("overload", STRING),
        9: ("metadata_props", Repeated(_ENTRY)),
    }
)
_SHAPE = Schema({1: ("dim", Repeated(Schema({1: ("dim_value", INT)})))})
_TYPE = Schema({1: ("tensor_type", Schema({1: ("elem_type", INT), 2: ("shape", _SHAPE)}))})
_VALUE = Schema({1: ("name", STRING), 2: ("type", _TYPE)})
GRAPH = Schema(
    {
        1: ("node", Repeated(NODE)),
        5: ("initializer", Repeated(TENSOR)),
        11: ("input", Repeated(_VALUE)),
        12: ("output", Repeated(_VALUE)),
    }
)
ATTRIBUTE.fields[6] = ("g", GRAPH)  # the branches of If
FUNCTION = Schema(
    {
        1: ("name", STRING),
        4: ("input", Repeated(STRING)),
        5: ("output", Repeated(STRING)),
        7: ("node", Repeated(NODE)),
        10: ("domain", STRING),
        11: ("attribute_proto", Repeated(ATTRIBUTE)),
        13: ("overload", STRING),
    }
)
MODEL = Schema(
    {
        2: ("producer_name", STRING),
        7: ("graph", GRAPH),
        8: ("opset_import", Repeated(Schema({1: ("domain", STRING), 2: ("version", INT)}))),
        25: ("functions", Repeated(FUNCTION)),
    }
)

DTYPES: dict[int, Any] = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
    12: np.uint32,
    13: np.uint64,
    16: ml_dtypes.bfloat16,
}
_EXTERNAL = 1
# Where values stand that are not raw bytes; everything else is in integers of 32 bits.
_FIELDS = {
    np.float32: ("float_data", np.float32),
    np.float64: ("double_data", np.float64),
    np.int64: ("int64_data", np.int64),
    np.uint64: ("uint64_data", np.int64),
    np.uint32: ("uint64_data", np.int64),
}

External = Callable[[dict[str, str], int], bytes]  # where it lies, how many bytes -> them


def shape_of(tensor: Record) -> tuple[int, ...]:
    """Raises `CheckpointError` for one that no tensor has."""
    dims = numbers(tensor.dims, np.int64).tolist()
    if len(dims) > MAX_DIMENSIONS or any(n < 0 for n in dims) or math.prod(dims) > MAX_ELEMENTS:
        raise CheckpointError(f"{shown(tensor.name)} has the shape {shown(str(dims))}")
    return tuple(dims)


def array(tensor: Record, external: External) -> np.ndarray | None:
    """The values of a TensorProto; None: of a type that no weight has. Raises `CheckpointError`."""
    dtype = DTYPES.get(tensor.data_type)
    if dtype is None:
        return None
    shape = shape_of(tensor)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = tensor.raw_data
    if tensor.data_location == _EXTERNAL:
        raw = external({entry.key: entry.value for entry in tensor.external_data}, size)
    if raw or not size:
        if len(raw) != size:
            raise CheckpointError(
                f"{shown(tensor.name)} has {len(raw)} bytes, expected {size} for {list(shape)}"
            )
        return np.frombuffer(raw, dtype).reshape(shape)
    field, stored = _FIELDS.get(dtype, ("int32_data", np.int64))
    values = numbers(getattr(tensor, field), stored)
    if len(values) != math.prod(shape):
        raise CheckpointError(
            f"{shown(tensor.name)} has {len(values)} values, expected {math.prod(shape)}"
        )
    if dtype in (np.float16, ml_dtypes.bfloat16):  # their bits
        return values.astype(np.uint16).view(dtype).reshape(shape)
    return values.astype(dtype).reshape(shape)
