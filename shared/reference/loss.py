"""The loss in plain NumPy, and its gradient."""

from __future__ import annotations

import numpy as np

from shared.reference.forward import Array


def cross_entropy(logits: Array, labels: Array, label_smoothing: float) -> Array:
    """Mean over the batch of -sum(target * log softmax). An image's channels count, averaged over
    height and width.

    `logits` are [batch, classes] or [batch, height, width, classes], `labels` class numbers
    [batch].
    """
    target, log_softmax = _target_and_log_softmax(logits, labels, label_smoothing)
    return -(target * log_softmax).sum(axis=1).mean()


def cross_entropy_backward(logits: Array, labels: Array, label_smoothing: float) -> Array:
    """The gradient of `cross_entropy` by the logits: (softmax - target) / batch, spread over an
    image's pixels.
    """
    target, log_softmax = _target_and_log_softmax(logits, labels, label_smoothing)
    gradient = (np.exp(log_softmax) - target) / len(logits)
    if logits.ndim == 2:
        return gradient
    _, height, width, _ = logits.shape
    return np.broadcast_to(gradient[:, np.newaxis, np.newaxis] / (height * width), logits.shape)


def pooled(logits: Array) -> Array:
    """[batch, classes], of an image averaged over height and width."""
    return logits.mean(axis=(1, 2)) if logits.ndim == 4 else logits


def _target_and_log_softmax(
    logits: Array, labels: Array, label_smoothing: float
) -> tuple[Array, Array]:
    """Both [batch, classes]."""
    logits = pooled(logits)
    classes = logits.shape[1]
    target = (1 - label_smoothing) * np.eye(classes, dtype=logits.dtype)[
        labels
    ] + label_smoothing / classes
    shifted = logits - logits.max(axis=1, keepdims=True)  # so that the exponentials do not overflow
    return target, shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
