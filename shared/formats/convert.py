"""From any checkpoint format to any other, in one pass over the source.

Each tensor goes through the stages of `shared.formats.pipeline` into a temporary file. That is read
back and compared with the digests that were kept on the way, and takes the place of the target.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, SpecError
from shared.formats.checkpoint import Checkpoint, Wanted, get_format, identify, open_checkpoint
from shared.formats.containers.archive import Archive, Entry
from shared.formats.containers.prefetch import map_prefetched
from shared.formats.containers.registry import CONTAINERS, Container, by_suffix
from shared.formats.folding import fit
from shared.formats.pipeline import Pipeline, choose_dtypes
from shared.formats.render import render
from shared.naming.infer import same_function
from shared.naming.names import foreign_names, plan_of
from shared.naming.schemes import Format
from shared.weights.canonical import FORMAT
from shared.weights.digests import sha256_of
from shared.weights.dtypes import float_dtype
from shared.weights.files import creating_folder, replacing
from shared.weights.tensor_writer import rewrite_metadata, write_safetensors

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
            "left_out": list(self.source.left_out),
        }


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
        source: from `open_checkpoint`, or what it takes. Its tensors are read once.
        output: a file, or a folder that does not exist yet for formats that are folders.
        to: a key of `FORMATS`; what files called like `output` usually are when None.
        options: folding and rounding, neither of which happens unasked.

    Raises `CheckpointError` for a target that cannot express the network, naming every field that
    stands in the way; for values that are not finite, or that the target's dtype cannot hold,
    counting all tensors and naming the first; and for a file that cannot be written. An old target
    then stands untouched.
    """
    output, options = Path(output), options or Options()
    target, container = find_target(output, to)
    if not isinstance(source, Checkpoint):
        source = open_checkpoint(source)
    fitted = fit(source.spec, target, bias=options.fold_bias, eps=options.fold_eps)
    dtypes, casting = choose_dtypes(source, fitted, container, options.dtype)

    pipeline = Pipeline(source, fitted, dtypes)
    archive = render(fitted.spec, pipeline.entries, target, fitted.scheme, container.name)
    if "spec" in archive.metadata:  # a format of our own has room for what else is known
        known = {**archive.metadata, "preprocessing": source.preprocessing}
        archive = replace(archive, metadata=known)
    if target.name == "canonical":
        archive = _with_digests(archive, dict.fromkeys(pipeline.entries, NO_DIGEST))
    with _replacing(output, container) as temporary:
        container.write(temporary, archive)  # takes every tensor through the pipeline
        pipeline.check.finish()
        if target.name == "canonical":
            archive = _with_digests(archive, pipeline.digests)
            rewrite_metadata(temporary, archive.entries, archive.metadata)
        back, told, sha256 = _read_back(archive, pipeline, target, temporary, output)
    notes = [*casting, *fitted.notes, *source.remarks]
    if around := _not_carried(source, archive):
        notes.append(f"no tensor has them, so they are not carried: {', '.join(around)}")
    if not told:
        notes.append(
            f"the file does not say that it is {fitted.spec.name}; name the preset when it is read"
        )
    return Conversion(source, back, sha256, tuple(notes))


def _not_carried(source: Checkpoint, archive: Archive) -> list[str]:
    """Layers without tensors that the source says of itself, and the target does not."""
    written = archive.metadata.get("keras_config", "")
    return [
        what
        for what in source.surroundings
        if not (what.startswith("softmax") and '"softmax"' in written)
    ]


def _with_digests(archive: Archive, digests: Mapping[str, str]) -> Archive:
    """A canonical archive with the SHA-256 of each tensor in its metadata."""
    ordered = {name: digests[name] for name in archive.entries}
    return replace(
        archive, metadata={"format": FORMAT, **archive.metadata, "sha256": json.dumps(ordered)}
    )


def _read_back(
    archive: Archive, pipeline: Pipeline, target: Format, temporary: Path, output: Path
) -> tuple[Checkpoint, bool, str]:
    """What was written, once it is known to be what was read; whether it is recognised as the
    network without being told; and the SHA-256 of its files.

    While it is compared, the file is hashed and on its way to the disk.
    """
    with ThreadPoolExecutor(2) as beside:
        digest = beside.submit(_digest_of_files, temporary)
        flushed = beside.submit(_flush, temporary)
        written = CONTAINERS[archive.container].read_back(temporary)
        back, told = _identify_back(output, written, target, pipeline.fitted.spec)
        _compare(archive, written, pipeline, output)
        flushed.result()
        return back, told, digest.result()


def _identify_back(
    output: Path, written: Archive, target: Format, spec: ResNetSpec
) -> tuple[Checkpoint, bool]:
    """The target as whoever reads it later will take it, if that is the network that it is."""
    with contextlib.suppress(CheckpointError, SpecError):
        back = identify(output, written, Wanted(target.name))
        if same_function(back.spec, spec):
            return replace(back, spec=spec), True
    return identify(output, written, Wanted(target.name, spec=spec)), False


def _compare(archive: Archive, written: Archive, pipeline: Pipeline, output: Path) -> None:
    """What was written is what went through the pipeline: names, shapes, dtypes and every bit; and
    the digests in the metadata, where it has them.
    """
    names, _ = foreign_names(pipeline.fitted.scheme, plan_of(pipeline.fitted.spec))

    def same(name: str) -> bool:
        wanted, found = archive.entries[names[name]], written.entries[names[name]]
        return (wanted.shape, wanted.dtype) == (found.shape, found.dtype) and sha256_of(
            found.load()
        ) == pipeline.digests.get(name)

    wrong = sorted(archive.entries.keys() ^ written.entries.keys())
    if not wrong:
        size = {name: entry.nbytes for name, entry in pipeline.entries.items()}
        equal = map_prefetched(same, size, size.__getitem__)
        wrong = [name for name, ok in zip(size, equal, strict=True) if not ok]
    if "sha256" in archive.metadata and archive.metadata != written.metadata:
        wrong.append("the metadata")
    if wrong:
        raise CheckpointError(
            f"{output}: what was written does not read back ({', '.join(wrong[:5])}); "
            "the disk may be failing"
        )


def _flush(path: Path) -> None:
    """Start what `replacing` waits for in the end."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def write_canonical(checkpoint: Checkpoint, output: Path, dtype: str | None = None) -> Path:
    """A canonical file for a framework to read, rounded to `dtype`; not made to last."""
    entries = {
        name: Entry(entry.shape, float_dtype(dtype) if dtype else entry.dtype, entry.load)
        for name, entry in checkpoint.entries.items()
    }
    values = ((n, a.astype(entries[n].dtype, copy=False)) for n, a in checkpoint.arrays())
    metadata = {"format": FORMAT, "spec": checkpoint.spec.to_json()}
    with replacing(output, durable=False) as temporary:
        write_safetensors(temporary, entries, metadata, values)
    return output


def find_target(output: Path, to: str | None) -> tuple[Format, Container]:
    """The format and container that `output` shall be.

    Raises `SpecError` when they do not go together.
    """
    named = by_suffix(output)
    if to is None:
        if named is None:
            raise SpecError(f"{output}: its name does not say what it shall be; say --to FORMAT")
        if not named.is_written:
            raise SpecError(f"{output}: {named.title} is read, and not written")
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


def _replacing(output: Path, container: Container) -> AbstractContextManager[Path]:
    """A temporary sibling that takes the place of `output` in one step; folders replace nothing."""
    return creating_folder(output) if container.folder else replacing(output)


def _digest_of_files(path: Path) -> str:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    total, block = hashlib.sha256(), memoryview(bytearray(1 << 18))
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while count := stream.readinto(block):
                total.update(block[:count])
    return total.hexdigest()
