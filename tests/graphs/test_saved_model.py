"""SavedModels and frozen graphs, read without TensorFlow: what the graph means is what the model
computes that was saved.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow's own", allow_module_level=True)

from shared.errors import CheckpointError
from shared.graphs.files.messages import Record
from shared.graphs.files.saved_model import read_graph
from shared.graphs.primitives import RawGraph
from shared.graphs.translate.tensorflow import GraphReader
from tests.graphs import keras_models, reading
from tests.graphs.tensorflow_models import tensorflow_module
from tests.zoo import rest_in_zoo

LIMIT = 1e-5
Made = tuple[Path, Callable[[Any], Any]]  # what was saved, and what it computes


def _exported(folder: Path) -> Made:
    model = keras_models.varied(keras_models.functional(None))
    model.export(folder / "model", verbose=False)
    return folder / "model", lambda images: model(images, training=False)


def _subclassed(folder: Path) -> Made:
    model = keras_models.varied(keras_models.subclassed())
    tf.saved_model.save(model, folder / "model")
    return folder / "model", lambda images: model(images, training=False)["logits"]


def _function(net: Any) -> Any:
    signature = [tf.TensorSpec([None, None, None, 3])]
    return tf.function(lambda images: net(images, training=False), input_signature=signature)


def _module(folder: Path) -> Made:
    net = tensorflow_module()
    net.anything = _function(net)
    tf.saved_model.save(net, folder / "model")
    return folder / "model", net.anything


def _served(folder: Path) -> Made:
    net = tensorflow_module()
    net.anything = _function(net)
    tf.saved_model.save(net, folder / "model", signatures={"serving_default": net.anything})
    return folder / "model" / "saved_model.pb", net.anything


def _frozen(folder: Path) -> Made:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    net = tensorflow_module()
    function = _function(net)
    constant = convert_variables_to_constants_v2(function.get_concrete_function())
    tf.io.write_graph(constant.graph, str(folder), "frozen.pb", as_text=False)
    return folder / "frozen.pb", function


def _session(folder: Path) -> Made:
    """As TensorFlow 1 saved models: one graph, with variables as nodes."""
    old = tf.compat.v1
    random = np.random.default_rng(0)
    kernel, shift = random.normal(size=(3, 3, 3, 8)), random.normal(size=8)
    with tf.Graph().as_default():
        images = old.placeholder(tf.float32, [None, 32, 32, 3], name="images")
        w, b = (
            old.get_variable(name, initializer=value.astype("float32"), use_resource=name == "b")
            for name, value in (("w", kernel), ("b", shift))
        )
        x = tf.nn.relu(tf.nn.conv2d(images, w, 2, "SAME") + b)
        logits = tf.reduce_mean(x, [1, 2], name="logits")
        with old.Session() as session:
            session.run(old.global_variables_initializer())
            old.saved_model.simple_save(
                session, str(folder / "model"), {"images": images}, {"logits": logits}
            )

    def run(found: Any) -> Any:
        x = tf.nn.relu(tf.nn.conv2d(found, kernel.astype("float32"), 2, "SAME") + shift)
        return tf.reduce_mean(x, [1, 2])

    return folder / "model", run


KINDS = {
    "exported by Keras": (_exported, {"stem/kernel", "head/bias"}),
    "a subclassed model": (_subclassed, {"unit/conv/kernel", "unit/project/kernel", "head/bias"}),
    "a module": (_module, {"w", "b", "head"}),
    "a module with a signature": (_served, {"w", "b", "head"}),
    "a frozen graph": (_frozen, {"Conv2D"}),
    "of a session": (_session, {"w", "b"}),
}


# Of modules without a signature, the damaged ones are read, too.
@pytest.mark.parametrize("kind", rest_in_zoo(KINDS, KINDS.keys() - {"a module"}))
def test_the_graph_means_what_was_saved(kind: str, tmp_path: Path) -> None:
    keras.utils.clear_session(free_memory=False)  # no search for garbage
    make, names = KINDS[kind]
    path, run = make(tmp_path)
    for size in (32, 33):
        graph = read_graph(path, size)
        images = reading.images(size).astype(np.float32)
        assert reading.unknown(graph) == []
        assert reading.error(graph, np.asarray(run(images), np.float64)) < LIMIT
        assert graph.run is not None
        assert np.abs(graph.run(images[:1]) - np.asarray(run(images[:1]))).max() < 1
    assert names <= reading.names(graph)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _module(tmp_path_factory.mktemp("saved"))[0]


def test_a_graph_that_means_something_else_is_seen(tmp_path: Path) -> None:
    path, run = _served(tmp_path)
    graph = read_graph(path, 32)
    norm = next(node for node in graph.nodes if node.prim == "bn")
    assert norm.attrs["eps"] == 1e-3
    norm.attrs["eps"] = 1e-2
    truth = np.asarray(run(reading.images(32).astype(np.float32)), np.float64)
    assert reading.error(graph, truth) > 100 * LIMIT


def test_what_nobody_knows_is_opaque(tmp_path: Path) -> None:
    net = tf.Module()
    net.call = tf.function(
        lambda x: tf.reduce_mean(tf.sort(x, axis=1), [1, 2]),
        input_signature=[tf.TensorSpec([None, 32, 32, 3])],
    )
    tf.saved_model.save(net, tmp_path / "model")
    assert "TopKV2" in reading.unknown(read_graph(tmp_path / "model"))


@pytest.mark.parametrize("count", [0, 2, (1 << 31) - 1])
def test_pieces_that_cannot_be_are_not_known(count: int) -> None:
    graph = RawGraph("tensorflow", 4, "NHWC")
    values = {"x": [graph.input((2, 4, 4, 3))], "axis": [graph.const(np.int32(3))]}
    said = {"num_split": Record({"i": count})}
    node = Record({"name": "split", "op": "Split", "input": ["axis", "x"], "attr": said})
    graph.outputs = GraphReader(graph, {}).run([node], values, ["split"])
    assert reading.unknown(graph) == ["Split"]


def test_nothing_of_the_file_runs(tmp_path: Path) -> None:
    """A function that writes a file is a graph like others."""
    net = tf.Module()
    target = str(tmp_path / "written")
    net.call = tf.function(
        lambda x: (tf.io.write_file(target, "x"), tf.nn.relu(x))[1],
        input_signature=[tf.TensorSpec([None, 32, 32, 3])],
    )
    tf.saved_model.save(net, tmp_path / "model")
    graph = read_graph(tmp_path / "model")
    assert graph.run is not None
    graph.run(reading.images(32))
    assert not Path(target).exists()


def _without_variables(folder: Path) -> None:
    shutil.rmtree(folder / "variables")


def _cut(folder: Path) -> None:
    program = folder / "saved_model.pb"
    program.write_bytes(program.read_bytes()[:-200])


def _noise(folder: Path) -> None:
    (folder / "saved_model.pb").write_bytes(b"\xff" * 99)


def _changed(folder: Path) -> None:
    data = folder / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(bytes(len(data.read_bytes())))


@pytest.mark.parametrize("damage", [_without_variables, _cut, _noise, _changed])
def test_damaged_ones_are_refused_in_one_line(damage: Any, saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        read_graph(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"saved_model\.pb"):
        read_graph(tmp_path)
