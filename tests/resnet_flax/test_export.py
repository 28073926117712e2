"""`jax.export`: what is written is what the network computes, by an interpreter that is not XLA;
and it is read back.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax")
from jax._src.interpreters import mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

import resnet_flax
from resnet_flax.export import export
from resnet_flax.read_exported import read_graph
from shared import get_spec, probe_images, probe_weights
from shared.architecture.presets import miniature
from shared.errors import FrameworkError
from shared.frameworks.exported.witness import output_of
from shared.graphs.verdict import THIS_SIZE, identify_graph
from tests.zoo import in_zoo

LIMIT = 1e-13
NAMES = ("cifar/resnet20", "kuangliu/preact_resnet18")
MORE = ("timm/resnetaa50", "bit/r50x1", "torchvision/resnext50_32x4d", "he/resnet18_a")


def written(name: str, path: Path, size: tuple[int, int] | None):
    spec = miniature(get_spec(name))
    weights = probe_weights(spec, 0, "float64")
    with jax.enable_x64(True):
        model = resnet_flax.build(spec, dtype="float64")
        resnet_flax.load_weights(model, weights)
        export(model, path, "stablehlo", size)
    return spec, weights


@pytest.mark.parametrize("name", [*map(in_zoo, (*NAMES, *MORE))])
def test_an_interpreter_that_is_no_compiler_agrees(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.stablehlo"
    spec, weights = written(name, path, (32, 32))
    images = probe_images((1, 32, 32, 3), 0, "float64")
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    with jax.enable_x64(True):
        lowered = jax.jit(exported.call).lower(jax.ShapeDtypeStruct(images.shape, images.dtype))
        module = mlir.refine_polymorphic_shapes(lowered.compiler_ir("stablehlo"))
    with module.context:
        given = ir.DenseElementsAttr.get(images)
        (found,) = stablehlo.eval_module(module, [given])
        logits = np.array(ir.DenseElementsAttr(found))
    expected = output_of(spec, weights, images, "float64")
    assert np.abs(logits - expected).max() / np.abs(expected).max() < LIMIT


@pytest.mark.parametrize("name", [NAMES[0], *map(in_zoo, (NAMES[1], *MORE))])
@pytest.mark.parametrize("size", [None, (64, 64)], ids=["free", "fixed"])
def test_read_back(name: str, size: tuple[int, int] | None, tmp_path: Path) -> None:
    path = tmp_path / "net.stablehlo"
    spec, weights = written(name, path, size)
    found = identify_graph(lambda size: read_graph(path, size), 64, spec)
    assert found.departures == []
    assert (found.verdict, found.recognised) == (THIS_SIZE, True)
    for tensor, array in weights.items():
        np.testing.assert_array_equal(found.weights[tensor], array, err_msg=tensor)
    if size is None:
        assert identify_graph(lambda size: read_graph(path, size), 96, spec).recognised


@pytest.mark.parametrize("content", [b"", b"no program", b"\0" * 64])
def test_no_program_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.stablehlo"
    path.write_bytes(content)
    with pytest.raises(FrameworkError, match="JAX cannot load it"):
        read_graph(path)


def test_a_size_that_it_does_not_take(tmp_path: Path) -> None:
    path = tmp_path / "net.stablehlo"
    written(NAMES[0], path, (16, 16))
    with pytest.raises(FrameworkError, match="takes no images of 17 x 17 pixels"):
        read_graph(path, 17)
