"""`python -m tests.attacks`: every attack, or mutations of every format, with a table of what
happened.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.attacks import seeds
from tests.attacks.attack import Placement
from tests.attacks.check import over_baseline, snapshot, verdict
from tests.attacks.corpus import ATTACKS
from tests.attacks.watch import watching


def run_attacks(only: str | None) -> int:
    """The number of attacks that are not refused properly."""
    failed = 0
    chosen = [attack for attack in ATTACKS.values() if only is None or only in attack.name]
    with tempfile.TemporaryDirectory() as folder:
        valid = seeds.make_all(Path(folder) / "valid")
        with watching([valid[kind] for kind in seeds.WARM]) as watcher:
            base = max(watcher.open(valid[kind]).children for kind in seeds.SANDBOXED)
            for attack in chosen:
                place = Placement.make(Path(folder) / attack.name)
                path = attack.make(place)
                before = snapshot(place.inside.parent)
                outcome = watcher.open(path)
                problems = verdict(attack, path, place, before, outcome, base)
                failed += bool(problems)
                said = (
                    "; ".join(problems) or outcome.message.removeprefix(str(path)).lstrip(": ")[:90]
                )
                mebibytes = over_baseline(outcome, base) / (1 << 20)
                print(
                    f"{'FAILED' if problems else 'refused':8}{attack.name:44}"
                    f"{outcome.seconds:6.2f} s "
                    f"{max(0, mebibytes):6.0f} MiB  {said}",
                    flush=True,
                )
    print(f"{len(chosen)} attacks, {failed} not refused as they must be")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument(
        "--only",
        metavar="NAME",
        help="attacks (or formats, with --mutations) with this in their name",
    )
    parser.add_argument(
        "--mutations", type=int, metavar="COUNT", help="mutate every format so many times instead"
    )
    parser.add_argument("--minutes", type=float, help="stop mutating after this time")
    parser.add_argument("--state", type=Path, help="where mutating got to; it goes on from there")
    arguments = parser.parse_args()
    if arguments.mutations is None:
        return int(run_attacks(arguments.only) > 0)
    from tests.attacks.mutate import run_mutations

    return int(
        run_mutations(arguments.mutations, arguments.only, arguments.minutes, arguments.state) > 0
    )


if __name__ == "__main__":
    sys.exit(main())
