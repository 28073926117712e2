"""Networks in Keras' own layers alone, which open in a process that has nothing of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras")

import resnet_keras
from shared import FrameworkError, probe_images, probe_weights
from tests.probes import PRESETS, same_weights, small
from tests.zoo import in_zoo

pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="no names with dots in Keras' own layers there"
)
LIMIT = 1e-6  # of logits in float32: two orders of the same sums

OPEN = """
import sys, keras, numpy as np
model = keras.saving.load_model(sys.argv[1])
np.save(sys.argv[2], model(np.load(sys.argv[3])))
assert not [name for name in sys.modules if name.startswith(("resnet_", "shared"))]
"""


def probed(name: str) -> keras.Model:
    spec = small(name)
    model = resnet_keras.build(spec)
    resnet_keras.load_weights(model, probe_weights(spec))
    return model


@pytest.mark.parametrize("name", [in_zoo("keras/resnet50v2"), in_zoo("timm/resnet50_gn")])
def test_a_file_opens_without_us(name: str, tmp_path: Path) -> None:
    model, images = probed(name), probe_images((2, 33, 33, 3))
    resnet_keras.stock_model(model).save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    line = [sys.executable, "-c", OPEN, "model.keras", "found.npy", "images.npy"]
    subprocess.run(line, cwd=tmp_path, env=environment, check=True)
    expected = np.asarray(model(images))
    found = np.load(tmp_path / "found.npy")
    assert np.abs(found - expected).max() <= LIMIT * np.abs(expected).max()


@pytest.mark.parametrize("name", ["keras/resnet50v2", in_zoo("flax/resnet18")])
def test_it_is_the_network_and_has_its_own_weights(name: str) -> None:
    model, images = probed(name), probe_images((2, 33, 33, 3))
    stock = resnet_keras.stock_model(model)
    assert {type(layer).__module__.partition(".")[0] for layer in stock.layers} == {"keras"}
    expected = np.asarray(model(images))
    assert np.abs(np.asarray(stock(images)) - expected).max() <= LIMIT * np.abs(expected).max()
    again = resnet_keras.build(model.spec)
    again.set_weights(stock.get_weights())
    assert same_weights(resnet_keras.export_weights(again), probe_weights(model.spec))
    stock.set_weights([np.zeros_like(array) for array in stock.get_weights()])
    assert np.array_equal(np.asarray(model(images)), expected)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torchvision/resnet18", r"stem\.norm1, a BatchNormalization with unbiased=True"),
        ("bit/r50x1", r"stem\.conv1, a Conv2D with weight_std_eps="),
        in_zoo(("ablation/resnet110_exclusive_gate_b6", "is .*, a ")),
    ],
)
def test_a_layer_that_has_none_is_named(name: str, said: str) -> None:
    with pytest.raises(FrameworkError, match=said):
        resnet_keras.stock_model(resnet_keras.build(small(name)))


@pytest.mark.zoo
def test_keras_own_networks_are_of_keras_own_layers() -> None:
    for name in PRESETS:
        if name.startswith("keras/"):
            resnet_keras.stock_model(resnet_keras.build(small(name)))
