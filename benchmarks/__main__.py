"""`python -m benchmarks [torch|keras|flax|train|loop|convert|inspect|startup|verify ...]`: every
figure of the README's tables.

Run it while nothing else runs. Each framework is timed in a process of its own, beside its peer.
Two are no timings: `evidence`, how often `rosetta inspect --evidence` is right, for
docs/evidence.md, and `identified`, what `identify` says of other packages' models, for
docs/identified.md.
`--quick` only shows that all of it runs: tiny batches, a few rounds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from benchmarks import convert_speed, evidence, identified, inspect_speed, loop_speed, startup
from benchmarks.timing import BATCH, SIZE, Result
from shared.cli.options import make_console
from shared.cli.tables import Column, Table
from shared.frameworks.registry import get_framework

FRAMEWORKS = ("torch", "keras", "flax")
KINDS = (*FRAMEWORKS, "train", "loop", "convert", "inspect", "startup", "verify")
EVIDENCE, IDENTIFIED = "evidence", "identified"  # no timings, and no part of all
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}

PIPELINE_AT_LEAST = 2.0  # times as many images a second as the fastest training step
LOOP_BELOW = 0.03  # of the time in the steps


def speed(module: str, *arguments: Any, framework: str = "") -> list[Result]:
    """The races of `benchmarks.MODULE.main(*arguments)`, in a process of its own."""
    environment = {**os.environ, **QUIET}
    if framework == "keras":
        environment["KERAS_BACKEND"] = get_framework("keras").environment["KERAS_BACKEND"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--worker", module, json.dumps(arguments)],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return [Result(**result) for result in json.loads(done.stdout.splitlines()[-1])]


def verification() -> dict[str, Any]:
    """`rosetta verify resnet50`, timed as a whole, with each process's peak memory."""
    command = [sys.executable, "-m", "shared.cli.main", "verify", "resnet50", "--json", "-"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def inference(console: Console, frameworks: Sequence[str]) -> None:
    """ResNet-50 in each framework, against its peer."""
    table = Table(Column(f"inference, ResNet-50, batch {BATCH}, {SIZE} x {SIZE}"), *_RACE)
    for framework in frameworks:
        for result in speed(f"{framework}_speed", framework=framework):
            _add(table, result.what, result)
    console.print(table, soft_wrap=True)


def training(console: Console, quick: bool) -> None:
    """Training steps of both networks in each framework, against its peers."""
    found = {
        name: speed("train_speed", get_framework(name).name, quick, framework=name)
        for name in FRAMEWORKS
    }
    table = Table(Column("training step, float32"), *_RACE)
    for results in zip(*found.values(), strict=True):
        table.section(results[0].what)
        for name, result in zip(found, results, strict=True):
            _add(table, f"resnet_{name}", result)
    console.print(table, soft_wrap=True)


def loops(console: Console, quick: bool) -> None:
    """The pipeline, the step, and the loop around it."""
    errors = make_console(stderr=True)
    results = [loop_speed.measure(name, quick, errors) for name in FRAMEWORKS]
    table = Table(
        Column(f"{loop_speed.RECIPE}, images/s"),
        Column("pipeline", right=True),
        Column("step", right=True),
        Column("loop", right=True),
        Column("pipeline ÷ step", right=True),
        Column("around the step", right=True),
    )
    for r in results:
        table.row(
            f"resnet_{r.framework}",
            f"{r.pipeline:,.0f}",
            f"{r.step:,.0f}",
            f"{r.loop:,.0f}",
            f"{r.ratio:.1f}",
            f"{r.added:.2%}",
        )
    console.print(table, soft_wrap=True)
    fastest = max(results, key=lambda r: r.step)
    heaviest = max(results, key=lambda r: r.added)
    console.print()
    for good, said in (
        (
            fastest.ratio >= PIPELINE_AT_LEAST,
            f"the pipeline makes {fastest.ratio:.1f} times the images of the fastest "
            f"step, {fastest.framework}; at least {PIPELINE_AT_LEAST:g} wanted",
        ),
        (
            heaviest.added < LOOP_BELOW,
            f"the loop adds at most {heaviest.added:.2%} to the steps, "
            f"{heaviest.framework}; less than {LOOP_BELOW:.0%} wanted",
        ),
    ):
        console.print("[green]✓[/]" if good else "[red]✗[/]", said, soft_wrap=True, highlight=False)
    if any(r.noise for r in results):
        console.print("  on noise: the dataset is not on this machine", soft_wrap=True)


def conversions(console: Console) -> None:
    """ResNet-152 from torchvision's checkpoint to other formats: time and memory beside the
    libraries'.
    """
    peaks = convert_speed.peaks()
    table = Table(
        Column("ResNet-152, 241 MB, from .pth"),
        Column("ours", right=True),
        Column("libraries", right=True),
        Column("times as long", right=True),
        Column("peak memory, files", right=True),
    )
    for result in speed("convert_speed"):
        peak = peaks[result.what.removeprefix("to ")]
        table.row(
            result.what,
            f"{result.ours_ms:.0f} ms",
            f"{result.peer_ms:.0f} ms",
            f"{1 / result.speedup:.2f}",
            f"{peak:.2f}",
        )
    console.print(table, soft_wrap=True)


def inspections(console: Console) -> None:
    """Whole processes, and the limits."""
    table = Table(
        Column("rosetta inspect, whole process"),
        Column("seconds", right=True),
        Column("below", right=True),
        Column(""),
    )
    for timed in inspect_speed.main():
        verdict = "✓" if timed.seconds < timed.below else "✗"
        table.row(timed.what, f"{timed.seconds:.2f}", f"{timed.below:g}", verdict)
    console.print(table, soft_wrap=True)


def startups(console: Console) -> None:
    """Whole processes."""
    table = Table(Column("start-up, whole process"), Column("seconds", right=True))
    for command, taken in startup.main().items():
        table.row(command, f"{taken:.2f}")
    console.print(table, soft_wrap=True)


def verifications(console: Console) -> None:
    """The proof, whole."""
    found = verification()
    table = Table(Column("rosetta verify resnet50, float64"), Column("", right=True))
    table.row("seconds", f"{found['seconds']:.0f}")
    for framework, peak in found["peak_bytes"].items():
        table.row(f"peak memory of {framework}", f"{peak / 2**30:.2f} GiB")
    console.print(table, soft_wrap=True)


_RACE = (
    Column("peer"),
    Column("ours", right=True),
    Column("peer", right=True),
    Column("times as fast", right=True),
)


def _add(table: Table, name: str, result: Result) -> None:
    table.row(name, result.peer, _ms(result.ours_ms), _ms(result.peer_ms), f"{result.speedup:.2f}")


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.{0 if milliseconds >= 100 else 1}f} ms"


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        results = importlib.import_module(f"benchmarks.{sys.argv[2]}").main(
            *json.loads(sys.argv[3])
        )
        print(json.dumps([result.to_dict() for result in results]))
        return
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="What is timed, against the peers."
    )
    parser.add_argument(
        "kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)}; all unless given"
    )
    parser.add_argument(
        "--quick", action="store_true", help="train and loop: only see that they run"
    )
    parser.add_argument(
        "--train", action="store_true", help="evidence: train the networks that are missing"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="WORD",
        help="identified: models whose package or name has the word",
    )
    parser.add_argument(
        "--missing", action="store_true", help="identified: models that have no row yet"
    )
    asked = parser.parse_args()
    known = (*KINDS, EVIDENCE, IDENTIFIED)
    if unknown := set(asked.kinds) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    wanted = asked.kinds or KINDS
    console = Console()
    if frameworks := [name for name in FRAMEWORKS if name in wanted]:
        inference(console, frameworks)
    if "train" in wanted:
        training(console, asked.quick)
    if "loop" in wanted:
        loops(console, asked.quick)
    if "convert" in wanted:
        conversions(console)
    if "inspect" in wanted:
        inspections(console)
    if "startup" in wanted:
        startups(console)
    if "verify" in wanted:
        verifications(console)
    if EVIDENCE in wanted:
        evidence.main(console, asked.train)
    if IDENTIFIED in wanted:
        identified.main(console, asked.only, asked.missing)


if __name__ == "__main__":
    main()
