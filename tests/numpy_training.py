"""What the loss and the optimizers mean, in plain NumPy: the oracle of every
framework's training.
"""

from __future__ import annotations

import numpy as np

from shared.training.config import OptimizerConfig

OPTIMIZERS = {
    "sgd": OptimizerConfig(momentum=0.0, weight_decay=0.0),
    "decay": OptimizerConfig(momentum=0.0, weight_decay=0.1),
    "momentum": OptimizerConfig(momentum=0.8, weight_decay=0.0),
    "decay-kernels": OptimizerConfig(momentum=0.0, weight_decay=0.1, decay_norms=False),
    "nesterov": OptimizerConfig(momentum=0.8, nesterov=True, weight_decay=0.1),
    "nesterov-kernels": OptimizerConfig(
        momentum=0.8, nesterov=True, weight_decay=0.1, decay_norms=False
    ),
    "momentum-decay": OptimizerConfig(momentum=0.8, weight_decay=0.1),
    "momentum-decay-kernels": OptimizerConfig(momentum=0.8, weight_decay=0.1, decay_norms=False),
    "adam": OptimizerConfig(kind="adam", betas=(0.7, 0.9), eps=1e-3, weight_decay=0.0),
    "adam-no-mean": OptimizerConfig(
        kind="adam", betas=(0.0, 0.9), eps=1e-3, weight_decay=0.1, decay_norms=False
    ),
    "adam-decay": OptimizerConfig(kind="adam", betas=(0.7, 0.9), eps=1e-3, weight_decay=0.1),
    "adamw": OptimizerConfig(kind="adamw", betas=(0.7, 0.9), eps=1e-3, weight_decay=0.1),
    "adamw-kernels": OptimizerConfig(
        kind="adamw", betas=(0.7, 0.9), eps=1e-3, weight_decay=0.1, decay_norms=False
    ),
}
RATES = (0.01, 0.03, 0.002, 0.02)  # another learning rate at every step


def numpy_step(
    o: OptimizerConfig, w: np.ndarray, g: np.ndarray, slots: dict, t: int, rate: float
) -> np.ndarray:
    """One tensor's step; `slots` are changed in place."""
    decay = o.weight_decay if o.decay_norms or w.ndim > 1 else 0.0
    if o.kind == "adamw":
        w = w - rate * decay * w
    else:
        g = g + decay * w
    if o.kind == "sgd":
        v = slots["momentum_buffer"] = o.momentum * slots.get("momentum_buffer", 0.0) + g
        return w - rate * (g + o.momentum * v if o.nesterov else v)
    (b1, b2), first, second = o.betas, slots.get("exp_avg", 0.0), slots.get("exp_avg_sq", 0.0)
    m, v = slots["exp_avg"], slots["exp_avg_sq"] = (
        b1 * first + (1 - b1) * g,
        b2 * second + (1 - b2) * g**2,
    )
    return w - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + o.eps)


def numpy_loss(logits: np.ndarray, labels: np.ndarray, smoothing: float) -> float:
    """Of logits [batch, classes]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    target = (1 - smoothing) * np.eye(logits.shape[1])[labels] + smoothing / logits.shape[1]
    return float(-(target * log_p).sum(axis=1).mean())
