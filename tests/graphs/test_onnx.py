"""ONNX files of several exporters, read without the package `onnx`: what the graph means is what
the model computes that was exported.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from torch import nn
from torch.nn import functional as F

from benchmarks.others import spread_out
from shared.errors import CheckpointError
from shared.graphs.files.onnx_file import read_graph
from shared.graphs.primitives import RawGraph
from tests.graphs import reading
from tests.zoo import rest_in_zoo

LIMIT = 1e-6  # measured 5e-8: exporters fold norms in float32
helper = onnx.helper


class Unit(nn.Module):
    def __init__(self, width: int, out: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, groups=2)
        self.norm2 = nn.GroupNorm(2, out)
        self.project = nn.Conv2d(width, out, 1, stride) if width != out else nn.Identity()

    def forward(self, x: Any) -> Any:
        y = self.norm2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.project(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, 2, 3)
        self.layer1 = nn.Sequential(Unit(8, 8), Unit(8, 16, 2))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(self.stem(x), 3, 2, ceil_mode=True)
        x = self.layer1(F.avg_pool2d(x, 3, 2, 1, ceil_mode=True))
        x = F.silu(x) + F.hardswish(x) + F.gelu(x)
        wide = F.pad(x, (1, 1, 1, 1), value=0.5)[:, 8:, 1:-1:2, 1:-1:2]
        x = torch.cat([x[:, :8, ::2, ::2], wide], 1)
        return self.fc(x.mean((2, 3)).view(x.shape[0], -1))


def net() -> nn.Module:
    model = Net().eval()
    with torch.no_grad():
        for k, tensor in enumerate(model.state_dict().values()):
            if tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(spread_out(tensor.numpy(), k)))
    return model


KEPT = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
EXPORTERS = {
    "dynamo": {"dynamo": True, "verbose": False},
    "dynamo, not optimised": {"dynamo": True, "verbose": False, "optimize": False},
    "dynamo, in one file": {"dynamo": True, "verbose": False, "external_data": False},
    "torchscript": {"dynamo": False},
    "torchscript, not folded": {"dynamo": False, **KEPT},
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Each export once."""

    @functools.cache
    def export(exporter: str, batch: int) -> Path:
        how = EXPORTERS[exporter]
        if how["dynamo"]:
            pytest.importorskip("onnxscript")
        path = tmp_path_factory.mktemp("exported") / "net.onnx"
        torch.onnx.export(net(), (torch.zeros(batch, 3, 64, 64),), str(path), **how)
        return path

    return lambda exporter, batch=1: export(exporter, batch)


def truth(size: int) -> np.ndarray:
    images = torch.from_numpy(reading.images(size).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        return net().double()(images).numpy()


CASES = [(exporter, batch) for exporter in EXPORTERS for batch in (1, 2)]
SHORT = [("dynamo", 1), ("dynamo, not optimised", 1), ("torchscript", 1), *CASES[-2:]]


@pytest.mark.parametrize(("exporter", "batch"), rest_in_zoo(CASES, SHORT))
def test_the_graph_means_what_was_exported(
    exporter: str, batch: int, exported: Callable[..., Path]
) -> None:
    graph = read_graph(exported(exporter, batch))
    assert (graph.image_size, graph.layout, graph.dtype) == (64, "NCHW", "float64")
    assert reading.unknown(graph) == []
    assert graph.run is not None
    assert worst(graph.run(reading.images(64)), truth(64)) < LIMIT


def worst(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_another_size_than_the_file_s_own(exported: Callable[..., Path]) -> None:
    graph = read_graph(exported("torchscript"), 49)
    assert graph.run is not None
    assert worst(graph.run(reading.images(49)), truth(49)) < LIMIT


def test_a_graph_that_means_something_else_is_seen(exported: Callable[..., Path]) -> None:
    graph = read_graph(exported("torchscript", 2))
    pool = next(node for node in graph.nodes if node.prim == "avgpool")
    pool.attrs["count_pad"] = False
    assert reading.error(graph, truth(64)) > 100 * LIMIT


def test_modules_and_lines_are_the_users(exported: Callable[..., Path]) -> None:
    graph = read_graph(exported("dynamo, not optimised"))
    assert reading.places(graph)[:3] == ["stem", "layer1.0.conv1", "layer1.0.conv2"]
    assert all(line.startswith("test_onnx.py:") for line in reading.lines(graph))
    assert {"stem.weight", "layer1.1.project.bias", "fc.bias"} <= reading.names(graph)


def test_the_older_exporter_s_names(exported: Callable[..., Path]) -> None:
    graph = read_graph(exported("torchscript, not folded"))
    assert "layer1/layer1.0/conv1" in reading.places(graph)
    assert "layer1.0.bn1.running_var" in reading.names(graph)


# Files that are made by hand.


def model(nodes: list[Any], path: Path, shape: Any = (2, 3, 8, 8), **more: Any) -> Path:
    """A file of one input x and one output y."""
    kinds = {"y": None} | more.pop("outputs", {})
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in kinds],
        [onnx.numpy_helper.from_array(value, name) for name, value in more.pop("w", {}).items()],
    )
    opset = more.pop("opset", 18)
    path.write_bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset), *more.pop("imports", [])], **more
        ).SerializeToString()
    )
    return path


def same_as_onnx(path: Path) -> RawGraph:
    """ONNX' own evaluation in NumPy says the same."""
    graph = read_graph(path)
    images = reading.images(8).astype(np.float32)
    (expected,) = onnx.reference.ReferenceEvaluator(str(path)).run(
        ["y"], {"x": images.transpose(0, 3, 1, 2)}
    )
    assert reading.unknown(graph) == []
    assert graph.run is not None
    np.testing.assert_allclose(graph.run(images), expected, rtol=1e-5, atol=1e-6)
    return graph


F32 = np.float32
I64 = np.int64
ALL = [2, 3, 8, 8]
LOWER = {"strides": [2, 2], "auto_pad": "SAME_LOWER"}
CUT = {"starts": [1], "ends": [7], "axes": [3]}
BACK = {"s": I64([-1]), "e": I64([-(2**31)]), "a": I64([1]), "p": I64([-1])}
SIDES = {"p": I64([1, 2, 0, 1]), "v": F32(0), "a": I64([2, -1])}
KERNEL = {"k": np.random.default_rng(0).normal(size=(4, 3, 3, 2)).astype(F32)}
PER_CHANNEL = {"s": F32([1, 2, 3]), "b": F32([0, 1, 2])}
ONE = {
    "Clip, attributes": ("Clip", {"min": -0.5, "max": 0.5}, {}, 10),
    "HardSigmoid": ("HardSigmoid", {"alpha": 0.3}, {}, 18),
    "Gelu, by tanh": ("Gelu", {"approximate": "tanh"}, {}, 20),
    "Conv, SAME_LOWER": ("Conv", LOWER, KERNEL, 18),
    "ReduceMean, attribute": ("ReduceMean", {"axes": [-1, 2], "keepdims": 0}, {}, 13),
    "Slice, backwards": ("Slice", {}, BACK, 18),
    "Slice, attributes": ("Slice", CUT, {}, 9),
    "Pad, some axes": ("Pad", {"mode": "reflect"}, SIDES, 18),
    "Gather": ("Gather", {"axis": 1}, {"i": I64([2, 0, 1])}, 18),
    "InstanceNormalization": ("InstanceNormalization", {}, PER_CHANNEL, 18),
    "Expand": ("Expand", {}, {"s": I64(ALL)}, 18),
    "Softmax, last": ("Softmax", {"axis": -1}, {}, 18),
}


@pytest.mark.parametrize("name", ONE)
def test_operators_mean_what_onnx_says(name: str, tmp_path: Path) -> None:
    op, attributes, weights, opset = ONE[name]
    node = helper.make_node(op, ["x", *weights], ["y"], **attributes)
    same_as_onnx(model([node], tmp_path / "m.onnx", w=weights, opset=opset))


def test_functions_and_branches_are_inlined(tmp_path: Path) -> None:
    inner = helper.make_node("Mul", ["a", "k"], ["b"])
    constant = helper.make_node("Constant", [], ["k"])
    constant.attribute.append(onnx.AttributeProto(name="value_float", ref_attr_name="by", type=1))
    opset = helper.make_opsetid("", 18)
    function = helper.make_function(
        "own", "Times", ["a"], ["b"], [constant, inner], [opset], ["by"]
    )
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(op, ["t"], ["r"])],
            name,
            [],
            [helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, None)],
        )
        for name, op in (("then", "Neg"), ("else", "Abs"))
    }
    nodes = [
        helper.make_node("Times", ["x"], ["t"], domain="own", by=0.25),
        helper.make_node("If", ["c"], ["y"], **branches),
    ]
    path = model(
        nodes,
        tmp_path / "m.onnx",
        w={"c": np.asarray(False)},
        imports=[helper.make_opsetid("own", 1)],
        functions=[function],
    )
    same_as_onnx(path)


@pytest.mark.parametrize("op", ["NonZero", "Einsum", "NoSuchOperator"])
def test_what_nobody_knows_is_opaque(op: str, tmp_path: Path) -> None:
    graph = read_graph(model([helper.make_node(op, ["x"], ["y"])], tmp_path / "m.onnx"))
    assert reading.unknown(graph) == [op]


@pytest.mark.parametrize(
    ("shape", "layout", "size"),
    [
        ((1, 3, 8, 8), "NCHW", 8),
        ((None, 8, 8, 3), "NHWC", 8),
        (("n", 3, "h", "w"), "NCHW", 224),
        (None, "NCHW", 224),
    ],
)
def test_layout_and_size_are_the_file_s(shape: Any, layout: str, size: int, tmp_path: Path) -> None:
    graph = read_graph(model([helper.make_node("Relu", ["x"], ["y"])], tmp_path / "m.onnx", shape))
    assert (graph.layout, graph.image_size) == (layout, size)


def test_of_several_outputs_the_logits_are_taken(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["logits"])]
    graph = read_graph(model(nodes, tmp_path / "m.onnx", outputs={"logits": None}))
    assert graph.nodes[graph.outputs[0]].attrs["op"] == "neg"
    assert graph.remarks[0].startswith("of its 2 outputs (y, logits), logits")


# Files that are wrong.


def _external(location: str, offset: int = 0) -> Any:
    tensor = onnx.numpy_helper.from_array(np.zeros((3, 1, 1), F32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", "12")):
        tensor.external_data.add(key=key, value=value)
    return tensor


@pytest.mark.parametrize(
    ("location", "offset", "says"),
    [
        ("../w.bin", 0, "plain names of files beside it"),
        ("/etc/passwd", 0, "plain names of files beside it"),
        ("link.bin", 0, "leads out of its folder"),
        ("w.bin", 8, "expected 12 bytes inside the file"),
        ("none.bin", 0, "cannot be read"),
        ("w.bin", 0, None),
    ],
)
def test_weights_elsewhere_lie_in_the_model_s_folder(
    location: str, offset: int, says: str | None, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(12))
    (folder / "w.bin").write_bytes(bytes(12))
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    path = model([helper.make_node("Add", ["x", "w"], ["y"])], folder / "m.onnx")
    loaded = onnx.load(str(path), load_external_data=False)
    loaded.graph.initializer.append(_external(location, offset))
    path.write_bytes(loaded.SerializeToString())
    if says is None:
        assert reading.unknown(read_graph(path)) == []
        return
    with pytest.raises(CheckpointError) as caught:
        read_graph(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        lambda data: b"\xff" * 64,
        lambda data: b"",
        lambda data: b"\x08\x08",
        lambda data: data[3:],
    ],
    ids=["cut off", "noise", "empty", "no graph", "shifted"],
)
def test_damaged_files_are_refused_in_one_line(damage: Any, tmp_path: Path) -> None:
    path = model([helper.make_node("Relu", ["x"], ["y"])], tmp_path / "m.onnx")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError) as caught:
        read_graph(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("nodes", "says"),
    [([("Relu", "nothing", "y")], "reads 'nothing'"), ([("Relu", "x", "z")], "computed nowhere")],
)
def test_graphs_that_do_not_hold_together(nodes: Any, says: str, tmp_path: Path) -> None:
    made = [helper.make_node(op, [a], [b]) for op, a, b in nodes]
    with pytest.raises(CheckpointError, match=says):
        read_graph(model(made, tmp_path / "m.onnx"))


def test_a_constant_of_another_size_than_its_shape(tmp_path: Path) -> None:
    path = model([helper.make_node("Add", ["x", "w"], ["y"])], tmp_path / "m.onnx")
    loaded = onnx.load(str(path))
    loaded.graph.initializer.add(name="w", data_type=1, dims=[1 << 40], raw_data=b"1234")
    path.write_bytes(loaded.SerializeToString())
    with pytest.raises(CheckpointError, match="has the shape"):
        read_graph(path)


def test_nested_messages_are_bounded(tmp_path: Path) -> None:
    data = b""
    for number in [6, 5, 1] * 40:  # a node in a graph in an attribute
        size = len(data)
        length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
        data = bytes([number << 3 | 2]) + length + data
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x3a" + bytes([len(data) & 127 | 128, len(data) >> 7]) + data)
    with pytest.raises(CheckpointError, match="nested more than"):
        read_graph(path)
