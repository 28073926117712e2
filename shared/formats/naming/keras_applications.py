"""The configuration of a keras.applications network, which a `.keras` archive has beside the
weights.

Keras itself writes it, in a process of its own: hundreds of layers, whose description changes with
Keras' versions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

from shared.architecture.presets import DEPTHS
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, FrameworkError

_BACKENDS = ("tensorflow", "jax", "torch")  # any will do
SECONDS = 300  # a busy machine takes its time to import a framework

_BUILD = """
import json, sys
import keras
name, options = json.loads(sys.argv[1])
model = getattr(keras.applications, name)(weights=None, **options)
sys.stdout.write(json.dumps(keras.saving.serialize_keras_object(model)))
"""


def model_config(spec: ResNetSpec) -> str:
    """The config.json of keras.applications' network for this spec, which is one of its six.

    Raises `CheckpointError` for other depths, `FrameworkError` where Keras is not installed.
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
    backends = [name for name in _BACKENDS if find_spec(name)]
    if not find_spec("keras") or not backends:
        raise FrameworkError(
            "a .keras file is written by keras and one of its backends, which are not installed; "
            "pip install 'resnet-rosetta[keras]'"
        )
    done = subprocess.run(  # noqa: S603 - this interpreter, with arguments of our own
        [sys.executable, "-c", _BUILD, json.dumps([name, options])],
        env={**os.environ, "KERAS_BACKEND": backends[0], "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise CheckpointError(f"Keras cannot describe {name}: {lines[-1]}")
    return done.stdout
