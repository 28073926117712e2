"""Several runs against each other: the step where their losses diverge, and a plot of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import CheckpointError, FrameworkError, SpecError
from shared.training.runs import Run
from shared.training.significance import short_names
from shared.weights.files import replacing

# Relative differences of the loss above which two runs have diverged: at all, in the tenth digit,
# and so on.
THRESHOLDS = (0.0, 1e-9, 1e-6, 1e-3, 1e-2)


@dataclass(frozen=True)
class Divergence:
    """Two runs: the first step at which their losses differ by more than each of `THRESHOLDS`, if
    they ever do.
    """

    a: str
    b: str
    steps: int  # that both have
    first: tuple[int | None, ...]
    largest: float  # relative difference of the loss over all steps
    accuracy: tuple[float | None, float | None]  # the last on the test split


def divergences(runs: Sequence[Run]) -> list[Divergence]:
    """Every pair of runs. Raises `CheckpointError` for a run without a step."""
    for run in runs:
        if not run.steps:
            raise CheckpointError(f"{run.folder}: no step has been logged yet")
    named = zip(runs, labels(runs), strict=True)
    return [_divergence(*a, *b) for a, b in itertools.combinations(named, 2)]


def _divergence(a: Run, name: str, b: Run, other: str) -> Divergence:
    difference = relative_difference(a, b)
    first = tuple(
        int(a.steps[int(np.argmax(difference > limit))]["step"])
        if (difference > limit).any()
        else None
        for limit in THRESHOLDS
    )
    last = [run.evaluations[-1]["accuracy"] if run.evaluations else None for run in (a, b)]
    largest = float(difference.max())
    return Divergence(name, other, len(difference), first, largest, (last[0], last[1]))


def relative_difference(a: Run, b: Run) -> np.ndarray:
    """Of the losses at each step that both have, over the smaller one; over the larger one where
    the smaller is 0. Always finite.
    """
    steps = min(len(a.steps), len(b.steps))
    x, y = (np.array([row["loss"] for row in run.steps[:steps]]) for run in (a, b))
    smaller, larger = np.minimum(np.abs(x), np.abs(y)), np.maximum(np.abs(x), np.abs(y))
    scale = np.where(smaller > 0, smaller, np.where(larger > 0, larger, 1.0))
    with np.errstate(over="ignore"):
        return np.nan_to_num(np.abs(x - y) / scale)


def label(run: Run) -> str:
    """What a run is called in a legend."""
    seed = f", seed {run.recipe.seed}" if run.recipe.seed else ""
    return f"{run.recipe.name} {run.framework}{seed}"


def labels(runs: Sequence[Run]) -> list[str]:
    """What each is called: with what tells its folder from the others' where two have one label."""
    names = [label(run) for run in runs]
    if len(set(names)) == len(names):
        return names
    folders = short_names([str(run.folder) for run in runs])
    return [f"{name} ({folder})" for name, folder in zip(names, folders, strict=True)]


def draw(runs: Sequence[Run], output: Path) -> None:
    """Plot loss and accuracy over the steps, in the format of the suffix.

    Raises `SpecError` for another suffix, `FrameworkError` without matplotlib.
    """
    if output.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise SpecError(f"{output}: a plot is a .png, .svg or .pdf")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise FrameworkError(
            "curves are drawn by matplotlib, which is not installed; "
            "pip install 'resnet-rosetta[train]'"
        ) from None
    figure = Figure(figsize=(11, 7.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    (loss, accuracy), (apart, test) = axes
    names = labels(runs)
    for i, (run, name) in enumerate(zip(runs, names, strict=True)):
        color = f"C{i}"
        width = 1.4 + 2 * (
            len(runs) - 1 - i
        )  # what lies below shows at the edges of what lies on it
        _curve(loss, run, name, "loss", color, width)
        _curve(accuracy, run, name, "accuracy", color, width)
        if run.evaluations:
            test.plot(
                [row["step"] for row in run.evaluations],
                [100 * row["accuracy"] for row in run.evaluations],
                "o-",
                color=color,
                markersize=4,
                label=name,
            )
    _differences(apart, runs)
    positive = any(row["loss"] > 0 for run in runs for row in run.steps)
    loss.set(title="training loss (mean of 20 steps)", yscale="log" if positive else "linear")
    accuracy.set(title="training accuracy (mean of 20 steps)")
    test.set(title="test accuracy, %", xlabel="step")
    apart.set(title=f"loss against {names[0]}, relative", xlabel="step", yscale="log")
    for ax in axes.flat:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    if not any(run.evaluations for run in runs):
        _say(test, "not evaluated yet")
    if len(runs) == 1:
        _say(apart, "one run alone")
    loss.legend(frameon=False, fontsize=8)
    with replacing(output) as temporary:
        figure.savefig(temporary, format=output.suffix.lower().removeprefix("."))


def _say(ax: Any, why: str) -> None:
    """Why there is nothing to draw."""
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", color="gray")
    ax.set(yscale="linear", xlabel="")
    ax.set(xticks=[], yticks=[])


def _curve(
    ax: Any, run: Run, name: str, column: str, color: str, width: float, window: int = 20
) -> None:
    steps, values = (np.array([row[key] for row in run.steps]) for key in ("step", column))
    ax.plot(steps, values, color=color, alpha=0.15, linewidth=0.7)
    if len(values) >= window:
        smooth = np.convolve(values, np.ones(window) / window, "valid")
        middle = steps[window // 2 : window // 2 + len(smooth)]
        ax.plot(middle, smooth, color=color, linewidth=width, label=name)
    else:
        ax.plot(steps, values, color=color, linewidth=width, label=name)


def _differences(ax: Any, runs: Sequence[Run]) -> None:
    for i, run in enumerate(runs[1:], start=1):
        difference = relative_difference(runs[0], run)
        steps = np.array([row["step"] for row in run.steps[: len(difference)]])
        shown = difference > 0
        if shown.any():
            ax.plot(steps[shown], difference[shown], color=f"C{i}", linewidth=0.8)
