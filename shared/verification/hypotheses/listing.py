"""The list of all hypotheses for a network: what tests plant and `diagnose` looks for."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from shared.architecture.spec import ResNetSpec
from shared.errors import SpecError, nearest
from shared.training.config import PROBE, Training
from shared.verification.hypotheses.hypothesis import Hypothesis
from shared.verification.hypotheses.of_layers import of_layers
from shared.verification.hypotheses.of_spec import of_spec
from shared.verification.hypotheses.of_surroundings import of_precision, of_surroundings
from shared.verification.hypotheses.of_training import of_training
from shared.verification.hypotheses.of_weights import of_weights


def every(
    spec: ResNetSpec, training: Training = PROBE, prepared: str | None = None
) -> list[Hypothesis]:
    """Every hypothesis for a network, likeliest and cheapest first.

    `training` is what its training checks ran with, `prepared` the preprocessing of its images, a
    key of `PREPROCESSING`, where it is known.

    >>> from shared import get_spec
    >>> len({hypothesis.name for hypothesis in every(get_spec("resnet18"))}) > 400
    True
    """
    return list(_every(spec, training, prepared))


@functools.lru_cache(maxsize=32)
def _every(spec: ResNetSpec, training: Training, prepared: str | None) -> tuple[Hypothesis, ...]:
    found = [*_all(spec, training, prepared)]
    return tuple(sorted(found, key=lambda hypothesis: hypothesis.rank))


def _all(spec: ResNetSpec, training: Training, prepared: str | None) -> Iterator[Hypothesis]:
    yield from of_spec(spec)
    yield from of_surroundings(spec, prepared)
    yield from of_layers(spec)
    yield from of_weights(spec)
    yield from of_training(spec, training)
    yield from of_precision()


def named(name: str, spec: ResNetSpec, training: Training = PROBE) -> Hypothesis:
    """The hypothesis of that name. Raises `SpecError` where the network has none."""
    known = {hypothesis.name: hypothesis for hypothesis in every(spec, training)}
    if name not in known:
        raise SpecError(f"{spec.name} has no hypothesis {name!r}{nearest(name, known)}")
    return known[name]
