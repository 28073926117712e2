"""`python -m benchmarks.site [-o FOLDER]` builds the site; `--measure [PRESET ... | idioms]` runs
`rosetta verify` of the networks that are shown side by side, or the listings of the idioms, and
keeps what it found.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.site import measure, run_idioms
from benchmarks.site.idioms import FRAMEWORKS, IDIOMS
from benchmarks.site.networks import NETWORKS

LISTINGS = "idioms"  # what --measure calls them


def main() -> int:
    """The exit status: of Sphinx, where the site is built."""
    presets = [shown.preset for shown in NETWORKS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.site", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("site"), metavar="FOLDER")
    parser.add_argument("--measure", nargs="*", choices=[*presets, LISTINGS], metavar="WHAT")
    given = parser.parse_args()
    if given.measure is None:
        try:
            import furo  # noqa: F401 - the theme
            import myst_parser  # noqa: F401
            import sphinx  # noqa: F401
        except ImportError as error:
            parser.error(f"{error.name} is not installed; pip install -e '.[docs]'")
        from benchmarks.site.build import build

        return build(given.output)
    wanted = given.measure or [*presets, LISTINGS]
    if LISTINGS in wanted:
        measure_idioms()
    measure.measure([preset for preset in wanted if preset != LISTINGS])
    return 0


def measure_idioms() -> None:
    """Each framework's listings in a process of its own; printed as a table, and kept."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for framework in FRAMEWORKS:
        command = [sys.executable, "-m", "benchmarks.site.run_idioms", framework]
        environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        found |= json.loads(done.stdout)
    for idiom in IDIOMS:
        for framework, of in found.items():
            right, wrong = of[idiom.name]["right"], of[idiom.name]["wrong"]
            print(f"{idiom.name:16} {framework:6} right {right:.1e}  wrong {wrong:.1e}")
    rows = ",\n".join(
        f'"{framework}": {{\n'
        + ",\n".join(f'  "{name}": {json.dumps(errors)}' for name, errors in of.items())
        + "\n}"
        for framework, of in found.items()
    )
    run_idioms.MEASURED.write_text(f"{{\n{rows}\n}}\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
