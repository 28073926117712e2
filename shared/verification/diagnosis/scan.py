"""Hypotheses run one after the other at one key, on one image and in float32 where that is enough,
the likeliest and cheapest first. What is found is proved in float64 on all images.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from shared.errors import SpecError
from shared.verification.diagnosis.effects import Effects
from shared.verification.diagnosis.execution import cast
from shared.verification.diagnosis.measured import Measured
from shared.verification.diagnosis.pairs import Pair, of_fields, of_images, together
from shared.verification.diagnosis.passes import Passes, check_of, one_image
from shared.verification.diagnosis.ranking import MOST_OUTPUTS, in_order
from shared.verification.hypotheses.hypothesis import Array, Hypothesis, Port
from shared.verification.recording import EVAL, TRAIN

NEIGHBOURS = 3  # rank of neighbouring blocks exchanged
MOST_RANK = 6  # what is above is no single change, but the whole network's rounding
LIKELY_RANK = 2  # hypotheses of the whole network, before single tensors
LEAST_GAIN = 0.97  # of the distance that is left, for a hypothesis worth going on with
NEAREST = 3
STRIKING = 1e-3  # of the difference: what leaves no more is worth a proof in float64
LEAST_DROP = 2.0  # times: what leaves more explains nothing, though it be within the limit
PATTERN = 2.5  # times: the root mean square that one layer's rounding must take away
WORTH = 8.0  # times: what leaves more of a difference does not explain it, whatever it rounds by
MANY = 100  # hypotheses of single tensors, that the gradient is asked about
POINTED_AT = 80  # of them that are tried first; the right one is mostly among the first ten
MACS_FOR_THE_REST = 2e11  # multiply-adds: some 15 seconds of one processor
VALUES_OF_A_FIELD = 2  # that a second mistake is looked for behind
PAIRS = 24  # that are run each time
MANY_PAIRS = 800  # of fields
# What the gradient knows least of, because all of a block changes.
BLOCKS = re.compile(r"stages\.\d+\.blocks\.\d+ and stages\.\d+\.blocks\.\d+ exchanged")
# A float32 search is enough where a mistake is so many times float32's own rounding.
SEEN_IN_FLOAT32 = 150.0
MANY_TIMES = math.log(30.0)
TINY = 1e-300
STAGES = ("likely", "pointed at", "rest")


class Tried(NamedTuple):
    """A hypothesis, and how far the port with it is from what was observed."""

    distance: float  # root mean square, relative
    error: float  # largest, relative
    size: float  # logarithm of its root mean square over the observed one
    hypothesis: Hypothesis


class Scan:
    """Hypotheses at one key of a port.

    `hits` are those that explain the key, `tried` all that have been run.
    """

    def __init__(self, search: Measured, port: Port, key: str, hypotheses: Iterable[Hypothesis]):
        self.search = search
        self.port = port
        self.key = key
        self.tried: list[Tried] = []
        self.not_tried = 0
        self.check = check_of(key)
        self.seen = search.observed.values[key]
        self.now = search.proof(port)
        self.error = error = search.error(self.now, key)
        self.limit = search.limits.limit(key)
        self.single = self.check == EVAL and len(port.images) > 1
        self.index = self._telling_image() if self.single else 0
        own = search.limits.own(key) if self.check in (EVAL, TRAIN) else 0.0
        quick = self.check in (EVAL, TRAIN) and error > SEEN_IN_FLOAT32 * max(own, 1e-7)
        self.dtype = "float32" if quick else "float64"
        self.tolerance = max(self.limit, 32 * max(own, 1e-7) if quick else 0.0)
        # A port whose outputs grow beyond all bounds rounds by more than the right one does.
        in_float32 = min(search.float32_limit(self.now, key), error / WORTH)
        enough = max(self.tolerance, STRIKING * min(1.0, error), in_float32)
        self.worth_proving = enough + search.limits.storage(key)
        self._bases: dict[bool, Passes] = {}
        self.before, _, self.size = self._distance(self._base(whole=not self.single))
        earlier = search.keys[: search.keys.index(key)]
        self.agreed = [k for k in earlier if check_of(k) in (EVAL, TRAIN)]
        self.chosen = [h for h in hypotheses if self._concerns(h)]
        self._hits: list[tuple[int, int, Hypothesis]] = []  # (how far it does not reach, place, it)
        self.in_float32: list[tuple[float, tuple[Hypothesis, ...]]] = []  # (what is left, of what)
        self._aside: list[Hypothesis] = []
        self._effects = self._first_effects()

    def _telling_image(self) -> int:
        """The image that shows the difference best."""
        computed = self.now.get(self.key)
        if computed.shape != self.seen.shape:
            return 0
        axes = tuple(range(1, self.seen.ndim))
        return int(np.abs(computed - self.seen).max(axis=axes).argmax())

    def _first_effects(self) -> Effects | None:
        """None where the port's shape is another than the one that was observed."""
        if not math.isfinite(self.before):
            return None
        base = self._base(whole=not self.single)
        return Effects(self._seen_of(base) - base.get(self.key))

    def _base(self, whole: bool) -> Passes:
        if whole not in self._bases:
            port = self.port if whole else one_image(self.port, self.index)
            self._bases[whole] = self.search.passes(cast(port, self.dtype))
        return self._bases[whole]

    def _seen_of(self, passes: Passes) -> Array:
        """What was observed at the key, of the images of these passes."""
        one = len(passes.port.images) < len(self.port.images)
        return self.seen[self.index : self.index + 1] if one else self.seen

    def _distance(self, passes: Passes) -> tuple[float, float, float]:
        """The distance, error and size of `Tried` at the key."""
        computed = np.asarray(passes.get(self.key), np.float64)
        seen = self._seen_of(passes)
        if computed.shape != seen.shape or not np.isfinite(computed).all():
            return math.inf, math.inf, math.inf
        difference = computed - seen
        norm = float(np.sqrt(np.mean(seen**2))) or 1.0
        distance = float(np.sqrt(np.mean(difference**2))) / norm
        scale = float(np.abs(seen).max(initial=0.0)) or 1.0
        own = float(np.sqrt(np.mean(computed**2))) / norm
        return distance, float(np.abs(difference).max()) / scale, math.log(max(own, TINY))

    @property
    def comparable(self) -> bool:
        """Whether the port's shape at the key is the one that was observed."""
        return self._effects is not None

    @property
    def best(self) -> Hypothesis | None:
        """Of what explains the key, what reaches furthest behind it."""
        return min(self._hits)[-1] if self._hits else None

    def run(self, stage: int) -> Hypothesis | None:
        """Try a stage of the list, and return the hypothesis that explains everything, if any.

        At the last key that is the first one that explains the key.
        """
        if stage == 0:
            return self._try_all([h for h in self.chosen if h.rank <= LIKELY_RANK])
        if not self.comparable:
            return None  # no tensor changes a shape
        first, rest = self._pointed_at
        if stage == 1:
            return self._try_all(first)
        return (
            self._try_all(rest) or self._try_all(self._aside, again=True)
            if not self._hits
            else None
        )

    @functools.cached_property
    def _pointed_at(self) -> tuple[list[Hypothesis], list[Hypothesis]]:
        """Hypotheses of single tensors: those that the gradient points at, where each takes the
        whole network, and the rest, as far as there is time for it.
        """
        hypotheses = [h for h in self.chosen if h.rank > LIKELY_RANK]
        base = self._base(whole=not self.single)
        port, layer = base.port, self.key.partition("/")[2]
        plain = not (port.batch_statistics or port.dropout)
        plain &= not port.outputs or self.now.get(self.key).shape[-1] <= MOST_OUTPUTS
        if self.check != EVAL or self.agreed or len(hypotheses) < MANY or not plain:
            return hypotheses, []
        run = base.run(EVAL)
        names = list(run.nodes)
        if names.index(run.node_of(layer)) <= len(names) // 4:
            return hypotheses, []
        difference = (self._seen_of(base) - run.layer(layer)).astype(self.dtype)
        try:
            ordered = in_order(run, layer, difference, hypotheses)
        except ValueError:  # operators of another shape than their gradients know
            if not port.altered:
                raise
            ordered = hypotheses
        time_for = self._time_for
        rest = ordered[POINTED_AT:]
        near = [h for h in rest if h.rank == NEIGHBOURS and BLOCKS.fullmatch(h.name)]
        kept = [
            h
            for place, h in enumerate(rest, start=POINTED_AT)
            if h not in near and (place < time_for or BLOCKS.fullmatch(h.name))
        ]
        self.not_tried = len(rest) - len(near) - len(kept)
        return [*ordered[:POINTED_AT], *near], kept

    def _try_all(self, hypotheses: Sequence[Hypothesis], again: bool = False) -> Hypothesis | None:
        """The hypothesis that explains everything, if any. Those that may change what agrees
        already are put aside, but for the second time.
        """
        keys = self.search.keys
        for hypothesis in list(hypotheses):
            tried = self._try(hypothesis, aside=not again)
            if tried is None:
                continue
            self.tried.append(tried)
            if not self._worth_proving(tried) or self.proved(hypothesis) is None:
                continue
            best = self.best_value(hypothesis)
            reach = self._reach(best)
            if reach > keys.index(self.key):
                self._hits.append((-reach, len(self._hits), best))
            if reach == len(keys):
                return best
        return None

    def _worth_proving(self, tried: Tried) -> bool:
        if tried.hypothesis.kind == "precision":  # single values may be off by much
            return tried.distance <= self.before / PATTERN
        return tried.error <= self.worth_proving

    def _reach(self, hypothesis: Hypothesis) -> int:
        """The place of the first key that still differs, or the number of keys."""
        changed = hypothesis(self.port)
        keys = self.search.keys
        if changed is None:
            return 0
        key = self.search.first_difference(self.search.proof(changed))
        return len(keys) if key is None else keys.index(key)

    def _concerns(self, hypothesis: Hypothesis) -> bool:
        """Whether a hypothesis can change the key at all, by its kind and name."""
        if hypothesis.kind == "precision" and hypothesis.rank > MOST_RANK:
            return False
        in_evaluation = self.check == EVAL
        if hypothesis.shows_in == ("training" if in_evaluation else "evaluation"):
            return False
        if in_evaluation:
            return True
        if self.agreed and hypothesis.shows_in == "everything":
            return False  # it would show in the layers that agree
        if hypothesis.kind == "training" and self.check == TRAIN:
            return not hypothesis.name.endswith(("stopped", "optimizer"))
        if hypothesis.rank > 2 and hypothesis.kind == "training":
            tensor = self.key.partition("/")[2]
            return bool(tensor) and f"{tensor} " in f"{hypothesis.name} "
        if hypothesis.kind in ("spec", "precision") and not hypothesis.set:
            return self.check == TRAIN  # what trains the reference has its own operators
        return self.check == TRAIN or hypothesis.rank <= 2

    def _try(self, hypothesis: Hypothesis, aside: bool = False) -> Tried | None:
        """Run it, unless it cannot change the key. With `aside`, one that may change what agrees
        already is kept for later.
        """
        search = self.search
        base = self._base(whole=not self.single or hypothesis.whole_batch)
        changed = hypothesis(base.port)
        if changed is None:
            return None
        passes = search.passes(changed, base)
        try:
            if not passes.touches(self.key):
                return None
            if aside and any(passes.touches(k) for k in self.agreed):
                self._aside.append(hypothesis)
                return None
            search.tried += 1
            search.on_try(search.tried, hypothesis.what)
            distance, error, size = self._distance(passes)
        except (KeyError, SpecError):
            return None
        if not math.isfinite(distance):
            return None
        self._note(hypothesis, passes, base)
        return Tried(distance, error, size, hypothesis)

    def _note(self, hypothesis: Hypothesis, passes: Passes, base: Passes) -> None:
        """Keep what it changes, for the pairs."""
        if self._effects is None:
            return
        change = passes.get(self.key) - base.get(self.key)
        whole = self.single and len(change) > 1
        self._effects.add(hypothesis, change[self.index : self.index + 1] if whole else change)

    def pairs(self) -> Iterator[Pair]:
        """Those of what has been tried that together explain the key, the likeliest first."""
        if self._effects is not None:
            yield from self._explaining(self._effects.pairs(PAIRS))

    def pairs_that_do_not_add_up(self) -> Iterator[Pair]:
        """The same of preparations of the images and of fields of the network, as far as there is
        time for them.
        """
        tried = ((t.distance, t.hypothesis) for t in self.tried)
        most = self._time_for
        yield from self._explaining(itertools.islice(of_images(self.port, self.chosen), most))
        yield from self._explaining(itertools.islice(of_fields(tried), min(most, MANY_PAIRS)))

    def _explaining(self, pairs: Iterator[Pair]) -> Iterator[Pair]:
        effects, self._effects = self._effects, None  # no pair is a part of a pair
        try:
            for first, second in pairs:
                both = together(first, second)
                tried = self._try(both)
                if (
                    tried is not None
                    and tried.error <= self.worth_proving
                    and self.proved(both, first, second) is not None
                ):
                    yield first, second
        finally:
            self._effects = effects

    @property
    def _time_for(self) -> int:
        """The number of hypotheses of the whole network that there is time for."""
        port = self._base(whole=not self.single).port
        return max(POINTED_AT, int(MACS_FOR_THE_REST / max(port.plan.macs * len(port.images), 1)))

    def proved(self, hypothesis: Hypothesis, *parts: Hypothesis) -> float | None:
        """The error on all images in float64, if it is rounding.

        What is rounding in float32 alone, where the port may have computed in that, is kept; of a
        pair, `parts` are the two.
        """
        changed = hypothesis(self.port)
        if changed is None:
            return None
        passes = self.search.proof(changed)
        error = self.search.error(passes, self.key)
        least, worth = (1, 1) if hypothesis.kind == "precision" else (LEAST_DROP, WORTH)
        if not math.isfinite(error) or error > self.error / least:
            return None
        if error <= self.limit:
            return error
        if error > self.error / worth:
            return None
        if error <= self.search.limits_of(passes).limit(self.key):
            return error
        if error <= self.search.float32_limit(passes, self.key):
            self.in_float32.append((error, parts or (hypothesis,)))
        return None

    @property
    def decided_in_float32(self) -> bool:
        """Whether something leaves so little that float32 must have been computed in."""
        least = min((error for error, _ in self.in_float32), default=math.inf)
        return math.isfinite(least) and least <= STRIKING * self.error

    def best_value(self, hypothesis: Hypothesis) -> Hypothesis:
        """Of the values of the same field, the one that leaves least; then what comes furthest."""
        if len(hypothesis.set) != 1:
            return hypothesis
        (field,) = hypothesis.set
        best, least = hypothesis, self.proved(hypothesis)
        for other in self.chosen:
            if other is hypothesis or set(other.set) != {field} or other.kind != hypothesis.kind:
                continue
            tried = self._try(other)
            if tried is not None and tried.error <= self.worth_proving:
                error = self.proved(other)
                if error is not None and least is not None and error < least:
                    best, least = other, error
        return best

    def one_layer_in_low_precision(self) -> Hypothesis | None:
        """The layer whose own rounding explains everything, if any."""
        return self._try_all([h for h in self.chosen if h.kind == "precision"])

    def decisive(self) -> list[Tried]:
        """The hypotheses that leave least, of those that leave half of the difference, or less."""
        left = [t for t in self.tried if not t.distance > self.before / LEAST_DROP]
        return sorted(left, key=lambda tried: tried.distance)[:NEAREST]

    def nearest(self) -> list[Tried]:
        """The hypotheses that leave least, of those that leave less than there was."""
        better = [tried for tried in self.tried if tried.distance < LEAST_GAIN * self.before]
        return sorted(better, key=lambda tried: tried.distance)[:NEAREST]

    def worth(self, most: int) -> list[Tried]:
        """The single hypotheses that a second one is looked for behind: of different effect, and
        of a field's values the two that leave least.

        Where what was observed is many times as large as what is computed, or as small, distances
        say nothing, and those count that make it as large.
        """
        kept: list[Tried] = []
        fields: list[tuple[str, ...]] = []
        unit = self.before if self.comparable else 1.0
        far = self.comparable and abs(self.size) > MANY_TIMES
        aside = {hypothesis.name for hypothesis in self._aside}
        left = [t for t in self.tried if t.hypothesis.name not in aside]
        if far:
            left = [t for t in left if abs(t.size) < abs(self.size) / 2]
        else:
            left = [t for t in left if t.distance <= LEAST_GAIN * self.before]
        # Those of equal effect stay in the order of the list, whatever rounding makes of them.
        for tried in sorted(
            left, key=lambda t: round(abs(t.size) if far else t.distance / unit, 5)
        ):
            field = tuple(tried.hypothesis.set) or (tried.hypothesis.name,)
            other_effect = all(abs(tried.distance - other.distance) > 1e-6 * unit for other in kept)
            if other_effect and fields.count(field) < VALUES_OF_A_FIELD:
                kept.append(tried)
                fields.append(field)
        return kept[:most]
