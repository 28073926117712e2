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
    ours = resnet_keras.build(get_spec("keras/resnet50"))
    peer = keras.applications.ResNet50(weights=None, classifier_activation=None)
    name = f"keras.applications on {keras.backend.backend()}"
    deployed = resnet_keras.inference(ours)

    def theirs() -> object:
        return peer.predict_on_batch(x)

    return [
        race("resnet_keras", name, lambda: ours.predict_on_batch(x), theirs),
        race("resnet_keras.inference", name, lambda: np.asarray(deployed(x)), theirs),
    ]
