"""`python -m benchmarks [torch|keras|flax|convert|startup|verify ...]`: every figure of the README's table.

Run it while nothing else runs. Each framework is timed in a process of its own, beside its peer.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from typing import Any

from rich.console import Console

from benchmarks import convert_speed, startup
from benchmarks.timing import BATCH, SIZE, Result
from shared.frameworks import get_framework
from shared.tables import Column, Table

SPEEDS = {"torch": "benchmarks.torch_speed", "keras": "benchmarks.keras_speed", "flax": "benchmarks.flax_speed",
          "convert": "benchmarks.convert_speed"}  # fmt: skip
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}


def speed(framework: str) -> list[Result]:
    """One framework's races, in a process of its own."""
    environment = {**os.environ, **QUIET}
    if framework == "keras":
        environment["KERAS_BACKEND"] = get_framework("keras").environment["KERAS_BACKEND"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--worker", framework],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return [Result(**result) for result in json.loads(done.stdout.splitlines()[-1])]


def verification() -> dict[str, Any]:
    """`rosetta verify resnet50`, timed as a whole, with each process's peak memory."""
    command = [sys.executable, "-m", "shared.cli", "verify", "resnet50", "--json", "-"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def conversions(console: Console) -> None:
    """ResNet-152 from torchvision's checkpoint to other formats: time and memory beside the libraries'."""
    peaks = convert_speed.peaks()
    table = Table(
        Column("ResNet-152, 241 MB, from .pth"), Column("ours", right=True), Column("libraries", right=True),
        Column("times as long", right=True), Column("peak memory, files", right=True),
    )  # fmt: skip
    for result in speed("convert"):
        peak = peaks[result.what.removeprefix("to ")]
        table.row(result.what, f"{result.ours_ms:.0f} ms", f"{result.peer_ms:.0f} ms", f"{1 / result.speedup:.2f}",
                  f"{peak:.2f}")  # fmt: skip
    console.print(table, soft_wrap=True)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        results = importlib.import_module(SPEEDS[sys.argv[2]]).main()
        print(json.dumps([result.to_dict() for result in results]))
        return
    wanted = sys.argv[1:] or [*SPEEDS, "startup", "verify"]
    console = Console()
    frameworks = [name for name in SPEEDS if name != "convert"]
    if set(wanted) & set(frameworks):
        table = Table(
            Column(f"ResNet-50, batch {BATCH}, {SIZE} x {SIZE}"), Column("peer"), Column("ours", right=True),
            Column("peer", right=True), Column("times as fast", right=True),
        )  # fmt: skip
        for framework in (f for f in frameworks if f in wanted):
            for result in speed(framework):
                table.row(result.what, result.peer, f"{result.ours_ms:.0f} ms", f"{result.peer_ms:.0f} ms",
                          f"{result.speedup:.2f}")  # fmt: skip
        console.print(table, soft_wrap=True)
    if "convert" in wanted:
        conversions(console)
    if "startup" in wanted:
        table = Table(Column("start-up, whole process"), Column("seconds", right=True))
        for command, taken in startup.main().items():
            table.row(command, f"{taken:.2f}")
        console.print(table, soft_wrap=True)
    if "verify" in wanted:
        found = verification()
        table = Table(Column("rosetta verify resnet50, float64"), Column("", right=True))
        table.row("seconds", f"{found['seconds']:.0f}")
        for framework, peak in found["peak_bytes"].items():
            table.row(f"peak memory of {framework}", f"{peak / 2**30:.2f} GiB")
        console.print(table, soft_wrap=True)


if __name__ == "__main__":
    main()
