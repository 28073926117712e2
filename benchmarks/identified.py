"""Models of other packages, and what `identify` says of them.

`python -m benchmarks identified` builds each in a process of its package, with a time limit, and
writes docs/identified.md and identified.json beside this file, after every model: a run that was
stopped goes on with `--missing`. `--only WORD` takes the models whose package or name has the word.
The rows of models that are not measured stay as they were; those of packages that cannot be
imported are said to be missing.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.others import Model, models
from shared import Identified, get_spec, identify
from shared.errors import RosettaError
from shared.graphs.near import fields_that_differ
from shared.graphs.verdict import listed
from shared.processes import ON_CPU, Process, answers, failure

HERE = Path(__file__).parent
ROWS = HERE / "identified.json"
PAGE = HERE.parent / "docs" / "identified.md"
SECONDS = 900.0  # that a model may take to be made and identified

LEGACY = {"TF_USE_LEGACY_KERAS": "1"}
ENVIRONMENTS = {
    "tf2cv": LEGACY,
    "kerascv": LEGACY,
    "keras-resnet": LEGACY,
    "keras-applications": LEGACY,
    "tf-slim": LEGACY,
}
COMMON = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", **ON_CPU}
DISTRIBUTIONS = {"keras.applications": "keras"}


@dataclass(frozen=True)
class Row:
    """A model and the answer. `right`: it is what it is known to be, or, out of scope, not said to
    be a ResNet.
    """

    package: str
    version: str
    name: str
    scope: bool
    recognised: bool
    right: bool
    answer: str
    error: str = ""
    seconds: float | None = None  # of processor time, of `identify` alone

    @property
    def key(self) -> str:
        return f"{self.package}/{self.name}"


def answer(model: Model, found: Identified) -> str:
    """The verdict in a cell of a table."""
    if found.recognised:
        if found.preset:
            return f"{found.verdict}: {found.preset}"
        fields = _own_fields(found)
        return f"{found.verdict}: {found.nearest} with {listed(fields, most=4)}"
    if found.departures:
        places = listed((d.where for d in found.departures), most=1)
        return f"departs from {found.nearest}: {found.departures[0].theirs} ({places})"
    return "; ".join([found.verdict, *found.notes[-1:]])


def _own_fields(found: Identified) -> list[str]:
    """What tells a spec from its nearest preset."""
    if found.spec is None or found.nearest is None:
        return []
    differ = fields_that_differ(found.spec, get_spec(found.nearest))
    return [f"`{name}={json.dumps(own)}`" for name, (own, _) in differ.items()]


def is_right(model: Model, found: Identified) -> bool:
    """Whether the answer is what is known of the model."""
    if not model.scope or not found.recognised:
        return model.scope == found.recognised
    if not model.preset:
        return True
    wanted = get_spec(model.preset).replace(name="")
    return wanted in [get_spec(name).replace(name="") for name in found.presets]


def row(model: Model) -> Row:
    """What `identify` says of a model that is made here."""
    version = importlib.metadata.version(DISTRIBUTIONS.get(model.package, model.package))
    built = model.make()
    started = time.process_time()
    found = identify(built, model.size)
    seconds = round(time.process_time() - started, 1)
    numbers = found.evidence
    return Row(
        package=model.package,
        version=version,
        name=model.name,
        scope=model.scope,
        recognised=found.recognised,
        right=is_right(model, found),
        answer=answer(model, found).replace("|", "/"),
        error=f"{numbers.error:.1e}, {numbers.dtype}" if numbers else "",
        seconds=seconds,
    )


# The page.

HEAD = """# Models of other packages, identified

Written by `python -m benchmarks identified`. Each model was built by its own package, its weights
drawn and its norms as after training; read at one image size and at the next (96 and 97 pixels, 32
and 33 of CIFAR's networks, 224 and 225 where a window is fixed); compared operator by operator with
a plan; and by its logits with the NumPy reference (the error is over the largest logit). Seconds
are those of processor time that `identify` took, beside the import.

{totals}

*In scope* is what a spec can express, if it has a field for all that the network does; squeeze and
excitation, attention, split and shared units, other activations and the like are out of scope,
and are told apart below. *Right*: in scope, the network is identified, and where its package's
documentation says which it is, as that one; out of scope, no ResNet is claimed.
"""


def page(rows: Sequence[Row], missing: Mapping[str, str]) -> str:
    """The whole of docs/identified.md."""
    parts = [HEAD.format(totals=_totals(rows))]
    for title, scope in (("In scope", True), ("Out of scope", False)):
        parts.append(f"## {title}\n")
        parts.append(
            "| package | model | answer | error | seconds |\n| --- | --- | --- | --- | --- |"
        )
        parts[-1] += "".join(f"\n{_line(row)}" for row in rows if row.scope == scope) + "\n"
    left = _not_measured(rows, missing)
    if left:
        parts += ["## Not measured\n", *left, ""]
    return "\n".join(parts)


def _not_measured(rows: Sequence[Row], missing: Mapping[str, str]) -> list[str]:
    """Packages that cannot be imported, and models of the others without a row."""
    measured = {row.key for row in rows}
    left: dict[str, list[str]] = {}
    for model in models():
        if model.key not in measured and model.package not in missing:
            left.setdefault(model.package, []).append(model.name)
    lines = [f"* {package}: {why}" for package, why in missing.items()]
    return lines + [f"* {package}: {', '.join(names)}" for package, names in left.items()]


def _totals(rows: Sequence[Row]) -> str:
    inside = [row for row in rows if row.scope]
    outside = [row for row in rows if not row.scope]
    good, false = sum(row.right for row in inside), sum(row.recognised for row in outside)
    wrong = sum(row.recognised and not row.right for row in inside)
    share = f"{good / max(len(inside), 1):.1%}"
    packages = len({row.package for row in rows})
    measured = {row.key for row in rows}
    without = sum(model.key not in measured for model in models())
    rest = (
        f" {without} more models have not been measured: they are listed last." if without else ""
    )
    return (
        f"**{good} of {len(inside)} ResNets in scope of {packages} packages are identified "
        f"({share}); {wrong} of them as another one, and {false} of the {len(outside)} others.**"
        f"{rest}"
    )


def _line(row: Row) -> str:
    mark = "" if row.right else "**✗** "
    seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
    package = f"{row.package} {row.version}".strip()
    return f"| {package} | {row.name} | {mark}{row.answer} | {row.error} | {seconds} |"


def read_rows() -> list[Row]:
    """The rows as they were measured, in the order of `models`."""
    if not ROWS.exists():
        return []
    return [Row(**fields) for fields in json.loads(ROWS.read_text("utf-8"))["rows"]]


def read_missing() -> dict[str, str]:
    """Packages that could not be imported, and why."""
    return json.loads(ROWS.read_text("utf-8"))["missing"] if ROWS.exists() else {}


def write(rows: Mapping[str, Row], missing: Mapping[str, str]) -> None:
    """Both files, whole or not at all."""
    order = {model.key: k for k, model in enumerate(models())}
    kept = sorted((row for row in rows.values() if row.key in order), key=lambda r: order[r.key])
    lines = ",\n".join(json.dumps(asdict(row), ensure_ascii=False) for row in kept)
    text = f'{{"rows": [\n{lines}\n], "missing": {json.dumps(dict(missing))}}}\n'
    for path, content in ((ROWS, text), (PAGE, page(kept, missing))):
        half = path.with_suffix(".part")
        half.write_text(content, "utf-8")
        os.replace(half, path)


# The processes.


def serve() -> None:
    """The child: it answers the keys of models with their rows."""
    warnings.filterwarnings("ignore")
    known = {model.key: model for model in models()}
    file = answers()
    for line in sys.stdin:
        key = json.loads(line)
        try:
            found: dict[str, Any] = {"row": asdict(row(known[key]))}
        except ImportError as error:
            found = {"missing": " ".join(str(error).split())}
        except BaseException as error:  # noqa: BLE001 - other people's code may raise anything
            found = failure(error, key)
        print(json.dumps(found), file=file)


def _asked(process: Process, key: str, seconds: float) -> dict[str, Any]:
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        return process.ask(key)
    finally:
        timer.cancel()


def _measured(process: Process, model: Model) -> Row | str:
    """The row, or why its package cannot be imported."""
    started = time.monotonic()
    try:
        found = _asked(process, model.key, SECONDS)
    except RosettaError as error:
        late = time.monotonic() - started >= SECONDS
        why = f"took longer than {SECONDS:.0f} s" if late else str(error)
        why = " ".join(why.removeprefix(f"{model.key}: ").split())[:300].replace("|", "/")
        text = f"not read: {why}"
        version = importlib.metadata.version(DISTRIBUTIONS.get(model.package, model.package))
        return Row(model.package, version, model.name, model.scope, False, not model.scope, text)
    return str(found["missing"]) if "missing" in found else Row(**found["row"])


def main(console: Console, only: Sequence[str] = (), missing: bool = False) -> None:
    """Measure, write both files and print the page."""
    rows = {row.key: row for row in read_rows()}
    absent = read_missing()
    wanted: dict[str, list[Model]] = {}
    for model in models():
        if only and not any(word in model.key for word in only):
            continue
        if not (missing and model.key in rows):
            wanted.setdefault(model.package, []).append(model)
    for package, own in wanted.items():
        absent.pop(package, None)
        _package(package, own, rows, absent)
        write(rows, absent)
    console.file.write(PAGE.read_text("utf-8") if PAGE.exists() else "")


def _package(
    package: str, own: Sequence[Model], rows: dict[str, Row], absent: dict[str, str]
) -> None:
    environment = COMMON | ENVIRONMENTS.get(package, {})
    waiting = list(own)
    while waiting:
        code = "from benchmarks.identified import serve; serve()"
        with closing(Process(package, ["-c", code], environment)) as process:
            while waiting and process.code is None:
                model = waiting.pop(0)
                found = _measured(process, model)
                if isinstance(found, str):
                    if not any(row.package == package for row in rows.values()):
                        absent[package] = found
                    return
                rows[found.key] = found
                write(rows, absent)
                print(_line(found), file=sys.stderr, flush=True)
