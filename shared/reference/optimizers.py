"""One update of one tensor by SGD, Adam or AdamW, in plain NumPy. The meaning is PyTorch's.

Nothing is changed in place: a function returns the new arrays.
"""

from __future__ import annotations

import numpy as np

from shared.reference.forward import Array


def sgd(
    w: Array,
    g: Array,
    v: Array | None,
    *,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    decay: float,
) -> tuple[Array, Array | None]:
    """v = momentum v + g, w = w - lr v; Nesterov's w = w - lr (g + momentum v). The decay is
    coupled.

    Returns the weight and its velocity, which is None without momentum.
    """
    g = g + decay * w
    if v is None or not momentum:
        return w - learning_rate * g, v
    v = momentum * v + g
    return w - learning_rate * (g + momentum * v if nesterov else v), v


def adam(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    step: int,
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
    decay: float,
    decoupled: bool,
) -> tuple[Array, Array, Array]:
    """w = w - lr m' / (sqrt(v') + eps), with coupled decay (Adam) or with decoupled (AdamW).

    `step` counts from 1. Returns the weight and both averages.
    """
    if decoupled:
        w = w - learning_rate * decay * w
    else:
        g = g + decay * w
    beta1, beta2 = betas
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    corrected_m, corrected_v = m / (1 - beta1**step), v / (1 - beta2**step)
    return w - learning_rate * corrected_m / (np.sqrt(corrected_v) + eps), m, v
