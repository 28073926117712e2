"""`audit`: which mistakes a check of outputs could not see, with its weights and its images.

Every hypothesis is planted in the reference. What then stays within the check's tolerance would
pass unseen, unless it makes no difference with weights and images that hide nothing either.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.architecture.ops import BatchNorm
from shared.architecture.spec import ResNetSpec
from shared.errors import SpecError
from shared.verification.diagnosis.passes import Passes
from shared.verification.distance import relative_error
from shared.verification.hypotheses.hypothesis import Array, Hypothesis, Port
from shared.verification.hypotheses.listing import every
from shared.verification.hypotheses.of_weights import last_gammas
from shared.verification.recording import EVAL, OUTPUT
from shared.weights.probe import probe_images, probe_weights

OUTPUT_KEY = f"{EVAL}/{OUTPUT}"
# What a comparison in float32 can hope for: a few times what two frameworks differ by.
TOLERANCE = 1e-4
NOTHING = 1e-9  # a change that moves probe weights' outputs by less is none
FAR = 6  # rank of exchanges of tensors far apart, which are many and alike
SAME_PIXELS = 1e-12


@dataclass(frozen=True)
class Planted:
    """A mistake, and what the check would see of it: its error, which is infinite where outputs are
    not finite or of another shape.
    """

    kind: str
    what: str
    visible: bool
    error: float
    set: str | None
    without_tensors: bool  # of the network or its surroundings

    def to_dict(self) -> dict[str, Any]:
        error = self.error if math.isfinite(self.error) else None
        return {
            "kind": self.kind,
            "what": self.what,
            "visible": self.visible,
            "error": error,
            "set": self.set,
        }


@dataclass(frozen=True)
class Findings:
    """Every planted mistake, and why some go unseen; `score` is the share that is seen."""

    mistakes: tuple[Planted, ...]
    why_blind: tuple[str, ...]

    @property
    def unseen(self) -> tuple[Planted, ...]:
        return tuple(planted for planted in self.mistakes if not planted.visible)

    @property
    def score(self) -> float:
        return 1 - len(self.unseen) / len(self.mistakes) if self.mistakes else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "score": self.score,
            "mistakes": [planted.to_dict() for planted in self.mistakes],
            "why_blind": list(self.why_blind),
        }


@dataclass(frozen=True)
class Audit(Findings):
    """What a comparison of outputs, and of some layers, would see."""

    tolerance: float
    images: tuple[int, ...]
    layers: tuple[str, ...]  # that the check compares beside the output

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {
            "tolerance": self.tolerance,
            "image_shape": list(self.images),
            "layers": list(self.layers),
        }


def audit(
    weights: Mapping[str, np.ndarray],
    spec: ResNetSpec,
    images: Array,
    *,
    layers: Sequence[str] = (),
    tolerance: float = TOLERANCE,
    prepared: str | None = None,
    on_try: Callable[[int, int, str], None] = lambda done, count, what: None,
) -> Audit:
    """Plant every mistake that evaluation can show.

    Args:
        weights: canonical tensors, those of the check.
        images: float [N, H, W, C], those of the check.
        layers: that the check compares beside the output, by their canonical names.
        tolerance: the largest error, relative to the largest value, that the check lets pass.
        on_try: called with the number of the mistake, of all, and its sentence.
    """
    right = Port(spec, _cast(weights), np.asarray(images, np.float64))
    base, keys = Passes(right), (*(f"{EVAL}/{layer}" for layer in layers), OUTPUT_KEY)
    telling = _telling(right)
    hypotheses = [
        h
        for h in every(spec, prepared=prepared)
        if h.shows_in != "training" and h.kind != "precision" and h.rank < FAR
    ]
    found: list[Planted] = []
    for number, hypothesis in enumerate(hypotheses, start=1):
        on_try(number, len(hypotheses), hypothesis.what)
        error = _error(hypothesis, base, keys)
        if error is None or (error <= tolerance and not _shows(hypothesis, telling)):
            continue  # not possible here, or the same function whatever the weights
        found.append(
            Planted(
                hypothesis.kind,
                hypothesis.what,
                error > tolerance,
                error,
                " ".join(hypothesis.settings) or None,
                hypothesis.kind != "weights",
            )
        )
    reasons = tuple(why_blind(right, [p for p in found if not p.visible], tolerance))
    return Audit(tuple(found), reasons, tolerance, tuple(right.images.shape), tuple(layers))


def _cast(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.asarray(array).astype(np.float64) for name, array in weights.items()}


def _telling(port: Port) -> Passes:
    """The same network with weights and images that hide nothing."""
    count, height, width, channels = port.images.shape
    images = probe_images((max(2, count), height, width, channels), dtype="float64")
    weights = probe_weights(port.spec, dtype="float64")
    return Passes(dataclasses.replace(port, weights=weights, images=images))


def _error(hypothesis: Hypothesis, base: Passes, keys: Sequence[str]) -> float | None:
    """The largest error that a mistake makes at the keys; None where it is not possible."""
    changed = hypothesis(base.port)
    if changed is None:
        # Zeros that are not loaded, grey images read as BGR: these weights or images hide it.
        return 0.0 if hypothesis.kind in ("weights", "surroundings") else None
    passes = Passes(changed, base)
    worst = 0.0
    try:
        for key in keys:
            if passes.touches(key):
                seen, expected = passes.get(key), base.get(key)
                if seen.shape != expected.shape or not np.isfinite(seen).all():
                    return math.inf
                dead = not expected.any() and not seen.any()
                worst = max(worst, 0.0 if dead else relative_error(seen, expected))
    except KeyError:
        return math.inf  # the wrong network has no such layer
    except SpecError:
        return None
    return worst


def _shows(hypothesis: Hypothesis, telling: Passes) -> bool:
    """Whether the mistake makes a difference where nothing is hidden."""
    error = _error(hypothesis, telling, (OUTPUT_KEY,))
    return error is not None and error > NOTHING


def why_blind(port: Port, unseen: Sequence[Planted], tolerance: float) -> Iterator[str]:
    """Why mistakes pass unseen, as far as weights, images and tolerance say it."""
    if not unseen:
        return
    yield from reasons_of_weights(port)
    yield from _of_images(port)
    small = [planted for planted in unseen if planted.error > 0]
    if small:
        worst = max(planted.error for planted in small)
        yield (
            f"the tolerance of {tolerance:g} lets {len(small)} mistakes pass that do change the "
            f"output, by up to {worst:.1e} of its largest value"
        )


def reasons_of_weights(port: Port) -> Iterator[str]:
    weights, plan = port.weights, port.plan
    gammas = [weights[name] for name in last_gammas(plan) if name in weights]
    zero = sum(not gamma.any() for gamma in gammas)
    if zero and port.spec.block.order != "full_pre":
        which = "each block" if zero == len(gammas) else f"{zero} of {len(gammas)} blocks"
        yield f"the last gamma of {which} is zero, so nothing in the branches can be seen"
    norms = [node for node in plan.nodes() if isinstance(node.op, BatchNorm)]
    fresh = sum(
        not weights[f"{n.name}.running_mean"].any()
        and bool((weights[f"{n.name}.running_var"] == 1).all())
        for n in norms
    )
    if fresh:
        yield (
            f"the running statistics of {fresh} of {len(norms)} norms are fresh (mean 0, variance "
            "1), so statistics that are not loaded cannot be seen"
        )
    plain = sum(
        bool((weights[f"{n.name}.weight"] == 1).all()) and not weights[f"{n.name}.bias"].any()
        for n in norms
        if "weight" in n.op.tensors()
    )
    if plain:
        yield (
            f"gamma is 1 and beta 0 in {plain} of {len(norms)} norms, so those that are not "
            "loaded, or exchanged with another layer's, cannot be seen"
        )
    biases = [n for n in plan.tensors if n.endswith(".bias") and "norm" not in n]
    zeros = sum(not weights[name].any() for name in biases)
    if zeros:
        yield f"{zeros} of {len(biases)} biases are zero, so leaving them out cannot be seen"


def _of_images(port: Port) -> Iterator[str]:
    images = port.images
    if np.ptp(images) <= SAME_PIXELS * max(1.0, float(np.abs(images).max())):
        yield "all pixels of the images are alike, so their order and orientation cannot be seen"
        return
    if images.shape[3] > 1 and (np.ptp(images, axis=3) <= SAME_PIXELS).all():
        yield "the images are grey, so the order of their channels cannot be seen"
    if len(images) == 1:
        yield "there is one image, so mistakes in the order of the batch cannot be seen"
    height, width = images.shape[1:3]
    if height % 2 and width % 2:
        yield (
            f"the images have an odd size ({height} x {width}), where SAME and symmetric padding "
            "are alike in the first layers; take an even one beside it"
        )
