"""What `rosetta train`, `evaluate` and `curves` show a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from shared.cli.tables import Column, Table, printable
from shared.training.curves import THRESHOLDS, Divergence
from shared.training.recipes import Recipe
from shared.training.significance import PairedComparison


def recipe_table(recipes: Sequence[Recipe]) -> Table:
    table = Table(
        Column("recipe"),
        Column("dataset", drop=2),
        Column("preset", drop=1),
        Column("batch", right=True),
        Column("length", right=True),
        Column("optimizer"),
        Column("from", drop=3),
    )
    for r in recipes:
        table.row(r.name, r.dataset, r.preset, str(r.batch), _length(r), _optimizer(r), r.about)
    return table


def _length(recipe: Recipe) -> str:
    return f"{recipe.steps:,} steps" if recipe.steps is not None else f"{recipe.epochs} epochs"


def _optimizer(recipe: Recipe) -> str:
    return f"{recipe.training.optimizer.kind} {recipe.schedule.rate:g}, {recipe.schedule.kind}"


def recipe_line(recipe: Recipe) -> Text:
    return Text(recipe.name, style="bold").append(
        f": {recipe.preset} on {recipe.dataset}, batch {recipe.batch}, {_length(recipe)}, "
        f"{_optimizer(recipe)}, "
        f"seed {recipe.seed}",
        style="not bold",
    )


def print_evaluation(
    console: Console, framework: str, event: dict[str, Any], seconds: float
) -> None:
    console.print(
        f"  {framework}: step {event['step']:,}: test accuracy {event['accuracy']:.4f}, "
        f"loss {event['loss']:.4f} ({seconds:.0f} s)",
        soft_wrap=True,
        highlight=False,
    )


def result_line(result: dict[str, Any]) -> Text:
    if result["diverged"]:
        return Text(
            f"✗ {result['framework']} diverged: the loss is {result['diverged']} at step "
            f"{result['step']:,}; "
            f"a smaller schedule.rate or a longer schedule.warmup may help",
            style="bold red",
        )
    if result["stopped"]:
        return Text(
            f"! {result['framework']} stopped after step {result['step']:,} of "
            f"{result['total']:,}; "
            f"--resume continues",
            style="yellow",
        )
    accuracy = f", test accuracy {result['accuracy']:.4f}" if result["accuracy"] is not None else ""
    speed = f", {result['images_per_second']:.0f} images/s" if result["images_per_second"] else ""
    return Text(f"✓ {result['framework']}", style="bold green").append(
        f": {result['step']:,} steps{accuracy} in {result['seconds']:.0f} s{speed}; "
        f"{printable(result['folder'])}",
        style="not bold default",
    )


class TrainProgress(AbstractContextManager):
    """A bar with loss, accuracy, images a second and the time left, on standard error and on
    terminals only.
    """

    def __init__(self, console: Console, framework: str):
        self.framework = framework
        self.last: dict[str, Any] = {}
        self.test: dict[str, Any] = {}
        self.total, self.interrupted = 0, False
        self.diverged: str | None = None  # the loss that is not finite
        self.speeds: list[float] = []
        self._progress = Progress(
            TextColumn("{task.fields[framework]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=None, framework=framework)

    def __enter__(self) -> TrainProgress:
        self._progress.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.__exit__(kind, error, traceback)

    def show(self, event: dict[str, Any]) -> None:
        what = event["event"]
        if what == "start":
            self.total, self.last = event["total"], {"step": event["step"]}
            self._progress.update(self._task, total=event["total"], completed=event["step"])
        elif what == "step":
            self.last = event
            self.speeds.append(event["images_per_second"])
            said = (
                f"loss {event['loss']:.3f}  accuracy {event['accuracy']:.2f}  "
                f"{event['images_per_second']:.0f} images/s"
            )
            self._progress.update(self._task, completed=event["step"], description=said)
        elif what == "progress":
            self._progress.update(
                self._task, total=event["examples"], completed=event["done"], description="images"
            )
        elif what == "evaluation":
            self.test = event
        elif what == "stopped":
            self.interrupted = True
        elif what == "diverged":
            self.diverged, self.last = event["loss"], {**self.last, "step": event["step"]}

    def result(self, folder: Path, seconds: float) -> dict[str, Any]:
        """What came of the run, as JSON has it."""
        step = int(self.last.get("step", 0))
        speeds = sorted(self.speeds)
        return {
            "framework": self.framework,
            "folder": str(folder),
            "step": step,
            "total": self.total,
            "stopped": step < self.total,
            "diverged": self.diverged,
            "loss": self.last.get("loss"),
            "accuracy": self.test.get("accuracy"),
            "images_per_second": speeds[len(speeds) // 2] if speeds else None,
            "seconds": round(seconds, 1),
        }


def accuracy_table(
    results: Sequence[dict[str, Any]], title: str, names: Mapping[str, str]
) -> Table:
    """A row for each framework, of each weights; `names` say what to call those, where there are
    several.
    """
    several = len(names) > 1
    table = Table(
        *([Column("weights")] if several else []),
        Column("framework"),
        Column("correct", right=True),
        Column("of", right=True),
        Column("accuracy", right=True),
        Column("loss", right=True),
        title=printable(title),
    )
    for r in results:
        counts = (
            f"{r['correct']:,}",
            f"{r['examples']:,}",
            f"{r['accuracy']:.4f}",
            f"{r['loss']:.4f}",
        )
        table.row(*([printable(names[r["weights"]])] if several else []), r["framework"], *counts)
    return table


def paired_table(pairs: Sequence[PairedComparison], framework: str) -> Table:
    """Every pair of weights: the images that only one classifies correctly, and how likely chance
    alone makes such a difference.
    """
    table = Table(
        Column("a"),
        Column("b"),
        Column("only a correct", right=True),
        Column("only b correct", right=True),
        Column("points apart", right=True),
        Column("p (McNemar)", right=True),
        title=f"the same images, in {framework}",
    )
    for pair in pairs:
        p = f"{pair.p_value:.2f}" if pair.p_value >= 0.01 else f"{pair.p_value:.0e}"
        row = (printable(pair.a), printable(pair.b), f"{pair.only_a:,}", f"{pair.only_b:,}")
        table.row(*row, f"{abs(pair.difference):.2f}", p)
    return table


def divergence_table(divergences: Sequence[Divergence]) -> Table:
    """Every pair of runs. The recipe is the title where all have the same."""
    recipes = {name.partition(" ")[0] for p in divergences for name in (p.a, p.b)}
    common = recipes.pop() if len(recipes) == 1 else ""
    columns = ["first step apart", *(f"by {limit:g}" for limit in THRESHOLDS[1:])]
    table = Table(
        Column("a"),
        Column("b"),
        Column("steps", right=True),
        *(Column(c, right=True) for c in columns),
        Column("largest", right=True),
        Column("test accuracy", right=True),
        title=printable(common),
    )
    for p in divergences:
        first = ["never" if step is None else f"{step:,}" for step in p.first]
        accuracies = " and ".join("-" if a is None else f"{a:.4f}" for a in p.accuracy)
        a, b = (name.removeprefix(common).strip() for name in (p.a, p.b))
        table.row(a, b, f"{p.steps:,}", *first, f"{p.largest:.1e}", accuracies)
    return table
