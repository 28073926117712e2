"""OpenVINO's networks (`.xml`, with the weights in the `.bin` beside it) as graphs, without the
package `openvino` and without a runtime.

The numbers of such a network are its graph's, computed by NumPy in float64: nothing of the file
runs.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from shared.errors import CheckpointError, shown
from shared.formats.containers import spans
from shared.graphs.files.announced import Announced, read_announced
from shared.graphs.files.openvino_xml import DTYPES, Layer, Port, parse
from shared.graphs.files.pieces import Pieces
from shared.graphs.primitives import Array, RawGraph
from shared.graphs.translate import choices
from shared.graphs.translate.openvino import OpenVinoReader

_SIZE = re.compile(r"[0-9]{1,18}")


def read_graph(path: Path | str, image_size: int | None = None) -> RawGraph:
    """The graph of an OpenVINO network for images of a size.

    By default the size is the file's own, 224 where it has none, or 32 where the first convolution
    has stride 1. Raises `CheckpointError` for what is no such file, and for a damaged one.
    """
    path = Path(path)
    fail = spans.failing(path, "an OpenVINO network")
    layers = parse(path, fail)
    try:
        return _read(layers, Weights(path), image_size)
    except CheckpointError as error:
        text = str(error)
        raise error if text.startswith(f"{path.with_suffix('')}.") else fail(text) from None


def _read(layers: list[Layer], weights: Weights, image_size: int | None) -> RawGraph:
    given = [layer for layer in layers if layer.type == "Parameter"]
    shaped = [layer for layer in given if len(_free_dims(layer)) == 4]
    if not given:
        raise CheckpointError("it has no input for images")
    images = (shaped or given)[0]
    announced = Announced.of(images.name, _free_dims(images))

    def read(shape: list[int], size: int) -> RawGraph:
        graph = RawGraph("openvino", size, announced.layout, "float64")
        reader = OpenVinoReader(graph, weights.array)
        image = graph.input(shape, images.name)
        values: dict[Port, int] = {(images.id, port): image for port in images.outputs}
        reader.run(layers, values)
        graph.outputs = _outputs(reader, layers, values)
        return graph

    return read_announced(read, announced, image_size)


def _outputs(reader: OpenVinoReader, layers: list[Layer], values: dict[Port, int]) -> list[int]:
    """The result first. What depends on no image is none: TensorFlow's converter leaves pieces of
    shapes.
    """
    reached = reader.graph.reached()
    results = [
        layer
        for layer in layers
        if layer.type == "Result" and layer.reads and values[layer.reads[0]] in reached
    ]
    if not results:
        raise CheckpointError("it has no result that depends on the images")
    names, ends = [layer.name for layer in results], [values[layer.reads[0]] for layer in results]
    k = choices.choose_output(names, [reader.shape(end) for end in ends], reader.graph)
    return [ends[k], *(end for j, end in enumerate(ends) if j != k)]


def _free_dims(layer: Layer) -> list[int]:
    """The dimensions of an input; 0: any, or one of several."""
    texts = [text.strip() for text in layer.data.get("shape", "").split(",")]
    if texts in ([""], ["..."]):
        return []
    return [int(text) if _SIZE.fullmatch(text) else 0 for text in texts]


class Weights:
    """The constants in the `.bin` of a network."""

    def __init__(self, path: Path):
        self._pieces = Pieces(path.with_suffix(".bin"), path)

    def array(self, layer: Layer) -> Array | None:
        """The values of a Const; None: of a type that no weight has. Raises `CheckpointError`."""
        dtype = DTYPES.get(layer.data.get("element_type", ""))
        if dtype is None:
            return None
        own = np.dtype(dtype)
        text = layer.data.get("shape", "")
        shape = tuple(_size(layer, "shape", n) for n in text.split(",")) if text.strip() else ()
        spans.checked_shape(layer.name, shape, CheckpointError)
        offset, nbytes = (_size(layer, key, layer.data.get(key, "")) for key in ("offset", "size"))
        if nbytes != math.prod(shape) * own.itemsize:
            raise CheckpointError(
                f"{shown(layer.name)} has {nbytes} bytes, expected "
                f"{math.prod(shape) * own.itemsize} for {own.name} {list(shape)}"
            )
        if not nbytes:
            return np.zeros(shape, own)
        raw = self._pieces.piece(layer.name, offset, nbytes)
        return (raw != 0 if own == np.bool_ else raw.view(own)).reshape(shape)


def _size(layer: Layer, key: str, text: str) -> int:
    """A number of the file that is not negative."""
    if not _SIZE.fullmatch(text.strip()):
        raise CheckpointError(f"{shown(layer.name)} has the {key} {shown(text)}")
    return int(text)
