"""What `diagnose` and `audit` show a person."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.text import Text

from shared.cli.tables import printable
from shared.frameworks.user_check import Checked
from shared.verification.diagnosis.audit import Audit, Planted
from shared.verification.diagnosis.diagnose import Cause, Diagnosis
from shared.verification.diagnosis.isolated import Alone
from shared.verification.instrument import Instrument
from shared.verification.recording import GRADIENTS

SHOWN = 3  # layers of a cause; JSON has all of them
ALONE_SHOWN = 6  # layers
UNSEEN_SHOWN = 8  # mistakes of a kind

Isolated = tuple[str, str, list[Alone]]  # side, check, its layers


def print_diagnosis(console: Console, found: Diagnosis, seconds: float) -> None:
    """The verdict in one line, then what was seen, the causes, and the figures."""
    console.print(verdict(found), soft_wrap=True)
    for line in details(found, seconds):
        console.print(Text(printable(line)), soft_wrap=True)


def verdict(found: Diagnosis) -> Text:
    """One line."""
    name = found.spec.name
    if found.same and found.causes:
        said = "; ".join(cause.what for cause in found.causes)
        return Text(printable(f"✓ {name}: {said}"), "bold green")
    if found.same:
        return Text(printable(f"✓ {name}: the port does the same"), "bold green")
    if found.explained:
        count = {1: "one change explains it", 2: "two changes explain it"}.get(
            len(found.causes), f"{len(found.causes)} changes explain it"
        )
        return Text(printable(f"✗ {name}: the port differs, and {count}"), "bold red")
    if found.causes:
        return Text(printable(f"✗ {name}: the port differs, and a part is explained"), "bold red")
    return Text(printable(f"✗ {name}: the port differs; not explained"), "bold red")


def details(found: Diagnosis, seconds: float) -> list[str]:
    """`facts` as lines of a terminal, and how long it took."""
    lines = [f"  {label:<10}{text}" for label, text in facts(found)]
    tried = f"{found.tried} changes tried, " if found.tried else ""
    what = "array" if found.keys == 1 else "arrays"
    lines.append(f"  {tried}{found.keys} {what} compared, {seconds:.1f} s")
    return lines


def facts(found: Diagnosis) -> list[tuple[str, str]]:
    """What was seen, the causes and the figures: what a line is about, and what it says."""
    rows = [("" if i else "seen", line) for i, line in enumerate(found.look)]
    causes = [] if found.same else list(found.causes)
    for i, cause in enumerate(causes):
        rows += _cause("and" if i else "cause", cause)
    if found.still is not None:
        rows.append(("left", f"{found.still} still differs; nothing that is known explains it"))
        for near in found.nearest:
            setting = f" (--set {near.set})" if near.set else ""
            rows.append(("near", f"{near.what}{setting} would leave {near.error:.1e}"))
        if not found.nearest:
            rows.append(("near", "no single change that is known leaves less than there is"))
        rows.append(("help", "layers beside the outputs, by their canonical names, say where"))
    where = f" at {found.key}" if found.key else ""
    after = f", {_figure(found.error_after)} with the change" if causes else ""
    error = (
        f"{_figure(found.error_before)}{where}{after}; rounding in {found.dtype} "
        f"explains {_figure(found.limit)}"
    )
    return [*rows, ("error", error), *(("note", note) for note in found.notes)]


def _cause(label: str, cause: Cause) -> list[tuple[str, str]]:
    rows = [(label, cause.what)]
    if cause.where:
        more = f" and {len(cause.where) - SHOWN} more" if len(cause.where) > SHOWN else ""
        rows.append(("", f"in {', '.join(cause.where[:SHOWN])}{more}"))
    flags = flags_of(cause)
    return [*rows, ("", flags)] if flags else rows


def flags_of(cause: Cause) -> str:
    """The options that make the change in a network or a training of ours, where there are any."""
    flags = [f"--set {part}" for part in (cause.set or "").split()]
    flags += [f"--training {part}" for part in (cause.training or "").split()]
    return " ".join(flags)


def _figure(value: float) -> str:
    return f"{value:.1e}"


def on_try(status: Status, what: str = "looking for the change") -> Callable[[int, str], None]:
    """A callback that shows which hypothesis is being run."""

    def show(tried: int, sentence: str) -> None:
        status.update(f"{what}: {tried}, {printable(sentence)[:80]}")

    return show


def print_audit(console: Console, name: str, found: Audit, seconds: float) -> None:
    """The score, why the check is blind, and what it cannot see, a kind at a time."""
    count, height, width, _ = found.images
    line = (
        f"{count} images of {height} x {width}, tolerance {found.tolerance:g}, "
        f"{len(found.layers)} layers beside the output; {seconds:.1f} s"
    )
    _print_planted(console, name, found, line)


def print_checked(console: Console, name: str, found: Checked, seconds: float) -> None:
    """The same of a user's own check."""
    more = f"; {found.left_out} more were not planted (--plant N)" if found.left_out else ""
    line = f"planted in files of format {found.format}, {found.command}; {seconds:.1f} s{more}"
    _print_planted(console, name, found, line)


def _print_planted(console: Console, name: str, found: Audit | Checked, figures: str) -> None:
    unseen = found.unseen
    total = len(found.mistakes)
    if not total:
        said = f"✗ {name}: no mistake could be planted"
    elif unseen:
        said = f"✗ {name}: {len(unseen)} of {total} planted mistakes would pass unseen"
    else:
        said = f"✓ {name}: all {total} planted mistakes are seen"
    ok = bool(total) and not unseen
    console.print(Text(printable(said), "bold green" if ok else "bold red"), soft_wrap=True)
    lines = [f"  why       {line}" for line in found.why_blind]
    groups: dict[str, list[Planted]] = {}
    for planted in unseen:
        groups.setdefault(planted.kind, []).append(planted)
    for kind, members in groups.items():
        lines.append(f"  {kind:<9} {len(members)} unseen:")
        lines += [f"            {p.error:.1e}  {p.what}" for p in members[:UNSEEN_SHOWN]]
        if len(members) > UNSEEN_SHOWN:
            lines.append(f"            and {len(members) - UNSEEN_SHOWN} more; --json has all")
    for line in [*lines, f"  {figures}"]:
        console.print(Text(printable(line)), soft_wrap=True)


def on_plant(status: Status) -> Callable[[int, int, str], None]:
    """A callback that shows which mistake is being planted."""

    def show(done: int, count: int, sentence: str) -> None:
        status.update(f"planting {done} of {count}: {printable(sentence)[:80]}")

    return show


def print_causes(
    console: Console, causes: Mapping[str, Diagnosis | str], seconds: float = 0.0
) -> None:
    """For each framework that was not as the reference, why."""
    for framework, found in causes.items():
        console.print()
        if isinstance(found, str):
            console.print(Text(printable(f"{framework}: no cause: {found}")), soft_wrap=True)
        elif found.same and not found.causes:
            line = f"{framework} is as the reference is, within what rounding explains"
            console.print(Text(printable(line)), soft_wrap=True)
        else:
            console.print(Text(printable(f"{framework}, compared with the reference")))
            print_diagnosis(console, found, seconds)


def print_isolated(console: Console, found: Sequence[Isolated]) -> None:
    """Which layers are wrong by themselves, a line a trace and check; the worst where none is."""
    if found:
        console.print()
    for side, check, rows in found:
        wrong = [row for row in rows if row.wrong]
        what = "gradients" if check == GRADIENTS else "layers"
        if wrong:
            some = ", ".join(f"{row.name} ({row.error:.1e})" for row in wrong[:ALONE_SHOWN])
            more = f" and {len(wrong) - ALONE_SHOWN} more" if len(wrong) > ALONE_SHOWN else ""
            said, style = f"{len(wrong)} of {len(rows)} {what} are wrong: {some}{more}", "red"
        else:
            worst = max(rows, key=lambda row: row.error / row.limit)
            said = f"all {len(rows)} {what} are right; worst {worst.error:.1e} in {worst.name}"
            style = "green"
        line = f"{side}, {check}, every layer by itself: {said}"
        console.print(Text(printable(line), style), soft_wrap=True)


def isolated_json(found: Sequence[Isolated]) -> list[dict[str, Any]]:
    return [
        {
            "side": side,
            "check": check,
            "wrong": [row.name for row in rows if row.wrong],
            "layers": [
                {
                    "name": row.name,
                    "error": row.error if math.isfinite(row.error) else None,
                    "limit": row.limit,
                }
                for row in rows
            ],
        }
        for side, check, rows in found
    ]


def causes_json(causes: Mapping[str, Diagnosis | str], **more: str) -> list[dict[str, Any]]:
    return [
        {**more, "side": side, **({"no_cause": d} if isinstance(d, str) else d.to_dict())}
        for side, d in causes.items()
    ]


def print_instruments(console: Console, instruments: Sequence[Instrument]) -> None:
    """Whether the comparisons could have failed."""
    sound = [i for i in instruments if i.sound]
    if sound:
        planted = "; ".join(f"{i.size:.0e} in {i.planted}" for i in sound)
        console.print()
        console.print(
            Text(
                printable(
                    "the instrument is sound: the first trace agrees with itself, and a planted "
                    f"change is seen where it is ({planted})"
                ),
                "dim",
            ),
            soft_wrap=True,
        )
    for instrument in instruments:
        if not instrument.sound:
            line = f"the instrument is not shown to be sound for {instrument.check}: "
            console.print(Text(printable(line + (instrument.why_not or "")), "yellow"))
