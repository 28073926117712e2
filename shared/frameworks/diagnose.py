"""`diagnose` with the NumPy reference's trainer, of a checkpoint and a file of what a port did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from shared.architecture.spec import ResNetSpec
from shared.formats.checkpoint import Checkpoint
from shared.frameworks import reference
from shared.frameworks.reference import Reference
from shared.verification.diagnosis.diagnose import Diagnosis
from shared.verification.diagnosis.diagnose import diagnose as search
from shared.verification.diagnosis.observations import Observations, read_observations
from shared.verification.diagnosis.passes import TrainerKit

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
