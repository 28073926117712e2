"""What `rosetta export` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from shared.architecture.plan import make_plan
from shared.architecture.preprocessing import PREPROCESSING
from shared.cli.tables import printable

if TYPE_CHECKING:
    from shared.architecture.spec import ResNetSpec
    from shared.frameworks.exported.export import Exported
    from shared.weights.canonical import Weights

MEBIBYTE = 1 << 20


class Source(NamedTuple):
    """What is exported, and what is to be said of it."""

    spec: ResNetSpec
    weights: Weights
    origin: str
    preprocessing: str
    remarks: tuple[str, ...] = ()


def exported(found: Exported, source: Source, seconds: float) -> Iterator[Text]:
    """The verdict, and what it rests on."""
    wanted, plan = found.wanted, make_plan(found.spec)
    good = found.passed
    how = f"{wanted.kind.title} in {wanted.dtype}" + (", norms folded" if wanted.fold else "")
    if good:
        verdict = f"✓ {found.path}: {found.spec.name}, {how}"
    else:
        how = "compute the same as" if found.read is None else "read back as"
        verdict = f"✗ {found.path} is not written: it does not {how} {found.spec.name}"
    yield Text(printable(verdict), "bold green" if good else "bold red")
    yield _row("network", f"{plan.params:,} parameters; {source.origin}")
    for remark in source.remarks:
        yield _row("", remark, "yellow")
    yield _row("written by", _versioned(wanted.writer))
    yield _row("images", f"{_shape(found.images)} {wanted.layout}, {_size(found)}")
    yield _row("", f"not in the file: the preprocessing ({_prepared(source.preprocessing)})")
    yield _row("returns", _shape([None, *found.output]))
    for note in found.notes:
        yield _row("note", note, "yellow")
    if wanted.folds:
        yield _row("note", f"{wanted.folds} folds norms into convolutions, asked or not")
    runtime = wanted.kind.runtimes[wanted.dtype][0]
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    for comparison in found.comparisons:
        worst = comparison.worst
        mark = "✓" if comparison.passed else "✗"
        error = f"{worst.error:.1e} from the reference, limit {worst.limit:.1e}" if worst else ""
        text = f"{mark} {runtime} ({versions}): {error}"
        yield _row("run by", text, "" if comparison.passed else "red")
        for problem in comparison.problems:
            yield _row("", problem, "red")
    read = found.read
    if read is not None and read.same_spec is None:
        yield _row("read back", f"not: {read.why}", "yellow")
    elif read is not None and read.passed:
        same = "the same network" + (" without its norms" if wanted.fold else "")
        equal = read.why or f"{read.equal} tensors equal bit by bit"
        yield _row("read back", f"✓ {same}, {equal}")
    elif read is not None:
        yield _row("read back", f"✗ {read.why}", "red")
    yield _row("compared", "the forward pass alone, for that is all that such a file has")
    if good:
        size = f"{found.bytes / MEBIBYTE:.1f} MiB"
        yield _row("file", f"{size}, sha256 {found.sha256[:16]}…; {seconds:.1f} s")


def _row(name: str, text: str, style: str = "") -> Text:
    return Text(printable(f"  {name:<11}{text}"), style)


def _versioned(writer: str) -> str:
    return f"{writer}, by its own exporter"


def _shape(shape: list[int | None]) -> str:
    return "[" + ", ".join("any" if n is None else str(n) for n in shape) + "]"


def _size(found: Exported) -> str:
    wanted = found.wanted
    if wanted.image_size is not None:
        return f"any number of {wanted.image_size} x {wanted.image_size} pixels"
    step = wanted.kind.multiple
    return "any number of any size" + (f" in multiples of {step} pixels" if step > 1 else "")


def _prepared(name: str) -> str:
    how = PREPROCESSING[name]
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (how.mean, how.std))
    order = "BGR" if how.reverse else "RGB"
    return f"{name}: (pixels / {how.divisor:g} - [{mean}]) / [{std}] in {order}"
