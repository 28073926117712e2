"""`python -m benchmarks.portbench`: plant mistakes in ports of three frameworks, let `diagnose`
name them from the outputs alone, and count.

    --alone N --pairs N --equal N   how many cases of each kind (300, 100, 60)
    --framework torch,keras,flax,reference
    --json FILE                     every case with its answer, a line each, written as they come;
                                    those that are in it already are not run again
    --report                        the table of that file, and no run
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import os
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.portbench.cases import Case, cases, planted, returned, right, where
from shared.frameworks.diagnose import diagnose_observations
from shared.verification.diagnosis.observations import observations
from shared.verification.hypotheses.hypothesis import Port
from shared.verification.hypotheses.listing import named
from shared.verification.hypotheses.of_spec import parts_of

FRAMEWORKS = "torch,keras,flax"
_Raw = argparse.RawDescriptionHelpFormatter


def outputs(port: Port, framework: str) -> np.ndarray:
    """What the port returns in float32, in a framework; by the reference where a mistake is in what
    no package can be told: the operator of one layer, dropout in evaluation.
    """
    if framework == "reference" or port.dropout or port.altered:
        found = returned(port)
        if found is None:
            raise ValueError("the port returns nothing finite")
        return found.astype(np.float32)
    package = importlib.import_module(f"resnet_{framework}")
    model = package.build(port.spec, dtype="float32")
    weights = {name: array.astype(np.float32) for name, array in port.weights.items()}
    package.load_weights(model, weights)
    images, check = port.images.astype(np.float32), "train" if port.batch_statistics else "eval"
    trace = package.trace(model, images, checks=(check,))
    output = np.asarray(trace[f"{check}/output"], np.float64)
    return port.returned(output).astype(np.float32)


def answer(case: Case) -> dict[str, Any]:
    """Plant, run, diagnose, and score one case."""
    base = right(case.preset)
    port = planted(base, case.mistakes)
    if port is None:
        raise ValueError(f"{case} is not possible")
    seen = outputs(port, case.framework)
    observed = observations({"outputs": seen}, base.images, base.spec, "a case")
    started, processor = time.perf_counter(), time.process_time()
    found = diagnose_observations(base.weights, base.spec, observed)
    row: dict[str, Any] = {
        "preset": case.preset,
        "framework": case.framework,
        "kind": case.kind,
        "mistakes": list(case.mistakes),
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - processor,
        "same": found.same,
        "explained": found.explained,
        "causes": [cause.what for cause in found.causes],
        "nearest": [near.what for near in found.nearest],
        "error_before": found.error_before,
        "error_after": found.error_after,
    }
    return row | _score(case, base, found)


def _score(case: Case, base: Port, found: Any) -> dict[str, Any]:
    """Whether it was found, in the right layer, and each mistake named."""
    said = {cause.what for cause in found.causes}
    truths: list[set[str]] = []
    layers, now = [], base
    for name in case.mistakes:
        hypothesis = named(name, now.spec)
        changed = planted(now, [name])
        truths.append({part.what for part in (hypothesis, *parts_of(hypothesis))})
        layers.append(where(now, changed) if changed else "")
        now = changed or now
    twin = bool(truths) and found.explained and not found.same
    # Of a change of several fields those are named that make a difference here.
    named_all = found.explained and all(truth & said for truth in truths)
    # Two mistakes of one effect are one function: which of them it was, no output can say.
    equivalent = twin and len(said) <= len(truths) and found.error_after <= found.limit
    starts = {cause.where[0] for cause in found.causes if cause.where}
    return {
        "found": not found.same if truths else None,
        "false_alarm": (not found.same) if not truths else False,
        "layer": set(layers) <= starts or (equivalent and len(truths) == 1 and named_all)
        if truths
        else None,
        "named": named_all if truths else None,
        "equivalent": equivalent and not named_all,
        "among_three": named_all
        or all(truth & (said | {n.what for n in found.nearest}) for truth in truths),
    }


def report(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [
        "| cases | number | found | in the right layer | cause named | or another of the same "
        "effect | among the three nearest | median processor time | longest |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind in ("alone", "pair"):
        of_kind = [row for row in rows if row["kind"] == kind]
        if not of_kind:
            continue
        seconds = [row["processor_seconds"] for row in of_kind]
        lines.append(
            f"| {kind} | {len(of_kind)} | {_share(of_kind, 'found')} | "
            f"{_share(of_kind, 'layer')} | {_share(of_kind, 'named')} | "
            f"{_share(of_kind, 'named', 'equivalent')} | "
            f"{_share(of_kind, 'among_three', 'equivalent')} | "
            f"{statistics.median(seconds):.1f} s | {max(seconds):.1f} s |"
        )
    equal = [row for row in rows if row["kind"] == "equal"]
    alarms = sum(row["false_alarm"] for row in equal)
    frameworks = collections.Counter(row["framework"] for row in rows)
    counts = ", ".join(f"{name} {count}" for name, count in sorted(frameworks.items()))
    return "\n".join(
        [*lines, "", f"{len(equal)} equal pairs, {alarms} false alarms. By framework: {counts}."]
    )


def _share(rows: list[dict[str, Any]], *fields: str) -> str:
    """Of the rows, how many have one of the fields."""
    return f"{sum(any(row[field] for field in fields) for row in rows) / len(rows):.1%}"


def _written(file: Path | None) -> list[dict[str, Any]]:
    """The answers that are in a file already."""
    if file is None or not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]  # not one cut short


def _case_of(row: dict[str, Any]) -> Case:
    return Case(row["preset"], tuple(row["mistakes"]), row["framework"])


def run(wanted: Iterable[Case], file: Path | None) -> list[dict[str, Any]]:
    """The answers of all cases; those that are in `file` are taken from there."""
    before = _written(file)
    known = {(_case_of(row), row["number"]): row for row in before}
    if file is not None:
        file.write_text("".join(json.dumps(row) + "\n" for row in before), encoding="utf-8")
    rows = []
    for number, case in enumerate(wanted):
        row = known.get((case, number))
        if row is None:
            row = {"number": number, **answer(case)}
            if file is not None:
                with file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(row) + "\n")
        rows.append(row)
        wrong = row["false_alarm"] or (row["kind"] != "equal" and not row["named"])
        if wrong and not row["equivalent"]:
            print(f"{case.preset} {case.framework} {case.mistakes}: {row['causes']}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    for name, default in (("alone", 300), ("pairs", 100), ("equal", 60)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--framework", default=FRAMEWORKS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if given.report:
        print(report(_written(given.json)))
        return
    wanted = cases(given.alone, given.pairs, given.equal, given.framework.split(","))
    print(report(run(wanted, given.json)))


if __name__ == "__main__":
    main()
