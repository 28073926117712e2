"""Wall seconds of commands as a user waits for them: the median of whole processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 9

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import shared": [sys.executable, "-c", "import shared"],
    "rosetta --help": [sys.executable, "-m", "shared.cli.main", "--help"],
    "rosetta list": [sys.executable, "-m", "shared.cli.main", "list"],
    "rosetta show resnet152": [sys.executable, "-m", "shared.cli.main", "show", "resnet152"],
}


def seconds(command: list[str]) -> float:
    """The median of several runs, after one that is not counted."""
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> dict[str, float]:
    return {name: seconds(command) for name, command in COMMANDS.items()}
