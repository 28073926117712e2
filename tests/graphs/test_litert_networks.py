"""LiteRT's files of whole networks, as TensorFlow's converter writes them: which ResNet they are is
said, with its weights.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow's own", allow_module_level=True)

from shared import get_spec, probe_weights
from shared.architecture.presets import miniature
from shared.frameworks.exported.kinds import KINDS, Wanted
from shared.frameworks.exported.read_back import expected_spec, judged
from shared.frameworks.readers import file_reader
from shared.frameworks.registry import get_framework, load_package
from shared.graphs.verdict import identify_graph
from tests.graphs import reading
from tests.graphs.presets import side
from tests.parity.structures import COVERING
from tests.zoo import in_zoo

WRITER = "keras:tensorflow"
# Of which the converter computes a part beforehand: standardised kernels, gates, a norm of images.
UNREADABLE = {*("bit/r50x1", "ablation/resnet110_exclusive_gate_b6", "image_classifiers/resnet18")}


def exported(name: str, fold: bool, folder: Path) -> Path:
    """The miniature of a preset, with probe weights."""
    spec, path = miniature(get_spec(name)), folder / "net.tflite"
    package = load_package(get_framework(WRITER))
    model = package.build(spec, dtype="float32")
    package.load_weights(model, probe_weights(spec, 1, "float32"))
    exporter = importlib.import_module(f"{package.__name__}.export")
    size = side(spec)
    exporter.export(package.fold(model) if fold else model, path, "litert", (size, size))
    return path


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("name", [in_zoo(name) for name in COVERING])
def test_every_kind_of_structure(name: str, fold: bool, tmp_path: Path) -> None:
    spec = miniature(get_spec(name))
    wanted = Wanted(KINDS["litert"], WRITER, "float32", side(spec), fold)
    path = exported(name, fold, tmp_path)
    assert reading.unknown(file_reader(path)(side(spec))) == []
    found = identify_graph(file_reader(path), side(spec), expected_spec(spec, wanted))
    own = probe_weights(spec, 1, "float32")
    back = judged(found.to_dict(), found.weights, spec, own, wanted)
    assert back.passed, back
