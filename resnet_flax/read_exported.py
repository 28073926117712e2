"""A program of `jax.export` as a graph: its StableHLO, at an image size. Nothing in it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export
from jax._src.interpreters import mlir  # no public name has the refinement of shapes
from jaxlib.mlir.dialects import stablehlo

from shared.errors import FrameworkError
from shared.graphs.files import in_numpy
from shared.graphs.primitives import BATCH, RawGraph
from shared.graphs.translate.stablehlo import translate

USUAL = 224  # pixels, where the program takes images of any size


def read_graph(path: Path | str, image_size: int | None = None) -> RawGraph:
    """The graph of a serialized `jax.export.Exported`, of one argument: images [N, H, W, C].

    Raises `FrameworkError` for what is no such program, or takes no images of this size.
    """
    try:
        exported = jax_export.deserialize(bytearray(Path(path).read_bytes()))
    except Exception as error:  # noqa: BLE001 - the parser of a file may raise anything
        raise FrameworkError(f"JAX cannot load it: {_said(error)}") from None
    if len(exported.in_avals) != 1 or len(exported.in_avals[0].shape) != 4:
        raise FrameworkError(f"expected a program of images alone, found {exported.in_avals}")
    (images,) = exported.in_avals
    own = images.shape[1] if isinstance(images.shape[1], int) else None
    size = image_size or own or USUAL
    with jax.enable_x64(True):
        graph = _read(exported, images, size)
    return in_numpy.computed(graph, lambda size: read_graph(path, size))


def _read(exported: Any, images: Any, size: int) -> RawGraph:
    shape = (BATCH, size, size, int(images.shape[3]))
    try:
        lowered = jax.jit(exported.call).lower(jax.ShapeDtypeStruct(shape, images.dtype))
        free: Any = lowered.compiler_ir("stablehlo")
        module = mlir.refine_polymorphic_shapes(free)
    except Exception as error:  # noqa: BLE001 - as above
        raise FrameworkError(
            f"the program takes no images of {size} x {size} pixels: {_said(error)}"
        ) from None
    graph = RawGraph("jax", size, "NHWC", str(images.dtype))
    graph.outputs = translate(graph, module, [graph.input(shape)], np.array, _dimensions)
    return graph


def _dimensions(attribute: Any) -> Any:
    kinds = (
        stablehlo.ConvDimensionNumbers,
        stablehlo.DotDimensionNumbers,
        stablehlo.GatherDimensionNumbers,
    )
    return next(kind(attribute) for kind in kinds if kind.isinstance(attribute))


def _said(error: Exception) -> str:
    return next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), "")
