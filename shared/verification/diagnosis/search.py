"""The search for the hypotheses that explain what a port did.

At the first key that differs, every hypothesis that can change it, and nothing that agrees already,
is run: one image, one layer where layers are there, likeliest and cheapest first, until what is
left is rounding. What is found is proved in float64 on all images. Where no single one explains,
those that explain most are kept, one at a time, and the search goes on behind each.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from shared.errors import SpecError
from shared.verification.diagnosis.execution import Run, cast
from shared.verification.diagnosis.limits import Limits
from shared.verification.diagnosis.observations import Observations
from shared.verification.diagnosis.passes import Passes, TrainerKit, check_of, one_image
from shared.verification.diagnosis.precision import Rounding, as_rounding
from shared.verification.diagnosis.ranking import in_order
from shared.verification.hypotheses.hypothesis import Hypothesis, Port
from shared.verification.hypotheses.listing import every
from shared.verification.hypotheses.of_spec import parts_of
from shared.verification.recording import EVAL, TRAIN

MAX_CAUSES = 4
LIKELY_RANK = 2  # hypotheses of the whole network, before single tensors
BEAM = 4  # single hypotheses that a second one is looked for behind
LEAST_GAIN = 0.97  # of the distance that is left, for a hypothesis worth going on with
NEAREST = 3
STRIKING = 1e-3  # of the difference: what leaves no more is worth a proof in float64
MANY = 100  # hypotheses of single tensors, that the gradient is asked about
POINTED_AT = 120  # of them that are tried first; the right one is mostly among the first ten
SECONDS_FOR_THE_REST = 15.0  # of one processor
# What the gradient knows least of, because all of a block changes.
BLOCKS = re.compile(r"stages\.\d+\.blocks\.\d+ and stages\.\d+\.blocks\.\d+ exchanged")
# A float32 search is enough where a mistake is so many times float32's own rounding.
SEEN_IN_FLOAT32 = 3e3


class Tried(NamedTuple):
    """A hypothesis, and how far the port with it is from what was observed."""

    distance: float  # root mean square, relative
    error: float  # largest, relative
    hypothesis: Hypothesis


Listing = Callable[[Port], Sequence[Hypothesis]]


class Search:
    """One diagnosis: what was observed, the port without mistakes, and how many were tried."""

    def __init__(
        self,
        observed: Observations,
        port: Port,
        kit: TrainerKit | None,
        listing: Listing,
        on_try: Callable[[int, str], None] = lambda tried, what: None,
    ):
        self.observed = observed
        self.port = port
        self.kit = kit
        self.listing = listing
        self.on_try = on_try
        self.tried = 0
        self.not_tried = 0
        self.rounding: Rounding | None = None
        self.keys = list(observed.values)
        self.exact = self._passes(cast(port, "float64"))
        self.limits = self._limits_of(self.exact)

    def _passes(self, port: Port, base: Passes | None = None) -> Passes:
        return Passes(port, base, self.kit, self.observed.labels)

    def proof(self, port: Port) -> Passes:
        """The passes of a changed port on all images in float64."""
        return self._passes(port, self.exact)

    def _limits_of(self, passes: Passes) -> Limits:
        precision = self.rounding.precision if self.rounding else None
        return Limits(self.observed, passes, precision)

    def take_for(self, rounding: Rounding) -> None:
        """From here on, what that precision rounds by is no difference, at any key."""
        self.rounding = rounding
        self.limits = self._limits_of(self.exact)

    def error(self, passes: Passes, key: str) -> float:
        try:
            return self.limits.error(key, passes.get(key))
        except (KeyError, SpecError):
            return math.inf

    def first_difference(self, passes: Passes) -> str | None:
        """The first key beyond its limit, in the order of the computation."""
        limits = self.limits if passes is self.exact else self._limits_of(passes)
        for key in self.keys:
            error = self.error(passes, key)
            if error > self.limits.limit(key):
                # A port with a softmax behind it, say, rounds in another way.
                if passes is self.exact or not math.isfinite(error):
                    return key
                try:
                    if error > limits.limit(key):
                        return key
                except (KeyError, SpecError):
                    return key
        return None

    def explain(self) -> tuple[list[Hypothesis], Port, str | None, list[Tried]]:
        """The causes, the port with them, the first key that still differs, and the nearest
        hypotheses there.
        """
        causes: list[Hypothesis] = []
        port = self.exact.port
        nearest: list[Tried] = []
        key = self.first_difference(self.exact)
        while key is not None and len(causes) < MAX_CAUSES:
            rounding = self.rounding
            found, nearest = self.at(port, key, MAX_CAUSES - len(causes))
            if self.rounding is not rounding:  # it explains this key; what of those behind it?
                key, nearest = self.first_difference(self.exact), []
                continue
            if not found:
                break
            causes += found
            for hypothesis in found:
                port = hypothesis(port) or port
            key = self.first_difference(self.proof(port))
        causes = self.needed(causes, key)
        return causes, self.applied(causes), key, nearest

    def applied(self, causes: Iterable[Hypothesis]) -> Port:
        port = self.exact.port
        for hypothesis in causes:
            port = hypothesis(port) or port
        return port

    def needed(self, causes: list[Hypothesis], key: str | None) -> list[Hypothesis]:
        """The causes without those that make no difference here, changes of several fields taken
        apart.
        """
        kept = [part for cause in causes for part in parts_of(cause)]
        if len(kept) > len(causes) and self.first_difference(self.proof(self.applied(kept))) != key:
            kept = list(causes)  # the fields go together only
        for cause in list(kept):
            if len(kept) < 2:
                break
            others = [other for other in kept if other is not cause]
            if self.first_difference(self.proof(self.applied(others))) == key:
                kept = others
        return kept

    def at(self, port: Port, key: str, most: int) -> tuple[list[Hypothesis], list[Tried]]:
        """What explains a key, as one hypothesis or as several; and the nearest."""
        scan = _Scan(self, port, key)
        rounding = self.rounding
        as_first = port is self.exact.port and rounding is None
        found = scan.run(self.listing(port), as_first=as_first)
        if found:
            return [found], scan.nearest()
        nearest = scan.nearest()
        if most > 1 and self.rounding is rounding and check_of(key) in (EVAL, TRAIN):
            for first in self._worth(scan):
                behind = first.hypothesis(port)
                if behind is None:
                    continue
                second = _Scan(self, behind, key)
                found = second.run(self.listing(behind))
                if found:
                    return [first.hypothesis, found], nearest
        return [], nearest

    def _worth(self, scan: _Scan) -> list[Tried]:
        """The single hypotheses that a second one is looked for behind: of different effect, and
        of a field's values the one that leaves least.
        """
        kept: list[Tried] = []
        fields: set[tuple[str, ...]] = set()
        # Those of equal effect stay in the order of the list, whatever rounding makes of them.
        for tried in sorted(scan.tried, key=lambda t: round(t.distance / scan.before, 5)):
            if tried.distance > LEAST_GAIN * scan.before or len(kept) == BEAM:
                break
            field = tuple(tried.hypothesis.set) or (tried.hypothesis.name,)
            other_effect = all(
                abs(tried.distance - other.distance) > 1e-6 * scan.before for other in kept
            )
            if other_effect and field not in fields:
                kept.append(tried)
                fields.add(field)
        return kept


class _Scan:
    """Every hypothesis at one key, one after the other."""

    def __init__(self, search: Search, port: Port, key: str):
        self.search = search
        self.port = port
        self.key = key
        self.tried: list[Tried] = []
        self.chosen: list[Hypothesis] = []
        self.skipped: list[Hypothesis] = []
        self.check = check_of(key)
        self.seen = search.observed.values[key]
        self.now = search.proof(port)
        error = search.error(self.now, key)
        self.limit = search.limits.limit(key)
        self.single = self.check == EVAL and len(port.images) > 1
        self.index = self._telling_image() if self.single else 0
        own = search.limits.own(key) if self.check in (EVAL, TRAIN) else 0.0
        quick = self.check in (EVAL, TRAIN) and error > SEEN_IN_FLOAT32 * max(own, 1e-7)
        self.dtype = "float32" if quick else "float64"
        self.tolerance = max(self.limit, 32 * max(own, 1e-7) if quick else 0.0)
        # A port whose outputs grow beyond all bounds rounds by more than the right one does.
        self.worth_proving = max(self.tolerance, STRIKING * min(1.0, error))
        self._bases: dict[bool, Passes] = {}
        self.before = self._distance(self._base(whole=not self.single))[0]
        earlier = search.keys[: search.keys.index(key)]
        self.agreed = [k for k in earlier if check_of(k) in (EVAL, TRAIN)]

    def _telling_image(self) -> int:
        """The image that shows the difference best."""
        computed = self.now.get(self.key)
        if computed.shape != self.seen.shape:
            return 0
        axes = tuple(range(1, self.seen.ndim))
        return int(np.abs(computed - self.seen).max(axis=axes).argmax())

    def _base(self, whole: bool) -> Passes:
        if whole not in self._bases:
            port = self.port if whole else one_image(self.port, self.index)
            self._bases[whole] = self.search._passes(cast(port, self.dtype))
        return self._bases[whole]

    def _seen_of(self, passes: Passes) -> np.ndarray:
        """What was observed at the key, of the images of these passes."""
        one = len(passes.port.images) < len(self.port.images)
        return self.seen[self.index : self.index + 1] if one else self.seen

    def _distance(self, passes: Passes) -> tuple[float, float]:
        """(root mean square, largest error) at the key, both relative."""
        computed = np.asarray(passes.get(self.key), np.float64)
        seen = self._seen_of(passes)
        if computed.shape != seen.shape or not np.isfinite(computed).all():
            return math.inf, math.inf
        difference = computed - seen
        scale = float(np.abs(seen).max(initial=0.0)) or 1.0
        norm = float(np.sqrt(np.mean(seen**2))) or 1.0
        return float(np.sqrt(np.mean(difference**2))) / norm, float(
            np.abs(difference).max()
        ) / scale

    def run(self, hypotheses: Iterable[Hypothesis], as_first: bool = False) -> Hypothesis | None:
        """The hypothesis that explains the key, and of several the one that explains most behind
        it. At the last key, that is the first one.

        `as_first` asks behind the likely ones whether it is the rounding of a low precision.
        """
        self.chosen = [h for h in hypotheses if self._concerns(h)]
        hits: list[tuple[int, int, Hypothesis]] = []  # (how far it does not reach, place, it)
        likely = [h for h in self.chosen if h.rank <= LIKELY_RANK]
        if self._try_all(likely, hits, self.skipped):
            return hits[-1][-1]
        search = self.search
        if as_first and not hits:
            rounding = as_rounding(search.exact, search.limits, self.key)
            if rounding:
                search.take_for(rounding)
                return None
        first, rest = self._pointed_at([h for h in self.chosen if h.rank > LIKELY_RANK])
        if self._try_all(first, hits, self.skipped):
            return hits[-1][-1]
        if not hits and rest and self._try_all(rest, hits, self.skipped):
            return hits[-1][-1]
        if not hits and self._try_all(self.skipped, hits, None):
            return hits[-1][-1]
        return min(hits)[-1] if hits else None

    def _pointed_at(
        self, hypotheses: list[Hypothesis]
    ) -> tuple[list[Hypothesis], list[Hypothesis]]:
        """Those that the gradient points at, where each takes the whole network, and the rest, as
        far as there is time for it.
        """
        base = self._base(whole=not self.single)
        port, layer = base.port, self.key.partition("/")[2]
        plain = not (port.outputs or port.batch_statistics or port.dropout)
        if self.check != EVAL or self.agreed or len(hypotheses) < MANY or not plain:
            return hypotheses, []
        run = base.run(EVAL)
        names = list(run.nodes)
        computed = run.layer(layer)
        deep = names.index(run.node_of(layer)) > len(names) // 4
        difference = self._seen_of(base)
        if not deep or difference.shape != computed.shape:
            return hypotheses, []
        difference = (difference - computed).astype(self.dtype)
        ordered = in_order(run, layer, difference, hypotheses)
        started = time.process_time()
        Run(run.port).layer(layer)
        each = time.process_time() - started
        time_for = max(POINTED_AT, int(SECONDS_FOR_THE_REST / max(each, 1e-6)))
        blocks = [h for h in ordered[time_for:] if BLOCKS.fullmatch(h.name)]
        self.search.not_tried += len(ordered) - len(ordered[:time_for]) - len(blocks)
        return ordered[:POINTED_AT], [*ordered[POINTED_AT:time_for], *blocks]

    def _try_all(
        self,
        hypotheses: Iterable[Hypothesis],
        hits: list[tuple[int, int, Hypothesis]],
        skipped: list[Hypothesis] | None,
    ) -> bool:
        """Try one after the other; whether the last of `hits` explains everything."""
        keys = self.search.keys
        for hypothesis in list(hypotheses):
            tried = self._try(hypothesis, skipped)
            if tried is None:
                continue
            self.tried.append(tried)
            if tried.error > self.worth_proving or self._proved(hypothesis) is None:
                continue
            best = self._best_of(hypothesis, self.chosen)
            reach = self._reach(best)
            if reach > keys.index(self.key):
                hits.append((-reach, len(hits), best))
            if reach == len(keys):
                return True
        return False

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
        if hypothesis.kind == "precision":
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
        return self.check in (TRAIN,) or hypothesis.rank <= 2

    def _try(self, hypothesis: Hypothesis, skipped: list[Hypothesis] | None = None) -> Tried | None:
        """Run it, unless it cannot change the key. One that may change what agrees already is put
        aside, where there is a list for those.
        """
        search = self.search
        base = self._base(whole=not self.single or hypothesis.whole_batch)
        changed = hypothesis(base.port)
        if changed is None:
            return None
        passes = search._passes(changed, base)
        try:
            if not passes.touches(self.key):
                return None
            if skipped is not None and any(passes.touches(k) for k in self.agreed):
                skipped.append(hypothesis)
                return None
            search.tried += 1
            search.on_try(search.tried, hypothesis.what)
            distance, error = self._distance(passes)
        except (KeyError, SpecError):
            return None
        return Tried(distance, error, hypothesis) if math.isfinite(distance) else None

    def _proved(self, hypothesis: Hypothesis) -> float | None:
        """The error on all images in float64, if it is rounding."""
        changed = hypothesis(self.port)
        if changed is None:
            return None
        passes = self.search.proof(changed)
        error = self.search.error(passes, self.key)
        if error <= self.limit:
            return error
        if not math.isfinite(error):
            return None
        own_limit = self.search._limits_of(passes).limit(self.key)
        before = self.search.error(self.now, self.key)
        return error if error <= own_limit and not error > before / 8 else None

    def _best_of(self, hypothesis: Hypothesis, chosen: Sequence[Hypothesis]) -> Hypothesis:
        """Of the values of the same field, the one that leaves least; then what comes furthest."""
        if len(hypothesis.set) != 1:
            return hypothesis
        (field,) = hypothesis.set
        best, least = hypothesis, self._proved(hypothesis)
        for other in chosen:
            if other is hypothesis or set(other.set) != {field} or other.kind != hypothesis.kind:
                continue
            tried = self._try(other)
            if tried is not None and tried.error <= self.worth_proving:
                error = self._proved(other)
                if error is not None and least is not None and error < least:
                    best, least = other, error
        return best

    def nearest(self) -> list[Tried]:
        """The hypotheses that leave least, of those that leave less than there was."""
        better = [tried for tried in self.tried if tried.distance < LEAST_GAIN * self.before]
        return sorted(better, key=lambda tried: tried.distance)[:NEAREST]


def default_listing(prepared: str | None) -> Listing:
    """All hypotheses for the network that a port has become."""
    return lambda port: every(port.spec, port.training, prepared)
