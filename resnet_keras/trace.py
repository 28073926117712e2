"""What the network computes, layer by layer, through a model of all its layers' outputs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from resnet_keras.model import ResNet
from resnet_keras.weights import iter_weights
from shared.checks import EVAL, OUTPUT, require_known
from shared.plan import make_plan
from shared.trace import Trace, provenance


def trace(model: ResNet, images: np.ndarray, labels: Any = None, *, checks: tuple[str, ...] = ("eval",)) -> Trace:
    """Run `images` [batch, height, width, channels] and keep the output of every named layer."""
    require_known(checks)
    plan = make_plan(model.spec, (images.shape[1], images.shape[2]))
    layers = {layer.name: layer for layer in model.layers}
    outputs = {row.name: layers[row.name].output for row in plan.layers} | {OUTPUT: model.output}
    # In the order of computation, which also spares Keras a recursion as deep as the network.
    probe = keras.Model(model.inputs, list(outputs.values()))
    dtype = model.inputs[0].dtype
    # Called and not `predict`ed: nothing is compiled for this one run, and float64 images stay so.
    values = probe(keras.ops.convert_to_tensor(images, dtype), training=False)
    arrays = {}
    for name in outputs:
        arrays[f"{EVAL}/{name}"] = _to_numpy(values.pop(0))  # freed one by one: a copy of all would double the peak
    backend = keras.backend.backend()
    about = provenance(iter_weights(model), images, "keras", backend)
    return Trace(model.spec, f"keras:{backend}", dtype, arrays, about)


def _to_numpy(tensor: Any) -> np.ndarray:
    """A copy; half precisions widen to float32, which holds them exactly."""
    array = keras.ops.convert_to_numpy(tensor)
    return array.astype(np.float32 if array.itemsize < 4 else array.dtype)
