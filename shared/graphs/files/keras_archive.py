"""`.keras` archives as graphs, without Keras, layer by layer; nothing of a configuration is built.

The archive itself is read by `shared.formats.containers.keras_file`, which refuses classes that may
carry code, and parses HDF5 in a process of its own.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from shared.errors import CheckpointError, shown
from shared.formats.configuration import keras_layers
from shared.formats.configuration.keras_layers import Layers, is_model, read_layers
from shared.formats.configuration.statements import with_layer_names
from shared.formats.containers import keras_file
from shared.formats.containers.archive import Archive
from shared.formats.containers.hdf5_reader import LEAVES
from shared.graphs.files import in_numpy
from shared.graphs.primitives import BATCH, RawGraph
from shared.graphs.translate import choices
from shared.graphs.translate.emit import Unknown
from shared.graphs.translate.keras_layers import KerasLayers, Layer

# What Keras numbers in a layer that the HDF5 reader has no names for.
_NUMBERED = {"Normalization": ("mean", "variance")}


def read_graph(path: Path | str, image_size: int | None = None) -> RawGraph:
    """The graph of a `.keras` archive, layer by layer.

    Without an `image_size` it is the file's own; 224 where it has none, or 32 where the first
    convolution has stride 1. Raises `CheckpointError`.
    """
    path = Path(path)
    archive = with_layer_names(keras_file.read(path))
    config = archive.configuration.value if archive.configuration else {}
    if not is_model(config):
        kind = shown(str(config.get("class_name")))
        raise CheckpointError(
            f"{path}: its configuration is a {kind}, which lists no layers; `rosetta inspect` says "
            "which network its weights are"
        )
    try:
        return _sized(path, archive, read_layers(config), image_size)
    except CheckpointError as error:
        text = str(error)
        raise error if text.startswith(str(path)) else CheckpointError(f"{path}: {text}") from None


def _sized(path: Path, archive: Archive, layers: Layers, image_size: int | None) -> RawGraph:
    given = layers.input_shape or (None, None, 3)
    if len(given) != 3:
        raise CheckpointError(f"its input has the shape {list(given)}; images have 3 axes")
    first = given[0] in (1, 3, 4) and given[2] not in (1, 3, 4)
    layout = "NCHW" if first else "NHWC"
    sizes = dict(zip(layout[1:], given, strict=True))

    def read(size: int) -> RawGraph:
        shape = [{"N": BATCH, "C": sizes["C"] or 3}.get(axis, size) for axis in layout]
        return _graph(archive, layers, RawGraph("keras", size, layout), shape)

    graph = read(image_size or sizes["H"] or choices.LARGE)
    if not image_size and not sizes["H"] and choices.is_for_small_images(graph):
        graph = read(choices.SMALL)
    return in_numpy.computed(graph, partial(read_graph, path))


def _graph(archive: Archive, layers: Layers, graph: RawGraph, shape: list[int]) -> RawGraph:
    emit = KerasLayers(graph)
    values = {"": graph.input(shape)}
    waiting = [layers.output]
    entered: set[str] = set()
    while waiting:
        key = waiting[-1]
        missing = [] if key in values else [k for k in layers.table[key].inputs if k not in values]
        if missing:
            if key in entered:
                raise CheckpointError(f"the layer {shown(key)} reads its own output")
            entered.add(key)
            waiting.extend(missing)
            continue
        if key not in values:
            values[key] = _layer(emit, archive, layers, key, values)
        waiting.pop()
    graph.outputs = [values[layers.output]]
    return graph


def _layer(
    emit: KerasLayers, archive: Archive, layers: Layers, key: str, values: dict[str, int]
) -> int:
    found = layers.table[key]
    ins = [values[k] for k in found.inputs]
    try:
        return emit.layer(Layer(found.kind, key, found.config, _weights(archive, found)), ins)
    except Unknown:
        return emit.graph.opaque(found.kind, ins, None, where=key)


def _weights(archive: Archive, layer: keras_layers.Layer) -> dict[str, tuple[str, Any]]:
    name = layer.name
    leaves = {leaf: leaf for leaf in LEAVES}
    leaves |= {leaf: str(k) for k, leaf in enumerate(_NUMBERED.get(layer.kind, ()))}
    return {
        leaf: (f"{name}/{leaf}", archive.entries[f"{name}/{stored}"].load())
        for leaf, stored in leaves.items()
        if f"{name}/{stored}" in archive.entries
    }
