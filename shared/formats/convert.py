"""From any checkpoint format to any other: rendered, written in one step, read back and compared
bit by bit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np

from shared.architecture.presets import get_spec
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, SpecError
from shared.formats.checkpoint import Checkpoint, Wanted, get_format, identify, open_checkpoint
from shared.formats.containers import safetensors_file
from shared.formats.containers.ahead import OnFirstLoad, each
from shared.formats.containers.archive import Archive, Entry
from shared.formats.containers.registry import CONTAINERS, Container, by_suffix
from shared.formats.naming.infer import same_function
from shared.formats.naming.schemes import Format, Scheme
from shared.formats.render import choose_scheme, fold_bias, fold_eps, render
from shared.weights.canonical import FORMAT, float_dtype
from shared.weights.digests import sha256_of
from shared.weights.files import creating_folder, replacing, write_tensors

# What a file is taken to be when `--to` does not say.
USUAL = {
    "safetensors": "canonical",
    "torch": "torchvision",
    "keras-weights": "keras",
    "keras": "keras",
    "hdf5": "keras-applications",
    "msgpack": "linen",
    "npz": "bit",
}

WINDOW = 16 << 20  # bytes of a file that are mapped at once
NO_DIGEST = "0" * 64  # as long as a SHA-256


@dataclass(frozen=True)
class Options:
    """What a conversion may change, if it is asked to."""

    fold_bias: bool = False  # convolution biases into the running means behind them
    fold_eps: bool = False  # a difference of eps into the running variances
    dtype: str | None = None  # round to it


@dataclass(frozen=True)
class Conversion:
    """What a conversion did. `target` is what was read back; `open_target` opens the file where it
    is now.

    `sha256` is that of the written file, or of the files of a folder, one after the other by name.
    """

    source: Checkpoint
    target: Checkpoint
    sha256: str
    notes: tuple[str, ...] = ()

    def open_target(self) -> Checkpoint:
        """The target, to read its tensors."""
        archive = CONTAINERS[self.target.archive.container].read(self.target.path)
        return identify(
            self.target.path, archive, Wanted(self.target.format.name, spec=self.target.spec)
        )

    def to_dict(self) -> dict[str, Any]:
        def end(c: Checkpoint) -> dict[str, str]:
            return {"path": str(c.path), "format": c.format.name, "container": c.archive.container}

        return {
            "source": end(self.source),
            "target": end(self.target),
            "preset": self.source.preset,
            "tensors": len(self.target.entries),
            "params": self.target.params,
            "sha256": self.sha256,
            "verified": True,  # a conversion that does not read back raises instead
            "notes": list(self.notes),
        }


@dataclass
class _ConversionState:
    """What is carried: the network, its tensors, and what was done to them on the way."""

    spec: ResNetSpec
    entries: Mapping[str, Entry]
    notes: list[str] = field(default_factory=list)


def convert(
    source: Checkpoint | str | Path,
    output: str | Path,
    to: str | None = None,
    options: Options | None = None,
) -> Conversion:
    """Write `source` to `output`, read it back, and compare every tensor bit by bit.

    >>> found = convert("rosetta:fashion-mnist/resnet20", "resnet20.weights.h5")
    >>> found.target.format.name, len(found.sha256), found.notes
    ('keras', 64, ())

    Args:
        source: from `open_checkpoint`, or what it takes.
        output: a file, or a folder that does not exist yet for formats that are folders.
        to: a key of `FORMATS`; what files called like `output` usually are when None.
        options: folding and rounding, neither of which happens unasked.

    Raises `CheckpointError` for a target that cannot express the network, naming every field that
    stands in the way, for values that are not finite, and for a file that cannot be written; an old
    target then stands untouched.

    The source is read twice: values are checked, and hashed for a canonical file, on their way to a
    temporary file, and loaded anew to be compared with what was read back from it.
    """
    output, options = Path(output), options or Options()
    target, container = find_target(output, to)
    if not isinstance(source, Checkpoint):
        source = open_checkpoint(source)
    values = source.watched()
    cargo = _ConversionState(source.spec, values.entries)
    _cast(cargo, container, options)
    scheme = _fit(cargo, target, options)
    digests = (
        OnFirstLoad(cargo.entries, lambda name, array: sha256_of(array))
        if target.name == "canonical"
        else None
    )
    if digests:
        cargo.entries = digests.entries
    archive = render(cargo.spec, cargo.entries, target, scheme, container.name)
    if "spec" in archive.metadata:  # a format of our own has room for what else is known
        archive = replace(
            archive, metadata={**archive.metadata, "preprocessing": source.preprocessing}
        )
    if digests:
        archive = _sealed(archive, dict.fromkeys(cargo.entries, NO_DIGEST))
    with _replacing(output, container) as temporary:
        container.write(temporary, archive)
        source.raise_found(values.finish())
        if digests:
            archive = _sealed(archive, digests.finish())
            safetensors_file.rewrite_header(temporary, archive)
        back, sha256 = _read_back(archive, cargo, target, temporary, output)
    return Conversion(source, back, sha256, tuple(cargo.notes))


def _sealed(archive: Archive, digests: Mapping[str, str]) -> Archive:
    """A canonical archive with the SHA-256 of each tensor in its metadata."""
    return replace(
        archive, metadata={"format": FORMAT, **archive.metadata, "sha256": json.dumps(digests)}
    )


def _read_back(
    archive: Archive, cargo: _ConversionState, target: Format, temporary: Path, output: Path
) -> tuple[Checkpoint, str]:
    """What was written, once it is known to be what was read, and the SHA-256 of its files.

    While it is compared, the file is hashed and on its way to the disk.
    """
    with ThreadPoolExecutor(2) as beside:
        digest = beside.submit(_digest_of_files, temporary)
        flushed = beside.submit(_flush, temporary)
        written = CONTAINERS[archive.container].read_back(temporary)
        back = identify(output, written, Wanted(target.name, spec=cargo.spec))
        _compare(archive, written, cargo, back, output)
        _warn(cargo, output, written, target)
        flushed.result()
        return back, digest.result()


def _flush(path: Path) -> None:
    """Start what `replacing` waits for in the end."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def write_canonical(checkpoint: Checkpoint, output: Path, dtype: str | None = None) -> Path:
    """A canonical file for a framework to read, rounded to `dtype`; not made to last."""
    arrays = {
        n: a if dtype is None else a.astype(float_dtype(dtype), copy=False)
        for n, a in checkpoint.arrays()
    }
    metadata = {"format": FORMAT, "spec": checkpoint.spec.to_json()}
    write_tensors(output, arrays, metadata, durable=False)
    return output


def find_target(output: Path, to: str | None) -> tuple[Format, Container]:
    """The format and container that `output` shall be.

    Raises `SpecError` when they do not go together.
    """
    named = by_suffix(output)
    if to is None:
        if named is None:
            raise SpecError(f"{output}: its name does not say what it shall be; say --to FORMAT")
        return get_format(USUAL[named.name]), named
    target = get_format(to)
    writable = [name for name in target.containers if name not in target.read_only]
    if not writable:
        raise SpecError(f"{target.title} is read, and not written")
    if named is None:
        folders = [CONTAINERS[name] for name in writable if CONTAINERS[name].folder]
        if folders and not output.suffix:
            return target, folders[0]
    elif named.name in writable:
        return target, named
    suffixes = [
        s for name in writable for s in (CONTAINERS[name].suffixes or ("a folder (no suffix)",))
    ]
    raise SpecError(
        f"{output}: {target.title} is not kept in such a file; call it {', '.join(suffixes)}"
    )


def _cast(cargo: _ConversionState, container: Container, options: Options) -> None:
    """Round to the dtype that is asked for; widen what the container cannot hold."""
    entries = {}
    for name, entry in cargo.entries.items():
        dtype = float_dtype(options.dtype) if options.dtype else entry.dtype
        if dtype.name not in container.dtypes:
            if dtype.itemsize > 4:
                raise CheckpointError(
                    f"{container.title} holds {', '.join(container.dtypes)}, and {name} is "
                    f"{dtype}; --dtype float32 rounds"
                )
            dtype = np.dtype(np.float32)
        entries[name] = entry if dtype == entry.dtype else _as(entry, dtype)
    changed = {
        f"{cargo.entries[n].dtype} to {entries[n].dtype}"
        for n in entries
        if entries[n] is not cargo.entries[n]
    }
    if changed:
        how = (
            "rounded" if options.dtype else "widened, exactly, because the target has no such type"
        )
        cargo.notes.append(f"{', '.join(sorted(changed))}: {how}")
        cargo.entries = entries


def _as(entry: Entry, dtype: np.dtype) -> Entry:
    return Entry(entry.shape, dtype, lambda: entry.load().astype(dtype))


def _fit(cargo: _ConversionState, target: Format, options: Options) -> Scheme:
    """The scheme that can express the network; folded first, where that is asked for and needed."""
    with contextlib.suppress(CheckpointError):
        return choose_scheme(cargo.spec, target)
    if options.fold_bias:
        before = len(cargo.entries)
        cargo.spec, cargo.entries = fold_bias(cargo.spec, cargo.entries)
        cargo.notes.append(
            f"{before - len(cargo.entries)} biases folded into running means, each rounded once"
        )
    if options.fold_eps:
        eps, old = get_spec(target.schemes[0].convention).norm.eps, cargo.spec.norm.eps
        cargo.spec, cargo.entries = fold_eps(cargo.spec, cargo.entries, eps)
        cargo.notes.append(f"eps {old} folded into running variances as {eps}, each rounded once")
    return choose_scheme(cargo.spec, target)


def _compare(
    archive: Archive, written: Archive, cargo: _ConversionState, back: Checkpoint, output: Path
) -> None:
    """What was written is what was read: names, shapes, dtypes and every bit; and digests, where it
    has them.
    """
    lost = sorted(set(archive.entries) ^ set(written.entries))
    same = each(lambda name, entry: _same_bits(entry, back.entries[name]), cargo.entries)
    changed = [name for name, equal in same if not equal]
    if "sha256" in archive.metadata and archive.metadata != written.metadata:
        changed.append("the metadata")
    if lost or changed:
        raise CheckpointError(
            f"{output}: what was written does not read back ({', '.join([*lost, *changed][:5])}); "
            "the disk may be failing"
        )


def _same_bits(a: Entry, b: Entry) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    x, y = (np.ascontiguousarray(entry.load()).reshape(-1) for entry in (a, b))
    word = np.dtype(
        f"u{x.dtype.itemsize}"
    )  # NaNs are equal to themselves, and zeros differ by their signs
    return np.array_equal(x.view(word), y.view(word))


def _warn(cargo: _ConversionState, output: Path, written: Archive, target: Format) -> None:
    """Say it when whoever reads the file later would take it for another network."""
    if written.metadata.get("spec") == cargo.spec.to_json():
        return
    with contextlib.suppress(CheckpointError, SpecError):
        if same_function(identify(output, written, Wanted(target.name)).spec, cargo.spec):
            return
    cargo.notes.append(
        f"the file does not say that it is {cargo.spec.name}; name the preset when it is read"
    )


def _replacing(output: Path, container: Container) -> AbstractContextManager[Path]:
    """A temporary sibling that takes the place of `output` in one step; folders replace nothing."""
    return creating_folder(output) if container.folder else replacing(output)


def _digest_of_files(path: Path) -> str:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    total = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as stream:
            for start in range(0, size, WINDOW):
                with mmap(
                    stream.fileno(), min(WINDOW, size - start), offset=start, access=ACCESS_READ
                ) as window:
                    total.update(window)
    return total.hexdigest()
