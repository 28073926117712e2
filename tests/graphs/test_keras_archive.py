"""`.keras` archives, read without Keras: the graph of the file is that of the model it was saved
from.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from shared.errors import CheckpointError
from shared.graphs.files.keras_archive import read_graph
from tests.graphs import keras_models, reading
from tests.probes import small


def _group_norms(size: int | None) -> Any:
    images = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(8, 3, 2, padding="same", activation="relu")(images)
    x = keras.layers.GroupNormalization(4, epsilon=1e-5)(x)
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2)(x)
    x = keras.layers.BatchNormalization()(keras.layers.MaxPooling2D(3, 2)(x))
    x = keras.layers.Softmax()(keras.layers.Dense(5)(keras.layers.GlobalMaxPooling2D()(x)))
    return keras.Model(images, x)


def _surrounded(size: int | None) -> Any:
    adapted = keras.layers.Normalization()
    adapted.adapt(np.random.default_rng(0).normal(size=(9, 4, 4, 3)))
    inner = keras.Sequential(
        [
            keras.Input((size, size, 3)),
            keras.layers.ZeroPadding2D(((0, 1), (2, 3))),
            keras.layers.Conv2D(4, 3, 2, use_bias=False),
        ],
        name="inner",
    )
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            keras.layers.Rescaling(1 / 255),
            adapted,
            keras.layers.RandomFlip(),
            inner,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ]
    )


MODELS = {"group norms": _group_norms, "surrounded": _surrounded}


@pytest.fixture(scope="module", params=MODELS)
def saved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path]:
    """A model and its file."""
    keras.utils.clear_session(free_memory=False)  # no search for garbage
    model = keras_models.varied(MODELS[request.param](32))
    path = tmp_path_factory.mktemp("saved") / "m.keras"
    model.save(path)
    return model, path


def test_the_graph_means_what_was_saved(saved: tuple[Any, Path]) -> None:
    model, path = saved
    graph = read_graph(path)
    assert graph.image_size == 32
    assert reading.unknown(graph) == []
    images = reading.images(32)
    truth = keras.ops.convert_to_numpy(model(images.astype(np.float32), training=False))
    assert reading.error(graph, np.asarray(truth, np.float64)) < reading.LIMITS["float32"]
    assert graph.run is not None
    assert graph.run(images[:1]).shape == truth[:1].shape


def test_the_graph_is_that_of_the_live_model(saved: tuple[Any, Path]) -> None:
    from resnet_keras.read import read_graph as read_live

    model, path = saved
    found, live = read_graph(path, 33), read_live(model, 33)
    assert [(n.prim, n.attrs, n.where) for n in found.nodes if n.prim != "const"] == [
        (n.prim, n.attrs, n.where) for n in live.nodes if n.prim != "const"
    ]
    pairs = zip(found.nodes, live.nodes, strict=True)
    assert all(np.array_equal(a.value, b.value) for a, b in pairs if a.prim == "const")


def test_a_layer_that_nobody_knows_is_opaque(tmp_path: Path) -> None:
    images = keras.Input((None, None, 3))
    x = keras.layers.UpSampling2D()(keras.layers.Conv2D(4, 3)(images))
    keras.Model(images, keras.layers.GlobalAveragePooling2D()(x)).save(tmp_path / "m.keras")
    graph = read_graph(tmp_path / "m.keras")
    assert graph.image_size == 32
    assert reading.unknown(graph) == ["UpSampling2D"]


def test_a_model_of_ours_lists_no_layers(tmp_path: Path) -> None:
    import resnet_keras

    resnet_keras.build(small("cifar/resnet20")).save(tmp_path / "m.keras")
    with pytest.raises(CheckpointError, match="lists no layers"):
        read_graph(tmp_path / "m.keras")


@pytest.mark.parametrize(
    ("name", "first"), [("flax/resnet18", []), ("bit/r50x1", ["corrected Conv2D"])]
)
def test_a_clone_of_ours_lists_its_layers(name: str, first: list[str], tmp_path: Path) -> None:
    """Behind a layer that nobody knows, all are unknown."""
    import resnet_keras

    keras.models.clone_model(resnet_keras.build(small(name))).save(tmp_path / "m.keras")
    assert reading.unknown(read_graph(tmp_path / "m.keras", 33))[:1] == first


def test_code_is_refused(tmp_path: Path) -> None:
    images = keras.Input((32, 32, 3))
    keras.Model(images, keras.layers.Lambda(lambda x: x * 2)(images)).save(tmp_path / "m.keras")
    with pytest.raises(CheckpointError, match="may carry code"):
        read_graph(tmp_path / "m.keras")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(CheckpointError) as caught:
        read_graph(tmp_path / "m.keras")
    assert str(caught.value).startswith(str(tmp_path))
