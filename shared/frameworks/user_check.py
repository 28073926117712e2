"""`audit` of a user's own check, a command that loads a file: which files with mistakes does it let
pass?

The weights are written in the format of the user's file, first as they are, and then with one
mistake after the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import CheckpointError, FrameworkError, SpecError
from shared.formats.checkpoint import Checkpoint
from shared.formats.containers.archive import Entry
from shared.formats.convert import convert
from shared.verification.diagnosis.audit import OUTPUT_KEY, Findings, Planted, reasons_of_weights
from shared.verification.diagnosis.passes import Passes
from shared.verification.distance import relative_error
from shared.verification.hypotheses.hypothesis import Array, Hypothesis, Port
from shared.verification.hypotheses.of_weights import of_weights
from shared.weights.probe import probe_images

PLACEHOLDER = "{file}"
SECONDS = 600.0  # for one run of the command, unless the caller says otherwise
MOST = 60  # mistakes that are planted, unless the caller says otherwise
SIDE = 64  # pixels of the images on which a mistake is measured, at most
SHOWN = 200  # characters of what a command says


@dataclass(frozen=True)
class Checked(Findings):
    """Whether the command failed on the file of each mistake. Its `error` is what it changes in the
    outputs of random images, by the reference.
    """

    command: str
    format: str
    left_out: int  # mistakes that were not planted, to save time

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {
            "command": self.command,
            "format": self.format,
            "not_planted": self.left_out,
        }


def audit_command(
    checkpoint: Checkpoint,
    command: str,
    *,
    seconds: float = SECONDS,
    most: int = MOST,
    on_try: Callable[[int, int, str], None] = lambda done, count, what: None,
) -> Checked:
    """Plant mistakes in files like `checkpoint`, and run `command` on each.

    Args:
        checkpoint: the user's file, as it is right.
        command: a program and its arguments, with `{file}` where the file to load stands. It is run
            as it is, by no shell, and says with its exit code whether the check passes (0).
        seconds: that one run may take.
        most: mistakes that are planted, of all kinds and in layers from the first to the last.
        on_try: called with the number of the mistake, of all, and its sentence.

    Raises `SpecError` for a command without the placeholder, `FrameworkError` where it cannot be
    run, runs too long, or fails on the right file, and `CheckpointError` where the file's format is
    not written.
    """
    arguments = _arguments(command)
    spec = checkpoint.spec
    weights = {name: np.asarray(array) for name, array in checkpoint.weights().items()}
    side = min(SIDE, spec.image_size)
    images = probe_images((2, side, side, spec.in_channels))
    wide = {name: array.astype(np.float64) for name, array in weights.items()}
    base = Passes(Port(spec, wide, images.astype(np.float64)))
    hypotheses = list(of_weights(spec))
    chosen = spread(hypotheses, most)
    planted: list[Planted] = []
    with tempfile.TemporaryDirectory(prefix="rosetta-") as folder:
        file = _place(Path(folder), checkpoint)
        on_try(0, len(chosen), "the file as it is")
        _write(checkpoint, {}, file)
        code, said = _run(arguments, file, seconds)
        if code:
            raise FrameworkError(
                f"the check fails on the right file, written as {checkpoint.format.title} "
                f"(exit code {code}: {said}); nothing can be learnt from it"
            )
        for number, hypothesis in enumerate(chosen, start=1):
            on_try(number, len(chosen), hypothesis.what)
            changed = hypothesis(Port(spec, weights, images))
            if changed is None:
                continue  # zeros that are not loaded: the file would be the same
            moved = {n: a for n, a in changed.weights.items() if a is not weights[n]}
            try:
                _write(checkpoint, moved, file)
            except CheckpointError:
                continue  # values that no file may hold
            code, _ = _run(arguments, file, seconds)
            error = _effect(hypothesis, base)
            seen = code != 0
            planted.append(Planted(hypothesis.kind, hypothesis.what, seen, error, None, False))
    reasons = tuple(_why(base.port, planted))
    return Checked(
        tuple(planted), reasons, command, checkpoint.format.name, len(hypotheses) - len(chosen)
    )


def spread(hypotheses: Sequence[Hypothesis], most: int) -> list[Hypothesis]:
    """At most so many: those of all layers alike, then of each kind of mistake the first, the last
    and those between.
    """
    kinds: dict[str, list[Hypothesis]] = {}
    whole = []
    for hypothesis in hypotheses:
        _, colon, what = hypothesis.name.partition(": ")
        if hypothesis.rank <= 2:
            whole.append(hypothesis)
        else:
            kinds.setdefault(what if colon else "exchanged", []).append(hypothesis)
    chosen = whole[:most]
    rows = [_from_both_ends(members) for members in kinds.values()]
    while rows and len(chosen) < most:
        for row in list(rows):
            found = next(row, None)
            if found is None:
                rows.remove(row)
            elif len(chosen) < most:
                chosen.append(found)
    return chosen


def _from_both_ends(members: Sequence[Hypothesis]) -> Iterator[Hypothesis]:
    """The first, the last, the middle one, then all others."""
    places = [0, len(members) - 1, len(members) // 2, *range(len(members))]
    return (members[place] for place in dict.fromkeys(places))


def _arguments(command: str) -> list[str]:
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise SpecError(f"--check {command!r} cannot be split into arguments: {error}") from None
    if not any(PLACEHOLDER in argument for argument in arguments):
        raise SpecError(
            f"--check has no {PLACEHOLDER} where the file to load stands: "
            f"'python check.py {PLACEHOLDER}'"
        )
    return arguments


def _place(folder: Path, checkpoint: Checkpoint) -> Path:
    """A file with the user's name, so that its suffix is the format's."""
    return folder / checkpoint.path.name


def _write(checkpoint: Checkpoint, changed: Mapping[str, Array], file: Path) -> None:
    entries = {
        name: Entry.of(np.asarray(changed[name]).astype(entry.dtype)) if name in changed else entry
        for name, entry in checkpoint.entries.items()
    }
    told = {k: v for k, v in checkpoint.archive.metadata.items() if k != "sha256"}
    archive = dataclasses.replace(checkpoint.archive, metadata=told)
    source = dataclasses.replace(checkpoint, entries=entries, archive=archive)
    file.unlink(missing_ok=True)
    convert(source, file, checkpoint.format.name)


def _run(arguments: Sequence[str], file: Path, seconds: float) -> tuple[int, str]:
    """The exit code, and the last line that the command said."""
    given = [argument.replace(PLACEHOLDER, str(file)) for argument in arguments]
    try:
        process = subprocess.Popen(
            given,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise FrameworkError(f"{given[0]} cannot be run: {error.strerror}") from None
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise FrameworkError(
            f"the check ran longer than {seconds:g} s; say --timeout SECONDS"
        ) from None
    finally:
        with contextlib.suppress(ProcessLookupError):  # whatever it left running
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return process.returncode, lines[-1][:SHOWN] if lines else "it said nothing"


def _effect(hypothesis: Hypothesis, base: Passes) -> float:
    changed = hypothesis(base.port)
    if changed is None:
        return 0.0
    seen = Passes(changed, base).get(OUTPUT_KEY)
    return relative_error(seen, base.get(OUTPUT_KEY)) if np.isfinite(seen).all() else np.inf


def _why(port: Port, planted: Sequence[Planted]) -> Iterator[str]:
    unseen = [p for p in planted if not p.visible]
    if not unseen:
        return
    if len(unseen) == len(planted):
        yield f"the check passes with every file: it may not load {PLACEHOLDER}, or compare nothing"
    hidden = [p for p in unseen if p.error == 0]
    if hidden:
        yield from reasons_of_weights(port)
    shown = [p for p in unseen if p.error > 0]
    if shown:
        worst = max(p.error for p in shown)
        yield (
            f"{len(shown)} of them do change the outputs of random images, by up to {worst:.1e} of "
            "the largest value: the check's images, its tolerance or what it compares hide them"
        )
