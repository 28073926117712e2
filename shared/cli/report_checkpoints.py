"""What `inspect`, `convert` and `predict` show a person."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.text import Text

from shared.cli.tables import Column, Table, printable, shape
from shared.formats.containers.registry import CONTAINERS
from shared.formats.naming.infer import not_inferable

if TYPE_CHECKING:
    from shared.architecture.spec import ResNetSpec
    from shared.formats.checkpoint import Checkpoint
    from shared.formats.convert import Conversion
    from shared.formats.naming.nearest_preset import Nearest
    from shared.frameworks.predict import Prediction

SHOWN = 8  # candidates


def inspection(
    checkpoint: Checkpoint, candidates: Sequence[str], nearest: Nearest | None = None
) -> Text:
    """A checkpoint in some lines; with the nearest preset of a network that is none."""
    c, spec = checkpoint, checkpoint.spec
    name = c.preset or "no preset, but a network that can be built"
    told = {
        "metadata": "the file's metadata says so",
        "preset": "you say so, and every tensor fits",
        "tensors": "every tensor fits",
    }[c.identified_by]
    lines = [
        ("format", f"{c.format.title}, in {CONTAINERS[c.archive.container].title}"),
        ("network", f"{name}: {told}"),
        (
            "",
            f"{list(spec.depths)} {spec.block.kind} blocks of widths {list(spec.widths)}, "
            + (f"{spec.num_classes} classes" if spec.num_classes else "no classifier")
            + f", {spec.in_channels} input channels",
        ),
        (
            "tensors",
            f"{len(c.entries)} of {', '.join(c.dtypes)}; {c.params:,} trainable parameters",
        ),
    ]
    if c.archive.stripped_prefixes:
        lines.append(("taken off", ", ".join(c.archive.stripped_prefixes)))
    if c.ignored:
        lines.append(
            (
                "left out",
                f"{len(c.ignored)} counters (num_batches_tracked), which no output depends on",
            )
        )
    if c.identified_by == "tensors":
        lines.append(
            (
                "assumed",
                f"as {c.scheme.convention} has it, because no tensor tells: {_untold(spec)}",
            )
        )
        others = [other for other in candidates if other != c.preset]
        if others:
            more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
            lines.append(
                (
                    "as well",
                    f"the same tensors: {', '.join(others[:SHOWN])}{more}; --preset or --set says "
                    "which",
                )
            )
    if nearest:
        lines.append(("nearest", str(nearest)))
    text = Text(printable(str(c.path)), style="bold")
    for key, value in lines:
        text.append(f"\n  {key:<10}", style="not bold dim").append(
            printable(value), style="not bold not dim"
        )
    return text


def _untold(spec: ResNetSpec) -> str:
    return ", ".join(
        f"{name}={list(value) if isinstance(value, tuple) else value}"
        for name, value in not_inferable(spec).items()
    )


def tensor_table(checkpoint: Checkpoint) -> Table:
    """Every tensor: what the file calls it, what we do, shape and dtype in the file."""
    table = Table(Column("in the file"), Column("canonical"), Column("shape"), Column("dtype"))
    for name in checkpoint.entries:
        entry = checkpoint.archive.entries[checkpoint.names[name]]
        table.row(printable(checkpoint.names[name]), name, shape(entry.shape), entry.dtype.name)
    return table


def conversion(found: Conversion, seconds: float) -> Text:
    """What was carried where, and that it arrived."""
    source, target = found.source, found.target
    text = Text(f"✓ {printable(str(target.path))}", style="bold green")
    text.append(
        f"\n  {source.preset or source.spec.name}: {source.format.title} to {target.format.title}"
        f"\n  {len(target.entries)} tensors, {target.params:,} parameters, read back and equal "
        "bit by bit"
        f"\n  SHA-256 {found.sha256}; {seconds:.1f} s",
        style="not bold default",
    )
    for note in found.notes:
        text.append(f"\n  {printable(note)}", style="not bold yellow")
    return text


def prediction_setting(checkpoint: Checkpoint, preprocessing: str, images: np.ndarray) -> Text:
    height, width = images.shape[1:3]
    return Text(printable(checkpoint.preset or checkpoint.spec.name), style="bold").append(
        printable(
            f", weights of {checkpoint.path}; {height} x {width} pixels, preprocessed as "
            f"{preprocessing!r}"
        ),
        style="not bold",
    )


def prediction_table(path: Path, predictions: Sequence[Prediction]) -> Table:
    """The frameworks side by side, likeliest class first."""
    table = Table(
        Column("class"),
        *(Column(p.framework, right=True) for p in predictions),
        title=printable(str(path)),
    )
    chances = [{guess.index: guess.probability for guess in p.top} for p in predictions]
    for guess in predictions[0].top:
        name = f"{guess.index} {guess.label}" if guess.label else str(guess.index)
        cells = [
            _percent(chance[guess.index]) if guess.index in chance else "lower"
            for chance in chances
        ]
        table.row(name, *cells)
    return table


def _percent(probability: float) -> str:
    return f"{probability:.2%}" if probability >= 5e-5 else f"{100 * probability:.0e}%"
