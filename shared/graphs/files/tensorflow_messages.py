"""TensorFlow's messages, as far as a graph and its weights need them.

Field numbers: tensorflow/core/framework/{graph,node_def,attr_value,tensor,function,op_def}.proto,
core/protobuf/{meta_graph,saved_model,saved_object_graph,trackable_object_graph}.proto (2.21).
"""

from __future__ import annotations

import math
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
    LATER,
    STRING,
    Later,
    Record,
    Repeated,
    Schema,
    Table,
    numbers,
)

SHAPE = Schema({2: ("dim", Repeated(Schema({1: ("size", INT)}))), 3: ("unknown_rank", INT)})
TENSOR = Schema(
    {
        1: ("dtype", INT),
        2: ("tensor_shape", SHAPE),
        4: ("tensor_content", BYTES),
        5: ("float_val", Repeated(FLOAT)),
        6: ("double_val", Repeated(DOUBLE)),
        7: ("int_val", Repeated(INT)),
        8: ("string_val", Repeated(BYTES)),
        10: ("int64_val", Repeated(INT)),
        11: ("bool_val", Repeated(INT)),
        13: ("half_val", Repeated(INT)),
        16: ("uint32_val", Repeated(INT)),
        17: ("uint64_val", Repeated(INT)),
    }
)
_LIST = Schema({2: ("s", Repeated(BYTES)), 3: ("i", Repeated(INT)), 4: ("f", Repeated(FLOAT))})
ATTRIBUTE = Schema(
    {
        1: ("list", _LIST),
        2: ("s", BYTES),
        3: ("i", INT),
        4: ("f", FLOAT),
        5: ("b", INT),
        6: ("type", INT),
        7: ("shape", SHAPE),
        8: ("tensor", TENSOR),
        10: ("func", Schema({1: ("name", STRING)})),
    }
)
NODE = Schema(
    {
        1: ("name", STRING),
        2: ("op", STRING),
        3: ("input", Repeated(STRING)),
        5: ("attr", Table(ATTRIBUTE)),
    }
)
_ARGUMENT = Schema({1: ("name", STRING), 3: ("type", INT)})
_SIGNATURE = Schema(
    {
        1: ("name", STRING),
        2: ("input_arg", Repeated(_ARGUMENT)),
        3: ("output_arg", Repeated(_ARGUMENT)),
    }
)
FUNCTION = Schema(
    {1: ("signature", _SIGNATURE), 3: ("node_def", Repeated(NODE)), 4: ("ret", Table(STRING))}
)
GRAPH = Schema(
    {1: ("node", Repeated(NODE)), 2: ("library", Schema({1: ("function", Repeated(LATER))}))}
)

_REFERENCE = Schema({1: ("node_id", INT), 2: ("local_name", STRING)})
_VARIABLE = Schema({1: ("dtype", INT), 2: ("shape", SHAPE), 6: ("name", STRING)})
_OBJECT = Schema(
    {
        1: ("children", Repeated(_REFERENCE)),
        6: ("function", Schema({1: ("concrete_functions", Repeated(STRING))})),
        7: ("variable", _VARIABLE),
        8: ("bare_concrete_function", Schema({1: ("concrete_function_name", STRING)})),
        9: ("constant", Schema({1: ("operation", STRING)})),
    }
)
_CONCRETE = Schema({2: ("bound_inputs", Repeated(INT))})
_TENSOR_INFO = Schema({1: ("name", STRING), 2: ("dtype", INT), 3: ("tensor_shape", SHAPE)})
_META_GRAPH = Schema(
    {
        2: ("graph_def", GRAPH),
        5: (
            "signature_def",
            Table(
                Schema({1: ("inputs", Table(_TENSOR_INFO)), 2: ("outputs", Table(_TENSOR_INFO))})
            ),
        ),
        7: (
            "object_graph",
            Schema({1: ("nodes", Repeated(_OBJECT)), 2: ("functions", Table(_CONCRETE))}),
        ),
    }
)
SAVED_MODEL = Schema({2: ("meta_graphs", Repeated(_META_GRAPH))})

_SAVED_VALUE = Schema(
    {1: ("name", STRING), 2: ("full_name", STRING), 3: ("checkpoint_key", STRING)}
)
TRACKABLE_GRAPH = Schema(
    {
        1: (
            "nodes",
            Repeated(
                Schema(
                    {
                        1: ("children", Repeated(_REFERENCE)),
                        2: ("attributes", Repeated(_SAVED_VALUE)),
                    }
                )
            ),
        )
    }
)
_NAME = Schema({1: ("signature", Schema({1: ("name", STRING)}))})


def functions(definition: Record) -> dict[str, Later]:
    """The library of a GraphDef, by the functions' names."""
    found = {}
    for later in definition.library.function if definition.library else ():
        signature = later.read(_NAME).signature
        if signature is not None:
            found[signature.name] = later
    return found


# A value's dtype by its number, core/framework/types.proto.
DTYPES: dict[int, Any] = {
    1: np.float32,
    2: np.float64,
    3: np.int32,
    4: np.uint8,
    5: np.int16,
    6: np.int8,
    9: np.int64,
    10: np.bool_,
    14: ml_dtypes.bfloat16,
    17: np.uint16,
    19: np.float16,
    22: np.uint32,
    23: np.uint64,
}
_VALUES = {
    np.float32: "float_val",
    np.float64: "double_val",
    np.int64: "int64_val",
    np.bool_: "bool_val",
    np.uint32: "uint32_val",
    np.uint64: "uint64_val",
    np.float16: "half_val",
    ml_dtypes.bfloat16: "half_val",
}


def checked(shape: list[int]) -> tuple[int, ...]:
    """A shape from a file, once it is one that a tensor may have. Raises `CheckpointError`."""
    if (
        len(shape) > MAX_DIMENSIONS
        or not all(type(n) is int and n >= 0 for n in shape)
        or math.prod(shape) > MAX_ELEMENTS
    ):
        raise CheckpointError(f"a tensor has the shape {shown(str(shape))}")
    return tuple(shape)


def shape_of(found: Record | None) -> tuple[int, ...]:
    return checked([dim.size for dim in found.dim] if found else [])


def array(tensor: Record) -> np.ndarray | None:
    """The values of a TensorProto, in the file's own memory; None: of a type that no weight has.

    Fewer values than elements: the last one is repeated, and none are zeros. Raises
    `CheckpointError`.
    """
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        return None
    shape = shape_of(tensor.tensor_shape)
    size = math.prod(shape)
    raw = tensor.tensor_content
    if len(raw):
        if len(raw) != size * np.dtype(dtype).itemsize:
            raise CheckpointError(f"a constant of the shape {list(shape)} has {len(raw)} bytes")
        return np.frombuffer(raw, dtype).reshape(shape)
    values = numbers(getattr(tensor, _VALUES.get(dtype, "int_val")), _stored(dtype))
    if len(values) > size:
        raise CheckpointError(f"a constant of the shape {list(shape)} has {len(values)} values")
    if dtype in (np.float16, ml_dtypes.bfloat16):  # their bits, in integers
        values = values.astype(np.uint16).view(dtype)
    values = values.astype(dtype)
    if len(values) == size:
        return values.reshape(shape)
    last = values[-1] if len(values) else dtype(0)
    if len(values) <= 1:
        return np.broadcast_to(last, shape)
    return np.concatenate([values, np.full(size - len(values), last, dtype)]).reshape(shape)


def _stored(dtype: Any) -> Any:
    return dtype if dtype in (np.float32, np.float64) else np.int64
