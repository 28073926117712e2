"""The network as a file that any JAX runs, without Flax and without this code: `jax.export`."""

from __future__ import annotations

from pathlib import Path

import jax
from flax import nnx
from jax import export as jax_export

from resnet_flax.model import ResNet
from resnet_flax.weights import model_dtype
from shared.errors import FrameworkError

# What the sides are multiples of where they are free. Of other sides, JAX cannot tell that what a
# block adds is of one size: it does not know that (h - 1) // 2 + 1 is (h + 1) // 2.
MULTIPLE = 32


def export(model: ResNet, path: Path, kind: str, size: tuple[int, int] | None = None) -> None:
    """Write the network in evaluation mode to `path`, as StableHLO with its weights as constants;
    `model` is left as it was.

    Images are [N, H, W, C], of any number N, and of `size` (height and width), or of any size in
    multiples of `MULTIPLE` if it is None. `kind` is "stablehlo". Raises `FrameworkError` for a
    network whose padding JAX cannot say for every such size.
    """
    graph, state = nnx.split(_evaluating(model))
    height, width = size or (f"{MULTIPLE}*h", f"{MULTIPLE}*w")
    shape = jax_export.symbolic_shape(f"n, {height}, {width}, {model.spec.in_channels}")
    images = jax.ShapeDtypeStruct(shape, model_dtype(model))
    function = jax.jit(lambda images: nnx.merge(graph, state)(images))
    try:
        exported = jax_export.export(function)(images)
    except (jax.errors.JAXTypeError, ValueError, TypeError, NotImplementedError) as error:
        if size:
            raise
        raise FrameworkError(
            f"JAX cannot export {model.spec.name} for images of any size "
            f"({type(error).__name__}); say their size"
        ) from None
    path.write_bytes(exported.serialize())


def _evaluating(model: ResNet) -> ResNet:
    """A copy, for evaluation mode is an attribute of the layers."""
    copy = nnx.merge(*nnx.split(model))
    copy.eval()
    return copy
