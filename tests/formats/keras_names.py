"""Canonical weights under the names that `resnet_keras` gives them, in the order of its
model.layers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.formats.containers.archive import Archive, Entry
from shared.naming.keras_order import layer_order
from shared.weights.canonical import to_channels_last

# (dimensions are more than one, canonical leaf) -> Keras' leaf; a bias of one dimension may be a
# norm's.
KERAS_LEAVES = {
    ("layer", "weight"): "kernel",
    ("layer", "bias"): "bias",
    ("norm", "weight"): "gamma",
    ("norm", "bias"): "beta",
    ("norm", "running_mean"): "moving_mean",
    ("norm", "running_var"): "moving_variance",
}


def keras_archive(spec: ResNetSpec, weights: Mapping[str, np.ndarray]) -> Archive:
    entries = {}
    for layer in layer_order(make_plan(spec)):
        kind = "layer" if weights[f"{layer}.weight"].ndim > 1 else "norm"
        for (of, leaf), name in KERAS_LEAVES.items():
            if of == kind and f"{layer}.{leaf}" in weights:
                tensor = f"{layer}.{leaf}"
                entries[f"{layer}/{name}"] = Entry.of(to_channels_last(tensor, weights[tensor]))
    return Archive("keras-weights", entries, {"spec": spec.to_json()})
