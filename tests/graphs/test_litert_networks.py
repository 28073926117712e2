"""LiteRT's files of whole networks, as TensorFlow's converter writes them: which ResNet they are is
said, with its weights.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")
if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow's own", allow_module_level=True)

from shared import get_spec, probe_weights
from shared.architecture.presets import miniature
from shared.errors import CheckpointError
from shared.frameworks.exported.kinds import KINDS, Wanted
from shared.frameworks.exported.read_back import expected_spec, judged
from shared.frameworks.exported.runtimes import opened
from shared.frameworks.readers import file_reader
from shared.frameworks.registry import get_framework, load_package
from shared.graphs.verdict import DEPARTS, SAME_FUNCTION, THIS_SIZE, identify_graph
from shared.weights.canonical import save_weights
from tests.cli_runner import Rosetta
from tests.graphs import keras_models, reading
from tests.graphs.presets import side
from tests.graphs.tensorflow_models import tensorflow_module
from tests.graphs.test_litert_schema import assert_read_alike
from tests.parity.structures import COVERING
from tests.zoo import in_zoo, rest_in_zoo

WRITER = "keras:tensorflow"
# Of which the converter folds more: a norm of the images; the factors of both branches.
COMPUTED = ("image_classifiers/resnet18", "ablation/resnet110_scale_0.5_0.5")
FOLDED = 1e-6  # some 16 roundings of float32: norms folded in it, beside those of float64
LIMIT = 1e-5  # measured 3e-6, against LiteRT in float32
Converter = tf.lite.TFLiteConverter


# As people convert.


def _function(net: Any, shape: list[int | None]) -> Any:
    def call(images: Any) -> Any:
        return net(images, training=False)

    return tf.function(call, input_signature=[tf.TensorSpec(shape)])


def _concrete(folder: Path, *shape: int | None) -> bytes:
    net = tensorflow_module()
    net.call = _function(net, [*shape, 3])
    return Converter.from_concrete_functions([net.call.get_concrete_function()], net).convert()


def _saved(folder: Path) -> bytes:
    net = tensorflow_module()
    net.call = _function(net, [None, 32, 32, 3])
    tf.saved_model.save(net, folder / "saved")
    return Converter.from_saved_model(str(folder / "saved")).convert()


def _of_keras(name: str, size: int | None = 32, **options: Any) -> bytes:
    build = getattr(keras_models, name)
    model = keras_models.varied(build(size) if name == "functional" else build())
    converter = Converter.from_keras_model(model)
    for key, value in options.items():
        setattr(converter, key, value)
    return converter.convert()


def _halved() -> dict[str, Any]:
    halves = tf.lite.TargetSpec(supported_types=[tf.float16])
    return {"optimizations": [tf.lite.Optimize.DEFAULT], "target_spec": halves}


WAYS: dict[str, Callable[[Path], bytes]] = {
    "a function": lambda folder: _concrete(folder, None, 32, 32),
    "a function of one image": lambda folder: _concrete(folder, 1, 32, 32),
    "a function of images of any size": lambda folder: _concrete(folder, None, None, None),
    "a SavedModel": _saved,
    "Keras": lambda folder: _of_keras("functional"),
    "Keras, of any size": lambda folder: _of_keras("functional", None),
    "Keras, halved": lambda folder: _of_keras("functional", **_halved()),
    "Keras, nested": lambda folder: _of_keras("nested"),
    "Keras, of operators": lambda folder: _of_keras("operators"),
}


@pytest.mark.parametrize("way", ["a function", *(in_zoo(w) for w in WAYS if w != "a function")])
def test_the_graph_means_what_was_converted(way: str, tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(WAYS[way](tmp_path))
    assert_read_alike(path)
    graph = file_reader(path)(32)
    assert reading.unknown(graph) == []
    images = reading.images(32).astype(np.float32)
    run, batch = opened("litert", path, "float32"), graph.nodes[0].attrs["shape"][0]
    truth = np.concatenate([run(images[k : k + batch]) for k in range(0, 2, batch)])
    assert graph.run is not None
    error = np.abs(graph.run(images) - truth).max() / np.abs(truth).max()
    assert error < LIMIT


@pytest.mark.zoo
def test_a_stem_without_a_norm_is_known_from_folded_ones(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(_of_keras("functional"))
    found = identify_graph(file_reader(path), 32)
    assert (found.verdict, found.departures) == (SAME_FUNCTION, [])
    assert found.spec is not None
    assert not found.spec.stem.norm_act


@pytest.mark.zoo
@pytest.mark.parametrize("integers", [False, True])
def test_quantised_networks_are_refused(integers: bool, tmp_path: Path) -> None:
    """Weights in integers, or all of it."""

    def images() -> Any:
        yield [reading.images(32, batch=1).astype(np.float32)]

    options: dict[str, Any] = {"representative_dataset": images} if integers else {}
    path = tmp_path / "net.tflite"
    path.write_bytes(_of_keras("functional", optimizations=[tf.lite.Optimize.DEFAULT], **options))
    with pytest.raises(
        CheckpointError, match=r"net\.tflite: is quantised: .* without quantisation"
    ):
        file_reader(path)(32)


@pytest.mark.zoo
@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("name", ["ResNet50", "ResNet50V2"])
def test_keras_applications(name: str, halved: bool, tmp_path: Path) -> None:
    model = getattr(keras.applications, name)(weights=None, classifier_activation=None)
    converter = Converter.from_keras_model(keras_models.varied(model))
    for key, value in (_halved() if halved else {}).items():
        setattr(converter, key, value)
    path = tmp_path / "net.tflite"
    path.write_bytes(converter.convert())
    found = identify_graph(file_reader(path))
    assert (found.verdict, found.preset, found.recognised) == (
        SAME_FUNCTION,
        f"keras/{name.lower()}",
        True,
    )
    kinds = {array.dtype.name for array in found.weights.values() if array.ndim == 4}
    assert kinds == {"float16" if halved else "float32"}


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("name", "verdict"), [("torchvision/resnet18", SAME_FUNCTION), ("keras/resnet50v2", THIS_SIZE)]
)
def test_networks_of_litert_torch(name: str, verdict: str, tmp_path: Path) -> None:
    """Of one image, with the channels in front; slices have its sizes written in."""
    litert_torch = pytest.importorskip("litert_torch")
    import torch

    import resnet_torch

    spec, path = miniature(get_spec(name)), tmp_path / "net.tflite"
    model = resnet_torch.build(spec, dtype="float32")
    resnet_torch.load_weights(model, probe_weights(spec, 1, "float32"))
    litert_torch.convert(model.eval(), (torch.zeros(1, 3, 64, 64),)).export(str(path))
    found = identify_graph(file_reader(path), None, spec)
    assert (found.verdict, found.recognised) == (verdict, True)


# As we export.


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


STRUCTURES = [(name, fold) for name in COVERING for fold in (False, True)]
BY_TURNS = [(name, i % 2 == 1) for i, name in enumerate(COVERING)]


@pytest.mark.parametrize(("name", "fold"), rest_in_zoo(STRUCTURES, (), BY_TURNS))
def test_every_kind_of_structure(name: str, fold: bool, tmp_path: Path) -> None:
    spec = miniature(get_spec(name))
    wanted = Wanted(KINDS["litert"], WRITER, "float32", side(spec), fold)
    path = exported(name, fold, tmp_path)
    assert reading.unknown(file_reader(path)(side(spec))) == []
    found = identify_graph(file_reader(path), side(spec), expected_spec(spec, wanted))
    assert not (found.recognised and found.departures)
    own = probe_weights(spec, 1, "float32")
    back = judged(found.to_dict(), found.weights, spec, own, wanted)
    assert back.passed, back
    assert (back.apart or 0) < FOLDED
    assert back.same_spec is (None if name in COMPUTED else True), back


# A field of an operator's options, by the reader that is generated from the schema.
PLANTED: dict[str, tuple[str, str, Any, str]] = {
    "a stride": ("CONV_2D", "strideH", 1, "stride"),
    "padding": ("CONV_2D", "padding", 0, "padding"),
    "an activation": ("CONV_2D", "fusedActivationFunction", 3, "operator"),
    "no activation": ("ADD", "fusedActivationFunction", 0, "missing"),
    "a pool's window": ("MAX_POOL_2D", "filterHeight", 2, "window"),
    "another pool": ("MAX_POOL_2D", "", "AVERAGE_POOL_2D", "operator"),
    "another reduction": ("MEAN", "", "REDUCE_MAX", "pool"),
}


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported("torchvision/resnet18", False, tmp_path_factory.mktemp("net"))


@pytest.mark.zoo
@pytest.mark.parametrize("seed", [1, 2])
def test_a_file_is_compared_with_the_checkpoint_that_it_was_made_of(
    seed: int, resnet18: Path, rosetta: Rosetta, tmp_path: Path
) -> None:
    """And with one of other weights."""
    spec, weights = miniature(get_spec("torchvision/resnet18")), tmp_path / "net.safetensors"
    save_weights(weights, probe_weights(spec, seed, "float32"), spec)
    size = ("--image-size", "64")
    found = rosetta("identify", resnet18, "--against", weights, *size, "--json", "-")
    assert found.code == (0 if seed == 1 else 1)
    assert bool(found.json["departures"]) is (seed != 1)
    assert "norms, and standardised kernels, are folded on both sides" in found.json["notes"][-1]


@pytest.mark.zoo
@pytest.mark.parametrize("change", PLANTED)
def test_a_planted_change_is_named(change: str, resnet18: Path, tmp_path: Path) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    operator, key, value, what = PLANTED[change]
    model = schema.ModelT.InitFromPackedBuf(resnet18.read_bytes(), 0)
    number = getattr(schema.BuiltinOperator, operator)
    code = [c.builtinCode for c in model.operatorCodes].index(number)
    if key:
        first = next(op for op in model.subgraphs[0].operators if op.opcodeIndex == code)
        assert hasattr(first.builtinOptions, key)
        setattr(first.builtinOptions, key, value)
    else:
        other = getattr(schema.BuiltinOperator, value)
        model.operatorCodes[code].builtinCode = other
        model.operatorCodes[code].deprecatedBuiltinCode = other
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "net.tflite"
    path.write_bytes(bytes(builder.Output()))
    found = identify_graph(file_reader(path), 64, miniature(get_spec("torchvision/resnet18")))
    assert found.verdict == DEPARTS
    assert what in [departure.what for departure in found.departures], found.departures
