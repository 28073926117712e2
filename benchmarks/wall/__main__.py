"""`python -m benchmarks.wall [-o FILE]`: run both sides of every pair, let `diagnose`
say why they differ, and write the page.

Both sides are the NumPy reference on the spec that describes them, with the probe's weights, the
same two images, and outputs, statistics and layers as a port would give them. The cause is found
from the outputs alone, and from the statistics of one training step.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import numpy as np

from benchmarks.wall.pairs import PAIRS, Pair
from shared import get_spec, probe_images, probe_weights
from shared.frameworks.diagnose import KIT, diagnose_observations
from shared.verification.diagnosis.diagnose import Diagnosis
from shared.verification.diagnosis.observations import observations
from shared.verification.diagnosis.passes import Passes
from shared.verification.hypotheses.hypothesis import Port

SIZE = 96
BATCH = 2


def judge(pair: Pair) -> tuple[Diagnosis, Diagnosis]:
    """In evaluation, from outputs alone; and in training, from the statistics after one batch."""
    spec = get_spec(pair.preset).replace(**pair.given)
    images = probe_images((BATCH, SIZE, SIZE, spec.in_channels)).astype(np.float64)
    weights = {n: a.astype(np.float64) for n, a in probe_weights(spec).items()}
    beside = Passes(Port(spec.replace(**pair.there), weights, images), kit=KIT)
    outputs = {"outputs": beside.get("eval/output")}
    evaluation = diagnose_observations(weights, spec, observations(outputs, images, spec, pair.who))
    training = [c for c in pair.there if c in ("norm.momentum", "norm.running_var")]
    in_training = spec.replace(**{key: pair.there[key] for key in training})
    moved = Passes(Port(in_training, weights, images), kit=KIT)
    names = [n for n in weights if ".running_" in n]
    stats = {f"stats/{name}": np.array(moved.get(f"stats/{name}")) for name in names}
    return evaluation, diagnose_observations(
        weights, spec, observations(stats, images, spec, pair.who)
    )


def row(pair: Pair) -> str:
    evaluation, training = judge(pair)
    cells = [
        pair.who,
        pair.version,
        f"{pair.here} / {pair.beside}",
        "**same**" if evaluation.same else "differs",
        "" if evaluation.same else f"{evaluation.error_before:.1e}",
        _causes(evaluation),
        "same" if training.same else f"differs: {_causes(training)}",
        pair.seen,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _causes(found: Diagnosis) -> str:
    if found.same:
        return ""
    if not found.explained:
        return "not explained"
    parts = []
    for cause in found.causes:
        where = f", from {cause.where[0]} on" if cause.where else ""
        parts.append(f"`{cause.set or cause.what}`{where}")
    return "; ".join(parts)


def page(rows: list[str]) -> str:
    said = [
        "# The wall: one ResNet in several frameworks, or not",
        "",
        "Public ResNets that are meant to be one function. Each side is described as a spec, from "
        "its project's source at the version that is named; none of their code is here or was run "
        "for this page. Both sides then get the probe's weights (which hide nothing) and the same "
        f"images of {SIZE} x {SIZE}, and `rosetta diagnose` says why they differ, from the outputs "
        "alone. The size of the difference is that of these weights; trained ones have their own. "
        "What was measured with the projects' own code stands in the last column.",
        "",
        "A description may be wrong, and a project may have changed since: say so, and the row is "
        "mended.",
        "",
        f"Made by `python -m benchmarks.wall`, {datetime.date.today().isoformat()}.",
        "",
        "| who | version | sides | evaluation | largest difference | cause, as found | statistics "
        "in training, as far as described | measured with their code |",
        "| --- | --- | --- | --- | ---: | --- | --- | --- |",
        *rows,
    ]
    return "\n".join(said) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", default="docs/wall/README.md")
    given = parser.parse_args()
    rows = []
    for pair in PAIRS:
        rows.append(row(pair))
        print(rows[-1], flush=True)
    Path(given.output).parent.mkdir(parents=True, exist_ok=True)
    Path(given.output).write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
