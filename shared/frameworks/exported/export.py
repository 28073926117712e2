"""A network exported to a file: written by a framework, run by the file's own runtime, compared
with the reference, read back as a graph, and only then put in its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shared.architecture.plan import Plan, make_plan
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, FrameworkError, SpecError
from shared.frameworks.exported.kinds import Kind, Wanted, get_kind
from shared.frameworks.exported.read_back import ReadBack, read_back
from shared.frameworks.exported.witness import KEY, exact_trace, file_trace
from shared.frameworks.exported.worker import serve_run, serve_write
from shared.frameworks.registry import get_framework
from shared.machine import require_packages
from shared.processes import ON_CPU, call
from shared.verification.comparison import Comparison, compare
from shared.verification.trace import Trace
from shared.weights.canonical import Weights, save_weights
from shared.weights.dtypes import float_dtype
from shared.weights.files import flush_folder
from shared.weights.probe import probe_images

BATCHES = (3, 1)  # images that a file is run with; it was traced with 2
OTHER_SIZE = (9, 14)  # pixels that are added where the size is free
SECONDS = 1800.0


@dataclass(frozen=True)
class Exported:
    """What came of an export. The file is there only if it has `passed`."""

    path: Path
    spec: ResNetSpec
    wanted: Wanted
    comparisons: tuple[Comparison, ...]  # of the output, a batch of images each
    read: ReadBack | None  # None where numbers already differ
    versions: Mapping[str, str]
    bytes: int = 0
    sha256: str = ""
    notes: tuple[str, ...] = ()
    output: tuple[int | None, ...] = ()  # without the batch

    @property
    def passed(self) -> bool:
        right = all(comparison.passed for comparison in self.comparisons)
        return right and self.read is not None and self.read.passed

    @property
    def images(self) -> list[int | None]:
        """The shape of the images that the file takes; None is any."""
        side, channels = self.wanted.image_size, self.spec.in_channels
        first = self.wanted.layout == "NCHW"
        return [None, channels, side, side] if first else [None, side, side, channels]

    def to_dict(self) -> dict[str, Any]:
        wanted, plan = self.wanted, make_plan(self.spec)
        return {
            "passed": self.passed,
            "target": str(self.path),
            "kind": wanted.kind.name,
            "framework": wanted.writer,
            "runtime": wanted.kind.runtimes[wanted.dtype][0],
            "preset": self.spec.name,
            "spec": self.spec.to_dict(),
            "folded": wanted.fold,
            "dtype": wanted.dtype,
            "input": {
                "layout": wanted.layout,
                "shape": self.images,
                "multiple_of": wanted.kind.multiple if wanted.image_size is None else None,
            },
            "output": {"shape": [None, *self.output]},
            "tensors": len(plan.tensors),
            "params": plan.params,
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "read_back": self.read.to_dict() if self.read else None,
            "bytes": self.bytes,
            "sha256": self.sha256 or None,
            "environment": dict(self.versions),
            "notes": list(self.notes),
        }


def plan_export(
    path: Path,
    to: str | None,
    framework: str | None,
    dtype: str,
    image_size: int | None,
    fold: bool,
) -> Wanted:
    """Check everything that can be before any work starts.

    Raises `SpecError`, `FrameworkError` or `CheckpointError`, in one line.
    """
    kind = get_kind(to, path)
    if dtype not in kind.runtimes:
        raise SpecError(
            f"--dtype {dtype}: {kind.title} is run in {' or '.join(kind.runtimes)} here, so that "
            "nothing could prove it"
        )
    wanted = Wanted(kind, get_writer(kind, framework), dtype, image_size, fold)
    for place in _places(path, kind):
        if os.path.lexists(place) and (kind.folder or kind.companion):
            what = "a folder" if kind.folder else "a pair of files"
            raise CheckpointError(
                f"{place}: exists already, and {what} is not replaced in one step; remove it first"
            )
    return wanted


def get_writer(kind: Kind, framework: str | None) -> str:
    """The framework that writes the file: the first that does, or the one that is asked for.

    Raises `FrameworkError` where it cannot, or a package is missing, of the runtime too.
    """
    asked = framework or kind.writers[0]
    names = [asked] if asked != "keras" else [f for f in kind.writers if f.startswith("keras:")]
    chosen = next((name for name in names if name in kind.writers), None)
    if chosen is None:
        raise FrameworkError(
            f"{kind.title} is not written by {asked}; it is by {', '.join(kind.writers)}"
        )
    get_framework(chosen)
    if needed := (*kind.requires, *kind.needs.get(chosen, ())):
        require_packages(kind.title, kind.extra, *needed)
    return chosen


def export(
    spec: ResNetSpec,
    weights: Weights,
    path: Path,
    wanted: Wanted,
    on_step: Callable[[str], None] = lambda what: None,
) -> Exported:
    """Export a network with its canonical weights to `path`.

    Raises `FrameworkError` where the framework cannot export it or the runtime cannot run it, and
    `CheckpointError` where the file cannot be written. Nothing is left then, nor where what was
    written is not the same.
    """
    weights, notes = _rounded(weights, wanted.dtype)
    plan = make_plan(spec, wanted.image_size)
    with _beside(path) as folder:
        name = f"{wanted.kind.name} of {spec.name} by {wanted.writer}"
        file = folder / path.name
        canonical = folder / "weights.safetensors"
        save_weights(canonical, weights, spec)
        on_step(f"{wanted.writer} writes {path.name}")
        call(
            serve_write,
            wanted.writer,
            spec.to_dict(),
            str(canonical),
            str(file),
            wanted.kind.name,
            wanted.size,
            wanted.dtype,
            wanted.fold,
            name=name,
            environment=get_framework(wanted.writer).on_cpu,
            seconds=SECONDS,
        )
        canonical.unlink()
        runtime = wanted.kind.runtimes[wanted.dtype][0]
        on_step(f"{runtime} runs {path.name}")
        comparisons, versions = _compared(spec, weights, file, folder, wanted)
        found = Exported(path, spec, wanted, comparisons, None, versions, notes=notes)
        found = replace(found, output=_output(plan, wanted))
        if not all(comparison.passed for comparison in comparisons):
            return found
        on_step(f"reading {path.name} back")
        size = usual_side(spec, wanted)
        found = replace(found, read=read_back(file, spec, weights, wanted, size))
        if found.passed:
            sha256, count = _digest(file, wanted.kind)
            _put(file, path, wanted.kind)
            found = replace(found, sha256=sha256, bytes=count)
        return found


def _output(plan: Plan, wanted: Wanted) -> tuple[int | None, ...]:
    """The shape of what the file returns of one image, in its own layout."""
    if len(plan.output) == 1:
        return plan.output
    *sides, channels = plan.output
    shown = [None if wanted.image_size is None else side for side in sides]
    return (channels, *shown) if wanted.layout == "NCHW" else (*shown, channels)


def _rounded(weights: Weights, dtype: str) -> tuple[Weights, tuple[str, ...]]:
    """The weights in the file's dtype, and what is to be said of that."""
    target = float_dtype(dtype)
    own = {name: np.ascontiguousarray(array.astype(target)) for name, array in weights.items()}
    changed = sum(
        not np.array_equal(own[name].astype(np.float64), array.astype(np.float64))
        for name, array in weights.items()
    )
    return own, (f"{changed} tensors were rounded to {dtype}",) if changed else ()


def _compared(
    spec: ResNetSpec, weights: Weights, file: Path, folder: Path, wanted: Wanted
) -> tuple[tuple[Comparison, ...], dict[str, str]]:
    """The file's outputs with the reference's, for batches of several sizes."""
    runtime, _ = wanted.kind.runtimes[wanted.dtype]
    batches = _batches(spec, wanted)
    images = [folder / f"images{k}.npy" for k in range(len(batches))]
    outputs = [folder / f"outputs{k}.npy" for k in range(len(batches))]
    for place, batch in zip(images, batches, strict=True):
        np.save(place, batch)
    versions = call(
        serve_run,
        wanted.kind.name,
        str(file),
        wanted.layout,
        wanted.dtype,
        [str(place) for place in images],
        [str(place) for place in outputs],
        name=f"{runtime}, which runs what {wanted.writer} wrote",
        environment={**get_framework(wanted.writer).environment, **ON_CPU},
        seconds=SECONDS,
    )
    traces = []
    for batch, place in zip(batches, outputs, strict=True):
        exact = exact_trace(spec, weights, batch)
        found = file_trace(
            runtime,
            wanted.kind.name,
            spec,
            weights,
            batch,
            np.load(place),
            wanted.dtype,
            exact=exact[KEY],
            folded=wanted.fold,
        )
        traces.append((found, exact))
    _share_budget([found for found, _ in traces])
    comparisons = [compare(found, exact) for found, exact in traces]
    for place in (*images, *outputs):
        place.unlink()
    return tuple(comparisons), versions


def _share_budget(traces: Sequence[Trace]) -> None:
    """Let each batch have the largest rounding of all: of one image with few classes, NumPy may by
    chance have next to none.
    """
    if all("rounding" in trace.about for trace in traces):
        largest = max(
            (trace.about["rounding"] for trace in traces), key=lambda t: json.loads(t)[KEY]
        )
        for trace in traces:
            trace.about["rounding"] = largest


def usual_side(spec: ResNetSpec, wanted: Wanted) -> int:
    """Pixels of a side of the images that the file is run and read with."""
    step = wanted.kind.multiple
    return wanted.image_size or -(-spec.image_size // step) * step


def _batches(spec: ResNetSpec, wanted: Wanted) -> list[np.ndarray]:
    """Random images: of any number, for the file's batch is free, and of several sizes if the size
    is.
    """
    side, step = usual_side(spec, wanted), wanted.kind.multiple
    sizes = [(side, side)] * len(BATCHES)
    if wanted.image_size is None:
        more = OTHER_SIZE if step == 1 else (step, 2 * step)
        sizes[-1] = (side + more[0], side + more[1])
    return [
        probe_images((count, height, width, spec.in_channels), k, wanted.dtype)
        for k, (count, (height, width)) in enumerate(zip(BATCHES, sizes, strict=True))
    ]


# Files.


def _places(path: Path, kind: Kind) -> list[Path]:
    """What an export writes: the companion first, the file that names it last."""
    return [*([path.with_suffix(kind.companion)] if kind.companion else []), path]


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A folder for what is being written, on the file system of `path`; it goes in any case."""
    folder: Path | None = None
    try:
        parent = Path(os.path.realpath(path)).parent
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=parent))
        yield folder
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _put(file: Path, path: Path, kind: Kind) -> None:
    """Move what is written and proved to its place, after it is on the disk."""
    target = Path(os.path.realpath(path))
    mode = 0o777 & ~_umask()
    for written, place in zip(_places(file, kind), _places(target, kind), strict=True):
        inner = [written, *written.rglob("*")] if kind.folder else [written]
        for one in inner:
            if one.is_file():
                one.chmod(mode & 0o666)
            flush_folder(one)  # a file, too
        os.replace(written, place)
    flush_folder(target.parent)


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


def _digest(file: Path, kind: Kind) -> tuple[str, int]:
    """SHA-256 and bytes of the written file, or of the files of a folder or pair, by name."""
    files = sorted(one for place in _places(file, kind) for one in _files(place))
    total, count = hashlib.sha256(), 0
    for one in files:
        data = one.read_bytes()
        total.update(data)
        count += len(data)
    return total.hexdigest(), count


def _files(place: Path) -> list[Path]:
    if not place.exists():
        raise FrameworkError(f"{place.name}: the exporter wrote no such file")
    return [place] if place.is_file() else [one for one in place.rglob("*") if one.is_file()]
