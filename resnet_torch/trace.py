"""What the network computes, layer by layer, through forward hooks."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnet_torch.model import ResNet
from resnet_torch.weights import iter_weights
from shared.checks import EVAL, OUTPUT, require_known
from shared.plan import make_plan
from shared.trace import Trace, provenance


def trace(model: ResNet, images: np.ndarray, labels: Any = None, *, checks: tuple[str, ...] = ("eval",)) -> Trace:
    """Run `images` [batch, height, width, channels] and keep the output of every named layer, as NHWC.

    The model is left in the mode in which it was.
    """
    require_known(checks)
    parameter = next(model.parameters())
    x = torch.from_numpy(np.ascontiguousarray(images)).to(parameter.device, parameter.dtype).permute(0, 3, 1, 2)
    arrays: dict[str, np.ndarray] = {}

    def keep(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        arrays[f"{EVAL}/{name}"] = _nhwc(output)  # a copy: what follows may work in place

    plan = make_plan(model.spec, (images.shape[1], images.shape[2]))
    hooks = [model.get_submodule(row.name).register_forward_hook(partial(keep, row.name)) for row in plan.layers]
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.inference_mode():
            arrays[f"{EVAL}/{OUTPUT}"] = _nhwc(model.eval()(x))
    finally:
        for module, training in modes.items():
            module.training = training
        for hook in hooks:
            hook.remove()
    dtype = str(parameter.dtype).removeprefix("torch.")
    return Trace(model.spec, "torch", dtype, arrays, provenance(iter_weights(model), images, "torch"))


def _nhwc(tensor: Tensor) -> np.ndarray:
    """A copy with the channels last; half precisions widen to float32, which holds them exactly."""
    if tensor.ndim == 4:
        tensor = tensor.permute(0, 2, 3, 1)
    if tensor.itemsize < 4:
        tensor = tensor.float()
    return tensor.cpu().contiguous().numpy().copy()
