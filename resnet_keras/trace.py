"""What the network computes, layer by layer, through a model of all its layers' outputs; and how it trains."""

from __future__ import annotations

import keras
import numpy as np

from resnet_keras.ablation import keeping
from resnet_keras.model import ResNet
from resnet_keras.train import Trainer
from resnet_keras.weights import build, export_weights, iter_weights, load_weights
from shared.checks import (
    EVAL,
    GRADIENTS,
    OUTPUT,
    STEP,
    TRAIN,
    Arrays,
    about_training,
    record_gradients,
    record_steps,
    require_known,
)
from shared.plan import Plan, make_plan
from shared.trace import Trace, provenance
from shared.training import PROBE, Training, dropout_masks, num_outputs, probe_labels


def trace(
    model: ResNet,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    checks: tuple[str, ...] = (EVAL,),
    training: Training = PROBE,
) -> Trace:
    """Run `images` [batch, height, width, channels] and keep what `shared.checks` says of each check.

    `labels` are class numbers [batch], drawn where none are given. The model is left as it was.
    """
    checks = require_known(checks)
    plan = make_plan(model.spec, (images.shape[1], images.shape[2]))
    backend = keras.backend.backend()
    about = provenance(iter_weights(model), images, "keras", backend)
    arrays = _layers(model, images, plan, EVAL) if EVAL in checks else {}
    if checks != (EVAL,):
        if labels is None:
            labels = probe_labels(len(images), num_outputs(plan), seed=0)
        about |= about_training(training, labels)
        arrays |= _trained(model, images, labels, checks, plan, training)
    return Trace(model.spec, f"keras:{backend}", model.inputs[0].dtype, arrays, about)


def _trained(
    model: ResNet, images: np.ndarray, labels: np.ndarray, checks: tuple[str, ...], plan: Plan, training: Training
) -> Arrays:
    """The checks of training, each on a copy of the model."""
    weights, arrays = export_weights(model), Arrays()
    copy = build(model.spec, dtype=model.inputs[0].dtype)
    for check in checks:
        if check == EVAL:
            continue
        load_weights(copy, weights)
        trainer = Trainer(copy, training, compiled=False)  # compiling takes minutes for the deepest networks
        if check == TRAIN:
            with keeping(copy, dropout_masks(plan, len(images), 0)):
                arrays |= _layers(copy, images, plan, TRAIN)
            arrays |= {f"stats/{name}": _widen(a) for name, a in iter_weights(copy) if ".running_" in name}
        elif check == GRADIENTS:
            found = record_gradients(trainer, images, labels, plan, training)
            arrays |= {name: _widen(array) for name, array in found.items()}
        elif check == STEP:
            found = record_steps(trainer, images, labels, plan)
            arrays |= {name: _widen(array) for name, array in found.items()}
    return arrays


def _layers(model: ResNet, images: np.ndarray, plan: Plan, check: str) -> Arrays:
    """The output of every named layer."""
    layers = {layer.name: layer for layer in model.layers}
    outputs = {row.name: layers[row.name].output for row in plan.layers} | {OUTPUT: model.output}
    # In the order of computation, which also spares Keras a recursion as deep as the network.
    probe = keras.Model(model.inputs, list(outputs.values()))
    # Called and not `predict`ed: nothing is compiled for this one run, and float64 images stay so.
    values = probe(keras.ops.convert_to_tensor(images, model.inputs[0].dtype), training=check == TRAIN)
    arrays = {}
    for name in outputs:
        # Freed one by one: a copy of all would double the peak.
        arrays[f"{check}/{name}"] = _widen(keras.ops.convert_to_numpy(values.pop(0)))
    return arrays


def _widen(array: np.ndarray) -> np.ndarray:
    """A copy; half precisions widen to float32, which holds them exactly."""
    return array.astype(np.float32 if array.itemsize < 4 else array.dtype)
