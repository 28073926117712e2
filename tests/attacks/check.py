"""Whether an attack is refused as it must be: the verdict on what a `Watcher` saw, and on what lies
on the disk.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from tests.attacks.attack import Attack, Placement
from tests.attacks.watch import Outcome

SECONDS, MEMORY = 2.0, 200 << 20
REFUSALS = ("CheckpointError", "SpecError")


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a folder, so that any change shows."""
    found: dict[str, tuple[object, ...]] = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root) / name
            status = path.lstat()
            plain = stat.S_ISREG(status.st_mode) and status.st_size < 1 << 20
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if plain else ""
            found[str(path)] = status.st_mode, status.st_size, status.st_mtime_ns, digest
    return found


def verdict(
    attack: Attack,
    path: Path,
    place: Placement,
    before: dict,
    outcome: Outcome,
    base: int,
    patience: float = 1.0,
) -> list[str]:
    """Everything that is wrong about an outcome; `base` is the memory of a reading process for a
    valid file.
    """
    problems = []
    if outcome.kind not in REFUSALS:
        problems.append(f"not refused: {outcome.kind} {outcome.message[:200]}")
    else:
        problems += [
            f"does not say {word!r}: {outcome.message[:300]}"
            for word in attack.words
            if word not in outcome.message
        ]
        problems += wrong_line(outcome.message, path)
    if outcome.seconds > SECONDS * patience:
        problems.append(f"took {outcome.seconds:.1f} s")
    if (over := over_baseline(outcome, base)) > MEMORY:
        problems.append(f"took {over >> 20} MiB over the baseline")
    problems += [f"did {event}" for event in outcome.events]
    if place.executed.exists():
        problems.append("ran code")
    if snapshot(place.inside.parent) != before:
        problems.append("changed files")
    return problems


def wrong_line(message: str, path: Path) -> list[str]:
    """Whether a message is one line of bearable length that names the path."""
    problems = []
    if not message or any(not c.isprintable() for c in message):
        problems.append(f"is not one line: {message[:200]!r}")
    if not message.startswith(str(path.parent)):
        problems.append(f"does not start with the path: {message[:200]}")
    if len(message) > 2000 + len(str(path)):
        problems.append(f"is {len(message)} characters long")
    return problems


def over_baseline(outcome: Outcome, base: int) -> int:
    return max(outcome.own, outcome.children - base)
