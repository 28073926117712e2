"""`diagnose` with the NumPy reference's trainer, of a checkpoint and a file of what a port did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, RosettaError
from shared.formats.checkpoint import Checkpoint
from shared.frameworks import reference
from shared.frameworks.reference import Reference
from shared.verification.comparison import Comparison
from shared.verification.diagnosis.audit import Audit, audit
from shared.verification.diagnosis.diagnose import Diagnosis
from shared.verification.diagnosis.diagnose import diagnose as search
from shared.verification.diagnosis.isolated import Alone, isolated, isolated_gradients
from shared.verification.diagnosis.observations import (
    Observations,
    observations_of_trace,
    read_observations,
)
from shared.verification.diagnosis.passes import TrainerKit
from shared.verification.hypotheses.hypothesis import Port
from shared.verification.recording import EVAL, GRADIENTS, OUTPUT, TRAIN
from shared.verification.rounding import STORED
from shared.verification.trace import Trace
from shared.weights.digests import digest
from shared.weights.probe import probe_images, probe_weights

KIT = TrainerKit(reference.Trainer, Reference, reference.load_weights)


def diagnose(
    checkpoint: Checkpoint,
    file: str | Path,
    on_try: Callable[[int, str], None] = lambda tried, what: None,
) -> Diagnosis:
    """Why a port of `checkpoint` has computed what is in `file`.

    >>> from shared import open_checkpoint, probe_images
    >>> checkpoint = open_checkpoint("rosetta:fashion-mnist/resnet20")
    >>> port = reference.build(checkpoint.spec.replace(norm_eps=1e-3))  # with Keras' epsilon
    >>> reference.load_weights(port, checkpoint.weights())
    >>> images = probe_images((2, 28, 28, 1))
    >>> outputs = reference.trace(port, images)["eval/output"]
    >>> np.savez("outputs.npz", images=images, outputs=outputs)
    >>> diagnose(checkpoint, "outputs.npz").causes[0].set
    'norm.eps=0.001'

    `file` is an `.npz`, a safetensors file or a trace with `images` [N, H, W, C] as they are meant
    for the network, `outputs` [N, classes] or [N, features], and whatever layers are there under
    their canonical names. Raises `CheckpointError` for files that cannot be compared.
    """
    observed = read_observations(file, checkpoint.spec)
    prepared = checkpoint.preprocessing
    return diagnose_observations(
        checkpoint.weights(), checkpoint.spec, observed, prepared=prepared, on_try=on_try
    )


def diagnose_trace(
    trace: Trace,
    weights: Mapping[str, np.ndarray] | None = None,
    images: np.ndarray | None = None,
    on_try: Callable[[int, str], None] = lambda tried, what: None,
) -> Diagnosis:
    """Why what a framework has computed is not what the reference computes.

    `weights` and `images` are those that the framework was given; the probe's, made again from the
    trace's seed, where None. Raises `CheckpointError` where the trace was taken of others.
    """
    if weights is None:
        weights = _probe_weights(trace)
    observed = observations_of_trace(trace, images=images)
    return diagnose_observations(weights, trace.spec, observed, on_try=on_try)


def _probe_weights(trace: Trace) -> Mapping[str, np.ndarray]:
    if trace.about.get("weights_source", "probe") == "probe":
        seed = trace.about.get("seed", "0")
        dtype = trace.dtype if trace.dtype in STORED else "float64"
        # The reference computes in float64 with weights that were rounded for the others.
        for rounded in dict.fromkeys((dtype, *reversed(STORED))):
            made = probe_weights(trace.spec, int(seed) if seed.isdecimal() else 0, rounded)
            if digest(made) == trace.about.get("weights"):
                return made
    raise CheckpointError(
        f"the trace of {trace.framework} is not of the probe's weights; `rosetta diagnose WEIGHTS "
        "--io FILE` takes the weights that it is of"
    )


def diagnose_observations(
    weights: Mapping[str, np.ndarray],
    spec: ResNetSpec,
    observed: Observations,
    *,
    prepared: str | None = None,
    on_try: Callable[[int, str], None] = lambda tried, what: None,
) -> Diagnosis:
    """`diagnose` of canonical weights and what was observed."""
    return search(weights, spec, observed, KIT, prepared=prepared, on_try=on_try)


def causes(
    traces: Sequence[Trace],
    comparisons: Sequence[Comparison],
    weights: Mapping[str, np.ndarray] | None = None,
    images: np.ndarray | None = None,
    on_try: Callable[[int, str], None] = lambda tried, what: None,
) -> dict[str, Diagnosis | str]:
    """For each framework of a comparison that failed, why it is not as the reference; or, in a
    line, why that cannot be said.
    """
    failed = [c for c in comparisons if not c.passed]
    sides = {side for c in failed for side in (c.a, c.b)}
    found: dict[str, Diagnosis | str] = {}
    for trace in traces:
        if trace.framework in sides and not trace.framework.startswith("reference"):
            try:
                found[trace.framework] = diagnose_trace(trace, weights, images, on_try)
            except RosettaError as error:
                found[trace.framework] = str(error)
    return found


def isolated_layers(
    traces: Sequence[Trace],
    weights: Mapping[str, np.ndarray] | None = None,
    images: np.ndarray | None = None,
) -> list[tuple[str, str, list[Alone]]]:
    """For each trace, and check of a pass that it has, every layer by itself, forward, and every
    tensor's gradient: (framework, check, layers).

    `weights` and `images` are those that the traces are of; the probe's where None. Raises
    `CheckpointError` for a trace of others than the probe's then.
    """
    found = []
    for trace in traces:
        observed = observations_of_trace(trace, images=images)
        given = _probe_weights(trace) if weights is None else weights
        wide = {n: np.asarray(a).astype(np.float64) for n, a in given.items()}
        port = Port(trace.spec, wide, observed.images, training=observed.training)
        for check in (EVAL, TRAIN):
            if f"{check}/{OUTPUT}" in observed.values:
                rows = isolated(port, observed.values, trace.dtype, check)
                found.append((trace.framework, check, rows))
        if f"{TRAIN}/{OUTPUT}" in observed.values and "grad/input" in observed.values:
            rows = isolated_gradients(port, observed.values, observed.labels, trace.dtype)
            found.append((trace.framework, GRADIENTS, rows))
    return found


OnPlant = Callable[[int, int, str], None]


def audit_of_weights(
    checkpoint: Checkpoint,
    file: Path | None,
    photographs: Sequence[Path] | None,
    size: tuple[int, int] | None,
    batch: int,
    tolerance: float,
    on_try: OnPlant,
) -> Audit:
    """`audit` of a checkpoint, with the images of a file, photographs, or the probe's."""
    spec = checkpoint.spec
    layers: tuple[str, ...] = ()
    if file is not None:
        observed = read_observations(file, spec, images_alone=True)
        images, layers = observed.images, _layers(observed)
    elif photographs:
        from shared.images.photographs import load_images

        side = size[0] if size else None
        images = load_images(photographs, spec, checkpoint.preprocessing, side, checkpoint.resize)
    else:
        height, width = size or (spec.image_size, spec.image_size)
        images = probe_images((batch, height, width, spec.in_channels))
    make_plan(spec, (images.shape[1], images.shape[2]))
    return audit(
        checkpoint.weights(),
        spec,
        images,
        layers=layers,
        tolerance=tolerance,
        prepared=checkpoint.preprocessing,
        on_try=on_try,
    )


def audit_of_trace(file: Path, tolerance: float, on_try: OnPlant) -> tuple[Audit, str]:
    """`audit` of a trace of the probe's weights and images, and the network's name."""
    trace = Trace.load(file)
    observed = observations_of_trace(trace, path=str(file))
    found = audit(
        _probe_weights(trace),
        trace.spec,
        observed.images,
        layers=_layers(observed),
        tolerance=tolerance,
        on_try=on_try,
    )
    return found, trace.spec.name


def _layers(observed: Observations) -> tuple[str, ...]:
    """The layers that a check compares beside the output."""
    keys = (key.partition("/") for key in observed.values)
    return tuple(layer for check, _, layer in keys if check == EVAL and layer != OUTPUT)
