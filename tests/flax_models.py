"""The small networks that the tests of training in Flax share. Imports JAX."""

from __future__ import annotations

from typing import Any

import resnet_flax
from resnet_flax.model import ResNet
from shared import ResNetSpec, get_spec, probe_weights
from shared.architecture.presets import miniature
from shared.training.config import OptimizerConfig, Training

BIASED, UNBIASED, DROPOUT = (
    "keras/resnet50v2",
    "torchvision/resnet18",
    "ablation/resnet110_dropout_shortcut",
)
FROZEN = Training(optimizer=OptimizerConfig(kind="adam", decay_norms=False), frozen_norms=True)


def sample(preset: str, **changes: Any) -> ResNetSpec:
    """A miniature of two stages, of a block each."""
    return miniature(get_spec(preset)).replace(**{"depths": (1, 1), **changes})


def loaded(preset: str, dtype: str = "float64", **changes: Any) -> ResNet:
    spec = sample(preset, **changes)
    model = resnet_flax.build(spec, dtype=dtype)
    resnet_flax.load_weights(model, probe_weights(spec, dtype=dtype))
    return model
