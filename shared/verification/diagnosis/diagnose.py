"""`diagnose`: why a port's outputs are not what the weights make of the images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.architecture.spec import ResNetSpec
from shared.verification.diagnosis.changes import changed_layers
from shared.verification.diagnosis.execution import in_training
from shared.verification.diagnosis.isolated import isolated
from shared.verification.diagnosis.look import look
from shared.verification.diagnosis.observations import Observations
from shared.verification.diagnosis.passes import TrainerKit, check_of
from shared.verification.diagnosis.precision import Rounding
from shared.verification.diagnosis.search import Search, Tried, default_listing
from shared.verification.hypotheses.hypothesis import Hypothesis, Port, setting
from shared.verification.recording import EVAL, TRAIN

MOST_IMAGES = 16  # that evaluation is proved on


@dataclass(frozen=True)
class Cause:
    """One change that explains a part of the difference.

    `set` is what `--set` takes, `training` what `--training` takes; `where` are the layers that the
    change is in, in the order of the computation. `error` is what is left with this cause and those
    in front of it.
    """

    kind: str
    what: str
    set: str | None
    training: str | None
    where: tuple[str, ...]
    error: float | None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"where": list(self.where), "error": _json(self.error)}


@dataclass(frozen=True)
class Near:
    """A hypothesis that leaves less than there was, and explains it not."""

    what: str
    set: str | None
    error: float
    distance: float  # root mean square, relative


@dataclass(frozen=True)
class Diagnosis:
    """What came of a diagnosis. Errors are those at `key`, the first that differed; `limit` is what
    rounding explains there.
    """

    spec: ResNetSpec
    same: bool
    explained: bool
    causes: tuple[Cause, ...]
    key: str | None
    error_before: float
    error_after: float
    limit: float
    dtype: str
    tried: int
    keys: int
    look: tuple[str, ...] = ()
    # Layers that are wrong by themselves: fed what the port had in front of them.
    isolated: tuple[str, ...] = ()
    still: str | None = None  # the first key that differs with all causes
    nearest: tuple[Near, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "same": self.same,
            "explained": self.explained,
            "causes": [cause.to_dict() for cause in self.causes],
            "error_before": _json(self.error_before),
            "error_after": _json(self.error_after),
            "limit": self.limit,
            "spec": self.spec.to_dict(),
            "tried": self.tried,
            "first_divergence": self.key,
            "still_differs": self.still,
            "dtype": self.dtype,
            "compared": self.keys,
            "look": list(self.look),
            "isolated": list(self.isolated),
            "nearest": [
                {"what": n.what, "set": n.set, "error": _json(n.error), "distance": n.distance}
                for n in self.nearest
            ],
            "notes": list(self.notes),
        }


def _json(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is not None and math.isfinite(value) else None


def diagnose(
    weights: Mapping[str, np.ndarray],
    spec: ResNetSpec,
    observed: Observations,
    kit: TrainerKit | None = None,
    *,
    prepared: str | None = None,
    listing: Callable[[Port], Sequence[Hypothesis]] | None = None,
    on_try: Callable[[int, str], None] = lambda tried, what: None,
) -> Diagnosis:
    """Find the change of network, weights, surroundings or training that explains `observed`.

    Args:
        weights: canonical tensors of `spec`, as they are right.
        spec: the network as it is right.
        observed: what the port did; see `read_observations`.
        kit: what trains the reference, for gradients and steps.
        prepared: the preprocessing of the images, a key of `PREPROCESSING`, if known.
        listing: the hypotheses for a port, all of them unless given.
        on_try: called with the number and the sentence of each hypothesis before it is run.
    """
    observed, notes = _of_fewer_images(observed)
    spec = spec if observed.spec.num_classes else spec.replace(num_classes=0)
    kept = {n: a for n, a in weights.items() if spec.num_classes or not n.startswith("head.")}
    port = Port(spec, kept, observed.images, training=observed.training)
    search = Search(observed, port, kit, listing or default_listing(prepared), on_try)
    key = search.first_difference(search.exact)
    common: dict[str, Any] = {"spec": spec, "dtype": observed.dtype, "keys": len(observed.values)}
    if key is None:
        key = _nearest_to_limit(search)
        error = search.error(search.exact, key)
        limit = search.limits.limit(key)
        return Diagnosis(
            same=True,
            explained=True,
            causes=(),
            key=None,
            error_before=error,
            error_after=error,
            limit=limit,
            tried=0,
            notes=notes,
            **common,
        )
    causes, changed, still, nearest = search.explain()
    if search.rounding:
        common["dtype"] = search.rounding.precision
        rounded, key = key, search.first_difference(search.exact)
        if key is None:
            return _rounded(search, rounded, search.rounding, notes, common)
        precision = search.rounding.precision
        notes = (
            *notes,
            f"what is left at {key} is as large as {precision} rounds: the port computed in that"
            if key == rounded
            else f"{rounded} differs as {precision} rounds",
        )
    before, limit = search.error(search.exact, key), search.limits.limit(key)
    seen = look(search.exact, observed, key)
    alone = _alone(search, key)
    if alone:
        some = ", ".join(alone[:3]) + (f" and {len(alone) - 3} more" if len(alone) > 3 else "")
        seen.append(f"wrong by themselves, fed what the port had in front of them: {some}")
    if still is not None and search.not_tried:
        notes = (
            *notes,
            f"{search.not_tried} changes of single tensors, which the gradient does not point at, "
            "were not tried",
        )
    after = search.error(search.proof(changed), key if still is None else still)
    return Diagnosis(
        same=still is None and all(cause.kind == "precision" for cause in causes),
        explained=still is None,
        causes=tuple(_causes(search, causes, key)),
        key=key,
        error_before=before,
        error_after=after,
        limit=limit,
        tried=search.tried,
        look=tuple(seen),
        isolated=tuple(alone),
        still=still,
        nearest=tuple(_near(tried) for tried in nearest) if still is not None else (),
        notes=notes,
        **common,
    )


def _alone(search: Search, key: str) -> list[str]:
    """The layers that are wrong by themselves, where more than the output was observed."""
    check = check_of(key)
    values = search.observed.values
    if check not in (EVAL, TRAIN) or sum(k.startswith(f"{check}/") for k in values) < 3:
        return []
    rows = isolated(search.exact.port, values, search.limits.dtype, check, search.observed.stored)
    return [row.name for row in rows if row.wrong]


def _of_fewer_images(observed: Observations) -> tuple[Observations, tuple[str, ...]]:
    """The first images, where there are many and only evaluation is asked about."""
    count = len(observed.images)
    notes = observed.notes
    if observed.left_out:
        some = ", ".join(observed.left_out[:4]) + (", …" if len(observed.left_out) > 4 else "")
        notes = (*notes, f"{len(observed.left_out)} arrays that are no layer's: {some}")
    if count <= MOST_IMAGES or any(check_of(key) != EVAL for key in observed.values):
        return observed, notes
    values = {key: array[:MOST_IMAGES] for key, array in observed.values.items()}
    notes = (
        *notes,
        f"the first {MOST_IMAGES} of {count} images were compared, so a batch's own statistics "
        "cannot be told",
    )
    fewer = dataclasses.replace(observed, images=observed.images[:MOST_IMAGES], values=values)
    return fewer, notes


def _nearest_to_limit(search: Search) -> str:
    """The key that comes nearest to its limit."""
    return max(
        search.keys, key=lambda key: search.error(search.exact, key) / search.limits.limit(key)
    )


def _rounded(
    search: Search, key: str, rounding: Rounding, notes: tuple[str, ...], common: dict[str, Any]
) -> Diagnosis:
    error = search.error(search.exact, key)
    cause = Cause("precision", rounding.what, None, None, (), error)
    return Diagnosis(
        same=True,
        explained=True,
        causes=(cause,),
        key=key,
        error_before=error,
        error_after=error,
        limit=search.limits.limit(key),
        tried=search.tried,
        notes=notes,
        **common,
    )


def _causes(search: Search, causes: Iterable[Hypothesis], key: str) -> Iterable[Cause]:
    port = search.exact.port
    for hypothesis in causes:
        changed = hypothesis(port) or port
        where = changed_layers(port, changed)
        if not where and (changed.training_spec or hypothesis.shows_in == "training"):
            where = changed_layers(in_training(port), in_training(changed)) or _layer_of(key)
        port = changed
        yield Cause(
            hypothesis.kind,
            hypothesis.what,
            " ".join(hypothesis.settings) or None,
            _training_settings(hypothesis),
            tuple(where),
            search.error(search.proof(port), key),
        )


def _layer_of(key: str) -> tuple[str, ...]:
    """The layer whose tensor a key of training is, if it is one's."""
    layer = key.rpartition("/")[2].rpartition(".")[0]
    return (layer,) if layer else ()


def _training_settings(hypothesis: Hypothesis) -> str | None:
    return " ".join(setting(k, v) for k, v in hypothesis.training_set.items()) or None


def _near(tried: Tried) -> Near:
    settings = " ".join(tried.hypothesis.settings) or None
    return Near(tried.hypothesis.what, settings, tried.error, tried.distance)
