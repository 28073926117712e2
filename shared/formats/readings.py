"""A file's names as each naming scheme reads them, and what is said of a file that no scheme
reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import CheckpointError
from shared.formats.containers.archive import Archive
from shared.formats.containers.spans import shown
from shared.formats.layouts import to_canonical
from shared.naming.names import COUNTER, canonical_names, stem_name
from shared.naming.nearest_preset import Nearest, by_names, by_shapes, first
from shared.naming.schemes import Format, Scheme

MAX_NAMES = 1 << 14  # ResNet-1202 has 8,000 with its counters
MAX_NAME = 512  # characters
_SAMPLE = 256  # names by which a scheme is dismissed that knows next to none of them

# Containers that are another one with something beside it, or laid out in another way: timm's
# repositories on the hub are folders with a config.json, too, and HDF5 has two layouts.
_RELATED = {"huggingface": ("safetensors", "torch"), "hdf5": ("keras-weights",)}


@dataclass(frozen=True)
class Reading:
    """A file's names as one scheme reads them."""

    format: Format
    scheme: Scheme
    canonical: Mapping[str, str]  # the file's name -> canonical
    unrecognised: tuple[str, ...]

    @property
    def known(self) -> int:
        return len(self.canonical)


def occurs_in(f: Format, container: str) -> bool:
    """Whether files of this kind may hold the format."""
    return any(name in f.containers for name in (container, *_RELATED.get(container, ())))


def weight_names(path: Path, archive: Archive) -> list[str]:
    """The names of all tensors but PyTorch's batch counters.

    Raises `CheckpointError` for none, for too many, and for names that no network has.
    """
    names = [name for name in archive.entries if not name.endswith(f".{COUNTER}")]
    if not names:
        raise CheckpointError(f"{path}: holds no tensors")
    if odd := [name for name in names if len(name) > MAX_NAME or not name.isprintable()]:
        raise CheckpointError(
            f"{path}: no ResNet that is known: it has a tensor named {shown(odd[0])}"
        )
    if len(names) > MAX_NAMES:
        raise CheckpointError(
            f"{path}: no ResNet that is known: it has {len(names)} tensors, more than {MAX_NAMES}"
        )
    return names


def readings(formats: Sequence[Format], names: list[str]) -> Iterator[Reading]:
    """The names as the schemes read them: those whose first convolution is there, or all when it is
    nowhere.

    Schemes that differ in their conventions alone read the names once.
    """
    schemes = [(f, scheme) for f in formats for scheme in f.schemes]
    present = set(names)
    rooted = [(f, scheme) for f, scheme in schemes if stem_name(scheme) in present]
    known: dict[tuple[int, int], tuple[dict[str, str], list[str]]] = {}
    for f, scheme in rooted or schemes:
        key = id(scheme.layers), id(scheme.leaves)
        if key not in known:
            known[key] = _read_names(scheme, names)
        canonical, unrecognised = known[key]
        if canonical and not set(scheme.requires) <= set(canonical.values()):
            continue
        yield Reading(f, scheme, canonical, tuple(unrecognised))


def _read_names(scheme: Scheme, names: list[str]) -> tuple[dict[str, str], list[str]]:
    """`canonical_names`, which takes long for many names that are not the scheme's."""
    sample = names[:: len(names) // _SAMPLE + 1]
    if len(names) > len(sample) and 4 * len(canonical_names(scheme, sample)[0]) < len(sample):
        return {}, names
    return canonical_names(scheme, names)


def no_resnet(
    path: Path, archive: Archive, names: list[str], formats: Sequence[Format]
) -> CheckpointError:
    """The error of a file that is no known network: the nearest format, the first names that are
    not its, and the nearest preset.
    """
    best = max(
        ((f, s) for f in formats for s in f.schemes),
        key=lambda pair: len(_read_names(pair[1], names)[0]),
        default=None,
    )
    if best is None:
        return CheckpointError(f"{path}: no known format comes in this kind of file")
    f, scheme = best
    known, unrecognised = _read_names(scheme, names)
    near = None
    if known:
        said = (
            f"the nearest format is {f.title}, which has {len(known)} of its {len(names)} names, "
            f"but not {first(unrecognised, 5)}"
        )
        entries = {
            own: to_canonical(scheme, own, archive.entries[name]) for name, own in known.items()
        }
        shapes = {own: entry.shape for own, entry in entries.items()}
        near = by_names(scheme, {own: name for name, own in known.items()}, shapes, unrecognised)
    else:
        said = f"no format has any of its {len(names)} names: {first(unrecognised, 5)}"
    near = near or by_shapes({name: archive.entries[name].shape for name in names})
    return CheckpointError(
        f"{path}: no ResNet that is known; {said}{near_text(near)}", sorted(unrecognised)
    )


def near_text(found: Nearest | None) -> str:
    """What is added to an error about a file that is something else."""
    return f" | the nearest preset is {found}" if found else ""
