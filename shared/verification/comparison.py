"""Two traces against each other, layer by layer: the verdict, the worst layer, the first one that
differs.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, SpecError
from shared.training.config import Training
from shared.verification.distance import Channel, distance, worst_channel
from shared.verification.recording import (
    CHECKS,
    EVAL,
    OUTPUT,
    PREFIXES,
    STEP,
    TRAIN,
    expected_shapes,
)
from shared.verification.tolerances import CHANNEL_FLOAT64, DTYPES, FLOAT64, rounding_limit
from shared.verification.trace import Trace
from shared.weights.files import TensorFile

# In a trace's metadata: of a network that is run as one piece, the output is all that is recorded.
RECORDED, OUTPUT_ONLY = "recorded", OUTPUT


@dataclass(frozen=True)
class Row:
    """One tensor of a comparison: its error, and the finite limit that applies to it.

    Without a limit it is measured and not judged; it must be finite. In a low precision `own` has
    how far `a` and `b` are from their own float64 there, None for one that is float64.
    """

    name: str
    error: float
    limit: float | None
    own: tuple[float | None, float | None] = (None, None)
    channel: Channel | None = None  # the worst one, where channels are judged by themselves

    @property
    def passed(self) -> bool:
        if self.limit is None:
            return math.isfinite(self.error)
        return self.error <= self.limit and (self.channel is None or self.channel.passed)

    @property
    def badness(self) -> float:
        """The part of its limit that the error is; the error itself where there is no limit."""
        if self.limit is None:
            return self.error
        channel = self.channel.error / CHANNEL_FLOAT64 if self.channel else 0.0
        return max(self.error / self.limit, channel)


@dataclass(frozen=True)
class Comparison:
    """What came of comparing traces `a` and `b`."""

    preset: str
    a: str
    b: str
    dtype: str
    check: str
    rows: tuple[Row, ...]
    problems: tuple[str, ...] = field(default=())  # what is wrong before any number is compared
    first_divergence: str | None = (
        None  # the first layer that is missing, mis-shaped or beyond its limit
    )

    @property
    def tensors(self) -> int:
        return len(self.rows)

    @property
    def passed(self) -> bool:
        return bool(self.rows) and not self.problems and all(row.passed for row in self.rows)

    @property
    def judged(self) -> bool:
        """Whether there are limits.

        Gradients and steps below float64 have none: see `shared.verification.tolerances`.
        """
        return not self.rows or self.rows[0].limit is not None

    @property
    def worst(self) -> Row | None:
        """The row that comes nearest to its limit, or goes furthest beyond it; without limits, the
        largest error.
        """
        return max(self.rows, key=lambda row: row.badness, default=None)

    @property
    def median(self) -> float:
        """Half of the tensors are nearer to each other than this."""
        return statistics.median(row.error for row in self.rows) if self.rows else math.nan

    def to_dict(self) -> dict[str, Any]:
        worst = self.worst
        shown: dict[str, Any] | None = None
        if worst is not None:
            error = worst.error if math.isfinite(worst.error) else None  # JSON has no infinity
            shown = {"name": worst.name, "error": error, "limit": worst.limit}
            if worst.channel is not None and not worst.channel.passed:
                off = worst.channel.error
                shown["channel"] = {
                    "number": worst.channel.number,
                    "error": off if math.isfinite(off) else None,
                    "limit": CHANNEL_FLOAT64,
                }
            if self.dtype != "float64":
                shown["own"] = [
                    own if own is None or math.isfinite(own) else None for own in worst.own
                ]
        return {
            "preset": self.preset,
            "a": self.a,
            "b": self.b,
            "dtype": self.dtype,
            "check": self.check,
            "tensors": self.tensors,
            "judged": self.judged,
            "passed": self.passed,
            "worst": shown,
            "first_divergence": self.first_divergence,
            "problems": list(self.problems),
        }


def _errors(a: Trace, b: Trace, names: Sequence[str]) -> dict[str, float]:
    """The error of every tensor that both traces have."""
    distances = {name: distance(a[name], b[name]) for name in names}
    groups: dict[str, float] = {}
    for name, found in distances.items():
        if name.startswith(("grad/", "step")):
            group, smaller = name.rpartition("/")[0], min(found.a, found.b)
            groups[group] = max(groups.get(group, 0.0), smaller if math.isfinite(smaller) else 0.0)
    return {
        name: found.error(groups.get(name.rpartition("/")[0], 0.0))
        for name, found in distances.items()
    }


def rounding_budget(low: Trace, exact: Trace) -> dict[str, float]:
    """Each layer's distance between a low-precision trace and the same framework's float64."""
    return _errors(low, exact, low.names)


def _seen(spec: ResNetSpec, check: str) -> ResNetSpec:
    """What of a spec a check can see: at inference nothing of how the network is trained."""
    if check != EVAL:
        return spec
    unseen = ResNetSpec()
    return dataclasses.replace(
        spec,
        name=unseen.name,
        image_size=unseen.image_size,
        init=unseen.init,
        norm=dataclasses.replace(
            spec.norm, momentum=unseen.norm.momentum, running_var=unseen.norm.running_var
        ),
    )


def compare(a: Trace, b: Trace, *, check: str = EVAL) -> Comparison:
    """Compare everything of one check in two traces.

    Both must hold exactly the layers of the plan of their spec, in its order and its shapes, and
    come from the same spec, images and weights, and the same labels and training configuration.
    Then every tensor's error must be within its limit. Raises `SpecError` when the traces are of
    different networks or of two low precisions, and `CheckpointError` when a trace lacks what a
    comparison needs to know of it.

    >>> from shared import get_spec, probe_images
    >>> from shared.frameworks import reference
    >>> model = reference.build(get_spec("cifar/resnet20"), dtype="float64")
    >>> trace = reference.trace(model, probe_images((2, 16, 16, 3)))
    >>> compare(trace, trace).passed
    True
    """
    if _seen(a.spec, check) != _seen(b.spec, check):
        raise SpecError(
            "the traces are of different networks: "
            f"{_difference(a.spec.to_dict(), b.spec.to_dict())}"
        )
    dtype = _dtype(a, b)
    problems: list[str] = []
    divergences: list[
        tuple[int, int, str]
    ] = []  # (place in the computation, structure before numbers, layer)
    for trace in (a, b):
        trace_problems, divergence = _structure_problems(trace, check)
        problems += trace_problems
        divergences += [(divergence[0], 0, divergence[1])] if divergence else []
    inputs = ["images", "weights"]
    if check != EVAL:
        inputs += ["labels", "training"]
    if check == STEP:
        inputs.append("projection")
    for what in inputs:
        if a.about.get(what) != b.about.get(what):
            sources = dict.fromkeys(_source(trace, what) for trace in (a, b))
            problems.append(
                f"the {what} of {a.framework} and {b.framework} are not the same: "
                f"{' and '.join(sources)}"
            )
    rows = []
    budget_a, budget_b = (_budget(trace) if trace.dtype != "float64" else None for trace in (a, b))
    keys_b = set(b.names)
    places = {name: place for place, name in enumerate(_whole_shapes(a, check))}
    names = [name for name in _keys(a, check) if _is_recorded(name, a, b)]
    errors = _errors(
        a, b, [name for name in names if name in keys_b and a.shape(name) == b.shape(name)]
    )
    by_channel = dtype == "float64" and check in (EVAL, TRAIN) and not _probe_weights(a, b)
    for name in names:
        if name in errors:
            place = places.get(name, len(places))
            own = _own(budget_a, name), _own(budget_b, name)
            channel = worst_channel(a[name], b[name]) if by_channel and "/" in name else None
            limit = _limit(place, dtype, check, own)
            if limit is not None:
                limit += sum(_allowed(trace, name) for trace in (a, b))
            rows.append(Row(name, errors[name], limit, own, channel))
            if not rows[-1].passed:
                divergences.append((place, 1, name))
    return Comparison(
        preset=a.spec.name,
        a=a.framework,
        b=b.framework,
        dtype=dtype,
        check=check,
        rows=tuple(rows),
        problems=tuple(problems),
        first_divergence=min(divergences)[-1] if divergences else None,
    )


def checks_of(trace: Trace) -> tuple[str, ...]:
    """The checks that a trace has anything of."""
    return tuple(
        check for check in CHECKS if any(name.startswith(PREFIXES[check]) for name in trace.names)
    )


def _keys(trace: Trace, check: str) -> list[str]:
    return [name for name in trace.names if name.startswith(PREFIXES[check])]


def _structure_problems(trace: Trace, check: str) -> tuple[list[str], tuple[int, str] | None]:
    """What is wrong with names, order and shapes against the plan, and where that starts."""
    found = {name: trace.shape(name) for name in _keys(trace, check)}
    expected = _expected_shapes(trace, check)
    who = trace.framework
    problems = [f"{who} has no {name}" for name in expected if name not in found]
    problems += [f"{who}: {name} is not in the plan" for name in found if name not in expected]
    problems += [
        f"{who}: {name} has shape {found[name]}, the plan says {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    for place, (name, planned) in enumerate(itertools.zip_longest(found, expected)):
        if name == planned and found[name] == expected[name]:
            continue
        divergence = planned if planned is not None and planned not in found else name
        if not problems:
            problems.append(f"{who} computes {divergence} at another place than the plan")
        return problems, (place, divergence)
    return problems, None


def _expected_shapes(trace: Trace, check: str) -> dict[str, tuple[int, ...]]:
    """Key -> shape of what the trace should have."""
    whole = _whole_shapes(trace, check)
    return {name: shape for name, shape in whole.items() if _is_recorded(name, trace)}


def _is_recorded(name: str, *traces: Trace) -> bool:
    """Whether all of the traces keep a tensor: some have the output alone."""
    alone = any(trace.about.get(RECORDED) == OUTPUT_ONLY for trace in traces)
    return not alone or name == f"{EVAL}/{OUTPUT}"


def _allowed(trace: Trace, name: str) -> float:
    """By how much a trace may be off beside rounding, twice what was measured: what computed it is
    known to be another function by that. None is unless the trace says so.
    """
    return 2 * _table(trace, "allowed").get(name, 0.0) if "allowed" in trace.about else 0.0


def _whole_shapes(trace: Trace, check: str) -> dict[str, tuple[int, ...]]:
    """Key -> shape with the batch in front, for the image size that the trace was taken at."""
    said = trace.about.get("image_shape", "")
    try:
        batch, height, width, _ = (int(n) for n in said.split("x"))
    except ValueError:
        raise CheckpointError(
            f"{_place(trace)}: its image_shape is {said!r}, expected BATCHxHEIGHTxWIDTHxCHANNELS; "
            "take it again with `rosetta trace`"
        ) from None
    return expected_shapes(
        check, make_plan(trace.spec, (height, width)), batch, _training(trace, check)
    )


def _training(trace: Trace, check: str) -> Training:
    """The configuration that the trace's training checks ran with; the forward pass has none."""
    if check == EVAL:
        return Training()
    try:
        return Training.from_json(trace.about["training"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{_place(trace)}: does not say what its training checks ran with ({error})"
        ) from None


def _dtype(a: Trace, b: Trace) -> str:
    """The precision that a comparison is judged by: the lower one, where the other is float64."""
    for trace in (a, b):
        if trace.dtype not in DTYPES:
            raise CheckpointError(
                f"{_place(trace)}: its dtype is {trace.dtype!r}, expected {', '.join(DTYPES)}"
            )
    low = [dtype for dtype in (a.dtype, b.dtype) if dtype != "float64"]
    if len(set(low)) > 1:
        raise SpecError(
            f"the traces are in {a.dtype} and {b.dtype}: no limit is known for two low precisions"
        )
    return low[0] if low else "float64"


def _own(budget: Mapping[str, float] | None, name: str) -> float | None:
    """A tensor's distance to its framework's own float64; None in float64."""
    return None if budget is None else budget.get(name, math.inf)


def _limit(
    place: int, dtype: str, check: str, own: tuple[float | None, float | None]
) -> float | None:
    """The limit of a tensor.

    A layer whose own rounding cannot be said has no room beyond the floor.
    """
    if dtype == "float64":
        return FLOAT64[check]
    if check != EVAL:
        return None
    budgets = [budget for budget in own if budget is not None]
    return rounding_limit(dtype, place, *(budgets if all(map(math.isfinite, budgets)) else [0.0]))


def _budget(trace: Trace) -> Mapping[str, float]:
    """Layer -> rounding budget, which a trace in low precision brings along.

    It may be infinite, not negative.
    """
    if "rounding" not in trace.about:
        raise CheckpointError(
            f"{_place(trace)}: a {trace.dtype} trace without its rounding budget, so nothing "
            "limits its errors; "
            "take it with `rosetta trace`"
        )
    return _table(trace, "rounding")


def _table(trace: Trace, what: str) -> Mapping[str, float]:
    """Errors by layer, in a trace's metadata."""
    try:
        found = json.loads(trace.about[what])
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(type(v) is float and v >= 0 for v in found.values()):
        raise CheckpointError(
            f"{_place(trace)}: its {what} budget is not a table of layers and errors"
        )
    return found


def _place(trace: Trace) -> str:
    """Where a trace that is refused can be found."""
    return (
        str(trace.arrays.path)
        if isinstance(trace.arrays, TensorFile)
        else f"trace of {trace.framework}"
    )


def _probe_weights(*traces: Trace) -> bool:
    """Whether the weights are known to have no channel that is tiny beside the others."""
    return all(trace.about.get("weights_source") == "probe" for trace in traces)


def _source(trace: Trace, what: str) -> str:
    """Where the images or the weights of a trace come from, as far as it says."""
    source = trace.about.get(f"{what}_source", "unknown")
    return (
        f"{source} of seed {trace.about.get('seed')} in {trace.dtype}"
        if source == "probe"
        else source
    )


def _difference(a: Any, b: Any, where: str = "") -> str:
    """The fields in which two specs differ, shortly."""
    if isinstance(a, dict) and isinstance(b, dict):
        parts = [_difference(a[k], b[k], f"{where}.{k}".strip(".")) for k in a if a[k] != b[k]]
        return ", ".join(parts[:4]) + (", …" if len(parts) > 4 else "")
    return f"{where} {a} and {b}"
