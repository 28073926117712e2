"""LiteRT's networks, read without a package: what the graph means is what LiteRT computes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from shared.errors import CheckpointError
from shared.formats.checkpoint import open_checkpoint
from shared.frameworks.exported.runtimes import opened
from shared.frameworks.readers import file_reader
from shared.frameworks.targets import is_target
from shared.graphs.files.litert_file import read_graph
from shared.graphs.normal import normalise
from shared.graphs.shapes import shapes_of
from tests.formats.litert_files import Network, number, small
from tests.graphs import reading
from tests.graphs.litert_operators import (
    HALVES,
    ONE,
    POOL,
    RELU,
    SAME,
    SHAPE,
    TANH,
    Build,
    halves,
    long_row,
    numbers,
    of_two,
    one,
    pieces,
    saved,
    then,
    whole,
)
from tests.zoo import in_zoo

LIMIT = 1e-5  # measured 1e-6, against LiteRT in float32


@pytest.mark.parametrize("name", ONE)
def test_operators_mean_what_litert_computes(name: str, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    path = saved(ONE[name], tmp_path / "net.tflite")
    images = reading.images(9, 4).astype(np.float32)
    graph = read_graph(path)
    assert reading.unknown(graph) == []
    assert graph.run is not None
    found, expected = graph.run(images), opened("litert", path, "float32")(images)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=LIMIT, atol=LIMIT * np.abs(expected).max())


def test_a_graph_that_means_something_else_is_seen(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    images = reading.images(9, 4).astype(np.float32)
    path = saved(ONE["AVERAGE_POOL_2D"], tmp_path / "net.tflite")
    other = saved(one("MAX_POOL_2D", activation=1, **SAME, **POOL), tmp_path / "other.tflite")
    found = read_graph(other).run(images)  # type: ignore[misc]
    assert np.abs(found - opened("litert", path, "float32")(images)).max() > 100 * LIMIT


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (one("LOCAL_RESPONSE_NORMALIZATION"), "LOCAL_RESPONSE_NORMALIZATION"),
        (one("PRELU", np.full((1, 1, 1), 0.125, np.float32)), "PRELU 0.125"),
        (one("LEAKY_RELU", alpha=0.2), "LeakyRelu 0.2"),
        (one("SOFTMAX", beta=2.0), "SOFTMAX"),
        (one("STRIDED_SLICE", whole(0), whole(1), whole(1), offset=1), "STRIDED_SLICE"),
        (one("CONV_2D", numbers(5, 3, 3, 4), numbers(5), activation=5, **SAME), "CONV_2D"),
        (one("CONV_2D", numbers(5, 3, 3, 3), numbers(5), activation=0, **SAME), "CONV_2D"),
        (one("CONV_2D", numbers(5, 3, 3, 4), numbers(5)), "CONV_2D"),  # no stride is said
        (of_two("ADD", one("RELU"), activation=TANH), "ADD"),  # which LiteRT ignores
        (of_two("CONCATENATION", one("NEG"), axis=-1, activation=RELU), "CONCATENATION"),
        (long_row, "RANGE"),
        (pieces("SPLIT", np.asarray(3, np.int32), count=1, num_split=(1 << 31) - 1), "SPLIT"),
        (one("WHILE"), "WHILE"),
    ],
)
def test_what_nobody_knows_is_opaque(build: Build, what: str, tmp_path: Path) -> None:
    graph = read_graph(saved(build, tmp_path / "net.tflite"))
    assert reading.unknown(graph) == [what]
    normalise(graph)


@pytest.mark.parametrize(("size", "shape"), [(9, (2, 5, 9, 4)), (None, (2, 5, 9, 4)), (8, None)])
def test_custom_operators_have_their_own_names_and_shapes(
    size: int | None, shape: tuple[int, ...] | None, tmp_path: Path
) -> None:
    """At the file's own size what follows them is known, too."""
    net = Network(SHAPE)
    x = net.add("CUSTOM", net.image, shape=(-1, 5, 9, 4))
    net.add("NEG", x)
    path = tmp_path / "net.tflite"
    path.write_bytes(net.bytes(lambda model: model[1][0].update({1: "FlexErf"})))
    graph = read_graph(path, size)
    assert reading.unknown(graph) == ["FlexErf"]
    assert shapes_of(graph)[graph.outputs[0]] == shape


def test_names_are_printed_on_one_line(tmp_path: Path) -> None:
    """They are anybody's: none moves the cursor, nor colours what follows."""
    evil, net, path = "\x1b[31m\n\x07", Network(SHAPE), tmp_path / "net.tflite"
    x = net.add("CUSTOM", net.image, net.const(numbers(4), f"weight{evil}"), name=f"a{evil}")
    net.outputs = [x, net.add("RELU", net.image, name=evil)]
    path.write_bytes(net.bytes(lambda model: model[1][0].update({1: f"b{evil}"})))
    graph = read_graph(path)
    texts = [text for n in graph.nodes for text in (n.where, n.name or "", n.attrs.get("what", ""))]
    assert all(text.isprintable() for text in [*texts, *graph.remarks])
    assert {"a [31m  ", "b [31m  ", "weight [31m  "} <= set(texts)


@pytest.mark.parametrize(
    ("shape", "layout", "size", "batch"),
    [
        ((1, 8, 8, 3), "NHWC", 8, 2),
        ((-1, 3, 8, 8), "NCHW", 8, 2),
        ((-1, -1, -1, 3), "NHWC", 224, 2),
    ],
)
def test_layout_and_size_are_the_file_s(
    shape: tuple[int, ...], layout: str, size: int, batch: int, tmp_path: Path
) -> None:
    graph = read_graph(saved(one("RELU"), tmp_path / "net.tflite", shape))
    assert (graph.layout, graph.image_size) == (layout, size)
    assert graph.nodes[0].attrs["shape"][0] == batch


@pytest.mark.parametrize(
    "build",
    [
        then(one("MEAN", whole(1, 2), keep_dims=0), one("RESHAPE", whole(1, 4))),
        # What is cut off would be made up for by the addition.
        then(
            of_two("ADD", one("SLICE", whole(0, 0, 0, 0), whole(1, 9, 9, 4)), activation=0),
            one("MEAN", whole(1, 2), keep_dims=0),
            one("MUL", 0.5, activation=0),
        ),
    ],
    ids=["a shape", "a slice"],
)
def test_a_batch_that_is_written_into_an_operator_is_kept(build: Build, tmp_path: Path) -> None:
    graph = read_graph(saved(build, tmp_path / "net.tflite", (1, 9, 9, 4)))
    images = reading.images(9, 4)
    assert graph.run is not None
    np.testing.assert_allclose(graph.run(images), images.mean((1, 2)))


def test_weights_have_their_names_and_halves_stay_halves(tmp_path: Path) -> None:
    graph = read_graph(saved(halves, tmp_path / "net.tflite"))
    assert reading.names(graph) == {"kernel", "bias"}
    net = normalise(graph)
    assert [node.op for node in net.nodes] == ["Input", "Conv"]
    kernel = net.nodes[1].tensors["weight"]
    assert kernel.dtype == np.float16
    np.testing.assert_array_equal(kernel, HALVES.transpose(0, 3, 1, 2))


MODULE = "net.Net/torch.nn.modules.container.Sequential_layers/net.Block_0/torch.nn.Conv2d_conv_1"


def test_of_names_that_are_joined_the_first_is_taken(tmp_path: Path) -> None:
    """With a number, where several have it; modules of PyTorch by their paths."""
    net, path = Network(SHAPE), tmp_path / "net.tflite"
    names = ("a/conv", "a/conv;a/norm;a/relu", "b/conv;b/norm", f"{MODULE};;{MODULE}")
    x = net.image
    for n, name in zip((4, 5, 5, 5), names, strict=True):
        kernel = net.const(numbers(5, 1, 1, n), name)
        x = net.add("CONV_2D", x, kernel, name=f"{MODULE};c", activation=0, **SAME)
    path.write_bytes(net.bytes())
    graph = read_graph(path)
    assert reading.names(graph) == {"a/conv;1", "a/conv;3", "b/conv", "layers.0.conv_1"}
    assert set(reading.places(graph)) == {"layers.0.conv_1"}


def test_a_bias_of_zeros_is_none(tmp_path: Path) -> None:
    """For the converter writes one where a network has none."""
    net = normalise(read_graph(saved(ONE["CONV_2D, without a bias"], tmp_path / "net.tflite")))
    assert set(net.nodes[1].tensors) == {"weight"}


def test_the_signature_s_names_are_those_of_the_results(tmp_path: Path) -> None:
    net = Network(SHAPE)
    net.outputs = [net.add("NEG", net.image), net.add("RELU", net.image)]
    rows = [
        {0: name, 1: number(k, "<I")} for name, k in zip(("logits", "x"), net.outputs, strict=True)
    ]
    path = tmp_path / "net.tflite"
    path.write_bytes(net.bytes(lambda model: model.update({7: [{1: rows, 2: "serving_default"}]})))
    graph = read_graph(path)
    assert graph.nodes[graph.outputs[0]].attrs["op"] == "neg"
    assert graph.remarks[0] == "of its 2 outputs (logits, x), logits is taken for the result"


def test_weights_may_lie_behind_the_tables(tmp_path: Path) -> None:
    """As in files of more than 2 GiB."""
    net, path = small(), tmp_path / "net.tflite"
    kernel = net.buffers[1].pop(0)
    start = (len(net.bytes()) // 64 + 8) * 64  # behind the fields that say where, too
    data = net.bytes(
        lambda model: model[4][1].update({1: number(start, "<Q"), 2: number(len(kernel), "<Q")})
    )
    path.write_bytes(data.ljust(start, b"\0") + kernel)
    (node,) = [node for node in read_graph(path).nodes if node.name == "stem/kernel"]
    assert node.value.tobytes() == kernel


def test_of_several_subgraphs_the_first_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(small().bytes(lambda model: model[2].append({4: "other"})))
    assert "of its 2 subgraphs, the first is read, which LiteRT runs" in read_graph(path).remarks


def test_it_is_a_target_and_no_checkpoint(tmp_path: Path) -> None:
    path = saved(ONE["CONV_2D"], tmp_path / "net.tflite")
    assert is_target(str(path))
    assert reading.unknown(file_reader(path)(9)) == []
    with pytest.raises(CheckpointError, match="identify TARGET -o WEIGHTS"):
        open_checkpoint(path)


# Files that say anything.

ODD = (0, 1, 2, 7, 255, 1 << 31, (1 << 32) - 1)


def mutant(data: bytes, rng: random.Random) -> bytes:
    """With one to three words of four bytes changed."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = 4 * rng.randrange(2, len(data) // 4)
        found[at : at + 4] = rng.choice(ODD).to_bytes(4, "little")
    return bytes(found)


@pytest.mark.parametrize("rounds", [2, in_zoo(100)])
def test_words_may_be_anything(rounds: int, tmp_path: Path) -> None:
    """A file is refused in one line, or read as a graph that can be normalised."""
    refusals, path = [], tmp_path / "net.tflite"
    for k, build in enumerate(ONE.values()):
        data = saved(build, path).read_bytes()
        for count in range(rounds):
            path.write_bytes(mutant(data, random.Random(f"{k} {count}")))  # noqa: S311
            try:
                normalise(read_graph(path, 9))
            except CheckpointError as error:
                refusals.append(str(error))
    for said in refusals:
        assert said.startswith(str(path))
        assert said.isprintable()
        assert len(said) < 1000
    assert 0.1 < len(refusals) / (rounds * len(ONE)) < 0.9
