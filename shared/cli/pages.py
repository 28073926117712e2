"""What `verify`, `compare` and `curves` say in a file: the pages of `--html` and `--markdown`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from shared.cli import report_training, report_verify
from shared.cli.pages_of_others import why_parts
from shared.cli.tables import Column
from shared.frameworks.inputs import Inputs
from shared.frameworks.verify import Verdict
from shared.reports.comparisons import ALL_MARKS, parting, strips
from shared.reports.markdown import code, part_lines, table_lines
from shared.reports.page import Cell, Chart, Mark, Page, Part, Scale, Series, Strip, Table, Tone
from shared.training.curves import Divergence, labels, relative_difference
from shared.training.runs import Run
from shared.verification.comparison import Comparison
from shared.verification.diagnosis.diagnose import Diagnosis

SMOOTHED = 20  # steps of a training loss, as in the plot
BINS = 140  # of a strip over the steps of two runs
APART = Scale(
    -17.0, 0.0, "log10 of the relative difference of the loss, from -17 to 0", bar="a step"
)


def verify_page(verdicts: Sequence[Verdict], inputs: Inputs, command: str) -> Page:
    """What `rosetta verify` found: of one network every pair, of several a table and their strips.

    Beyond `ALL_MARKS` tensors, a network that is the same has one strip a check for all its pairs.
    """
    tone, said, details = report_verify.conclude(verdicts)
    environment = {k: v for verdict in verdicts for k, v in verdict.versions.items()}
    comparisons = [c for verdict in verdicts for c in verdict.comparisons]
    details = (*_first([c for c in comparisons if not c.passed]), *details)
    parts = list(_where_it_parts(comparisons))
    for verdict in verdicts:
        of = f" on {verdict.spec.name}" if len(verdicts) > 1 else ""
        parts += why_parts(verdict.causes, of)
    if len(verdicts) > 1:
        parts.append(Part("Networks", [report_verify.verdict_table(verdicts).for_page()]))
    merged = sum(c.tensors for v in verdicts if not v.same_as for c in v.comparisons) > ALL_MARKS
    for verdict in verdicts:
        if not verdict.same_as:
            parts += _network(verdict, inputs, alone=len(verdicts) == 1, merged=merged)
    return Page("rosetta verify", tone, said, details, parts, environment, command)


def _network(verdict: Verdict, inputs: Inputs, *, alone: bool, merged: bool) -> Iterable[Part]:
    setting = report_verify.setting(verdict, inputs).plain
    if verdict.failure:
        yield Part(verdict.spec.name, lines=[setting, f"It was not run: {verdict.failure}"])
        return
    if alone:
        table = report_verify.comparison_table(verdict.comparisons).for_page()
        yield Part("Pairs", [table], [setting])
    title = "Every layer" if alone else verdict.spec.name
    lines = [] if alone else [setting]
    yield Part(title, strips(verdict.comparisons, merged=merged and not alone), lines)


def compare_page(
    comparisons: Sequence[Comparison],
    environment: Mapping[str, str],
    command: str,
    causes: Mapping[str, Diagnosis | str] | None = None,
) -> Page:
    """What `rosetta compare` found of each pair of traces."""
    networks = ", ".join(dict.fromkeys(c.preset for c in comparisons))
    failed = [c for c in comparisons if not c.passed]
    count = len(comparisons)
    if failed:
        tone, said = Tone.bad, f"✗ {len(failed)} of {count} comparisons of {networks} differ"
        if count == 1:
            said = f"✗ {failed[0].a} and {failed[0].b} differ on {networks}"
    elif any(c.judged for c in comparisons):
        tone, said = Tone.good, f"✓ the traces of {networks} are the same"
    else:
        tone, said = Tone.measured, f"the traces of {networks} are measured, not judged"
    tensors = f"{sum(c.tensors for c in comparisons):,} tensors"
    details = [*_first(failed), f"{tensors} in {count} comparisons"]
    table = report_verify.comparison_table(comparisons).for_page()
    parts = [
        *_where_it_parts(comparisons),
        *why_parts(causes or {}),
        Part("Pairs", [table]),
        Part("Every layer", strips(comparisons)),
    ]
    return Page("rosetta compare", tone, said, details, parts, environment, command)


def _first(failed: Sequence[Comparison]) -> Iterable[str]:
    """Where the first of those that differ parts, in a line."""
    parted = next((c for c in failed if c.first_divergence), None)
    if parted is not None:
        of = f" on {parted.preset}" if len({c.preset for c in failed}) > 1 else ""
        yield f"{parted.a} and {parted.b} part first at {parted.first_divergence}{of}"


def _where_it_parts(comparisons: Iterable[Comparison]) -> Iterable[Part]:
    table = parting(comparisons)
    if table is not None:
        yield Part("Where it parts first", [table])


def verify_markdown(verdicts: Sequence[Verdict], inputs: Inputs, command: str) -> str:
    """The verdicts as a page that can be committed."""
    run = [verdict for verdict in verdicts if not verdict.same_as]
    versions = {name: version for verdict in verdicts for name, version in verdict.versions.items()}
    sides = dict.fromkeys(step.framework for verdict in run for step in verdict.steps)
    worst = max((c.worst.error for v in run for c in v.comparisons if c.worst), default=0)
    lines = [
        f"# {len(verdicts)} presets, {len(run)} networks",
        "",
        f"Written by {code(command)}: {inputs.dtype}, probe weights and {inputs.batch} random "
        f"images of seed {inputs.seed}, {', '.join(inputs.checks)} of every pair of "
        f"{', '.join(sides)}. A preset that differs from another in its initialisation alone is "
        "the same network, and is marked with `=`.",
        "",
        "Versions: "
        + ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        + ".",
        "",
        f"{sum(c.tensors for v in run for c in v.comparisons):,} tensors compared; "
        f"{sum(not v.passed for v in verdicts)} presets differ or were not run; "
        f"the largest error is {worst:.1e}.",
    ]
    comparisons = [c for verdict in verdicts for c in verdict.comparisons]
    for sentence in report_verify.of_exported(comparisons):
        lines += ["", f"{sentence[0].upper()}{sentence[1:]}."]
    lines += table_lines(_verdicts(verdicts))
    if len(verdicts) == 1 and comparisons:
        pairs = report_verify.comparison_table(comparisons).for_page()
        lines += ["", "## Pairs", *table_lines(pairs)]
    parted = parting(comparisons)
    if parted is not None:
        lines += ["", "## Where it parts first", *table_lines(parted)]
    for verdict in verdicts:
        for part in why_parts(verdict.causes, f" on {verdict.spec.name}"):
            lines += part_lines(part)
    return "\n".join(lines) + "\n"


def _verdicts(verdicts: Sequence[Verdict]) -> Table:
    """A line a preset; the verdict is a word."""
    columns = [*report_verify.VERDICT_COLUMNS, Column("verdict")]
    rows = []
    for verdict in verdicts:
        good = Cell("same" if verdict.judged else "measured")
        bad = Cell("not run" if verdict.failure else "differs", Tone.bad)
        row = [Cell(cell) for cell in report_verify.verdict_row(verdict)]
        rows.append([*row, good if verdict.passed else bad])
    right = frozenset(column.title for column in columns if column.right)
    return Table([column.title for column in columns], rows, right)


def curves_page(runs: Sequence[Run], divergences: Sequence[Divergence], command: str) -> Page:
    """What `rosetta curves` found: where the losses of each pair of runs part, and the curves."""
    names = labels(runs)
    parts = []
    if divergences:
        table = report_training.divergence_table(divergences).for_page()
        pairs = itertools.combinations(runs, 2)
        apart = [_apart(a, b, d) for (a, b), d in zip(pairs, divergences, strict=True)]
        parts = [Part("Where they part", [table]), Part("Every step", apart)]
    parts.append(Part("Curves", list(_charts(runs, names))))
    details = [
        f"{name}: {len(run.steps):,} steps; {run.folder}"
        for run, name in zip(runs, names, strict=True)
    ]
    environment: dict[str, str] = {}
    for run in runs:
        environment |= _versions(run)
    said = _said_of_runs(runs, divergences)
    return Page("rosetta curves", Tone.measured, said, details, parts, environment, command)


def _said_of_runs(runs: Sequence[Run], divergences: Sequence[Divergence]) -> str:
    if not divergences:
        return f"one run: {labels(runs)[0]}"
    parted = [d for d in divergences if d.first[0] is not None]
    if not parted:
        return f"the losses of {len(runs)} runs are equal at every step"
    first = min(d.first[0] for d in parted if d.first[0] is not None)
    largest = max(d.largest for d in parted)
    return (
        f"{len(parted)} of {len(divergences)} pairs of runs part, the first at step {first:,}; "
        f"their losses differ by at most {largest:.1e}"
    )


def _versions(run: Run) -> dict[str, str]:
    """Those of the run's last start; a file of somebody else's may say anything."""
    said = run.about.get("versions")
    last = said[-1] if isinstance(said, list) and said else said
    found = last.items() if isinstance(last, dict) else ()
    return {str(k): str(v) for k, v in found if k != "from_step"}


def _apart(a: Run, b: Run, divergence: Divergence) -> Strip:
    """The relative difference of two runs' losses over their steps, the largest of neighbours."""
    difference = relative_difference(a, b)
    steps = [int(row["step"]) for row in a.steps[: len(difference)]]
    edges = np.linspace(0, len(steps), min(BINS, len(steps)) + 1).round().astype(int)
    marks = []
    for start, end in itertools.pairwise(edges.tolist()):
        largest = float(difference[start:end].max())
        one = end - start == 1
        name = f"step {steps[start]:,}" if one else f"steps {steps[start]:,} to {steps[end - 1]:,}"
        level = math.log10(largest) if largest > 0 else -math.inf
        marks.append(Mark(name, f"loss differs by {largest:.1e}", level))
    never = divergence.first[0] is None
    return Strip(
        title=f"{divergence.a} and {divergence.b}",
        marks=marks,
        tone=Tone.good if never else Tone.measured,
        verdict="equal at every step" if never else f"first apart at step {divergence.first[0]:,}",
        scale=APART,
        about=f"{divergence.steps:,} steps, largest difference {divergence.largest:.1e}",
    )


def _charts(runs: Sequence[Run], names: Sequence[str]) -> Iterable[Chart]:
    named = list(zip(names, runs, strict=True))
    losses = [_series(name, run.steps, "loss", SMOOTHED) for name, run in named]
    positive = all(y > 0 for series in losses for y in series.y)
    yield Chart(f"training loss, mean of {SMOOTHED} steps", "step", losses, log=positive)
    accuracies = [_series(name, run.steps, "accuracy", SMOOTHED) for name, run in named]
    yield Chart(f"training accuracy, mean of {SMOOTHED} steps", "step", accuracies)
    tested = [_series(name, run.evaluations, "accuracy") for name, run in named if run.evaluations]
    if tested:
        yield Chart("test accuracy", "step", tested)


def _series(name: str, rows: Sequence[Mapping[str, float]], column: str, window: int = 1) -> Series:
    x, y = (np.array([row[key] for row in rows]) for key in ("step", column))
    if len(y) > window > 1:
        y = np.convolve(y, np.full(window, 1 / window), "valid")
        x = x[window - 1 :]
    return Series(name, x.tolist(), y.tolist())
