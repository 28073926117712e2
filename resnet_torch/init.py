"""Fresh weights, as the spec's `init` asks for, with PyTorch's own initialisers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from resnet_torch.model import ResNet
from shared.architecture.plan import make_plan

Initializer = Callable[[torch.Tensor], object]

CONV: dict[str, Initializer] = {
    "kaiming_normal_fan_out": partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu"),
    "kaiming_normal_fan_in": partial(nn.init.kaiming_normal_, mode="fan_in", nonlinearity="relu"),
    "he_normal_truncated": lambda weight: _truncated_normal(weight, gain=2.0),
    "glorot_uniform": nn.init.xavier_uniform_,
    "lecun_normal": lambda weight: _truncated_normal(weight, gain=1.0),
    "torch_default": partial(nn.init.kaiming_uniform_, a=math.sqrt(5)),
}
HEAD: dict[str, Initializer] = {
    "torch_default": CONV["torch_default"],
    "glorot_uniform": nn.init.xavier_uniform_,
    "lecun_normal": CONV["lecun_normal"],
    "normal_0.01": partial(nn.init.normal_, std=0.01),
    "kaiming_normal_fan_in": CONV["kaiming_normal_fan_in"],
    "zeros": nn.init.zeros_,
}


def initialize(model: ResNet) -> None:
    """Draw all weights from PyTorch's current generator. Norms start as the identity."""
    plan = make_plan(model.spec)
    init = model.spec.init
    norms = {node.name: node.op for node in plan.nodes() if hasattr(node.op, "zero_init")}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            CONV[init.conv](module.weight)
            _init_bias(module, init.conv)
        elif isinstance(module, nn.Linear):
            HEAD[init.head](module.weight)
            _init_bias(module, init.head)
        elif name in norms and norms[name].zero_init:
            nn.init.zeros_(module.weight)
    for name, module in model.named_modules():
        if name.endswith(".gate"):
            nn.init.constant_(module.bias, init.gate_bias)


def _init_bias(module: nn.Conv2d | nn.Linear, how: str) -> None:
    """Zero, but for PyTorch's default: uniform within 1 / sqrt(fan in)."""
    if module.bias is None:
        return
    if how == "torch_default":
        fan_in = module.weight[0].numel()
        nn.init.uniform_(module.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
    else:
        nn.init.zeros_(module.bias)


def _truncated_normal(weight: torch.Tensor, gain: float) -> torch.Tensor:
    """Normal with variance gain / fan in, cut at two standard deviations and rescaled for the cut.

    0.8796... is the standard deviation of a unit normal cut at 2 (as in Keras and JAX).
    """
    std = math.sqrt(gain / weight[0].numel()) / 0.87962566103423978
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
