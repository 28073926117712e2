"""What `verify` and `compare` show a person: progress, tables and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from shared.comparison import Comparison
from shared.tables import make_table
from shared.verify import Inputs, Step, Verdict

YES, NO = Text("✓ same", style="bold green"), Text("✗ differs", style="bold red")


def comparison_table(comparisons: Iterable[Comparison]) -> Table:
    """One line a pair of frameworks."""
    table = make_table("", "", "check", ">tensors", "nearest to its limit", ">error", ">limit", "verdict")
    for c in comparisons:
        worst = c.worst
        table.add_row(
            c.a,
            c.b,
            c.check,
            str(c.tensors),
            _layer(worst.name) if worst else "",
            f"{worst.error:.1e}" if worst else "",
            f"{worst.limit:.1e}" if worst else "",
            YES if c.passed else NO,
        )
    return table


def layer_table(comparison: Comparison) -> Table:
    """Every layer of one comparison."""
    table = make_table("layer", ">error", ">limit", "", title=f"{comparison.a} and {comparison.b}")
    for row in comparison.rows:
        table.add_row(row.name, f"{row.error:.1e}", f"{row.limit:.1e}", "" if row.passed else NO)
    return table


def verdict_row(verdict: Verdict) -> tuple[str, ...]:
    """A network in one line: name, parameters, image, frameworks, tensors, worst layer, error, limit, verdict."""
    worst_comparison = _worst(verdict.comparisons)
    worst = worst_comparison.worst
    return (
        verdict.spec.name,
        f"{verdict.plan.params:,}",
        " x ".join(map(str, verdict.plan.image_size)),
        str(len(verdict.comparisons)),
        str(worst_comparison.tensors),
        _layer(worst.name) if worst else "",
        f"{worst_comparison.a}, {worst_comparison.b}",
        f"{worst.error:.1e}" if worst else "",
        f"{worst.limit:.0e}" if worst else "",
    )


VERDICT_COLUMNS = (
    "preset",
    ">params",
    ">image",
    ">pairs",
    ">tensors",
    "nearest to its limit",
    "pair",
    ">error",
    ">limit",
)


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    table = make_table(*VERDICT_COLUMNS, "verdict")
    for verdict in verdicts:
        table.add_row(*verdict_row(verdict), YES if verdict.passed else NO)
    return table


def markdown_table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a page that can be committed."""
    columns = [*VERDICT_COLUMNS, "verdict"]
    lines = [
        "| " + " | ".join(c.lstrip(">") for c in columns) + " |",
        "|" + "|".join(" ---: " if c.startswith(">") else " --- " for c in columns) + "|",
    ]
    for verdict in verdicts:
        cells = [*verdict_row(verdict), "same" if verdict.passed else "**differs**"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def setting(verdict: Verdict, inputs: Inputs) -> Text:
    """What was compared, in a line."""
    batch, what = inputs.batch, "random images"
    if inputs.images is not None:
        batch, what = len(inputs.images), "photographs" if len(inputs.images) > 1 else "photograph"
    height, width = verdict.plan.image_size
    weights = f"weights of {inputs.weights}" if inputs.weights else f"probe weights, seed {inputs.seed}"
    return Text(f"{verdict.spec.name}", style="bold").append(
        f": {verdict.plan.params:,} parameters, {weights}; {batch} {what} of {height} x {width}; {inputs.dtype}",
        style="not bold",
    )


def print_failures(console: Console, comparisons: Iterable[Comparison]) -> None:
    """What is wrong with each comparison that failed, and where it starts."""
    for c in comparisons:
        if c.passed:
            continue
        console.print(f"\n[bold red]{c.preset}: {c.a} and {c.b} differ[/]", highlight=False)
        if c.first_divergence:
            console.print(f"  first at [bold]{_layer(c.first_divergence)}[/]", highlight=False)
        for problem in c.problems[:10]:
            console.print(f"  {problem}", highlight=False, markup=False)
        if len(c.problems) > 10:
            console.print(f"  … and {len(c.problems) - 10} more", highlight=False)


def conclusion(verdicts: Sequence[Verdict], seconds: float) -> Text:
    """The one line that a person reads."""
    comparisons = [c for v in verdicts for c in v.comparisons]
    frameworks = list(dict.fromkeys(step.framework for v in verdicts for step in v.steps))
    who = ", ".join(frameworks[:-1]) + " and " + frameworks[-1]
    tensors = sum(c.tensors for c in comparisons)
    networks = f"{len(verdicts)} networks" if len(verdicts) > 1 else verdicts[0].spec.name
    failed = [v for v in verdicts if not v.passed]
    if failed:
        return Text(f"✗ {len(failed)} of {networks} differ between {who}" if len(verdicts) > 1
                    else f"✗ {networks} is not the same function in {who}", style="bold red")  # fmt: skip
    worst = _worst(comparisons).worst
    peak = max(step.peak_bytes for v in verdicts for step in v.steps)
    verb = "are" if len(verdicts) > 1 else "is"
    text = Text(f"✓ {networks} {verb} the same function in {who}", style="bold green")
    error = f"; largest error {worst.error:.1e}, limit {worst.limit:.1e}" if worst else ""
    details = f"{tensors:,} tensors compared in {len(comparisons)} pairs{error}"
    return text.append(
        f"\n  {details}; {seconds:.0f} s, at most {peak / 2**30:.1f} GiB a process", style="not bold default"
    )


class VerifyProgress(AbstractContextManager):
    """A bar on standard error that moves with every trace; gone when the work is done."""

    def __init__(self, console: Console, total: int):
        self._progress = Progress(
            SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task("starting the frameworks", total=total)

    def __enter__(self) -> VerifyProgress:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, traceback)

    def step(self, step: Step) -> None:
        self._progress.update(self._task, advance=1, description=f"{step.preset} in {step.framework}")


def _layer(key: str) -> str:
    """A trace key without its check: `eval/stem.conv1` is `stem.conv1`."""
    return key.partition("/")[2]


def _worst(comparisons: Iterable[Comparison]) -> Comparison:
    def badness(c: Comparison) -> tuple[bool, float]:
        return (not c.passed, c.worst.error / c.worst.limit if c.worst else 0.0)

    return max(comparisons, key=badness)
