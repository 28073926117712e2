"""`.onnx` files as graphs, without the package `onnx` and without a runtime.

Weights in files of their own are read where those lie in the model's folder. The numbers of such a
model are its graph's, computed by NumPy in float64: nothing of the file runs.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from shared.errors import CheckpointError, shown
from shared.formats.containers import spans
from shared.formats.containers.protobuf import Source
from shared.graphs.files.announced import Announced, read_announced
from shared.graphs.files.messages import Record, parse
from shared.graphs.files.onnx_messages import MODEL, array
from shared.graphs.primitives import RawGraph
from shared.graphs.translate import choices
from shared.graphs.translate.onnx import OnnxReader


def read_graph(path: Path | str, image_size: int | None = None) -> RawGraph:
    """The graph of an ONNX model for images of a size.

    By default the size is the file's own, 224 where it has none, or 32 where the first convolution
    has stride 1. Raises `CheckpointError` for what is no ONNX file, and for a damaged one.
    """
    path = Path(path)
    spans.file_size(path)
    fail = spans.failing(path, "an ONNX model")
    try:
        with path.open("rb") as file:
            model = parse(Source(file, fail), MODEL)
    except OSError as error:
        raise spans.cannot_read(path, error) from None
    if model.graph is None or not model.graph.node:
        raise fail("it has no graph")
    try:
        return _read(model, path.parent, image_size)
    except CheckpointError as error:
        text = str(error)
        raise error if text.startswith(str(path)) else fail(text) from None


def _read(model: Record, folder: Path, image_size: int | None) -> RawGraph:
    stored = {tensor.name for tensor in model.graph.initializer}
    images = next((value for value in model.graph.input if value.name not in stored), None)
    if images is None:
        raise CheckpointError("it has no input for images")
    tensor = images.type.tensor_type if images.type else None
    dims = [dim.dim_value for dim in tensor.shape.dim] if tensor and tensor.shape else []
    announced = Announced.of(images.name, dims)

    def read(shape: list[int], size: int) -> RawGraph:
        return _graph(model, folder, images.name, shape, announced.layout, size)

    return read_announced(read, announced, image_size)


def _graph(
    model: Record, folder: Path, images: str, shape: list[int], layout: str, size: int
) -> RawGraph:
    graph = RawGraph("onnx", size, layout, "float64")
    reader = OnnxReader(graph, model, partial(array, external=partial(_external, folder)))
    values = reader.initializers(model.graph.initializer)
    values[images] = graph.input(shape, images)
    for value in model.graph.input:
        if value.name not in values:
            values[value.name] = graph.opaque("input", [], None, where=value.name)
    reader.run(model.graph.node, values)
    names = [output.name for output in model.graph.output]
    missing = [name for name in names if name not in values]
    if missing or not names:
        raise CheckpointError(f"its output {shown(', '.join(missing))} is computed nowhere")
    if not graph.reached().intersection(values[name] for name in names):
        raise CheckpointError("it has no output that depends on the images")
    k = choices.choose_output(names, [reader.shape(values[name]) for name in names], graph)
    graph.outputs = [values[names[k]], *(values[n] for j, n in enumerate(names) if j != k)]
    return graph


def _external(folder: Path, said: dict[str, str], nbytes: int) -> bytes:
    """Values in another file of the model's own folder."""
    path = spans.file_in(folder, said.get("location"))
    try:
        offset, length = int(said.get("offset", "0")), int(said.get("length", str(nbytes)))
    except ValueError:
        raise CheckpointError(f"weights lie at no place of {shown(path.name)}") from None
    if length != nbytes or offset < 0 or offset + nbytes > spans.file_size(path):
        raise CheckpointError(
            f"weights lie in bytes {offset} to {offset + length} of {shown(path.name)}, "
            f"expected {nbytes} bytes inside the file"
        )
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(nbytes)
