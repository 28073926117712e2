"""Ports with planted mistakes, and what they make of the probe's images."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from shared import ResNetSpec, get_spec, make_plan, miniature, probe_images, probe_weights
from shared.frameworks.diagnose import KIT, diagnose_observations
from shared.training.config import PROBE, Training, probe_labels
from shared.verification.diagnosis.diagnose import Diagnosis
from shared.verification.diagnosis.observations import Observations, observations
from shared.verification.diagnosis.passes import Passes
from shared.verification.hypotheses.hypothesis import Hypothesis, Port
from shared.verification.hypotheses.listing import named
from shared.verification.recording import EVAL, GRADIENTS, STEP, TRAIN, expected_shapes

PRESET = "torchvision/resnet18"
SIZE = 64


@functools.lru_cache(maxsize=16)
def small(preset: str = PRESET) -> ResNetSpec:
    return miniature(get_spec(preset))


SHALLOW = small().replace(depths=(1, 1))  # where every hypothesis is tried


@functools.lru_cache(maxsize=16)
def right(
    spec: ResNetSpec, batch: int = 2, training: Training = PROBE, dtype: str = "float32"
) -> Port:
    """The port without mistakes, in float64; its weights are exact in `dtype`."""
    size = min(SIZE, spec.image_size)
    images = probe_images((batch, size, size, spec.in_channels)).astype(np.float64)
    weights = {n: a.astype(np.float64) for n, a in probe_weights(spec, dtype=dtype).items()}
    return Port(spec, weights, images, training=training)


def with_mistakes(port: Port, names: Sequence[str | Hypothesis]) -> Port:
    for name in names:
        found = named(name, port.spec, port.training) if isinstance(name, str) else name
        changed = found(port)
        assert changed is not None, f"{name} is not possible"
        port = changed
    return port


def observed(
    port: Port,
    base: Port,
    *,
    layers: Sequence[str] | None = (),
    dtype: str = "float32",
    checks: Sequence[str] = (EVAL,),
) -> Observations:
    """What `port` computes of the images of `base`: outputs, and these layers; None is all."""
    labels = probe_labels(len(base.images), max(base.spec.num_classes, 1), 0)
    passes = Passes(port, kit=KIT, labels=labels)
    plan = make_plan(base.spec, base.images.shape[1:3])
    keys = [f"{EVAL}/{row.name}" for row in plan.layers] if layers is None else []
    keys += [f"{EVAL}/{name}" for name in layers or ()]
    for check in (TRAIN, GRADIENTS, STEP):
        if check in checks:
            keys += expected_shapes(check, plan, len(base.images), base.training)
    arrays = {"outputs": passes.get(f"{EVAL}/output")} if EVAL in checks else {}
    for key in keys:
        try:
            arrays[key] = np.array(passes.get(key))
        except KeyError:
            continue  # the wrong network has no such layer
    arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    return observations(arrays, base.images, base.spec, "a test", base.training)


def diagnosed(
    names: Sequence[str | Hypothesis],
    preset: str | ResNetSpec = PRESET,
    *,
    layers: Sequence[str] | None = (),
    dtype: str = "float32",
    checks: Sequence[str] = (EVAL,),
    batch: int = 2,
    training: Training = PROBE,
) -> Diagnosis:
    """The diagnosis of a port with these mistakes."""
    spec = small(preset) if isinstance(preset, str) else preset
    base = right(spec, batch, training)
    port = with_mistakes(base, names)
    seen = observed(port, base, layers=layers, dtype=dtype, checks=checks)
    return diagnose_observations(base.weights, base.spec, seen)
