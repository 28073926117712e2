"""The search for the hypotheses that explain what a port did.

At the first key that differs, every hypothesis that can change it, and nothing that agrees already,
is run until what is left is rounding. Where no single one explains, pairs of them are run: those
whose effects add up to the difference, and what comes behind those that explain most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from shared.verification.diagnosis.measured import Measured
from shared.verification.diagnosis.observations import Observations
from shared.verification.diagnosis.passes import TrainerKit, check_of
from shared.verification.diagnosis.precision import (
    Rounding,
    as_rounding,
    of_float32,
    rounding_sizes,
)
from shared.verification.diagnosis.scan import STAGES, Scan, Tried
from shared.verification.hypotheses.hypothesis import Hypothesis, Port
from shared.verification.hypotheses.listing import every
from shared.verification.hypotheses.of_spec import parts_of
from shared.verification.recording import EVAL, TRAIN

MAX_CAUSES = 4
BEAM = 6  # single hypotheses that a second one is looked for behind
# Of the distance: behind what leaves no more, a second one is looked for before single tensors are
# tried; and behind what leaves next to nothing, single tensors as well.
STRONG, DECISIVE = 0.25, 0.1

Listing = Callable[[Port], Sequence[Hypothesis]]


class Search(Measured):
    """One diagnosis. `listing` gives the hypotheses for a port."""

    def __init__(
        self,
        observed: Observations,
        port: Port,
        kit: TrainerKit | None,
        listing: Listing,
        on_try: Callable[[int, str], None] = lambda tried, what: None,
    ):
        super().__init__(observed, port, kit, on_try)
        self.listing = listing
        self.not_tried = 0
        self._sizes: dict[str, float] | None = None  # of what low precisions round by

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
            if self.rounding is not rounding and not found:
                # It explains this key; what of those behind it?
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
        """What explains a key, as one hypothesis or as two; and the nearest."""
        scan = Scan(self, port, key, self.listing(port))
        as_first = port is self.exact.port and self.rounding is None
        found = self._explaining(scan, as_first, most > 1 and check_of(key) in (EVAL, TRAIN))
        self.not_tried = scan.not_tried
        return found, scan.nearest()

    def _explaining(self, scan: Scan, as_first: bool, several: bool) -> list[Hypothesis]:
        """`as_first` asks behind the likely ones whether it is the rounding of a low precision. One
        that is not sure is taken when no hypothesis alone explains the key.
        """
        behind: dict[str, Scan] = {}
        likely: Rounding | None = None
        for stage in range(len(STAGES)):
            found = scan.run(stage)
            if found:
                return [found]
            if stage == 0 and as_first and scan.best is None:
                rounding = as_rounding(self.exact, self.limits, scan.key)
                if rounding and (one := scan.one_layer_in_low_precision()):
                    return [one]
                if rounding and rounding.sure:
                    self.take_for(rounding)
                    return []
                likely = rounding
            if likely:
                continue
            if several and scan.best is None:
                for pair in scan.pairs():
                    return self._best_values(scan, pair)
            if scan.best is None and scan.decided_in_float32:
                return self._in_float32(scan, behind)
            if scan.best is None and (one := self._in_low_precision(scan)):
                return [one]
            if several and scan.best is None:
                for share, next_stage in ((STRONG, 0), (DECISIVE, 1)) if stage == 0 else ():
                    first = [t for t in scan.worth(BEAM) if t.distance <= share * scan.before]
                    if two := self._behind(scan, first, behind, next_stage):
                        return two
        if scan.best:
            return [scan.best]
        if scan.in_float32:
            return self._in_float32(scan, behind)
        if likely:
            self.take_for(likely)
            return []
        if scan.error <= self.float32_limit(scan.now, scan.key):
            self.take_for(of_float32())
            return []
        if several:
            for pair in scan.pairs_that_do_not_add_up():
                return self._best_values(scan, pair)
            for stage in range(len(STAGES)):
                most_likely = scan.worth(BEAM if stage < 2 else BEAM // 2)
                if two := self._behind(scan, most_likely, behind, stage):
                    return two
            if scan.in_float32:
                return self._in_float32(scan, behind)
        return []

    def _behind(
        self, scan: Scan, anchors: Sequence[Tried], known: dict[str, Scan], stage: int
    ) -> list[Hypothesis]:
        """What explains a key behind another hypothesis."""
        for anchor in anchors:
            first = anchor.hypothesis
            second = self._scan_behind(scan, first, known)
            found = second and (second.run(stage) or second.best)
            if found:
                return [first, found]
            if second and second.decided_in_float32:
                self.take_for(of_float32())
                return [first, *self._furthest(second)]
        return []

    def _scan_behind(self, scan: Scan, first: Hypothesis, known: dict[str, Scan]) -> Scan | None:
        changed = first(scan.port)
        if changed is not None and first.name not in known:
            known[first.name] = Scan(self, changed, scan.key, self.listing(changed))
        return known.get(first.name)

    def _in_float32(self, scan: Scan, known: dict[str, Scan]) -> list[Hypothesis]:
        """What explains a key but for float32's rounding: with another mistake that is as small as
        that, or else the port has computed in float32.
        """
        _, least = min(scan.in_float32, key=lambda left: left[0])
        if len(least) == 1 and (second := self._scan_behind(scan, *least, known)):
            for stage in range(len(STAGES) - 1):
                if found := second.run(stage) or second.best:
                    return [*least, found]
        self.take_for(of_float32())
        return self._furthest(scan)

    def _in_low_precision(self, scan: Scan) -> Hypothesis | None:
        """What explains a key but for the rounding of a precision that is lower than the one that
        values are stored in.
        """
        if self.rounding or check_of(scan.key) != EVAL:
            return None
        for tried in scan.decisive():
            changed = tried.hypothesis(scan.port)
            if changed is None:
                continue
            if self._sizes is None:
                self._sizes = rounding_sizes(self.exact, scan.key)
            if rounding := as_rounding(self.proof(changed), self.limits, scan.key, self._sizes):
                self.take_for(rounding)
                return tried.hypothesis
        return None

    def _furthest(self, scan: Scan) -> list[Hypothesis]:
        """Of what explains a key in float32, what reaches furthest behind it."""
        single = [parts[0] for _, parts in scan.in_float32 if len(parts) == 1]
        if not single:
            return list(min(scan.in_float32, key=lambda left: left[0])[1])
        again = Scan(self, scan.port, scan.key, {h.name: h for h in single}.values())
        for stage in range(len(STAGES)):
            if found := again.run(stage):
                return [found]
        return [again.best or single[0]]

    def _best_values(self, scan: Scan, pair: tuple[Hypothesis, Hypothesis]) -> list[Hypothesis]:
        """A pair that explains a key, with the values that leave least."""
        found = list(pair)
        for here, other in ((1, 0), (0, 1)):
            changed = found[other](scan.port)
            if changed is not None:
                beside = Scan(self, changed, scan.key, scan.chosen)
                found[here] = beside.best_value(found[here])
        return found


def default_listing(prepared: str | None) -> Listing:
    """All hypotheses for the network that a port has become."""
    return lambda port: every(port.spec, port.training, prepared)
