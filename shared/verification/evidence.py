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
import itertools
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
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
    "imagenet in BGR": Preprocessing(255, (0.406, 0.456, 0.485), (0.225, 0.224, 0.229), True)
}

# Fields with a short list of values in published networks; those of a `Literal` have its values.
_EPS = (0.0, 1e-5, 1e-3)
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

# A value that scores up to so many times the best one's divergence cannot be told from it, and how
# strongly the others are ruled out, by the smallest factor among them. All of these factors grow
# with the divergence of the network as it is taken, `_doubt` times: images that are unlike the
# training set mislead. Calibrated on the networks of docs/evidence.md.
TIE = {PREPROCESSING_FIELD: 4.0, "norm.eps": 1.5, "strides": 1.3}
TIE_OTHERWISE = 1.15
STRONG, CLEAR = 5.0, 1.5
NEAR = 0.05  # a mean divergence of images that are like the training set
GROWTH = 0.4
NEVER_STRONG = ("strides", "norm.eps")  # a network that was trained on small crops misleads them

ROUNDING = 1e-9  # a divergence below it is none
FARTHEST = 1e9  # of a divergence; overflow is as far
PIXELS_AT_A_TIME = 4 * 224 * 224  # of images; ResNet-50 then takes 0.4 GB
MOST_TAKEN = 2  # fields that are taken as the evidence has them before the rest is judged again


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
    fit: float  # mean divergence of the network as it is taken: whether the images are like its own

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def gather(
    spec: ResNetSpec,
    weights: Mapping[str, np.ndarray],
    pixels: np.ndarray,
    assumed_preprocessing: str | None,
    told: Sequence[str] = (),
    on_run: Callable[[str, int, int], None] = lambda what, number, total: None,
) -> list[Evidence]:
    """Evidence for the preprocessing and for each field that no tensor tells.

    Args:
        spec: what the checkpoint was taken for.
        weights: canonical tensors.
        pixels: photographs, uint8 [N, height, width, 3], of the size that the network takes.
        assumed_preprocessing: a key of `PREPROCESSING`, or None where nothing is assumed.
        told: fields that need no evidence, because the file or the user tells them.
        on_run: called before each candidate is run, with what it is, its number, and how many
            there are.

    Raises `SpecError` saying why there can be no evidence: a network without batch norms, or whose
    running statistics are those of a fresh network, or of neither 1 nor 3 input channels.
    """
    if why := why_none(spec, weights):
        raise SpecError(why)
    single = {name: np.asarray(array, np.float32) for name, array in weights.items()}
    known = {**PREPROCESSING, **_OTHER_PREPROCESSING}
    hows = _distinct(known, spec)
    names = [name for name in FIELDS if name not in told]
    counted = itertools.count(1)
    total = len(hows) + sum(len(list(alternatives(spec, name))) - 1 for name in names)

    def run(what: str, candidate: ResNetSpec, how: str) -> list[float]:
        number = next(counted)
        on_run(what, number, max(number, total))
        images = preprocess(pixels, known[how], candidate.in_channels).astype(np.float32)
        return divergences(candidate, single, images)

    # The first norm sees the images before any field has a say; the others average over more.
    runs = {how: run(f"{PREPROCESSING_FIELD}={how}", spec, how) for how in hows}
    both = {how: float(np.sqrt(scores[0] * np.mean(scores))) for how, scores in runs.items()}
    fit = min(float(np.mean(scores)) for scores in runs.values())
    found = {PREPROCESSING_FIELD: _judged(PREPROCESSING_FIELD, assumed_preprocessing, both, fit)}
    how = found[PREPROCESSING_FIELD].value

    def judge(name: str, taken: ResNetSpec, fit: float) -> Evidence | None:
        candidates = {
            value: candidate
            for value, candidate in alternatives(taken, name)
            if _takes(candidate, pixels.shape[1:3])
        }
        if len(candidates) < 2:
            return None
        by_value = {
            value: fit
            if candidate == taken
            else float(np.mean(run(f"{name}={shown(value)}", candidate, how)))
            for value, candidate in candidates.items()
        }
        return _judged(name, attrgetter(name)(spec), by_value, fit)

    # Where the evidence is against a field, the others are judged again with what it says: one
    # wrong field makes others look wrong.
    taken, fit = spec, float(np.mean(runs[how]))
    changed: list[str] = []
    for _ in range(1 + MOST_TAKEN):
        for name in names:
            if name not in changed:
                found.pop(name, None)  # it may have no alternatives beside what is taken now
                if evidence := judge(name, taken, fit):
                    found[name] = evidence
        against = [
            evidence
            for name, evidence in found.items()
            if evidence.instead_of is not None
            and evidence.strength in ("strong", "clear")
            and name not in (*changed, *NEVER_STRONG, PREPROCESSING_FIELD)
        ]
        if not against:
            break
        best = min(against, key=lambda evidence: evidence.score)
        changed.append(best.field)
        taken, fit = taken.replace(**{best.field: best.value}), best.score
    return [found[name] for name in (PREPROCESSING_FIELD, *names) if name in found]


def _takes(spec: ResNetSpec, size: tuple[int, int]) -> bool:
    """An average pool instead of a stride does not take every size."""
    try:
        make_plan(spec, size)
    except SpecError:
        return False
    return True


def why_none(spec: ResNetSpec, weights: Mapping[str, np.ndarray]) -> str | None:
    """Why the statistics of a network are no evidence at all, in one line; None where they are."""
    if spec.norm.kind != "batch":
        return f"{spec.name} has {spec.norm.kind} norms, which keep no running statistics"
    if spec.in_channels not in (1, 3):
        return f"{spec.name} takes {spec.in_channels} channels; photographs have 3, or 1 as grey"
    fresh = {"running_mean": 0.0, "running_var": 1.0}
    if all(
        np.all(array == fresh[leaf])
        for name, array in weights.items()
        if (leaf := name.rpartition(".")[2]) in fresh
    ):
        return (
            "every running mean is 0 and every running variance 1, as in a network that has seen "
            "no image; statistics of training would be evidence"
        )
    return None


def divergences(
    spec: ResNetSpec, weights: Mapping[str, np.ndarray], images: np.ndarray
) -> list[float]:
    """How far the statistics in front of each norm are from those that it stores, in order.

    `images` are preprocessed, [N, height, width, channels]; a few are run at a time, which bounds
    the memory.
    """
    height, width = images.shape[1:3]
    plan = make_plan(spec, (height, width))
    few = max(1, PIXELS_AT_A_TIME // (height * width))
    sums: dict[str, np.ndarray] = {}  # of pixels, of values and of their squares
    with np.errstate(all="ignore"):  # a wrong candidate may overflow; then it is as far as can be
        for first in range(0, len(images), few):
            for step in forward(plan, weights, images[first : first + few]):
                if isinstance(step.node.op, BatchNorm):
                    # About the stored mean, so that the difference of squares loses nothing.
                    x = step.inputs[0] - step.tensors["running_mean"]
                    values = x.reshape(-1, x.shape[-1])
                    added = [
                        np.full(x.shape[-1], len(values)),
                        values.sum(0, dtype=np.float64),
                        np.einsum("nc,nc->c", values, values, dtype=np.float64),
                    ]
                    sums[step.node.name] = sums.get(step.node.name, 0) + np.stack(added)
        return [
            _normal_divergence(
                total / pixels,
                squares / pixels - (total / pixels) ** 2,
                weights[f"{name}.running_var"].astype(np.float64),
            )
            for name, (pixels, total, squares) in sums.items()
        ]


def _normal_divergence(shift: np.ndarray, variance: np.ndarray, stored: np.ndarray) -> float:
    """KL(found || stored) of normal distributions whose means differ by `shift`, the median over
    the channels.
    """
    tiny = np.finfo(np.float32).tiny
    found, stored = np.maximum(variance, tiny), np.maximum(stored, tiny)
    apart = (found + shift**2) / stored - 1 + np.log(stored / found)
    apart = np.nan_to_num(apart, nan=FARTHEST, posinf=FARTHEST)
    return float(min(np.median(apart) / 2, FARTHEST))


def alternatives(spec: ResNetSpec, name: str) -> Iterator[tuple[Any, ResNetSpec]]:
    """Each value of a field with which the network has the same tensors, and that network.

    The spec's own value is among them. Values that make the same plan are given once.
    """
    plan = make_plan(spec)
    seen = {tuple(plan.nodes())}
    yield attrgetter(name)(spec), spec
    for value in _values(spec, name):
        try:
            candidate = spec.replace(**{name: value})
            other = make_plan(candidate)
        except SpecError:
            continue
        nodes = tuple(other.nodes())
        if nodes not in seen and other.tensors == plan.tensors:
            seen.add(nodes)
            yield value, candidate


def _values(spec: ResNetSpec, name: str) -> tuple[Any, ...]:
    """What published networks have in this field."""
    if name == "norm.eps":
        return _EPS
    if name == "strides":
        stages = len(spec.depths)
        tuples = ((1, *[2] * stages), (1, 2, 2, 1), (1, 2, 1, 1), (1, 1, 2, 2), [2] * stages)
        return tuple(dict.fromkeys(tuple(strides[:stages]) for strides in tuples))
    group, _, inner = name.rpartition(".")
    hints = typing.get_type_hints(ResNetSpec)
    return typing.get_args((typing.get_type_hints(hints[group]) if group else hints)[inner])


def shown(value: Any) -> str:
    """A value as `--set` takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _distinct(known: Mapping[str, Preprocessing], spec: ResNetSpec) -> list[str]:
    """The preprocessings, without those that are of grey images in a network of colour ones."""
    return [how for how in known if spec.in_channels == 1 or how != "fashion-mnist"]


def _doubt(fit: float) -> float:
    """How many times as far off a value has to be where the images fit so badly."""
    return max(1.0, fit / NEAR) ** GROWTH


def _judged(name: str, assumed: Any, scores: Mapping[Any, float], fit: float) -> Evidence:
    """The likeliest value, and how clearly the others are ruled out."""
    best = min(scores, key=scores.__getitem__)
    least, doubt = max(scores[best], ROUNDING), _doubt(fit)
    within = least * TIE.get(name, TIE_OTHERWISE) * doubt
    likely = [value for value, score in scores.items() if score <= within]
    chosen = assumed if assumed in likely else best
    others = [score for value, score in scores.items() if value not in likely]
    factor = min(others, default=0.0) / least / doubt
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
        value=chosen,
        instead_of=assumed if assumed is not None and chosen != assumed else None,
        strength=strength,
        score=scores[chosen],
        other_scores={shown(v): score for v, score in scores.items() if v != chosen},
        as_likely=tuple(shown(value) for value in likely if value != chosen),
        fit=fit,
    )
