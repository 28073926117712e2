"""Run by `resnet_keras/test_backends.py` in a process of its own, for Keras has one backend a
process.

Prints as JSON each network's worst error, and what changed in the process's global state since
before the import. Trains, too, and writes what the traces of that hold to the file that is given.
"""

from __future__ import annotations

import json
import random
import sys

import keras
import numpy as np


def global_state() -> dict[str, str]:
    return {
        "floatx": keras.config.floatx(),
        "dtype policy": keras.config.dtype_policy().name,
        "image data format": keras.config.image_data_format(),
        "python random": str(random.getstate()),
        "numpy random": str(np.random.get_state()),
        "recursion limit": str(sys.getrecursionlimit()),
    }


BEFORE = global_state()

import resnet_keras
from shared import FrameworkError, ResNetSpec, Trace, probe_images, probe_weights
from shared.verification.recording import GRADIENTS, STEP, TRAIN
from tests.probes import images_for, reference_trace, small, worst_layer

# Between them every kind of layer; two stages of one block, because the JAX backend compiles every
# shape.
NETWORKS = (
    "torchvision/resnext50_32x4d",  # grouped convolutions, symmetric padding
    "timm/resnet50d",  # average pool on the shortcut
    "bit/r50x1",  # pre-activation, weight standardisation, group norm, zero-padded max pool
    "ablation/resnet110_exclusive_gate_b6",  # option A, gates
)
# And SAME padding with it.
DILATED = {"dilate": (False, True, False), "strides": (1, 2, 2), "depths": (1, 1, 1)}

# Batch norm, dropout and option A.
TRAINED = ("ablation/resnet110_dropout_shortcut",)


def worst_error(spec: ResNetSpec, size: tuple[int, int]) -> float:
    """Of all layers, against the NumPy reference, in float64 with probe weights that come back bit
    for bit.
    """
    weights = probe_weights(spec, dtype="float64")
    model = resnet_keras.build(spec, dtype="float64")
    resnet_keras.load_weights(model, weights)
    exported = resnet_keras.export_weights(model)
    assert list(exported) == list(weights)
    assert all(np.array_equal(exported[name], weights[name]) for name in weights)
    return worst_layer(
        resnet_keras.trace(model, images_for(spec, size)), reference_trace(spec, size)
    )[0]


def training_trace(preset: str) -> Trace:
    """All checks of training, in float64."""
    spec = small(preset)
    model = resnet_keras.build(spec, dtype="float64")
    resnet_keras.load_weights(model, probe_weights(spec, dtype="float64"))
    return resnet_keras.trace(
        model, probe_images((4, 32, 32, 3), dtype="float64"), checks=(TRAIN, GRADIENTS, STEP)
    )


def refuses_float64_without_x64() -> bool:
    """JAX would hand out float32 in silence."""
    import jax

    with jax.enable_x64(False):
        try:
            resnet_keras.build(small("cifar/resnet20"), dtype="float64")
        except FrameworkError:
            return True
    return False


def changed() -> list[str]:
    after = global_state()
    return [name for name in after if after[name] != BEFORE[name]]


def main(path: str) -> None:
    errors = {name: worst_error(small(name), (32, 32)) for name in NETWORKS}
    errors["dilated and strided"] = worst_error(small("flax/resnet50", **DILATED), (37, 48))
    by_networks = changed()
    traces = {preset: training_trace(preset) for preset in TRAINED}
    np.savez(
        path, **{f"{preset}/{name}": t[name] for preset, t in traces.items() for name in t.names}
    )
    report = {"errors": errors, "changed": {"by networks": by_networks, "by training": changed()}}
    if keras.backend.backend() == "jax":
        report["refuses float64"] = refuses_float64_without_x64()
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
