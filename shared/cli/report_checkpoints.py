"""What `inspect`, `convert` and `predict` show a person."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.text import Text

from shared.architecture.presets import get_spec
from shared.cli.tables import Column, Table, printable, shape
from shared.formats.containers.registry import CONTAINERS
from shared.formats.contents import groups_text
from shared.naming.infer import differences
from shared.naming.nearest_preset import first
from shared.recognition.leftovers import COUNTER, OTHER

if TYPE_CHECKING:
    from rich.console import Console

    from shared.formats.checkpoint import Checkpoint
    from shared.formats.convert import Conversion
    from shared.frameworks.predict import Prediction
    from shared.naming.nearest_preset import Nearest

_SAID_BY = {
    "metadata": "the file's metadata says so",
    "preset": "--preset says so, and every tensor fits",
    "spec": "the spec says so, and every tensor fits",
    "tensors": "every tensor fits",
}


def inspection(
    checkpoint: Checkpoint, candidates: Sequence[str], nearest: Nearest | None = None
) -> Text:
    """A checkpoint in some lines, and the nearest preset to a network that is no preset."""
    text = Text(printable(str(checkpoint.path)), style="bold")
    for key, value in _lines(checkpoint, candidates, nearest):
        text.append(f"\n  {key:<10}", style="not bold dim").append(
            printable(value), style="not bold not dim"
        )
    return text


def _lines(
    c: Checkpoint, candidates: Sequence[str], nearest: Nearest | None
) -> Iterator[tuple[str, str]]:
    spec = c.spec
    name = c.preset or "no preset, but a network that can be built"
    classes = f"{spec.num_classes} classes" if spec.num_classes else "no classifier"
    blocks = f"{list(spec.depths)} {spec.block.kind} blocks of widths {list(spec.widths)}"
    yield "format", f"{c.format.title}, in {CONTAINERS[c.archive.container].title}"
    yield "network", f"{name}: {_SAID_BY[c.identified_by]}"
    yield "", f"{blocks}, {classes}, {spec.in_channels} input channels"
    dtypes = ", ".join(c.dtypes)
    yield "tensors", f"{len(c.entries)} of {dtypes}; {c.params:,} trainable parameters"
    if c.archive.stripped_prefixes:
        yield "taken off", ", ".join(c.archive.stripped_prefixes)
    if len(c.inside) > 1:
        for network in c.inside:
            mark = "taken" if network.taken else "inside"
            yield mark, f"{network.path}: {network.preset or network.network}"
        yield "", f"{c.taken_by}; --take says which"
    elif c.inside and c.inside[0].path:
        yield "inside", c.inside[0].path
    for network in c.inside:
        if network.twins:
            yield "the same", f"{', '.join(network.twins)}, value by value"
    asked = set(c.left_out)
    foreign = [
        group._replace(names=rest)
        for group in c.left
        if group.kind == OTHER and (rest := [n for n in group.names if n not in asked])
    ]
    by_itself = [group for group in c.left if group.kind not in (OTHER, COUNTER)]
    for refusal in c.refused:
        yield "nearly", f"{refusal.path}: {refusal.why}" if refusal.path else refusal.why
    if foreign:
        yield "no ResNet", f"{groups_text(foreign)}; --leave-out says that they may be left"
    if asked:
        yield "left out", f"{len(asked)} by --leave-out, as they belong to no ResNet"
    if by_itself:
        yield "left out", groups_text(by_itself)
    if c.normalisers:
        yield "", f"it normalises its images itself, with {first(c.normalisers)}"
        yield "", "the ResNet alone wants them normalised"
    for doubt in c.doubts:
        yield "doubt", doubt
    if c.assumes:
        yield "assumed", c.assumes
    if c.ignored:
        counters = "counters (num_batches_tracked), which no output depends on"
        yield "left out", f"{len(c.ignored)} {counters}"
    for told in c.told:
        yield "told", f"by {told.source}: {fields_text(told.shown(spec))}"
        if told.surroundings:
            yield "around it", ", ".join(told.surroundings)
    if given := {name: v for name, v in c.given.items() if name not in c.told_fields}:
        yield "given", f"by --preset or --set: {fields_text(given)}"
    if c.assumed:
        why = "neither tensors nor file tell"
        yield "assumed", f"as {c.scheme.convention} has it, because {why}: {fields_text(c.assumed)}"
    if others := [other for other in candidates if other != c.preset]:
        which = "; --preset or --set says which" if c.assumed else ""
        yield "as well", f"the same tensors: {', '.join(others)}{which}"
    if nearest:
        fits = not any(nearest.problems.values())
        sizes = {"num_classes": spec.num_classes, "in_channels": spec.in_channels}
        departures = differences(spec, get_spec(nearest.preset, **sizes)) if fits else []
        yield "nearest", "; ".join([str(nearest), *departures])


def fields_text(fields: Mapping[str, Any]) -> str:
    """`name=value`, and so on."""
    return ", ".join(
        f"{name}={json.dumps(value)}" if not isinstance(value, str) else f"{name}={value}"
        for name, value in fields.items()
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


def prediction_setting(
    checkpoint: Checkpoint, preprocessing: str, images: np.ndarray, deployed: bool
) -> Text:
    height, width = images.shape[1:3]
    return Text(printable(checkpoint.preset or checkpoint.spec.name), style="bold").append(
        printable(
            f", weights of {checkpoint.path}; {height} x {width} pixels, preprocessed as "
            f"{preprocessing!r}{', as deployed: norms folded, compiled' if deployed else ''}"
        ),
        style="not bold",
    )


def print_remarks(console: Console, checkpoint: Checkpoint | None) -> None:
    """What was left of the file that is used, and what is in doubt, a line each."""
    for remark in checkpoint.remarks if checkpoint else ():
        console.print(Text(f"  {printable(remark)}", style="yellow"), soft_wrap=True)


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
