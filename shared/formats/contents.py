"""What is inside a file: every ResNet in it, the one that is opened, and what is left out."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared.architecture.ops import Shape
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError
from shared.formats.containers.archive import Archive, Entry
from shared.formats.containers.spans import shown
from shared.formats.readings import Reading, readings
from shared.naming.names import stem_name
from shared.naming.nearest_preset import first
from shared.naming.schemes import FORMATS, Format, Scheme
from shared.recognition.find import Survey
from shared.recognition.leftovers import COUNTER, NUMBER, OTHER, Group
from shared.recognition.names import parts_of
from shared.recognition.network import Network

SHOWN = 8  # networks or groups of tensors of a file, in a line
STRUCTURE = Format("structure", "names of no known project, read by their structure", (), ())


@dataclasses.dataclass(frozen=True)
class Inside:
    """A network in a file, as `inspect` lists it."""

    path: str
    network: str
    preset: str | None
    tensors: int
    classifier: bool
    taken: bool
    twins: tuple[str, ...] = ()  # paths of the same tensors, value by value

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "twins": list(self.twins)}


def summary(spec: ResNetSpec) -> str:
    """A network in some words."""
    classes = f"{spec.num_classes} classes" if spec.num_classes else "no classifier"
    return f"{list(spec.depths)} {spec.block.kind} blocks of widths {list(spec.widths)}, {classes}"


def inside(found: Survey, taken: Network | None) -> tuple[Inside, ...]:
    """The networks of a survey."""
    return tuple(
        Inside(n.path, summary(n.spec), n.preset, len(n.names), n.classifier, n is taken, n.twins)
        for n in found.networks
    )


def pick(path: Path, found: Survey, take: str | None, *, anyone: bool) -> Network:
    """The network that is asked for, or meant; the first if `anyone` will do.

    Raises `CheckpointError` where nothing says which, with the option that does.
    """
    places = _listed([n.path for n in found.networks])
    if take is not None:
        meant = found.at(take)
        if len(meant) == 1:
            return meant[0]
        for refusal in found.refused:
            if refusal.path == take and not meant:
                raise CheckpointError(
                    f"{path}: at {shown(take)} is no ResNet that is known: {refusal.why}; networks "
                    f"are at {places}"
                )
        raise CheckpointError(
            f"{path}: --take {shown(take)} means {len(meant)} of its networks; they are at {places}"
        )
    if found.taken is not None:
        return found.taken
    if anyone:
        return found.networks[0]
    raise CheckpointError(
        f"{path}: holds {len(found.networks)} networks, and {found.why}; say --take with one of "
        f"{places}"
    )


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(map(shown, paths[:SHOWN])) + (", …" if len(paths) > SHOWN else "")


def left_out(
    path: Path, groups: Sequence[Group], globs: Sequence[str], *, anything: bool = False
) -> list[str]:
    """The tensors that belong to no network and may be left, because a glob says so.

    Raises `CheckpointError` for any that none does, with the option that would; unless `anything`
    may be left.
    """
    named: list[str] = []
    kept: list[Group] = []
    for group in groups:
        if group.kind != OTHER:
            continue
        rest = [name for name in group.names if not _matches((group.path, name), globs)]
        named += [name for name in group.names if name not in rest]
        kept += [group._replace(names=rest)] if rest else []
    if kept and not anything:
        count = sum(len(group.names) for group in kept)
        raise CheckpointError(
            f"{path}: {count} tensor{'s belong' if count > 1 else ' belongs'} to no ResNet: "
            f"{first([group.path for group in kept], 5)}; --leave-out GLOB leaves out what may be "
            "left ('*': all of it)",
            sorted(name for group in kept for name in group.names),
        )
    return named


def groups_text(groups: Sequence[Group]) -> str:
    """Tensors that belong to no network, by where they are."""
    counts = [
        f"{len(group.names)} {group.kind}"
        if group.kind in (COUNTER, NUMBER)
        else f"{len(group.names)} in {group.path}"
        for group in groups[:SHOWN]
    ]
    return ", ".join(counts) + (", …" if len(groups) > SHOWN else "")


def _matches(names: tuple[str, ...], globs: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for name in names for glob in globs)


def canonical_archive(archive: Archive, network: Network) -> Archive:
    """The network's tensors under the file's names, in canonical layout."""
    entries = {
        name: _turned(archive.entries[name], network.axes[own], network.shapes[own])
        for own, name in network.names.items()
    }
    return dataclasses.replace(
        archive, entries=entries, stripped_prefixes=_prefixes(archive, network)
    )


def _prefixes(archive: Archive, network: Network) -> tuple[str, ...]:
    """What stands in front of the network's own names, level by level."""
    if network.format is None or network.scheme is None or not network.path:
        return archive.stripped_prefixes
    own, stem = stem_name(network.scheme), network.names["stem.conv1.weight"]
    path = stem.removesuffix(own).rstrip("./") if stem.endswith(own) else network.path
    levels, _, inner = path.rpartition("/")
    keys = [f"key {part!r}" for part in levels.split("/") if part]
    first_name = next(iter(network.names.values()))[len(path) :]
    last = inner.split(".") if inner and first_name.startswith(".") else []
    keys += [f"prefix {part + '.'!r}" for part in last] or ([f"key {inner!r}"] if inner else [])
    return (*archive.stripped_prefixes, *keys)


def _turned(entry: Entry, axes: tuple[int, ...], shape: Shape) -> Entry:
    straight = axes == tuple(range(len(entry.shape)))
    if straight and entry.shape == shape:
        return entry
    if math.prod(shape) != math.prod(entry.shape):
        return entry  # which is said with its shape

    def turn(array: np.ndarray) -> np.ndarray:
        turned = array.transpose(axes) if len(axes) == array.ndim else array
        return np.ascontiguousarray(turned).reshape(shape)

    return entry.map(shape, turn)


def reading_of(network: Network) -> Reading:
    """The network's names, of tensors that are in canonical layout already."""
    canonical = {name: own for own, name in network.names.items()}
    if network.format is not None and network.scheme is not None:
        scheme = dataclasses.replace(network.scheme, channels_last=False, head_is_conv=False)
        return Reading(network.format, scheme, canonical, ())
    own_names = FORMATS["canonical"].schemes[0]
    scheme = Scheme(
        own_names.layers,
        own_names.leaves,
        network.convention,
        (network.convention.partition("/")[0],),
        changes=network.changes,
        free=None,
    )
    return Reading(STRUCTURE, scheme, canonical, ())


def readings_as(form: Format, network: Network) -> list[Reading]:
    """The network as the schemes of another format read it: those that call every tensor the
    same.
    """
    depth = len(parts_of(network.path))
    found = []
    for joint in "./":
        bare = {joint.join(parts_of(name)[depth:]): name for name in network.names.values()}
        for reading in readings([form], list(bare)):
            own = {canonical: bare[name] for name, canonical in reading.canonical.items()}
            if own == dict(network.names):
                scheme = dataclasses.replace(
                    reading.scheme, channels_last=False, head_is_conv=False
                )
                files = {name: canonical for canonical, name in own.items()}
                found.append(Reading(form, scheme, files, ()))
    return found


def narrowed(archive: Archive, names: Sequence[str]) -> Archive:
    """The tensors of these names without the parts that all of the names begin with."""
    paths = [parts_of(name) for name in names]
    shared = 0
    shortest = min(map(len, paths))
    while shared < shortest - 1 and len({path[shared] for path in paths}) == 1:
        shared += 1
    if not shared:
        return archive
    entries = {}
    for name, path in zip(names, paths, strict=True):
        entries[".".join(path[shared:])] = archive.entries[name]
    return dataclasses.replace(archive, entries=entries)
