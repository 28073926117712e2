"""ONNX files: unfolded ones are read, folded ones say so, and what lies is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared.errors import CheckpointError
from shared.formats.containers.registry import read_archive
from tests.formats import onnx_files as made
from tests.formats.hostile import assert_same, cheaply, is_refused, mutations, values
from tests.formats.tensorflow_files import field, varint
from tests.zoo import in_zoo

RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("float32")


ARRAYS = {
    "conv1.weight": random(4, 3, 3, 3),
    **{f"bn1.{leaf}": random(4) for leaf in ("weight", "bias", "running_mean", "running_var")},
    "fc.weight": random(5, 4),
    "fc.bias": random(5),
}
NAMES = list(ARRAYS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.onnx"


def layers(*names: str) -> list[bytes]:
    """Operators that are one behind the other: a convolution, a norm, a matrix by their tensors'
    names, and others by themselves.
    """
    nodes, here = [], "x"
    kinds = {1: "Conv", 2: "Conv", 4: "BatchNormalization"}
    for number, name in enumerate(names):
        tensors = name.split() if " " in name or name.endswith(".weight") else []
        kind = kinds[len(tensors)] if tensors else name
        nodes.append(made.node(kind, [here, *tensors], [f"o{number}"], f"/n{number}/{kind}"))
        here = f"o{number}"
    return nodes


NORM = " ".join(name for name in NAMES if name.startswith("bn1"))


def test_by_hand(path: Path) -> None:
    path.write_bytes(made.network(ARRAYS))
    found = read_archive(path)
    assert found.container == "onnx"
    assert_same(values(found), ARRAYS)
    assert found.metadata == {"producer": "pytorch", "epsilon": "1e-05"}


@pytest.mark.parametrize("kind", ["Gemm", "MatMul", "Gemm turned"])
def test_matrices_are_out_in(path: Path, kind: str) -> None:
    weight, bias = ARRAYS["fc.weight"], ARRAYS["fc.bias"]
    matrix = weight if kind == "Gemm turned" else np.ascontiguousarray(weight.T)
    if kind == "MatMul":
        nodes = [
            made.node("MatMul", ["x", "w"], ["y"], "net/fc/MatMul"),
            made.node("Add", ["y", "b"], ["z"], "net/fc/BiasAdd"),
        ]
    else:
        turned = {"transB": int(kind == "Gemm turned")}
        nodes = [made.node("Gemm", ["x", "w", "b"], ["z"], "/net/net.fc/Gemm", **turned)]
    path.write_bytes(made.model(nodes, [made.tensor("w", matrix), made.tensor("b", bias)]))
    assert_same(values(read_archive(path)), {"net.fc.weight": weight, "net.fc.bias": bias})


def test_layers_are_called_as_their_operators(path: Path) -> None:
    """Where the tensors' names do not tell, and where one tensor is that of two layers."""
    vector, kernel = random(4), ARRAYS["conv1.weight"]
    norm = ["scale_7", "v", "v", "onnx::BatchNormalization_9"]
    nodes = [
        made.node("Identity", ["v"], ["copy"]),
        made.node("Conv", ["x", "onnx::Conv_3"], ["a"], "/layer1/layer1.0/conv1/Conv"),
        made.node("BatchNormalization", ["a", *norm], ["b"], "/layer1/layer1.0/bn1/BatchNorm"),
        made.node("Reshape", ["b", "shape"], ["c"]),
        made.node("Conv", ["c", "onnx::Conv_3", "copy"], ["d"], "/layer1/layer1.0/conv2/Conv"),
    ]
    tensors = [
        made.tensor("onnx::Conv_3", kernel),
        made.tensor("v", vector),
        made.tensor("scale_7", vector + 1),
        made.tensor("onnx::BatchNormalization_9", vector + 2),
        made.tensor("shape", np.array([1, 2])),
    ]
    path.write_bytes(made.model(nodes, tensors))
    bn, conv = "layer1.0.bn1.BatchNorm", "layer1.0.conv2"
    expected = {
        "layer1.0.conv1.weight": kernel,
        f"{conv}.weight": kernel,
        f"{bn}.weight": vector + 1,
        f"{bn}.bias": vector,
        f"{bn}.running_mean": vector,
        f"{bn}.running_var": vector + 2,
        f"{conv}.bias": vector,
    }
    assert_same(values(read_archive(path)), expected)


def test_other_ways_to_write_values(path: Path, tmp_path: Path) -> None:
    half = np.array([1.5, -2, 0], "float16")
    floats, doubles = random(2, 3), np.array([1.0, 2.5])
    packed = field(5, b"".join(varint(int(n)) for n in half.view("u2")))
    tensors = [
        made.tensor("half", half, raw=None, more=packed),
        made.tensor("floats", floats, raw=None, more=field(4, floats.tobytes())),
        made.tensor("doubles", doubles, raw=None, more=field(10, doubles.tobytes())),
        made.tensor("single", np.array([2.5], "f4"), raw=None, more=made.fixed32(4, 2.5)),
        made.tensor("far", floats, raw=None, more=made.outside("net.onnx.data", 8, 24)),
        made.tensor("scalar", np.array(3, "f4")),
    ]
    (tmp_path / "net.onnx.data").write_bytes(bytes(8) + floats.tobytes())
    constant = made.tensor("", random(2), raw=bytes(8))
    nodes = [made.node("Constant", [], ["constant"], value=constant)]
    path.write_bytes(made.model(nodes, tensors))
    expected = {"half": half, "floats": floats, "doubles": doubles, "far": floats}
    expected |= {"single": np.array([2.5], "f4"), "scalar": np.array(3, "f4")}
    assert_same(values(read_archive(path)), {"constant": np.zeros(2, "f4"), **expected})


def write(path: Path, nodes: list[bytes], producer: str = "pytorch") -> None:
    path.write_bytes(made.model(nodes, [made.tensor(n, a) for n, a in ARRAYS.items()], producer))


@pytest.mark.parametrize(
    ("names", "producer", "words"),
    [
        (("conv1.weight", "Relu", "conv1.weight"), "pytorch", "folded.*PRESERVE"),
        (("conv1.weight", "Relu", "conv1.weight"), "tf2onnx", "folded.*; give the checkpoint"),
        (("conv1.weight", NORM, "Relu", "conv1.weight", "Relu"), "pytorch", "1 of its 2.*folded"),
        (("conv1.weight", "Mul", "Add", "Relu"), "tf2onnx", "folded scale, shift, mean"),
        (("QuantizeLinear", "conv1.weight", NORM), "pytorch", "quantised.*QuantizeLinear"),
        (("QLinearConv",), "pytorch", "quantised.*QLinearConv"),
    ],
)
def test_what_is_not_what_was_trained(
    path: Path, names: tuple[str, ...], producer: str, words: str
) -> None:
    """Whatever the tensors are called."""
    write(path, layers(*names), producer)
    with pytest.raises(CheckpointError, match=words):
        read_archive(path)


@pytest.mark.parametrize("names", [("conv1.weight", NORM, "Relu"), ("Relu", NORM, "conv1.weight")])
def test_norms_before_and_behind(path: Path, names: tuple[str, ...]) -> None:
    write(path, layers(*names))
    assert len(read_archive(path).entries) == len(ARRAYS)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("mode", ["kept", "folded", in_zoo("dynamo")])
def test_what_pytorch_exports(path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1)
    ).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    images = (torch.ones(1, 3, 8, 8),)
    if mode == "dynamo":
        pytest.importorskip("onnxscript")
        torch.onnx.export(model, images, str(path), dynamo=True, verbose=False)
    else:
        # which only adds functions of other projects, and needs the onnx package for it
        from torch.onnx._internal.torchscript_exporter import onnx_proto_utils

        monkeypatch.setattr(onnx_proto_utils, "_add_onnxscript_fn", lambda data, opsets: data)
        training = torch.onnx.TrainingMode.PRESERVE
        kept = {"training": training, "do_constant_folding": False} if mode == "kept" else {}
        torch.onnx.export(model, images, str(path), dynamo=False, **kept)
    if mode != "kept":
        with pytest.raises(CheckpointError, match="folded"):
            read_archive(path)
        return
    expected = {n: t.numpy() for n, t in model.state_dict().items() if "tracked" not in n}
    assert_same(values(read_archive(path)), expected)


HALF = {"code": 10, "raw": None}
LIES: dict[str, tuple[bytes, str]] = {
    "shape": (made.network(ARRAYS, fc_bias={"dims": (6,)}), "does not follow"),
    "negative": (made.network(ARRAYS, fc_bias={"dims": (-5,)}), "impossible shape"),
    "huge": (made.network(ARRAYS, fc_bias={"dims": (1 << 40,)}), "impossible shape"),
    "rank": (made.network(ARRAYS, fc_bias={"dims": (1,) * 100}), "64 dimensions"),
    "dtype": (made.network(ARRAYS, fc_bias={"code": 17}), "dtype number 17"),
    "complex": (made.network(ARRAYS, fc_bias={"code": 14}), "dtype number 14"),
    "twice": (
        made.network(ARRAYS, fc_bias={"more": field(4, bytes(20))}),
        "twice, or of another dtype",
    ),
    "pieces": (made.network(ARRAYS, fc_bias={"more": field(9, bytes(20))}), "in pieces"),
    "few halves": (
        made.network(ARRAYS, fc_bias=HALF | {"more": field(5, b"\1\2")}),
        "2 bytes for 5 numbers",
    ),
    "wide halves": (
        made.network(
            ARRAYS, fc_bias={"code": 10, "raw": None, "more": field(5, b"\x80\x80\x04" * 5)}
        ),
        "numbers of 16 bits",
    ),
    "same name": (
        made.model([], [made.tensor("a", random(2)), made.tensor("a", random(2))]),
        "two of its tensors",
    ),
    "no name": (made.model([], [made.tensor("", random(2))]), "called ''"),
    "lines": (made.model([], [made.tensor("a\nb", random(2))]), "called"),
    "sparse": (made.model([], [], more=field(15, b"")), "sparse"),
    "no graph": (field(1, 8), "no graph"),
    "two graphs": (field(7, b"") * 2, "twice"),
    "no varint": (b"\x08" + b"\xff" * 10, "does not end"),
    "a wide varint": (b"\x08" + b"\xff" * 9 + b"\x7f", "more than 64 bits"),
    "a group": (b"\x0b\x0c", "unknown kind 3"),
    "field 0": (b"\x00\x00", "number 0"),
    "beyond": (b"\x3a\xff\xff\xff\xff\x0f", "announces"),
    "many fields": (field(7, field(2, b"") * 600_000), "fields"),
    "a huge name": (made.model([], [made.tensor("a" * 5000, random(2))]), "5000 bytes"),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_are_refused(path: Path, name: str) -> None:
    data, words = LIES[name]
    path.write_bytes(data)
    with cheaply(), pytest.raises(CheckpointError, match=words) as caught:
        values(read_archive(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (made.outside("../secret.bin", 0, 20), "plain names"),
        (made.outside("/etc/passwd", 0, 20), "plain names"),
        (made.outside("link", 0, 20), "leads out"),
        (made.outside("nothing", 0, 20), "cannot be read"),
        (made.outside("data", 8, 20), "is not there"),
        (made.outside("data", 1 << 60, 20), "is not there"),
        (made.outside("data", "-4", 20), "the offset"),
        (made.outside("data", "1" * 99, 20), "the offset"),
        (made.outside("data", 0, 12), "does not follow"),
        (field(14, 1), "plain names"),
    ],
)
def test_values_elsewhere_that_lie(tmp_path: Path, path: Path, place: bytes, words: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(100))
    (inside / "link").symlink_to(tmp_path / "secret.bin")
    (inside / "data").write_bytes(bytes(20))
    target = inside / "net.onnx"
    target.write_bytes(made.network(ARRAYS, fc_bias={"raw": None, "more": place}))
    with pytest.raises(CheckpointError, match=words):
        values(read_archive(target))


def test_one_tensor_of_many_layers_is_refused(path: Path) -> None:
    big = np.zeros((1 << 10, 1 << 10), "float32")
    nodes = [made.node("Gemm", ["x", "w"], ["y"], f"/a{i}/Gemm") for i in range(100)]
    path.write_bytes(made.model(nodes, [made.tensor("w", big)]))
    with cheaply(), pytest.raises(CheckpointError, match="its layers have"):
        read_archive(path)


def test_mutations_and_truncations(path: Path) -> None:
    data = made.network(ARRAYS)
    refused = 0
    with cheaply():
        for mutant in mutations(data, 300):
            path.write_bytes(mutant)
            refused += is_refused(read_archive, path)
        for size in range(0, len(data), 5):
            path.write_bytes(data[:size])
            refused += is_refused(read_archive, path)
    assert refused > 200
