"""The cases: which network, which mistakes, in which framework. The same list every time.

A mistake that float32 cannot show on the case's images is no case.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shared import SpecError, get_spec, miniature, probe_images, probe_weights
from shared.verification.diagnosis.changes import changed_layers
from shared.verification.diagnosis.passes import Passes
from shared.verification.hypotheses.hypothesis import Hypothesis, Port
from shared.verification.hypotheses.listing import every, named
from shared.weights.random import named_rng

PRESETS = (
    "torchvision/resnet18",
    "torchvision/resnet50",
    "torchvision/resnext50_32x4d",
    "timm/resnet50d",
    "timm/resnetv2_50",
    "keras/resnet50",
    "keras/resnet50v2",
    "he/resnet50",
    "tf/resnet18_v1",
    "flax/resnet50",
    "d2l/resnet18",
    "bit/r50x1",
    "cifar/resnet20",
    "cifar/preresnet20",
)
SIZE = 64
BATCH = 2
VISIBLE = 1e-4  # of the largest output: float32 shows no less for certain
FAR = 6


@dataclass(frozen=True)
class Case:
    """`mistakes` are names of hypotheses; none is an equal pair."""

    preset: str
    mistakes: tuple[str, ...]
    framework: str

    @property
    def kind(self) -> str:
        return ("equal", "alone", "pair")[len(self.mistakes)]


@functools.lru_cache(maxsize=32)
def right(preset: str) -> Port:
    """The port without mistakes."""
    spec = miniature(get_spec(preset))
    size = min(SIZE, spec.image_size)
    images = probe_images((BATCH, size, size, spec.in_channels)).astype(np.float64)
    weights = {n: a.astype(np.float64) for n, a in probe_weights(spec).items()}
    return Port(spec, weights, images)


def planted(port: Port, mistakes: Sequence[str]) -> Port | None:
    """The port with the mistakes, or None where one is not possible."""
    for name in mistakes:
        try:
            changed = named(name, port.spec)(port)
        except SpecError:
            return None
        if changed is None:
            return None
        port = changed
    return port


def returned(port: Port) -> np.ndarray | None:
    """What the reference returns; None where no port could."""
    try:
        output = Passes(port).get("eval/output")
    except SpecError:
        return None
    return output if np.isfinite(output).all() else None


def where(port: Port, changed: Port) -> str:
    """The layer where a change starts."""
    return (changed_layers(port, changed) or ("",))[0]


def _in_turns(preset: str) -> list[str]:
    """Every mistake, in an order drawn for the preset: of the whole network and of single tensors
    by turns.
    """
    names = [h.name for h in every(right(preset).spec) if _is_case(h)]
    drawn = named_rng(f"portbench {preset}", 0).permutation(len(names))
    single = [names[i] for i in drawn if ": " in names[i] or "exchanged" in names[i]]
    chosen = set(single)
    whole = [names[i] for i in drawn if names[i] not in chosen]
    return [n for pair in itertools.zip_longest(whole, single) for n in pair if n is not None]


class _Visible:
    """The mistakes of a preset that float32 shows, found as they are asked for."""

    def __init__(self, preset: str):
        self._base = right(preset)
        self._left = iter(_in_turns(preset))
        self._output = returned(self._base)
        self._found: list[str] = []

    def __getitem__(self, place: int) -> str | None:
        """The name at a place, or None where there are not so many."""
        while len(self._found) <= place:
            name = next(self._left, None)
            if name is None:
                return None
            if self._shows(name):
                self._found.append(name)
        return self._found[place]

    def _shows(self, name: str) -> bool:
        changed = planted(self._base, [name])
        seen = returned(changed) if changed is not None else None
        if seen is None or self._output is None:
            return False
        if seen.shape != self._output.shape:
            return abs(seen.shape[1] - self._output.shape[1]) <= 1
        return _far(seen, self._output)


@functools.lru_cache(maxsize=32)
def _visible(preset: str) -> _Visible:
    return _Visible(preset)


def _is_case(hypothesis: Hypothesis) -> bool:
    return (
        hypothesis.shows_in != "training"
        and hypothesis.kind != "precision"
        and hypothesis.rank < FAR
    )


def _far(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a - b).max() > VISIBLE * np.abs(b).max())


def cases(alone: int, pairs: int, equal: int, frameworks: Sequence[str]) -> Iterator[Case]:
    """The first of each kind, presets and frameworks by turns, and the kinds mixed in proportion,
    so that a run that was broken off is a fair part of the whole.
    """
    turns = itertools.cycle(frameworks)
    kinds: list[tuple[int, Iterator[tuple[str, tuple[str, ...]]]]] = [
        (alone, ((preset, (name,)) for preset, name in _singles())),
        (pairs, _pairs()),
        (equal, ((preset, ()) for preset in itertools.cycle(PRESETS))),
    ]
    order = sorted(
        ((place + 1) / count, kind)
        for kind, (count, _) in enumerate(kinds)
        for place in range(count)
    )
    for _, kind in order:
        found = next(kinds[kind][1], None)
        if found is not None:
            yield Case(*found, next(turns))


def _singles() -> Iterator[tuple[str, str]]:
    for place in itertools.count():
        names = [(preset, _visible(preset)[place]) for preset in PRESETS]
        if all(name is None for _, name in names):
            return
        yield from ((preset, name) for preset, name in names if name is not None)


def _pairs() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Pairs of which each mistake shows beside the other."""
    for k in itertools.count():
        for preset in PRESETS:
            a, b = _visible(preset)[2 * k], _visible(preset)[2 * k + 3]
            if a is None or b is None:
                return
            base = right(preset)
            if named(a, base.spec).set.keys() & named(b, base.spec).set.keys():
                continue
            both = planted(base, (a, b))
            output = returned(both) if both else None
            others = [returned(p) for p in (planted(base, (a,)), planted(base, (b,))) if p]
            if output is not None and all(
                o is not None and (o.shape != output.shape or _far(o, output)) for o in others
            ):
                yield preset, (a, b)
