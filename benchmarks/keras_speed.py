"""`resnet_keras` against keras.applications on the same backend (TensorFlow), the same network."""

from __future__ import annotations

import keras
import numpy as np

import resnet_keras
from benchmarks.timing import BATCH, SIZE, Result, race
from shared import get_spec


def main() -> list[Result]:
    rng = np.random.default_rng(0)
    x = keras.ops.convert_to_tensor(rng.standard_normal((BATCH, SIZE, SIZE, 3), dtype=np.float32))
    y = keras.ops.convert_to_tensor(rng.integers(1000, size=BATCH))
    ours = resnet_keras.build(get_spec("keras/resnet50"))
    peer = keras.applications.ResNet50(weights=None, classifier_activation=None)
    name = f"keras.applications on {keras.backend.backend()}"
    for model in (ours, peer):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    return [
        race("resnet_keras inference", name, lambda: ours.predict_on_batch(x), lambda: peer.predict_on_batch(x)),
        race("resnet_keras training step", name, lambda: ours.train_on_batch(x, y), lambda: peer.train_on_batch(x, y)),
    ]
