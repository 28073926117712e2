"""LiteRT's (TensorFlow Lite's) networks, `.tflite`, as graphs, without a package that reads them
and without a runtime.

The numbers of such a network are its graph's, computed by NumPy in float64: nothing of the file
runs.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from shared.errors import CheckpointError, shown
from shared.formats.containers import spans
from shared.graphs.files.announced import Announced, read_announced
from shared.graphs.files.litert_model import DTYPES, Model, Tensor, Unread, parse
from shared.graphs.files.pieces import Pieces
from shared.graphs.primitives import Array, RawGraph
from shared.graphs.translate import choices
from shared.graphs.translate.litert import LiteRtReader


def read_graph(path: Path | str, image_size: int | None = None) -> RawGraph:
    """The graph of a LiteRT network for images of a size.

    By default the size is the file's own, 224 where it has none, or 32 where the first convolution
    has stride 1. Raises `CheckpointError` for what is no such file, for a damaged one, and for a
    quantised network.
    """
    path = Path(path)
    spans.file_size(path)
    fail = spans.failing(path, "a LiteRT model")
    try:
        with path.open("rb") as file:
            model = parse(file, fail)
        return _read(model, Pieces(path), image_size)
    except OSError as error:
        raise spans.cannot_read(path, error) from None
    except Unread as error:
        raise CheckpointError(f"{path}: {error}") from None
    except CheckpointError as error:
        raise error if str(error).startswith(str(path)) else fail(str(error)) from None


def _read(model: Model, pieces: Pieces, image_size: int | None) -> RawGraph:
    shaped = [k for k in model.inputs if len(model.tensors[k].shape) == 4]
    images = (shaped or model.inputs)[0]
    tensor = model.tensors[images]
    announced = Announced.of(tensor.name, tensor.free)

    def read(shape: list[int], size: int) -> RawGraph:
        graph = RawGraph("litert", size, announced.layout, "float64")
        reader = LiteRtReader(graph, model, tensor, lambda found: _constant(found, pieces))
        values = {images: graph.input(shape, tensor.name)}
        reader.run(values)
        ends = [values[k] for k in model.outputs]
        if not graph.reached().intersection(ends):
            raise CheckpointError("it has no output that depends on the images")
        k = choices.choose_output(model.results, [reader.shape(end) for end in ends], graph)
        graph.outputs = [ends[k], *(end for j, end in enumerate(ends) if j != k)]
        if any(operator.type == "READ_VARIABLE" for operator in model.operators):
            graph.remarks.append("it reads variables, whose values are no constants of the file")
        if model.subgraphs > 1:
            graph.remarks.append(
                f"of its {model.subgraphs} subgraphs, the first is read, which LiteRT runs"
            )
        return graph

    return read_announced(read, announced, image_size)


def _constant(tensor: Tensor, pieces: Pieces) -> Array | None:
    """The values of a tensor; None: of a type that no weight has. Raises `CheckpointError`."""
    dtype = DTYPES.get(tensor.type)
    if dtype is None:
        return None
    own, name = np.dtype(dtype), tensor.name
    shape = spans.checked_shape(name, tensor.shape, CheckpointError)
    if tensor.nbytes != math.prod(shape) * own.itemsize:
        raise CheckpointError(
            f"{shown(name)} has {tensor.nbytes} bytes, expected "
            f"{math.prod(shape) * own.itemsize} for {own.name} {list(shape)}"
        )
    if not tensor.nbytes:
        return np.zeros(shape, own)
    raw = pieces.piece(name, tensor.start, tensor.nbytes)
    return (raw != 0 if own == np.bool_ else raw.view(own)).reshape(shape)
