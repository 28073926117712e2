"""The small networks that the tests of training in PyTorch share. Imports PyTorch."""

from __future__ import annotations

import resnet_torch
from resnet_torch.model import ResNet
from shared import get_spec
from shared.architecture.presets import miniature
from shared.training.config import Training
from shared.weights.probe import probe_weights

SAMPLES = [
    "torchvision/resnet18",
    "keras/resnet50v2",
    "cifar/preresnet20",
    "bit/r50x1",
    "fb/preresnet18",
    "timm/resnet50d",
    "ablation/resnet110_dropout_shortcut",
    "ablation/resnet110_exclusive_gate_b6",
    "ablation/resnet110_norm_after_add",
    "ablation/resnet110_act_before_add",
]
BIASED, UNBIASED, DROPOUT = (
    "keras/resnet50",
    "torchvision/resnet18",
    "ablation/resnet110_dropout_shortcut",
)
FROZEN = Training(frozen_norms=True, label_smoothing=0.1)


def loaded(preset: str, dtype: str = "float64", **changes: object) -> ResNet:
    """A miniature with its probe weights."""
    spec = miniature(get_spec(preset)).replace(**changes)
    model = resnet_torch.build(spec, dtype=dtype)
    resnet_torch.load_weights(model, probe_weights(spec, dtype=dtype))
    return model
