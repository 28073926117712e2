"""What `identify` and `diagnose` say of somebody's model in a file."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import Any

from shared.cli import report_diagnose, report_identify
from shared.reports.page import Cell, Page, Part, Table, Tone
from shared.verification.diagnosis.diagnose import Diagnosis
from shared.verification.trace import version_of

LABEL = 11  # columns of a line of the terminal that say what it is about


def identify_page(
    target: str, found: Mapping[str, Any], against: str | None, good: bool, command: str
) -> Page:
    """What `rosetta identify` found: the verdict, what it rests on, and each departure."""
    verdict = report_identify.verdict(found, against, good)
    lines = report_identify.details(found)
    facts = [(line[:LABEL].strip(), line[LABEL:]) for line in lines]
    parts = [Part("What it rests on", [_facts(facts)])]
    for title, departures in report_identify.tables(found).items():
        part = Part(title, [report_identify.departure_table(departures).for_page()])
        parts.insert(0, part) if departures is found["departures"] else parts.append(part)
    tone = Tone.good if good else Tone.bad
    return Page("rosetta identify", tone, verdict.plain, [target], parts, _versions(), command)


def diagnose_page(found: Diagnosis, command: str) -> Page:
    """What `rosetta diagnose` found: the verdict, each cause, and the figures."""
    verdict = report_diagnose.verdict(found)
    parts = []
    if found.causes and not found.same:
        parts.append(Part("What explains it", [_causes(found)]))
    if found.still is not None and found.nearest:
        parts.append(Part("What comes nearest", [_nearest(found)]))
    parts.append(Part("What was seen", [_facts(report_diagnose.facts(found))]))
    tone = Tone.good if found.same else Tone.bad
    return Page("rosetta diagnose", tone, verdict.plain, (), parts, _versions(), command)


def why_parts(causes: Mapping[str, Diagnosis | str], of: str = "") -> Iterable[Part]:
    """For each framework that was not as the reference is, why; `of` names the network."""
    for framework, found in causes.items():
        title = f"Why {framework} differs{of}"
        if isinstance(found, str):
            yield Part(title, lines=[f"No cause: {found}"])
        elif found.same and not found.causes:
            said = "as the reference is, within what rounding explains"
            yield Part(f"{framework}, compared with the reference{of}", lines=[f"It is {said}."])
        else:
            tables = [_causes(found)] if found.causes else []
            facts = _facts(report_diagnose.facts(found))
            yield Part(title, [*tables, facts], [report_diagnose.verdict(found).plain])


def _causes(found: Diagnosis) -> Table:
    rows = [
        [
            Cell(cause.kind),
            Cell(cause.what),
            Cell(", ".join(cause.where)),
            Cell(report_diagnose.flags_of(cause)),
        ]
        for cause in found.causes
    ]
    return Table(("kind", "what", "where", "as an option"), rows)


def _nearest(found: Diagnosis) -> Table:
    rows = [
        [Cell(near.what), Cell(f"--set {near.set}" if near.set else ""), Cell(f"{near.error:.1e}")]
        for near in found.nearest
    ]
    right = frozenset({"would leave"})
    return Table(("change", "as an option", "would leave"), rows, right)


def _facts(facts: Iterable[tuple[str, str]]) -> Table:
    """What each line is about, and what it says."""
    return Table(("about", "found"), [[Cell(label), Cell(text)] for label, text in facts])


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "numpy": version_of("numpy")}
