"""What `verify` and `compare` show a person: progress, tables and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from shared.cli.tables import Column, Table, printable, shape
from shared.frameworks.inputs import Inputs
from shared.frameworks.registry import EXPORTED
from shared.frameworks.verify import TraceTaken, Verdict
from shared.reports.page import Tone
from shared.verification.comparison import Comparison
from shared.verification.recording import EVAL, TRAIN
from shared.verification.tolerances import CHANNEL_FLOAT64

ONNX_EPSILON = (
    "ONNX keeps the epsilon of a batch norm in float32: twice what that changes is allowed for"
)
SHOWN = 10  # problems of a comparison; JSON has all of them

YES, NO = Text("✓ same", "bold green"), Text("✗ differs", "bold red")
MEASURED = Text("measured", "yellow")
NOT_RUN = Text("✗ not run", "bold red")


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """One line a pair of frameworks.

    Below float64 also their distances to their own float64, at the same tensor.
    """
    low = any(c.dtype != "float64" for c in comparisons)
    own = (
        Column("median", right=True, drop=4),
        Column("a's own", right=True),
        Column("b's own", right=True),
    )
    table = Table(
        Column("a"),
        Column("b"),
        Column("check", drop=1),
        Column("tensors", right=True, drop=2),
        Column("nearest to its limit" if all(c.judged for c in comparisons) else "worst tensor"),
        Column("error", right=True),
        *(own if low else ()),
        Column("limit", right=True, drop=3),
        Column("verdict"),
    )
    for c in comparisons:
        worst = c.worst
        table.row(
            c.a,
            c.b,
            c.check,
            str(c.tensors),
            _layer(worst.name) if worst else "",
            _figure(worst.error if worst else None),
            *(
                (_figure(c.median), *map(_figure, worst.own if worst else (None, None)))
                if low
                else ()
            ),
            _figure(worst.limit if worst else None),
            NO if not c.passed else YES if c.judged else MEASURED,
        )
    return table


def layer_table(comparison: Comparison) -> Table:
    """Every layer of one comparison."""
    table = Table(
        Column("layer"),
        Column("error", right=True),
        Column("limit", right=True),
        Column(""),
        title=printable(f"{comparison.a} and {comparison.b}"),
    )
    for row in comparison.rows:
        table.row(
            _layer(row.name), _figure(row.error), _figure(row.limit), "" if row.passed else NO
        )
    return table


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def verdict_row(verdict: Verdict) -> tuple[str, ...]:
    """A network in one line: the cells of `VERDICT_COLUMNS`."""
    if verdict.failure:
        size = shape(verdict.plan.image_size)
        return (
            verdict.spec.name,
            f"{verdict.plan.params:,}",
            size,
            "0",
            "0",
            printable(verdict.failure),
            "",
            "",
            "",
        )
    worst_comparison = _worst(verdict.comparisons)
    worst = worst_comparison.worst
    return (
        verdict.spec.name,
        f"{verdict.plan.params:,}",
        shape(verdict.plan.image_size),
        str(_pairs(verdict.comparisons)),
        str(
            sum(
                c.tensors
                for c in verdict.comparisons
                if (c.a, c.b) == (worst_comparison.a, worst_comparison.b)
            )
        ),
        f"= {verdict.same_as}" if verdict.same_as else _layer(worst.name) if worst else "",
        f"{worst_comparison.a}, {worst_comparison.b}",
        _figure(worst.error if worst else None),
        f"{worst.limit:.0e}" if worst and worst.limit is not None else "",
    )


VERDICT_COLUMNS = (
    Column("preset"),
    Column("params", right=True, drop=3),
    Column("image", right=True, drop=4),
    Column("pairs", right=True, drop=1),
    Column("tensors", right=True, drop=5),
    Column("nearest to its limit", drop=7),
    Column("pair", drop=2),
    Column("error", right=True),
    Column("limit", right=True, drop=6),
)


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    table = Table(*VERDICT_COLUMNS, Column("verdict"))
    for verdict in verdicts:
        good = YES if verdict.judged else MEASURED
        table.row(
            *verdict_row(verdict), good if verdict.passed else NOT_RUN if verdict.failure else NO
        )
    return table


def setting(verdict: Verdict, inputs: Inputs) -> Text:
    """What was compared, in a line."""
    batch, what = inputs.batch, "random images"
    if inputs.images is not None:
        batch, what = len(inputs.images), "photographs" if len(inputs.images) > 1 else "photograph"
    height, width = verdict.plan.image_size
    weights = (
        f"weights of {inputs.weights_name or inputs.weights}"
        if inputs.weights
        else f"probe weights, seed {inputs.seed}"
    )
    return Text(f"{verdict.spec.name}", style="bold").append(
        f": {verdict.plan.params:,} parameters, {weights}; {batch} {what} of {height} x {width}; "
        f"{inputs.dtype} on the CPU",
        style="not bold",
    )


def print_failures(console: Console, comparisons: Iterable[Comparison]) -> None:
    """What is wrong with each comparison that failed, and where it starts."""
    for c in comparisons:
        if c.passed:
            continue
        lines = [f"  {problem}" for problem in c.problems[:SHOWN]]
        if len(c.problems) > SHOWN:
            lines.append(f"  … and {len(c.problems) - SHOWN} more")
        if c.first_divergence:
            lines.insert(0, f"  first at {_layer(c.first_divergence)}")
        off = next((row for row in c.rows if row.channel and not row.channel.passed), None)
        if off is not None and off.channel is not None:
            lines.append(
                f"  channel {off.channel.number} of {_layer(off.name)} differs by "
                f"{_figure(off.channel.error)} of its own largest value, "
                f"limit {_figure(CHANNEL_FLOAT64)}"
            )
        print_line(console, "")
        print_line(console, f"{c.preset}: {c.a} and {c.b} differ", "bold red")
        for line in lines:
            print_line(console, line)


def print_failure(console: Console, verdict: Verdict) -> None:
    """A network that failed among others: what differs, or why it did not run."""
    if verdict.failure:
        print_line(console, f"{verdict.spec.name} was not run: {verdict.failure}", "bold red")
    print_failures(console, verdict.comparisons)


def print_line(console: Console, text: str, style: str = "") -> None:
    """One line as it is: no markup, no folding."""
    console.print(Text(printable(text), style=style), soft_wrap=True)


class Conclusion(NamedTuple):
    """What `verify` says in the end."""

    tone: Tone
    said: str
    details: tuple[str, ...] = ()


def conclude(verdicts: Sequence[Verdict]) -> Conclusion:
    """The one line that a person reads, and what stands under it."""
    comparisons = [c for v in verdicts for c in v.comparisons if not v.same_as]
    frameworks = list(dict.fromkeys(step.framework for v in verdicts for step in v.steps))
    who = ", ".join(frameworks[:-1]) + " and " + frameworks[-1] if frameworks else "the frameworks"
    networks = f"{len(verdicts)} presets" if len(verdicts) > 1 else verdicts[0].spec.name
    failed = [v for v in verdicts if not v.passed]
    if failed:
        not_run = sum(v.failure is not None for v in failed)
        gave_up = f", {not_run} of which did not run" if not_run else ""
        several = f"✗ {len(failed)} of {networks} differ between {who}{gave_up}"
        one = f"✗ {networks} is not the same function in {who}"
        return Conclusion(Tone.bad, several if len(verdicts) > 1 else one)
    judged = [c for c in comparisons if c.judged]
    worst = _worst(judged).worst if judged else None
    count = _pairs(comparisons)
    pairs = f"{count} pairs" if count > 1 else "one pair"
    error = ""
    if worst is not None and worst.limit is not None:
        error = f"; worst error {worst.error:.1e}, limit {worst.limit:.1e}"
    details = [f"{sum(c.tensors for c in comparisons):,} tensors compared in {pairs}{error}"]
    if len(judged) < len(comparisons):
        details.append(
            "training below float64 is measured, not judged: a ReLU at zero within rounding makes "
            "its gradient jump"
        )
    details += of_exported(comparisons)
    if not judged:
        return Conclusion(Tone.measured, f"{networks}: measured in {who}", tuple(details))
    be, train = ("are", "train") if len(verdicts) > 1 else ("is", "trains")
    alike = f" and {train} alike" if any(c.check != EVAL for c in judged) else ""
    said = f"✓ {networks} {be} the same function{alike} in {who}"
    return Conclusion(Tone.good, said, tuple(details))


def of_exported(comparisons: Sequence[Comparison]) -> list[str]:
    """What is to be said where sides are files that frameworks have exported."""
    exported = [name for name in EXPORTED if any(name in (c.a, c.b) for c in comparisons)]
    if not exported:
        return []
    alone = f"of {', '.join(exported)}: the output of the forward pass alone, for that is all that "
    low = any(c.dtype != "float64" for c in comparisons)
    rounding = "; their own rounding in float32 is taken to be NumPy's" if low else ""
    said = [f"{alone}such a file has{rounding}"]
    return said if low or not any(n.endswith(":onnx") for n in exported) else [*said, ONNX_EPSILON]


def conclusion(verdicts: Sequence[Verdict], seconds: float) -> Text:
    """`conclude` for the terminal, with what the run took."""
    tone, said, details = conclude(verdicts)
    style = {Tone.good: "bold green", Tone.bad: "bold red"}.get(tone, "bold yellow")
    if tone is not Tone.bad:
        peak = max(step.peak_bytes for v in verdicts for step in v.steps)
        details += (f"{seconds:.0f} s, at most {peak / 2**30:.1f} GiB a process",)
    return Text(said, style).append("".join(f"\n  {d}" for d in details), "not bold default")


class VerifyProgress(AbstractContextManager):
    """A bar on standard error that moves with every trace; gone when the work is done. Only on
    terminals.
    """

    def __init__(self, console: Console, total: int):
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting the frameworks", total=total)

    def __enter__(self) -> VerifyProgress:
        self._progress.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.__exit__(kind, error, traceback)

    def step(self, step: TraceTaken) -> None:
        self._progress.update(
            self._task, advance=1, description=f"{step.preset} in {step.framework}"
        )


def _layer(key: str) -> str:
    """A trace key without the check that a table names beside it: `eval/stem.conv1` is
    `stem.conv1`.
    """
    check, _, layer = key.partition("/")
    return layer if check in (EVAL, TRAIN) else key


def _pairs(comparisons: Iterable[Comparison]) -> int:
    return len({(c.preset, c.a, c.b) for c in comparisons})


def _worst(comparisons: Iterable[Comparison]) -> Comparison:
    def badness(c: Comparison) -> tuple[bool, bool, float]:
        return (not c.passed, c.judged, c.worst.badness if c.worst else 0.0)

    return max(comparisons, key=badness)
