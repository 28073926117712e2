"""What LiteRT's schema calls things: operators, types, and the options of the operators that are
read.

Source: tensorflow/lite/schema/schema.fbs, version 3 (LiteRT 2.3).
"""

from __future__ import annotations

from typing import Any


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TYPES = _words(
    """
    FLOAT32 FLOAT16 INT32 UINT8 INT64 STRING BOOL INT16 COMPLEX64 INT8 FLOAT64 COMPLEX128 UINT64
    RESOURCE VARIANT UINT32 UINT16 INT4 BFLOAT16 INT2 UINT4 FLOAT8_E4M3FN FLOAT8_E5M2
    """
)

# By their numbers, from 0 on.
OPERATORS = _words(
    """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE
    EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D
    LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1
    RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS
    SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER
    BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE
    UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT
    LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG
    PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE
    EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD
    REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV
    REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU
    SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE
    RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE
    NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM
    BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D
    IMAG REAL COMPLEX_ABS HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL
    CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS
    RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE
    RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2
    UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD
    STABLEHLO_DIVIDE STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE STABLEHLO_CLAMP
    STABLEHLO_CONCATENATE STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION STABLEHLO_SLICE
    STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE STABLEHLO_ABS STABLEHLO_AND STABLEHLO_COSINE
    STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR STABLEHLO_LOG STABLEHLO_MINIMUM STABLEHLO_NEGATE
    STABLEHLO_OR STABLEHLO_POWER STABLEHLO_REMAINDER STABLEHLO_RSQRT STABLEHLO_SELECT
    STABLEHLO_SUBTRACT STABLEHLO_TANH STABLEHLO_SCATTER STABLEHLO_COMPARE STABLEHLO_CONVERT
    STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD STABLEHLO_IOTA
    STABLEHLO_DOT_GENERAL STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE
    STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW
    STABLEHLO_COMPOSITE STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT STABLEHLO_CASE
    """
)

# Options that are no numbers, though they are stored as such.
ENUMS = {
    "activation": ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT"),
    "mode": ("REFLECT", "SYMMETRIC"),
    "padding": ("SAME", "VALID"),
}

Fields = dict[str, tuple[int, str, Any]]  # name -> (place, form of `struct`, default)
_FUSED: Fields = {"activation": (0, "<b", 0)}
_POOL: tuple[int, Fields] = (
    5,
    {
        "padding": (0, "<b", 0),
        "stride_w": (1, "<i", 0),
        "stride_h": (2, "<i", 0),
        "filter_w": (3, "<i", 0),
        "filter_h": (4, "<i", 0),
        "activation": (5, "<b", 0),
    },
)
_REDUCE: tuple[int, Fields] = (27, {"keep_dims": (0, "<b", 0)})

# Of an operator: which table of options it has, and what is in it.
OPTIONS: dict[str, tuple[int, Fields]] = {
    "CONV_2D": (
        1,
        {
            "padding": (0, "<b", 0),
            "stride_w": (1, "<i", 0),
            "stride_h": (2, "<i", 0),
            "activation": (3, "<b", 0),
            "dilation_w": (4, "<i", 1),
            "dilation_h": (5, "<i", 1),
        },
    ),
    "DEPTHWISE_CONV_2D": (
        2,
        {
            "padding": (0, "<b", 0),
            "stride_w": (1, "<i", 0),
            "stride_h": (2, "<i", 0),
            "activation": (4, "<b", 0),
            "dilation_w": (5, "<i", 1),
            "dilation_h": (6, "<i", 1),
        },
    ),
    "AVERAGE_POOL_2D": _POOL,
    "MAX_POOL_2D": _POOL,
    "FULLY_CONNECTED": (
        8,
        {"activation": (0, "<b", 0), "weights_format": (1, "<b", 0), "keep_num_dims": (2, "<b", 0)},
    ),
    "SOFTMAX": (9, {"beta": (0, "<f", 0.0)}),
    "CONCATENATION": (10, {"axis": (0, "<i", 0), "activation": (1, "<b", 0)}),
    "ADD": (11, _FUSED),
    "RESHAPE": (17, {"new_shape": (0, "[i]", None)}),
    "MUL": (21, _FUSED),
    "GATHER": (23, {"axis": (0, "<i", 0), "batch_dims": (1, "<i", 0)}),
    "MEAN": _REDUCE,
    "REDUCE_MAX": _REDUCE,
    "REDUCE_MIN": _REDUCE,
    "REDUCE_PROD": _REDUCE,
    "SUM": _REDUCE,
    "SUB": (28, _FUSED),
    "DIV": (29, _FUSED),
    "SQUEEZE": (30, {"squeeze_dims": (0, "[i]", None)}),
    "STRIDED_SLICE": (
        32,
        {
            "begin_mask": (0, "<i", 0),
            "end_mask": (1, "<i", 0),
            "ellipsis_mask": (2, "<i", 0),
            "new_axis_mask": (3, "<i", 0),
            "shrink_axis_mask": (4, "<i", 0),
            "offset": (5, "<b", 0),
        },
    ),
    "SPLIT": (35, {"num_split": (0, "<i", 0)}),
    "PACK": (59, {"axis": (1, "<i", 0)}),
    "UNPACK": (64, {"axis": (1, "<i", 0)}),
    "LEAKY_RELU": (75, {"alpha": (0, "<f", 0.0)}),
    "MIRROR_PAD": (77, {"mode": (0, "<b", 0)}),
    "BATCH_MATMUL": (101, {"adj_x": (0, "<b", 0), "adj_y": (1, "<b", 0)}),
    "GELU": (116, {"approximate": (0, "<b", 0)}),
}
