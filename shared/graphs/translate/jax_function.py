"""Tracing a function in JAX: `fn(params, images)` to a graph.

JAX is imported when a function is traced, and not before.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shared.graphs.primitives import BATCH, Array, RawGraph
from shared.graphs.translate import choices, jaxpr

_OURS = os.path.dirname(os.path.abspath(__file__))
_LIBRARIES = ("jax", "flax", "haiku", "equinox", "keras")
_READERS = ("resnet_flax/read.py", "resnet_keras/read.py", "resnet_keras/read_traced.py")
LAYOUTS = ("NHWC", "NCHW")
_CHANNELS = (3, 1)


def read_function(
    fn: Callable[[Any, Any], Any],
    params: Any,
    image_size: int | None,
    *,
    layouts: Sequence[str] = LAYOUTS,
    name: Callable[[str], str] = lambda path: path,
    channels: Sequence[int] = _CHANNELS,
    x64: bool = True,
) -> RawGraph:
    """The graph of `fn(params, images)`, traced in float64 (`x64`) where it can be.

    `params` is any tree of arrays; its paths, through `name`, name the constants. `layouts` and
    `channels` are tried in their order until one can be traced; if none can, the first exception
    is raised. Without an `image_size` it is 224, or 32 where the first convolution has stride 1.
    """
    size = image_size or choices.LARGE
    first: Exception | None = None
    # A function with constants or casts of its own may take no image but of float32.
    for wide, count, layout in itertools.product(_wide(x64), channels, layouts):
        try:
            graph = _traced(fn, params, size, layout, count, name, wide)
        except Exception as error:  # noqa: BLE001 - the user's own code may raise anything
            first = first or error
            continue
        if image_size is None and choices.is_for_small_images(graph):
            graph = _traced(fn, params, choices.SMALL, layout, count, name, wide)
        return graph
    raise first or ValueError("nothing to try")


def _wide(x64: bool) -> tuple[bool, ...]:
    return (True, False) if x64 else (False,)


def path_name(path: Sequence[Any]) -> str:
    """`layers/0/kernel` of a path in a tree."""
    keys = [
        str(getattr(part, kind))
        for part in path
        for kind in ("key", "name", "idx")
        if hasattr(part, kind)
    ]
    return "/".join(keys)


def _traced(
    fn: Callable[[Any, Any], Any],
    params: Any,
    size: int,
    layout: str,
    channels: int,
    name: Callable[[str], str],
    x64: bool,
) -> RawGraph:
    import jax

    found, tree = jax.tree_util.tree_flatten_with_path(params)
    names, leaves = [name(path_name(path)) for path, _ in found], [leaf for _, leaf in found]
    shape = [{"N": BATCH, "C": channels}.get(axis, size) for axis in layout]

    def call(values: Sequence[Any], images: Any) -> Any:
        return fn(jax.tree_util.tree_unflatten(tree, values), images)

    with jax.enable_x64(x64):
        wide = [_abstract(leaf, x64) for leaf in leaves]
        images = jax.ShapeDtypeStruct(tuple(shape), "float64" if x64 else "float32")
        closed, results = jax.make_jaxpr(call, return_shape=True)(wide, images)
    graph = RawGraph("jax", size, layout)
    args = [
        graph.const(jaxpr.constant(leaf), name=name or None, where=name.rpartition("/")[0])
        for name, leaf in zip(names, leaves, strict=True)
    ]
    args.append(graph.input(shape))
    outs = jaxpr.translate(graph, closed, args, _user_line)
    several, _ = jax.tree_util.tree_flatten_with_path(results)
    outputs = [path_name(path) for path, _ in several]
    k = choices.choose_output(outputs, [result.shape for _, result in several], graph)
    graph.outputs = [outs[k], *(out for j, out in enumerate(outs) if j != k)]
    # Arithmetic of what a function has closed over, eps and variance say, is in its own dtype.
    narrow = any(str(getattr(const, "dtype", "")) == "float32" for const in closed.consts)
    graph.dtype = choices.computed_in(graph, "float64" if x64 and not narrow else "float32")

    def run(images: Array) -> Array:
        order = ["NHWC".index(axis) for axis in layout]
        with jax.enable_x64(x64):
            values = [_widened(leaf, x64) for leaf in leaves]
            dtype = "float64" if x64 else "float32"
            result = jax.jit(call)(values, np.transpose(images, order).astype(dtype))
            return np.asarray(jax.tree_util.tree_leaves(result)[k])

    graph.run = run
    return graph


def _is_float(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and str(dtype).startswith(("float", "bfloat"))


def _abstract(leaf: Any, x64: bool) -> Any:
    """A leaf's shape, and float64 if it is a float: nothing is copied to trace."""
    import jax

    if not hasattr(leaf, "dtype"):
        return leaf
    dtype = "float64" if x64 and _is_float(leaf) else leaf.dtype
    return jax.ShapeDtypeStruct(np.shape(leaf), dtype)


def _widened(leaf: Any, x64: bool) -> Any:
    return np.asarray(leaf).astype(np.float64) if x64 and _is_float(leaf) else leaf


def _user_line(equation: Any) -> str:
    """`file.py:12` of the user's own file, not of a library."""
    from jax._src import source_info_util

    try:
        for frame in source_info_util.user_frames(equation.source_info.traceback):
            path = frame.file_name
            if not path.startswith(("<", _OURS, *_folders())) and not path.endswith(_READERS):
                return f"{os.path.basename(path)}:{frame.start_line}"
    except (AttributeError, TypeError):  # not public: another JAX may have it elsewhere
        pass
    return ""


def _folders() -> list[str]:
    """Where the libraries that models are written in lie."""
    modules = (sys.modules.get(name) for name in _LIBRARIES)
    files = [getattr(module, "__file__", None) for module in modules]
    return [os.path.dirname(file) + os.sep for file in files if file]
