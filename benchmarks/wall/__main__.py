"""`python -m benchmarks.wall [--installed] [-o FILE]`: run both sides of every pair, let `diagnose`
say why they differ, and write the page; with `--installed` that of models from packages.

Both sides are the NumPy reference on the spec that describes them, with the probe's weights, the
same two images, and outputs, statistics and layers as a port would give them. The cause is found
from the outputs alone, and from the statistics of one training step.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path

import numpy as np

from benchmarks.wall.installed import Side, named, pairs
from benchmarks.wall.pairs import PAIRS, Pair
from shared import get_spec, make_plan, probe_images, probe_weights
from shared.frameworks.diagnose import KIT, diagnose_observations
from shared.graphs.near import fields_that_differ
from shared.verification.diagnosis.diagnose import Diagnosis
from shared.verification.diagnosis.observations import observations
from shared.verification.diagnosis.passes import Passes
from shared.verification.hypotheses.hypothesis import Port, weights_for

SIZE, SIZE_INSTALLED = 96, 64
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


def row_installed(here: Side, beside: Side) -> str:
    """In evaluation, from outputs alone."""
    spec = here.spec
    side = SIZE_INSTALLED
    images = probe_images((BATCH, side, side, spec.in_channels)).astype(np.float64)
    weights = {n: a.astype(np.float64) for n, a in probe_weights(spec).items()}
    other = beside.spec.replace(num_classes=spec.num_classes)
    carried = weights_for(weights, make_plan(other).tensors)
    if carried is None:
        raise ValueError(f"{here.key} and {beside.key} have other kernels")
    outputs = {"outputs": Passes(Port(other, carried, images)).get("eval/output")}
    found = diagnose_observations(weights, spec, observations(outputs, images, spec, beside.key))
    one_size = [s.key.partition("/")[0] for s in (here, beside) if s.at_one_size]
    cells = [
        here.called,
        beside.called,
        "**same**" if found.same else "differs",
        "" if found.same else f"{found.error_before:.1e}",
        _causes(found),
        f"{here.error}; {beside.error}",
        f"the last pool of {' and '.join(one_size)} is for one image size" if one_size else "",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def row_named(side: Side, preset: str, where: str) -> str:
    """What another network has where this one differs: their tensors do, so no weights show it."""
    found = fields_that_differ(
        side.spec, get_spec(preset).replace(num_classes=side.spec.num_classes)
    )
    told = "; ".join(
        f"`{key}={json.dumps(a)}`, not `{json.dumps(b)}`" for key, (a, b) in found.items()
    )
    cells = [side.called, f"{preset} ({where})", told or "nothing", side.error]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page_installed(rows: list[str], named_rows: list[str]) -> str:
    said = [
        "# The wall: models of packages that pip installs",
        "",
        "Pairs that bear one name, or are meant to be one function. Each model was built and run "
        "by its own package, read operator by operator, and found to be the network that is "
        "compared here: the last column but one is how far that network's outputs were from the "
        "model's own, over the largest ([docs/identified.md](../identified.md)). Both networks "
        "then get the probe's weights, which hide nothing, and the same images of "
        f"{SIZE_INSTALLED} x {SIZE_INSTALLED}, and `rosetta diagnose` says from the outputs alone "
        "why they differ. Those that are right stand here in the same size.",
        "",
        f"Made by `python -m benchmarks.wall --installed`, {datetime.date.today().isoformat()}.",
        "",
        "| one side | the other | evaluation | largest difference | cause, as found | each from "
        "its own code | note |",
        "| --- | --- | --- | ---: | --- | --- | --- |",
        *rows,
        "",
        "## Networks that are not what they are said to be",
        "",
        "Read in the same way; here the tensors differ, too, so neither takes the other's weights.",
        "",
        "| model | is said to be | and has | from its own code |",
        "| --- | --- | --- | --- |",
        *named_rows,
    ]
    return "\n".join(said) + "\n"


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
    parser.add_argument("--installed", action="store_true")
    parser.add_argument("-o", "--output")
    given = parser.parse_args()
    rows = []
    made = (
        (row_installed(*both) for both in pairs()) if given.installed else (row(p) for p in PAIRS)
    )
    for line in made:
        rows.append(line)
        print(line, flush=True)
    name = "installed.md" if given.installed else "README.md"
    output = Path(given.output or f"docs/wall/{name}")
    output.parent.mkdir(parents=True, exist_ok=True)
    others = [row_named(*one) for one in named()] if given.installed else []
    text = page_installed(rows, others) if given.installed else page(rows)
    output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
