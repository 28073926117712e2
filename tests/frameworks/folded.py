"""Weights as they are read from a file whose exporter has folded norms."""

from __future__ import annotations

import numpy as np

from shared import make_plan
from shared.architecture.ops import BatchNorm
from shared.architecture.spec import ResNetSpec
from shared.weights.canonical import Weights
from shared.weights.folding import fold_norms


def folded(spec: ResNetSpec, weights: Weights) -> Weights:
    """As a file is read: identities in the place of norms that are folded, and of those that are
    left a scale and a shift.
    """
    _, kept = fold_norms(spec, weights)
    found = dict(kept)
    for node in make_plan(spec).nodes():
        if not isinstance(node.op, BatchNorm):
            continue
        size, name = node.op.channels, node.name
        own = {leaf: weights[f"{name}.{leaf}"] for leaf in node.op.tensors()}
        scale, shift = np.ones(size), found.pop(f"{node.inputs[0]}.bias", None)
        if f"{name}.weight" in kept:
            scale = own["weight"] / np.sqrt(own["running_var"] + node.op.eps)
            shift = own["bias"] - own["running_mean"] * scale
        leaves = (scale, shift, np.zeros(size), np.full(size, 1 - node.op.eps))
        for leaf, array in zip(
            ("weight", "bias", "running_mean", "running_var"), leaves, strict=True
        ):
            found[f"{name}.{leaf}"] = np.asarray(array)
    return found
