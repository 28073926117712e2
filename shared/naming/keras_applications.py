"""The configuration of a keras.applications network, which a `.keras` archive has beside the
weights.

Keras itself writes it, in a process of its own: hundreds of layers, whose description changes with
Keras' versions.
"""

from __future__ import annotations

import json
from typing import Any

from shared.architecture.recipes import DEPTHS
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError
from shared.machine import missing_packages, require_packages
from shared.processes import ON_CPU, call

SECONDS = 300  # a busy machine takes its time to import a framework
_BACKENDS = ("tensorflow", "jax", "torch")  # any will do


def model_config(spec: ResNetSpec) -> str:
    """The config.json of keras.applications' network for this spec, which is one of its six.

    Raises `CheckpointError` for other depths, `FrameworkError` where Keras is not installed or
    fails.
    """
    names = {DEPTHS[depth]: f"ResNet{depth}" for depth in (50, 101, 152)}
    if spec.depths not in names:
        raise CheckpointError(
            f"keras.applications has no network of {list(spec.depths)} blocks to describe in a "
            ".keras file; write .weights.h5 or .h5"
        )
    name = names[spec.depths] + ("V2" if spec.block.order == "full_pre" else "")
    options: dict[str, object] = {"include_top": bool(spec.num_classes)}
    if spec.num_classes:
        options |= {"classes": spec.num_classes}
    else:
        options |= {"pooling": None if spec.head.pool == "none" else spec.head.pool}
    absent = missing_packages(_BACKENDS)
    backend = next((name for name in _BACKENDS if name not in absent), _BACKENDS[0])
    require_packages("writing a .keras file", "keras", "keras", backend)
    environment = {"KERAS_BACKEND": backend, **ON_CPU}
    who = f"Keras' {name}"
    return call(_describe, name, options, name=who, environment=environment, seconds=SECONDS)


def _describe(name: str, options: dict[str, Any]) -> str:
    """The child's side."""
    import keras

    keras.config.set_image_data_format("channels_last")  # a person's keras.json may say otherwise
    keras.config.set_dtype_policy("float32")
    model = getattr(keras.applications, name)(weights=None, **options)
    return json.dumps(keras.saving.serialize_keras_object(model))
