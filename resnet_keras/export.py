"""The network as a file that TensorFlow or another runtime runs: through Keras' `Model.export`."""

from __future__ import annotations

from pathlib import Path

import keras

from resnet_keras.weights import spec_of, weight_dtype
from shared.errors import FrameworkError

# What `keras.Model.export` calls each kind.
FORMATS = {
    "saved-model": "tf_saved_model",
    "onnx": "onnx",
    "openvino": "openvino",
    "litert": "litert",
}


def export(model: keras.Model, path: Path, kind: str, size: tuple[int, int] | None = None) -> None:
    """Write the network in evaluation mode to `path`; `model` is left as it was.

    Images are [N, H, W, C], of any number N, and of `size` (height and width), or of any
    size if it is None. `kind` is a key of `FORMATS`. Raises `FrameworkError` for a backend whose
    exporter does not write it.
    """
    if keras.backend.backend() != "tensorflow":
        raise FrameworkError(
            f"Keras exports {kind} on the TensorFlow backend, not on {keras.backend.backend()}"
        )
    shape = (None, *(size or (None, None)), spec_of(model).in_channels)
    images = keras.InputSpec(shape=shape, dtype=weight_dtype(model), name="images")
    model.export(str(path), format=FORMATS[kind], verbose=False, input_signature=[images])
