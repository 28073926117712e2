"""A live model in the place of a checkpoint: `convert`, `predict`, `verify`, `trace`,
`diagnose` and `audit` take `python:FILE.py:NAME`, too.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shared.errors import RosettaError, SpecError

if TYPE_CHECKING:
    import typer

    from shared.architecture.spec import ResNetSpec
    from shared.formats.checkpoint import Checkpoint
    from shared.formats.configuration.told import Told

_folders: list[tempfile.TemporaryDirectory[str]] = []  # they go when this process ends


def is_live(text: str) -> bool:
    """Whether a word of the command line is the user's own code."""
    from shared.frameworks.targets import PREFIX

    return text.startswith(PREFIX)


def check_only(context: typer.Context, target: str, options: Sequence[str]) -> None:
    """Raise `SpecError` where an option is given that is for presets, not for a live model."""
    for option in context.params:
        source = context.get_parameter_source(option)
        if source is not None and source.name != "DEFAULT" and option not in options:
            known = ", ".join(f"--{name.replace('_', '-')}" for name in options if name != "preset")
            raise SpecError(
                f"--{option.replace('_', '-')} is for presets; the trace of {target} takes {known}"
            )


def open_source(
    text: str,
    format: str | None,
    preset: str | None,
    changes: Mapping[str, Any],
    spec: ResNetSpec | None = None,
    *,
    take: str | None = None,
    leave_out: Sequence[str] | None = None,
) -> Checkpoint:
    """`open_checkpoint`, of a live model too: what stands around its network is told as that of a
    Keras file is.

    Raises `RosettaError` for a model that is no ResNet node by node: its weights are nobody's.
    """
    from shared.formats.checkpoint import open_checkpoint

    live = _read(text) if is_live(text) else None
    checkpoint = open_checkpoint(
        live.file if live else text,
        format,
        preset,
        changes,
        spec,
        take=take,
        leave_out=leave_out or (),
    )
    if live is None:
        return checkpoint
    return dataclasses.replace(
        checkpoint,
        path=Path(text),
        told=(*checkpoint.told, live.told),
        doubts=(*checkpoint.doubts, *live.notes),
    )


class _Live(NamedTuple):
    """A canonical file of a live model's weights, for as long as the command runs; and the rest."""

    file: str
    told: Told
    notes: tuple[str, ...]


def _read(text: str) -> _Live:
    from shared.formats.configuration.told import Told
    from shared.frameworks.identify import identify_target
    from shared.graphs.verdict import FRONT, OPERATORS
    from shared.weights.canonical import save_weights

    answer = identify_target(text, keep_weights=True)
    spec, found = answer.spec, answer.found
    count = len(found["departures"])
    if spec is None or count or not found["recognised"]:
        if found["verdict"] == OPERATORS:
            name = found["preset"] or "a network"
            why = "; ".join(found["notes"][-1:]) or "its numbers are others"
            raise RosettaError(f"{text}: has the operators of {name}, but {why}")
        why = f"departures: {count}" if count else found["verdict"]
        raise RosettaError(
            f"{text}: is not the network of any spec ({why}); `rosetta identify` says where"
        )
    _folders.append(tempfile.TemporaryDirectory(prefix="rosetta-"))
    path = Path(_folders[-1].name) / "model.safetensors"
    save_weights(path, answer.weights, spec)
    around = tuple(found["surroundings"])
    prepared = tuple(what for what in around if what.startswith(FRONT))
    told = Told(source="the model", fields={}, prepared=prepared, surroundings=around)
    return _Live(str(path), told, tuple(found["notes"]))
