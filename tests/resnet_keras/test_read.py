"""Models in Keras and TensorFlow as people write them, read as graphs: what the graph means is what
they compute, by their layers and by what the backend traces.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

keras = pytest.importorskip("keras")

from resnet_keras.read import read_graph
from shared.errors import FrameworkError
from tests.graphs import keras_models, reading
from tests.graphs.keras_models import MODELS, varied
from tests.graphs.tensorflow_models import tensorflow_module
from tests.zoo import rest_in_zoo

BACKEND = keras.backend.backend()
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's own")
can_trace = pytest.mark.skipif(BACKEND == "torch", reason="PyTorch's reader traces")


@pytest.fixture(autouse=True)
def _fresh_names() -> None:
    keras.utils.clear_session(free_memory=False)  # no search for garbage


LAYERED = [name for name in MODELS if name != "subclassed"]
SIZED = [*itertools.product(LAYERED, (32, 33))]
SIZED_SHORT = [(name, (33, 32)[i % 2]) for i, name in enumerate(LAYERED)]
TRACED_SHORT = ("operators", "subclassed")


@pytest.mark.parametrize(("name", "size"), rest_in_zoo(SIZED, SIZED_SHORT))
def test_layers_mean_what_the_model_computes(name: str, size: int) -> None:
    model = varied(MODELS[name]())
    if (name, size) == ("nested", 33):  # its head takes the features of 32 pixels alone
        # To say so in a trace, PyTorch's backend would need PyTorch's reader.
        error, said = (FrameworkError, "read") if BACKEND == "torch" else (ValueError, "784")
        with pytest.raises(error, match=said):
            read_graph(model, size)
        return
    graph = read_graph(model, size)
    assert reading.unknown(graph) == []
    assert all("/convolution" not in place for place in reading.places(graph))
    if size == 32 or model.input_shape[1] is None:  # the model itself takes no other
        reading.assert_faithful(graph, "float32")


@can_trace
@pytest.mark.parametrize("name", rest_in_zoo(MODELS, TRACED_SHORT))
def test_traces_mean_what_the_model_computes(name: str) -> None:
    graph = read_graph(varied(MODELS[name]()), 32, traced=True)
    reading.assert_faithful(graph, "float32")


@can_trace
@pytest.mark.parametrize("name", rest_in_zoo(LAYERED, ("functional",)))
def test_both_ways_find_the_same_parameters(name: str) -> None:
    model = varied(MODELS[name]())
    layers, traced = read_graph(model, 32), read_graph(model, 32, traced=True)
    weights = {variable.path for variable in model.weights if "seed" not in variable.path}
    assert reading.names(layers) - {"normalization/mean", "normalization/variance"} == weights
    assert weights <= reading.names(traced)


def test_a_graph_that_means_something_else_is_seen() -> None:
    graph = read_graph(varied(keras_models.functional()), 32)
    norm = next(node for node in graph.nodes if node.prim == "bn")
    norm.attrs["eps"] = 2e-3
    assert reading.error(graph) > 10 * reading.LIMITS["float32"]


def test_layers_keep_python_s_numbers() -> None:
    graph = read_graph(keras_models.functional(), 32)
    norms = [node.attrs for node in graph.nodes if node.prim == "bn"]
    assert [norm["eps"] for norm in norms] == [1e-5, 1e-3] * 2
    assert {norm["momentum"] for norm in norms} == {0.99}
    assert [norm["slots"] for norm in norms[:2]] == [(True,) * 4, (False, True, True, True)]


def test_a_nested_model_s_layers_stand_under_its_name() -> None:
    graph = read_graph(keras_models.nested(), 32)
    assert "backbone/conv2d" in reading.places(graph)


@can_trace
def test_a_subclassed_model_s_variables_have_their_paths() -> None:
    graph = read_graph(keras_models.subclassed(), 32)
    assert "subclassed/unit/conv2d/kernel" in reading.names(graph)
    assert [said for said in graph.remarks if "logits" in said]


@pytest.mark.parametrize(("size", "expected"), [(48, 48), (None, 224)])
def test_the_size_is_the_models_own(size: int | None, expected: int) -> None:
    assert read_graph(keras_models.functional(size)).image_size == expected


def test_a_model_for_small_images_is_read_at_32() -> None:
    images = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(images))
    assert read_graph(keras.Model(images, x)).image_size == 32


def test_an_activation_of_the_users_own_is_opaque() -> None:
    images = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, activation="hard_shrink")(images)
    graph = read_graph(keras.Model(images, keras.layers.GlobalAveragePooling2D()(x)))
    assert reading.unknown(graph) == ["hard_shrink"]


@can_trace
def test_a_layer_that_overrides_another_is_traced() -> None:
    class Twice(keras.layers.Conv2D):
        def call(self, x: Any) -> Any:
            return 2 * super().call(x)

    images = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(Twice(4, 3)(images))
    reading.assert_faithful(read_graph(varied(keras.Model(images, x))), "float32")


@can_trace
def test_what_nobody_knows_is_opaque() -> None:
    class Sorted(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return keras.ops.sort(x, axis=1)

    images = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(Sorted()(images))
    assert reading.unknown(read_graph(keras.Model(images, x)))


def test_what_is_no_model_is_refused_in_one_line() -> None:
    with pytest.raises(FrameworkError) as caught:
        read_graph(3)
    assert str(caught.value).startswith("expected a keras.Model, a tf.Module or a tf.function")


@on_tensorflow
@pytest.mark.parametrize(
    ("kind", "size"),
    rest_in_zoo(
        [*itertools.product(["module", "function", "concrete"], (32, 33))],
        [("module", 33), ("concrete", 32)],
    ),
)
def test_tensorflow_s_own_modules_and_functions(kind: str, size: int) -> None:
    import tensorflow as tf

    net = module = tensorflow_module()
    if kind != "module":
        model = tf.function(lambda images: net(images, training=False))
        if kind == "concrete":
            model = model.get_concrete_function(tf.TensorSpec([None, None, None, 3]))
        module = model
    graph = read_graph(module, size)
    reading.assert_faithful(graph, "float32")
    assert reading.names(graph) == {"w", "b", "head"}


ON_TORCH = """
from resnet_keras.read import read_graph
from resnet_torch.read import read_graph as read_program
from tests.graphs import keras_models, reading

model = keras_models.varied(keras_models.functional())
graph = read_graph(model, 32, traced=True, read_program=read_program)
assert reading.unknown(graph) == [], reading.unknown(graph)
assert reading.error(graph) < reading.LIMITS["float32"], reading.error(graph)
assert {"stem/kernel", "head/bias"} <= reading.names(graph), reading.names(graph)
subclassed = read_graph(keras_models.subclassed(), 32, read_program=read_program)
assert any("unit/conv2d" in name for name in reading.names(subclassed))
"""


@pytest.mark.zoo
def test_the_torch_backend_is_traced_by_pytorch_s_reader() -> None:
    pytest.importorskip("torch")
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", ON_TORCH], env=environment, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-800:]
