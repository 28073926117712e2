"""OpenVINO's networks, read without the package `openvino`: what the graph means is what OpenVINO
computes, and which ResNet a file has is said with its weights bit by bit.
"""

from __future__ import annotations

import importlib
import itertools
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

openvino = pytest.importorskip("openvino")
from openvino import opset1, opset14
from openvino import opset13 as ops

from shared import get_spec, probe_weights
from shared.architecture.presets import miniature
from shared.errors import CheckpointError
from shared.formats.checkpoint import open_checkpoint
from shared.frameworks.exported.kinds import KINDS, Wanted
from shared.frameworks.exported.read_back import expected_spec, judged
from shared.frameworks.readers import file_reader
from shared.frameworks.registry import get_framework, load_package
from shared.frameworks.targets import checked
from shared.graphs.files.openvino_file import read_graph
from shared.graphs.normal import normalise
from shared.graphs.verdict import DEPARTS, SAME_FUNCTION, SAME_MODEL, Identified, identify_graph
from tests.formats.openvino_files import small
from tests.graphs import reading
from tests.graphs.presets import side
from tests.parity.structures import COVERING
from tests.zoo import in_zoo, rest_in_zoo

LIMIT = 1e-5  # measured 1e-6, against OpenVINO in float32
RNG = np.random.default_rng(0)


def saved(build: Callable[[Any], Any], path: Path, shape: Any = (2, 4, 9, 9), **how: Any) -> Path:
    """A file of what `build` makes of an input x."""
    x = ops.parameter(shape, np.float32, "x")
    built = build(x)
    outputs = built if isinstance(built, list) else [built]
    openvino.save_model(openvino.Model(outputs, [x]), path, **({"compress_to_fp16": False} | how))
    return path


def computed(path: Path, images: np.ndarray) -> np.ndarray:
    """By OpenVINO, of images as the file wants them."""
    hint = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return openvino.Core().compile_model(path, "CPU", hint)(images.astype(np.float32))[0]


def numbers(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def whole(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def pool(op: Callable[..., Any], **how: Any) -> Callable[[Any], Any]:
    given = {"strides": [2, 2], "pads_begin": [1, 1], "pads_end": [1, 1], "kernel_shape": [3, 3]}
    return lambda x: op(x, **(given | how))


def conv(**how: Any) -> Callable[[Any], Any]:
    given = {"strides": [2, 2], "pads_begin": [1, 0], "pads_end": [2, 1], "dilations": [1, 1]}
    return lambda x: ops.convolution(x, numbers(5, 4, 3, 3), **(given | how))


def grouped(x: Any) -> Any:
    kernel = numbers(2, 3, 2, 3, 3)
    return ops.group_convolution(x, kernel, [1, 1], [1, 1], [1, 1], [1, 1])


def maximum(x: Any, rounding: str) -> Any:
    found = opset14.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2], rounding)
    return found.output(0)


VECTORS = [np.abs(numbers(4)) + 0.5 for _ in range(4)]
MASKED = {"begin_mask": [0, 1, 0], "end_mask": [0, 1, 0], "shrink_axis_mask": [1, 0, 0]}
ONE: dict[str, Callable[[Any], Any]] = {
    "Convolution": conv(),
    "Convolution, same_upper": conv(auto_pad="same_upper"),
    "Convolution, same_lower": conv(auto_pad="same_lower"),
    "Convolution, valid, dilated": conv(auto_pad="valid", dilations=[2, 2]),
    "GroupConvolution": grouped,
    "MaxPool, ceil": lambda x: maximum(x, "ceil"),
    "MaxPool, ceil_torch": lambda x: maximum(x, "ceil_torch"),
    "AvgPool": pool(ops.avg_pool, exclude_pad=False),
    "AvgPool, without the padding": pool(ops.avg_pool, exclude_pad=True),
    "AvgPool, ceil": pool(ops.avg_pool, exclude_pad=True, rounding_type="ceil"),
    "AdaptiveAvgPool": lambda x: ops.adaptive_avg_pool(x, whole(3, 3)),
    "AdaptiveAvgPool, to one": lambda x: ops.adaptive_avg_pool(x, whole(1, 1)),
    "BatchNormInference": lambda x: ops.batch_norm_inference(x, *VECTORS, 1e-3),
    "BatchNormInference, opset 1": lambda x: opset1.batch_norm_inference(x, *VECTORS, 1e-3),
    "AvgPool, opset 1": pool(opset1.avg_pool, exclude_pad=True, rounding_type="ceil"),
    "MaxPool, opset 1": pool(opset1.max_pool),
    "GroupNormalization": lambda x: ops.group_normalization(x, VECTORS[0], VECTORS[1], 2, 1e-3),
    "MVN": lambda x: ops.mvn(x, whole(2, 3), True, 1e-3, "inside_sqrt"),
    "MVN, outside": lambda x: ops.mvn(x, whole(1, -1), True, 1e-3, "outside_sqrt"),
    "MVN, the mean alone": lambda x: ops.mvn(x, whole(2, 3), False, 1e-3, "inside_sqrt"),
    "MatMul": lambda x: ops.matmul(x, numbers(9, 3), False, False),
    "MatMul, transposed": lambda x: ops.matmul(x, numbers(3, 9), True, True),
    "MatMul, of many": lambda x: ops.matmul(x, numbers(2, 4, 9, 3), False, False),
    "ReduceMean": lambda x: ops.reduce_mean(x, whole(-1, 2), True),
    "ReduceMax": lambda x: ops.reduce_max(x, whole(1), False),
    "Clamp": lambda x: ops.clamp(x, -0.5, 0.7),
    "Select": lambda x: ops.select(ops.greater(x, np.float32(0)), x, np.float32(-1)),
    "Divide": lambda x: ops.divide(x, numbers(4, 1, 1) + 5),
    "SquaredDifference": lambda x: ops.squared_difference(x, numbers(1, 4, 1, 1)),
    "Power": lambda x: ops.power(ops.abs(x), np.float32(1.5)),
    "Swish": ops.swish,
    "HSwish": ops.hswish,
    "HSigmoid": ops.hsigmoid,
    "HardSigmoid": lambda x: ops.hard_sigmoid(x, np.float32(0.3), np.float32(0.4)),
    "Gelu": lambda x: ops.gelu(x, "erf"),
    "Gelu, by tanh": lambda x: ops.gelu(x, "tanh"),
    "SoftPlus": ops.softplus,
    "Softmax": lambda x: ops.softmax(x, 1),
    "LogSoftmax": lambda x: ops.log_softmax(x, 1),
    "Pad": lambda x: ops.pad(x, whole(0, 0, 1, 2), whole(0, 0, 2, 0), "constant", np.float32(3)),
    "Pad, reflected": lambda x: ops.pad(x, whole(0, 0, 1, 2), whole(0, 0, 2, 0), "reflect"),
    "Pad, cropped": lambda x: ops.pad(x, whole(0, 0, -1, 0), whole(0, 0, 1, -2), "constant"),
    "Transpose": lambda x: ops.transpose(x, whole(0, 2, 3, 1)),
    "Reshape": lambda x: ops.reshape(x, whole(0, -1, 9), True),
    "Squeeze": lambda x: ops.squeeze(ops.unsqueeze(x, whole(0, 3)), whole(3)),
    "StridedSlice": lambda x: ops.strided_slice(
        x, whole(1, 0, 1), whole(2, 0, 3), whole(1, 2, 1), **MASKED
    ),
    "Slice, backwards": lambda x: ops.slice(x, whole(-1), whole(-99), whole(-2), whole(2)),
    "Split": lambda x: ops.split(x, np.int64(1), 2).output(1),
    "VariadicSplit": lambda x: ops.variadic_split(x, np.int64(2), whole(2, -1, 3)).output(1),
    "Concat": lambda x: ops.concat([x, ops.negative(x)], -3),
    "Gather": lambda x: ops.gather(x, whole(2, 0, -1), np.int64(1)),
    "Broadcast": lambda x: ops.broadcast(
        ops.reduce_mean(x, whole(2, 3), True), ops.shape_of(x), broadcast_spec="BIDIRECTIONAL"
    ),
    "Tile": lambda x: ops.tile(ops.reduce_mean(x, whole(2), True), whole(1, 1, 3, 1)),
    "a shape that is computed": lambda x: ops.reshape(
        x, ops.concat([ops.gather(ops.shape_of(x), whole(0), np.int64(0)), whole(-1)], 0), False
    ),
}


@pytest.mark.parametrize("name", ONE)
def test_operators_mean_what_openvino_computes(name: str, tmp_path: Path) -> None:
    path = saved(ONE[name], tmp_path / "net.xml")
    images = reading.images(9, 4).transpose(0, 3, 1, 2)
    graph = read_graph(path)
    assert reading.unknown(graph) == []
    assert graph.run is not None
    found, expected = graph.run(images.transpose(0, 2, 3, 1)), computed(path, images)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=LIMIT, atol=LIMIT * np.abs(expected).max())


def test_a_graph_that_means_something_else_is_seen(tmp_path: Path) -> None:
    path = saved(ONE["AvgPool"], tmp_path / "net.xml")
    path.write_text(path.read_text().replace('exclude-pad="false"', 'exclude-pad="true"'))
    images = reading.images(9, 4)
    found = read_graph(path).run(images)  # type: ignore[misc]
    path = saved(ONE["AvgPool"], tmp_path / "other.xml")
    assert np.abs(found - computed(path, images.transpose(0, 3, 1, 2))).max() > 100 * LIMIT


def test_halves_are_widened(tmp_path: Path) -> None:
    """What OpenVINO writes unless it is told otherwise."""
    path = saved(ONE["Convolution"], tmp_path / "net.xml", compress_to_fp16=True)
    graph = read_graph(path)
    kinds = {n.value.dtype.name for n in graph.nodes if n.prim == "const" and n.value.size > 1}
    assert kinds == {"float16"}
    images = reading.images(9, 4)
    expected = computed(path, images.transpose(0, 3, 1, 2))
    found = graph.run(images)  # type: ignore[misc]
    np.testing.assert_allclose(found, expected, rtol=LIMIT, atol=LIMIT * np.abs(expected).max())


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (lambda x: ops.lrn(x, whole(1), 1e-4, 0.75, 1.0, 5), "LRN"),
        (lambda x: ops.normalize_l2(x, whole(1), 1e-6, "add"), "NormalizeL2"),
        (lambda x: ops.prelu(x, np.float32(0.125)), "PReLU 0.125"),
        (lambda x: ops.adaptive_avg_pool(x, whole(2, 2)), "AdaptiveAvgPool"),
        (lambda x: ops.tile(x, whole(1, 1, 2, 1)), "Tile"),
        # OpenVINO divides by the window; PyTorch, of which this is converted, by what is padded.
        (
            lambda x: opset14.avg_pool(x, [2, 2], [1, 1], [0, 0], [3, 3], False, "ceil_torch"),
            "AvgPool that counts pixels beyond its padding",
        ),
    ],
)
def test_what_nobody_knows_is_opaque(build: Any, what: str, tmp_path: Path) -> None:
    assert reading.unknown(read_graph(saved(build, tmp_path / "net.xml"))) == [what]


@pytest.mark.parametrize(
    ("shape", "layout", "size"),
    [
        ([1, 3, 8, 8], "NCHW", 8),
        ([-1, 8, 8, 3], "NHWC", 8),
        ([-1, 3, -1, -1], "NCHW", 224),
        ([-1, -1, -1, -1], "NCHW", 224),
        (None, "NCHW", 224),
        ([-1, 3, openvino.Dimension(8, 64), -1], "NCHW", 224),
    ],
)
def test_layout_and_size_are_the_file_s(shape: Any, layout: str, size: int, tmp_path: Path) -> None:
    own = openvino.PartialShape.dynamic() if shape is None else openvino.PartialShape(shape)
    graph = read_graph(saved(ops.relu, tmp_path / "net.xml", own))
    assert (graph.layout, graph.image_size) == (layout, size)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_that_the_file_leaves_open_are_the_kernel_s(channels: int, tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return ops.convolution(x, numbers(5, channels, 3, 3), [1, 1], [1, 1], [1, 1], [1, 1])

    graph = read_graph(saved(build, tmp_path / "net.xml", openvino.PartialShape([-1] * 4)))
    assert graph.nodes[0].attrs["shape"] == (2, channels, 32, 32)
    assert reading.unknown(graph) == []


def test_files_of_a_hub_are_links_to_others(tmp_path: Path) -> None:
    """The network and its weights, each under its own digest, in a folder of blobs."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    path = saved(ONE["Convolution"], tmp_path / "net.xml")
    for k, part in enumerate((path, path.with_suffix(".bin"))):
        part.rename(blobs / str(k))
        (snapshot / part.name).symlink_to(f"../../blobs/{k}")
    target = checked("net.xml", snapshot)
    assert reading.unknown(file_reader(Path(target))(9)) == []


def test_results_of_one_name_are_two(tmp_path: Path) -> None:
    net = small()
    net.add("Result", net.image, name="output")
    graph = read_graph(net.write(tmp_path / "net.xml"))
    assert len(graph.outputs) == 2
    assert graph.remarks[0].startswith("of its 2 outputs (output, output)")


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_a_bias_before_a_factor_is_the_convolution_s(factor: float, tmp_path: Path) -> None:
    """As a folded norm in front of a scaled addition is."""
    bias = numbers(1, 5, 1, 1)

    def build(x: Any) -> Any:
        return ops.multiply(ops.add(ONE["Convolution"](x), bias), np.float32(factor))

    net = normalise(read_graph(saved(build, tmp_path / "net.xml")))
    scale = [] if factor == 1 else ["Scale"]
    assert [node.op for node in net.nodes] == ["Input", "Conv", *scale]
    np.testing.assert_array_equal(net.nodes[1].tensors["bias"], bias.reshape(-1))


def test_where_a_checkpoint_is_wanted_the_way_is_named(tmp_path: Path) -> None:
    path = saved(ONE["Convolution"], tmp_path / "net.xml")
    with pytest.raises(CheckpointError, match="identify TARGET -o WEIGHTS"):
        open_checkpoint(path)


def test_of_several_results_the_logits_are_taken(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        named = ops.result(ops.negative(x))
        named.set_friendly_name("logits")
        return [ops.result(ops.relu(x)), named, ops.result(ops.shape_of(x))]

    graph = read_graph(saved(build, tmp_path / "net.xml"))
    assert graph.nodes[graph.outputs[0]].attrs["op"] == "neg"
    assert graph.remarks[0].startswith("of its 2 outputs")  # a shape is none


# Files that say anything.

ODD = ("", "0", "-1", "1", "2", "7", "65536", "9" * 18, "9" * 400, "1e308", "nan", "inf", "x", "é")
ODD_LISTS = ("0, 0", "-1, -1", "1", "99999999, 99999999", "1, 1, 1", "0, 1, 2, 3", "2,x", "?,?,?,?")


def mutant(text: str, rng: random.Random) -> str:
    """With one to three attributes changed, of operators, ports and edges alike."""
    for _ in range(rng.randint(1, 3)):
        found = rng.choice(list(re.finditer(r'="([^"]*)"', text)))
        others = rng.choice([ODD, ODD_LISTS, (found[1] + "0", found[1][:-1])])
        text = f'{text[: found.start()]}="{rng.choice(others)}"{text[found.end() :]}'
    return text


@pytest.mark.parametrize("rounds", [2, in_zoo(60)])
def test_attributes_may_be_anything(rounds: int, tmp_path: Path) -> None:
    """A file is refused in one line, or read as a graph that can be normalised."""
    refusals = []
    for k, build in enumerate(ONE.values()):
        path = saved(build, tmp_path / "net.xml")
        text = path.read_text()
        for number in range(rounds):
            path.write_text(mutant(text, random.Random(f"{k} {number}")))  # noqa: S311
            try:
                normalise(read_graph(path, 9))
            except CheckpointError as error:
                refusals.append(str(error))
    for said in refusals:
        assert said.startswith(str(path.with_suffix("")))
        assert said.isprintable()
        assert len(said) < 1000
    assert 0.2 < len(refusals) / (rounds * len(ONE)) < 0.8


# Networks of ours, as they are exported.


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    return exported("torchvision/resnet18", "torch", False, tmp_path_factory.mktemp("net"))


def exported(name: str, writer: str, fold: bool, folder: Path) -> Path:
    """The miniature of a preset, with probe weights."""
    spec, path = miniature(get_spec(name)), folder / "net.xml"
    package = load_package(get_framework(writer))
    model = package.build(spec, dtype="float32")
    package.load_weights(model, probe_weights(spec, 1, "float32"))
    exporter = importlib.import_module(f"{package.__name__}.export")
    size = side(spec)
    exporter.export(package.fold(model) if fold else model, path, "openvino", (size, size))
    return path


def identified(path: Path, name: str, size: int = 64) -> Identified:
    return identify_graph(file_reader(path), size, miniature(get_spec(name)))


def test_norms_are_kept_and_weights_are_the_same_bit_by_bit(resnet18: Path) -> None:
    spec = miniature(get_spec("torchvision/resnet18"))
    found = identified(resnet18, "torchvision/resnet18")
    assert (found.verdict, found.departures, found.recognised) == (SAME_MODEL, [], True)
    own = probe_weights(spec, 1, "float32")
    assert set(found.weights) == set(own)
    assert all(np.array_equal(found.weights[name], own[name]) for name in own)
    graph = read_graph(resnet18)
    assert {"stem.conv1.weight", "stages.0.blocks.0.norm1.running_var"} <= reading.names(graph)


def test_a_folded_file_is_the_same_function(resnet18: Path, tmp_path: Path) -> None:
    """By OpenVINO's own passes, as `openvino.convert_model` runs them."""
    from openvino._offline_transformations import apply_moc_transformations

    model = openvino.Core().read_model(resnet18)
    apply_moc_transformations(model, cf=False, smart_reshape=True)
    path = tmp_path / "folded.xml"
    openvino.save_model(model, path, compress_to_fp16=False)
    assert "BatchNormInference" not in re.findall(r'type="(\w+)"', path.read_text())
    found = identified(path, "torchvision/resnet18")
    assert (found.verdict, found.departures) == (SAME_FUNCTION, [])


def test_preprocessing_in_the_file_is_named(resnet18: Path, tmp_path: Path) -> None:
    """Pixels in bytes, NHWC, as OpenVINO's own preprocessing puts it in front; and halves."""
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(openvino.Core().read_model(resnet18))
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    made = steps.input().preprocess().convert_element_type(openvino.Type.f32)
    made.mean([123.675, 116.28, 103.53]).scale([58.395, 57.12, 57.375])
    path = tmp_path / "prepared.xml"
    openvino.save_model(steps.build(), path)
    found = identified(path, "torchvision/resnet18")
    assert (found.verdict, found.departures, found.recognised) == (SAME_MODEL, [], True)
    assert len(found.surroundings) == 1
    assert found.surroundings[0].startswith("before the stem: x * [0.0171")


@pytest.mark.parametrize(
    ("pattern", "by", "what"),
    [
        (r'epsilon="[^"]*"', 'epsilon="0.001"', "eps"),
        (r'type="ReLU"', 'type="Sigmoid"', "operator"),
        (r'(type="MaxPool".*\n.*)pads_begin="1, 1"', r'\1pads_begin="0, 0"', "padding"),
        (r'(type="ReduceM)ean"', r'\1ax"', "pool"),
        (r'strides="1, 1"', 'strides="2, 2"', "stride"),
    ],
)
def test_a_planted_change_is_named(
    pattern: str, by: str, what: str, resnet18: Path, tmp_path: Path
) -> None:
    path = tmp_path / "net.xml"
    text, count = re.subn(pattern, by, resnet18.read_text(), count=1)
    assert count == 1
    path.write_text(text)
    path.with_suffix(".bin").write_bytes(resnet18.with_suffix(".bin").read_bytes())
    found = identified(path, "torchvision/resnet18")
    assert found.verdict == DEPARTS
    assert what in [departure.what for departure in found.departures]


WAYS = [*itertools.product(("torch", "keras:tensorflow"), (False, True))]
BY_TURNS = [(name, *WAYS[i % len(WAYS)]) for i, name in enumerate(COVERING)]


@pytest.mark.parametrize(
    ("name", "writer", "fold"),
    rest_in_zoo([(name, *way) for name in COVERING for way in WAYS], (), BY_TURNS),
)
def test_every_kind_of_structure(name: str, writer: str, fold: bool, tmp_path: Path) -> None:
    if get_framework(writer).missing:
        pytest.skip(f"{writer} not installed")
    spec = miniature(get_spec(name))
    wanted = Wanted(KINDS["openvino"], writer, "float32", side(spec), fold)
    path = exported(name, writer, fold, tmp_path)
    assert reading.unknown(file_reader(path)(side(spec))) == []
    found = identify_graph(file_reader(path), side(spec), expected_spec(spec, wanted))
    own = probe_weights(spec, 1, "float32")
    back = judged(found.to_dict(), found.weights, spec, own, wanted)
    assert back.passed, back
    assert back.equal == back.tensors > 0 or wanted.folds, back
