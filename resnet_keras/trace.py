"""What the network computes, layer by layer, through a model of all its layers' outputs; and how it
trains.
"""

from __future__ import annotations

import keras
import numpy as np

from resnet_keras.dropout import keeping
from resnet_keras.train import Trainer
from resnet_keras.weights import (
    build,
    export_weights,
    iter_weights,
    load_weights,
    policy_of,
    spec_of,
    weight_dtype,
)
from shared.architecture.plan import Plan
from shared.training.config import PROBE, Training, dropout_masks
from shared.verification.recording import EVAL, OUTPUT, TRAIN, Arrays, Recording, widened
from shared.verification.trace import Trace, provenance


def trace(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    checks: tuple[str, ...] = (EVAL,),
    training: Training = PROBE,
) -> Trace:
    """Run `images` [batch, height, width, channels] and keep what `shared.verification.recording`
    says of each check.

    `labels` are class numbers [batch], drawn where none are given. The model is left as it was.
    """
    spec, policy, backend = spec_of(model), policy_of(model), keras.backend.backend()
    recording = Recording.of(spec, images, labels, checks, training)
    about = provenance(iter_weights(model), images, "keras", backend) | recording.about
    arrays: Arrays = {}
    if EVAL in recording.checks:
        arrays |= _record_layers(model, images, recording.plan, EVAL)
    if recording.checks != (EVAL,):
        weights, copy = export_weights(model), build(spec, dtype=policy)

        def trainer() -> Trainer:
            load_weights(copy, weights)  # each check starts from the model's own
            return Trainer(
                copy, training, compiled=False
            )  # compiling takes minutes for the deepest networks

        if TRAIN in recording.checks:
            model_in_training = trainer().model  # with the norms frozen that are to be
            arrays |= _record_train(model_in_training, images, recording.plan)
        arrays |= recording.of_trainers(trainer)
    return Trace(spec, f"keras:{backend}", policy.compute_dtype, widened(arrays), about)


def _record_train(model: keras.Model, images: np.ndarray, plan: Plan) -> Arrays:
    """Trains nothing, but moves the running statistics."""
    with keeping(model, dropout_masks(plan, len(images), 0)):
        arrays = _record_layers(model, images, plan, TRAIN)
    return arrays | {
        f"stats/{name}": array for name, array in iter_weights(model) if ".running_" in name
    }


def _record_layers(model: keras.Model, images: np.ndarray, plan: Plan, check: str) -> Arrays:
    """The output of every named layer."""
    layers = {layer.name: layer for layer in model.layers}
    outputs = {row.name: layers[row.name].output for row in plan.layers} | {OUTPUT: model.output}
    # In the order of computation, which also spares Keras a recursion as deep as the network.
    probe = keras.Model(model.inputs, list(outputs.values()))
    # Called and not `predict`ed: nothing is compiled for this one run, and float64 images stay so.
    values = probe(
        keras.ops.convert_to_tensor(images, weight_dtype(model)), training=check == TRAIN
    )
    arrays = {}
    for name in outputs:
        # Freed one by one: a copy of all would double the peak.
        arrays[f"{check}/{name}"] = np.array(keras.ops.convert_to_numpy(values.pop(0)))
    return arrays
