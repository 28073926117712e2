"""What a file says of the images that its network takes, and the graph for images of a size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.errors import CheckpointError, shown
from shared.graphs.files import in_numpy
from shared.graphs.primitives import BATCH, RawGraph
from shared.graphs.shapes import shapes_of
from shared.graphs.translate import choices

_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Announced:
    """Layout of the images, NCHW or NHWC, and their sizes by its letters (0: any)."""

    layout: str
    sizes: dict[str, int]

    @classmethod
    def of(cls, name: str, dims: Sequence[int]) -> Announced:
        """From the dimensions of the input of a name, of which those that are free are no positive
        numbers; without any, nothing is known of it.

        Raises `CheckpointError` for an input that no images have.
        """
        if not dims:
            return cls("NCHW", dict.fromkeys("NCHW", 0))
        if len(dims) != 4:
            raise CheckpointError(
                f"its input {shown(name)} has {len(dims)} dimensions; images have 4"
            )
        last = dims[3] in _CHANNELS and dims[1] not in _CHANNELS
        layout = "NHWC" if last else "NCHW"
        return cls(layout, {axis: max(dims[k], 0) for k, axis in enumerate(layout)})

    def shape(self, size: int, batch: int) -> list[int]:
        """Of a batch of square images; three channels where the file does not say."""
        known = {"N": batch, "C": self.sizes["C"] or 3}
        return [known.get(axis, size) for axis in self.layout]


def read_announced(
    read: Callable[[list[int], int], RawGraph], announced: Announced, image_size: int | None
) -> RawGraph:
    """The graph that `read` makes for a shape of a batch of images and their size, with its
    numbers.

    By default the size is the file's own, 224 where it has none, or 32 where the first convolution
    has stride 1. Raises what `read` does.
    """
    sizes = announced.sizes
    size = image_size or sizes["H"] or choices.LARGE
    graph = read(announced.shape(size, BATCH), size)
    if not sizes["C"]:
        graph, announced = _with_channels(read, announced, size, graph)
    if image_size is None and not sizes["H"] and choices.is_for_small_images(graph):
        size = choices.SMALL
        graph = read(announced.shape(size, BATCH), size)
    batch = BATCH
    if sizes["N"] not in (0, BATCH) and _misfits(graph, BATCH):
        # An exporter may have written the number of images into shapes.
        own = read(announced.shape(size, sizes["N"]), size)
        if _misfits(own, sizes["N"]) < _misfits(graph, BATCH):
            graph, batch = own, sizes["N"]
    graph.fixed = sizes["H"] == size == sizes["W"]
    return in_numpy.computed(graph, lambda n: read(announced.shape(n, batch), n), batch)


def _with_channels(
    read: Callable[[list[int], int], RawGraph], announced: Announced, size: int, graph: RawGraph
) -> tuple[RawGraph, Announced]:
    """With so many channels that the operators fit each other; three where they do."""
    best = _misfits(graph, BATCH)
    for channels in _CHANNELS if best else ():
        other = Announced(announced.layout, announced.sizes | {"C": channels})
        found = read(other.shape(size, BATCH), size)
        if _misfits(found, BATCH) < best:
            graph, announced, best = found, other, _misfits(found, BATCH)
    return graph, announced


def _misfits(graph: RawGraph, batch: int) -> int:
    """How many operators do not fit each other, or cut images off; and the result, if it is not of
    so many images.
    """
    live, shapes = graph.live(), shapes_of(graph)
    shape = shapes[graph.outputs[0]]
    unknown = sum(node.prim == "opaque" and node.id in live for node in graph.nodes)
    cut = 0
    for id in live & graph.reached():
        node = graph.nodes[id]
        if node.prim == "slice":
            before, after = (shapes[i] or (batch,) for i in (node.ins[0], id))
            cut += before[:1] == (batch,) != after[:1]
    return unknown + cut + (shape is not None and shape[:1] != (batch,))
