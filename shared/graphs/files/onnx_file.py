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
from shared.graphs.files import in_numpy
from shared.graphs.files.messages import Record, parse
from shared.graphs.files.onnx_messages import MODEL, array
from shared.graphs.primitives import BATCH, RawGraph
from shared.graphs.shapes import shapes_of
from shared.graphs.translate import choices
from shared.graphs.translate.onnx import OnnxReader

_CHANNELS = (1, 3, 4)


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
    layout, sizes = _announced(images)
    size = image_size or sizes["H"] or choices.LARGE
    channels = sizes["C"] or 3

    def read(size: int, batch: int) -> RawGraph:
        shape = [{"N": batch, "C": channels}.get(axis, size) for axis in layout]
        return _graph(model, folder, images.name, shape, layout, size)

    graph = read(size, BATCH)
    if image_size is None and not sizes["H"] and choices.is_for_small_images(graph):
        size = choices.SMALL
        graph = read(size, BATCH)
    batch = BATCH
    if sizes["N"] not in (0, BATCH) and _misfits(graph, BATCH):
        # An exporter may have written the number of images into shapes.
        own = read(size, sizes["N"])
        if _misfits(own, sizes["N"]) < _misfits(graph, BATCH):
            graph, batch = own, sizes["N"]
    return in_numpy.computed(graph, lambda size: read(size, batch), batch)


def _announced(value: Record) -> tuple[str, dict[str, int]]:
    """Layout and sizes (0: any) of the images."""
    tensor = value.type.tensor_type if value.type else None
    dims = [dim.dim_value for dim in tensor.shape.dim] if tensor and tensor.shape else []
    if not dims:
        return "NCHW", dict.fromkeys("NCHW", 0)
    if len(dims) != 4:
        raise CheckpointError(f"its input {shown(value.name)} has the shape {dims}; images have 4")
    last = dims[3] in _CHANNELS and dims[1] not in _CHANNELS
    layout = "NHWC" if last else "NCHW"
    return layout, {axis: max(dims[k], 0) for k, axis in enumerate(layout)}


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
    k = choices.choose_output(names, [reader.shape(values[name]) for name in names], graph)
    graph.outputs = [values[names[k]], *(values[n] for j, n in enumerate(names) if j != k)]
    return graph


def _misfits(graph: RawGraph, batch: int) -> int:
    """How many operators do not fit each other; and the result, if it is not of so many images."""
    live = graph.live()
    shape = shapes_of(graph)[graph.outputs[0]]
    unknown = sum(node.prim == "opaque" and node.id in live for node in graph.nodes)
    return unknown + (shape is not None and shape[:1] != (batch,))


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
