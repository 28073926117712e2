"""What the page says of each part's error: `rosetta verify` of every network that it shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.site.networks import units_of
from shared import get_spec
from shared.frameworks.inputs import Inputs
from shared.frameworks.registry import installed
from shared.frameworks.verify import Verdict, iter_verdicts
from shared.verification.comparison import Comparison
from shared.verification.recording import CHECKS

SIZE = 64  # pixels; networks for smaller images get theirs
MEASURED = Path(__file__).with_name("measured.json")


def measure(presets: Sequence[str], say: Callable[[str], None] = print) -> None:
    """By preset and part: the largest error of each check and pair, and the tensor that has it.

    What is found is saved after each network, beside what was known of the others. Raises
    `SystemExit` where two sides differ: the page shows what is the same.
    """
    found = load() if MEASURED.exists() else {"versions": {}, "networks": {}}
    for preset in presets:
        spec = get_spec(preset)
        size = min(SIZE, spec.image_size)
        inputs = Inputs(image_size=(size, size), checks=CHECKS)
        (verdict,) = iter_verdicts([spec], installed(), inputs)
        if not verdict.passed:
            raise SystemExit(f"{preset} is not the same in every framework")
        found["versions"] = dict(verdict.versions)
        found["networks"][preset] = summary(verdict)
        save(found)
        say(f"{preset}: {verdict.seconds:.0f} s")


def summary(verdict: Verdict) -> dict[str, Any]:
    """A verdict's errors by part of the page, and as a whole."""
    units: dict[str, dict[str, Any]] = {}
    for comparison in verdict.comparisons:
        for unit, error, name, limit in _worst(comparison):
            entry = units.setdefault(unit, {}).setdefault(
                comparison.check, {"limit": limit, "pairs": {}, "worst": [-1.0, ""]}
            )
            entry["pairs"][f"{comparison.a} {comparison.b}"] = float(f"{error:.1e}")
            if error > entry["worst"][0]:
                entry["worst"] = [float(f"{error:.1e}"), name]
    tensors = sum(comparison.tensors for comparison in verdict.comparisons)
    return {"image_size": list(verdict.plan.image_size), "tensors": tensors, "units": units}


def _worst(comparison: Comparison) -> Iterable[tuple[str, float, str, float | None]]:
    found: dict[str, tuple[float, str, float | None]] = {}
    for row in comparison.rows:
        for unit in {*units_of(row.name), "all"}:
            if row.error >= found.get(unit, (-1.0,))[0]:
                found[unit] = (row.error, row.name, row.limit)
    return [(unit, *values) for unit, values in found.items()]


def load() -> dict[str, Any]:
    """What the last run of `measure` found."""
    return json.loads(MEASURED.read_text("utf-8"))


def save(found: dict[str, Any]) -> None:
    """One network a line, so that a change reads as one."""
    head = {key: value for key, value in found.items() if key != "networks"}
    lines = [json.dumps(head)[:-1] + ', "networks": {']
    networks = sorted(found["networks"].items())
    rows = [f"{json.dumps(name)}: {json.dumps(of)}" for name, of in networks]
    lines += [f"{row}," for row in rows[:-1]] + [rows[-1], "}}"]
    MEASURED.write_text("\n".join(lines) + "\n", "utf-8")
