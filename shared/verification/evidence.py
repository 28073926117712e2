"""What a checkpoint's own statistics say of the fields that no tensor tells.

A batch norm's running mean and variance are those of its input over the training set. So the
candidates (stride in the 1x1 or the 3x3, SAME or symmetric padding, another pool, another
preprocessing …) are run over a few photographs in evaluation mode, and the mean and variance that
arise in front of every norm are compared with those that are stored: the Kullback-Leibler
divergence of two normal distributions per channel, the median over the channels of a norm, the
mean over the norms (for the preprocessing, the geometric mean of that and the first norm's). The
smaller, the likelier.

This is evidence and no proof. Photographs are not the training set, and some fields change the
statistics by less than that makes: what is then said is that there is no evidence.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from shared.architecture.ops import BatchNorm
from shared.architecture.plan import make_plan
from shared.architecture.preprocessing import PREPROCESSING, Preprocessing, preprocess
from shared.architecture.spec import ResNetSpec
from shared.errors import SpecError
from shared.reference.forward import forward

Strength = Literal["strong", "clear", "weak", "none"]

PREPROCESSING_FIELD = "preprocessing"

# Not the word of any published weights, but what people give a network by mistake.
_OTHER_PREPROCESSING = {
    "0 to 255": Preprocessing(1, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet in BGR": Preprocessing(255, (0.406, 0.456, 0.485), (0.225, 0.224, 0.229), True),
}

# Fields with a short list of values in published networks; those of a `Literal` have its values.
_VALUES: dict[str, tuple[Any, ...]] = {
    "norm.eps": (0.0, 1e-5, 1e-3),
    "strides": ((1, 2, 2, 2), (1, 2, 2, 1), (1, 2, 1, 1), (1, 1, 2, 2), (2, 2, 2, 2)),
}
FIELDS = (
    "block.stride_conv",
    "block.stride_block",
    "block.padding",
    "stem.padding",
    "stem.pool",
    "stem.pool_padding",
    "shortcut.pool",
    "shortcut.preact",
    "shortcut.zero_pad",
    "anti_alias",
    "strides",
    "norm.eps",
)

# A value that scores up to so many times the best one's divergence cannot be told from it. Measured
# on the bundled networks (tests/verification/test_evidence.py) and on akamaster's ResNet-20: the
# right value is within these factors of the best in every case.
TIE = {PREPROCESSING_FIELD: 3.0, "norm.eps": 1.3, "strides": 1.3}
TIE_OTHERWISE = 1.15

# How strongly the other values are ruled out, by the smallest factor among them.
STRONG, CLEAR = 5.0, 1.5
_ROUNDING = 1e-9  # a divergence below it is none
NEVER_STRONG = ("strides", "norm.eps")  # a network that was trained on small crops misleads them


@dataclass(frozen=True)
class Evidence:
    """What the statistics say of one field. Scores are divergences: smaller is likelier."""

    field: str
    value: Any  # what is likeliest; the assumed value where it cannot be told from that
    instead_of: Any | None  # the assumed value, where it is another
    strength: Strength  # how clearly the values that are not in `as_likely` are ruled out
    score: float
    other_scores: dict[str, float]
    as_likely: tuple[str, ...]  # other values that cannot be told from `value`

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def gather(
    spec: ResNetSpec,
    weights: Mapping[str, np.ndarray],
    pixels: np.ndarray,
    assumed_preprocessing: str | None,
    told: Sequence[str] = (),
    on_run: Callable[[str], None] = lambda what: None,
) -> list[Evidence]:
    """Evidence for the preprocessing and for each field that no tensor tells.

    Args:
        spec: what the checkpoint was taken for.
        weights: canonical tensors.
        pixels: photographs, uint8 [N, height, width, 3], of the size that the network takes.
        assumed_preprocessing: a key of `PREPROCESSING`, or None where nothing is assumed.
        told: fields that need no evidence, because the file or the user tells them.
        on_run: called with each candidate before it is run.

    Raises `SpecError` for a network without batch norms, or of neither 1 nor 3 input channels.
    """
    if spec.norm.kind != "batch":
        raise SpecError(f"{spec.name} has no batch norms, so no statistics that would be evidence")
    if spec.in_channels not in (1, 3):
        raise SpecError(
            f"{spec.name} takes {spec.in_channels} channels; photographs have 3, or 1 as grey"
        )
    single = {name: np.asarray(array, np.float32) for name, array in weights.items()}
    known = {**PREPROCESSING, **_OTHER_PREPROCESSING}

    def run(what: str, candidate: ResNetSpec, how: str) -> list[float]:
        on_run(what)
        images = preprocess(pixels, known[how], candidate.in_channels).astype(np.float32)
        return divergences(candidate, single, images)

    # The first norm sees the images before any field has a say; the others average over more.
    runs = {how: run(f"{PREPROCESSING_FIELD}={how}", spec, how) for how in _distinct(known, spec)}
    both = {how: float(np.sqrt(scores[0] * np.mean(scores))) for how, scores in runs.items()}
    found = [_judged(PREPROCESSING_FIELD, assumed_preprocessing, both, lambda how: how)]
    best = found[0].value
    for name in FIELDS:
        if name in told:
            continue
        candidates = dict(alternatives(spec, name))
        if len(candidates) < 2:
            continue
        assumed = _field(spec, name)
        by_value = {
            shown(value): float(
                np.mean(
                    runs[best] if value == assumed else run(f"{name}={shown(value)}", other, best)
                )
            )
            for value, other in candidates.items()
        }
        values = {shown(value): value for value in candidates}
        found.append(_judged(name, assumed, by_value, values.__getitem__))
    return found


def divergences(
    spec: ResNetSpec, weights: Mapping[str, np.ndarray], images: np.ndarray
) -> list[float]:
    """How far the statistics in front of each norm are from those that it stores, in order.

    `images` are preprocessed, [N, height, width, channels].
    """
    plan = make_plan(spec, (images.shape[1], images.shape[2]))
    layers = []
    for step in forward(plan, weights, images):
        if isinstance(step.node.op, BatchNorm):
            x = step.inputs[0].astype(np.float64)
            layers.append(
                _normal_divergence(
                    x.mean(axis=(0, 1, 2)),
                    x.var(axis=(0, 1, 2)),
                    step.tensors["running_mean"].astype(np.float64),
                    step.tensors["running_var"].astype(np.float64),
                )
            )
    return layers


def _normal_divergence(
    mean: np.ndarray, variance: np.ndarray, stored_mean: np.ndarray, stored_variance: np.ndarray
) -> float:
    """KL(found || stored) of normal distributions, the median over the channels."""
    tiny = np.finfo(np.float32).tiny
    found, stored = np.maximum(variance, tiny), np.maximum(stored_variance, tiny)
    apart = (found + (mean - stored_mean) ** 2) / stored - 1 + np.log(stored / found)
    return float(np.median(apart) / 2)


def alternatives(spec: ResNetSpec, name: str) -> Iterator[tuple[Any, ResNetSpec]]:
    """Each value of a field with which the network has the same tensors, and that network.

    The spec's own value is among them. Values that make the same plan are given once.
    """
    plan = make_plan(spec)
    seen = {tuple(plan.nodes())}
    yield _field(spec, name), spec
    for value in _values(name):
        try:
            candidate = spec.replace(**{name: value})
            other = make_plan(candidate)
        except SpecError:
            continue
        nodes = tuple(other.nodes())
        if nodes not in seen and other.tensors == plan.tensors:
            seen.add(nodes)
            yield value, candidate


def _values(name: str) -> tuple[Any, ...]:
    if name in _VALUES:
        return _VALUES[name]
    group, _, inner = name.rpartition(".")
    hints = typing.get_type_hints(ResNetSpec)
    return typing.get_args((typing.get_type_hints(hints[group]) if group else hints)[inner])


def _field(spec: ResNetSpec, name: str) -> Any:
    group, _, inner = name.rpartition(".")
    return getattr(getattr(spec, group) if group else spec, inner)


def shown(value: Any) -> str:
    """A value as `--set` takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _distinct(known: Mapping[str, Preprocessing], spec: ResNetSpec) -> list[str]:
    """The preprocessings, without those that are of grey images in a network of colour ones."""
    return [how for how in known if spec.in_channels == 1 or how != "fashion-mnist"]


def _judged(
    name: str, assumed: Any, scores: Mapping[str, float], value_of: Callable[[str], Any]
) -> Evidence:
    """The likeliest value, and how clearly the others are ruled out."""
    best = min(scores, key=scores.__getitem__)
    least = max(scores[best], _ROUNDING)
    within = least * TIE.get(name, TIE_OTHERWISE)
    likely = [text for text, score in scores.items() if score <= within]
    chosen = shown(assumed) if assumed is not None and shown(assumed) in likely else best
    others = [score for text, score in scores.items() if text not in likely]
    factor = min(others, default=0.0) / least
    strength: Strength = (
        "none"
        if not others
        else "strong"
        if factor >= STRONG and name not in NEVER_STRONG
        else "clear"
        if factor >= CLEAR and name not in NEVER_STRONG
        else "weak"
    )
    return Evidence(
        field=name,
        value=value_of(chosen),
        instead_of=assumed if assumed is not None and chosen != shown(assumed) else None,
        strength=strength,
        score=scores[chosen],
        other_scores={text: score for text, score in scores.items() if text != chosen},
        as_likely=tuple(text for text in likely if text != chosen),
    )
