"""What the network computes, layer by layer, through forward hooks; and how it learns."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from resnet_torch.model import ResNet
from resnet_torch.train import Trainer, forward, to_nhwc, to_tensor
from resnet_torch.weights import iter_weights, model_dtype, unwrap
from shared.architecture.plan import Plan
from shared.training.config import PROBE, Training, dropout_masks
from shared.verification.recording import EVAL, OUTPUT, TRAIN, Arrays, Recording, widened
from shared.verification.trace import Trace, provenance


def trace(
    model: nn.Module,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    checks: tuple[str, ...] = (EVAL,),
    training: Training = PROBE,
) -> Trace:
    """Run `images` [batch, height, width, channels] and record what `shared.verification.recording`
    says of each of `checks`.

    `labels` are class numbers [batch], random ones where none are given. The model is left as it
    was: each check that would change it trains a copy. Of a wrapped model (`torch.compile`,
    `DistributedDataParallel`) it is the network inside that runs.
    """
    model = unwrap(model)
    recording = Recording.of(model.spec, images, labels, checks, training)
    about = provenance(iter_weights(model), images, "torch") | recording.about
    arrays: Arrays = {}
    if EVAL in recording.checks:
        arrays |= _record_eval(model, images, recording.plan)
    if TRAIN in recording.checks:
        arrays |= _record_train(copy.deepcopy(model), images, recording.plan, training)
    arrays |= recording.of_trainers(lambda: Trainer(copy.deepcopy(model), training))
    return Trace(model.spec, "torch", model_dtype(model), widened(arrays), about)


def _record_eval(model: ResNet, images: np.ndarray, plan: Plan) -> Arrays:
    modes = {module: module.training for module in model.modules()}
    try:
        return _record_layers(model, model.eval(), images, plan, EVAL)
    finally:
        for module, training in modes.items():
            module.training = training


def _record_train(model: ResNet, images: np.ndarray, plan: Plan, training: Training) -> Arrays:
    """Trains nothing, but moves the running statistics."""
    run = partial(forward, model, training=training, masks=dropout_masks(plan, len(images), 0))
    arrays = _record_layers(model, run, images, plan, TRAIN)
    statistics = {name: array for name, array in iter_weights(model) if ".running_" in name}
    return arrays | {f"stats/{name}": array for name, array in statistics.items()}


def _record_layers(
    model: ResNet, run: Callable[[Tensor], Tensor], images: np.ndarray, plan: Plan, check: str
) -> Arrays:
    """The output of every named layer while `run` calls the model."""
    arrays: Arrays = {}

    def keep(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        arrays[f"{check}/{name}"] = to_nhwc(output)  # a copy: what follows may work in place

    hooks = [
        model.get_submodule(row.name).register_forward_hook(partial(keep, row.name))
        for row in plan.layers
    ]
    try:
        with torch.inference_mode():
            arrays[f"{check}/{OUTPUT}"] = to_nhwc(run(to_tensor(images, model)))
    finally:
        for hook in hooks:
            hook.remove()
    return arrays
