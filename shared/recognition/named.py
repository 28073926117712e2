"""Networks whose names a known scheme has, wherever in a file they are."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.architecture.ops import Shape
from shared.architecture.plan import make_plan
from shared.architecture.presets import get_spec
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, SpecError
from shared.naming.infer import find_preset, infer_spec
from shared.naming.names import canonical_names, stem_name
from shared.naming.schemes import FORMATS, Format, Scheme, Table
from shared.recognition.names import Words, common, parts_of, words_of

MIN_TENSORS = 10  # of a network: a stem and two blocks have more
NEARLY = 0.8  # of the most names that a scheme knows; what knows fewer is not asked
_MAX_STEM_PARTS = 8


@dataclass(frozen=True)
class Named:
    """A network in a scheme's names."""

    format: Format
    scheme: Scheme
    spec: ResNetSpec
    preset: str | None
    names: Mapping[str, str]  # canonical -> the file's
    left: tuple[str, ...]  # the file's names that begin like its own, and are none of them


@functools.cache
def _dotted(table: tuple[tuple[str, str], ...]) -> Table:
    return {key: template.replace("/", ".") for key, template in table}


@functools.cache
def _stems() -> Mapping[str, list[tuple[Format, Scheme, Scheme]]]:
    """The first kernel's name -> the schemes that have it, with their names between dots alone."""
    found: dict[str, list[tuple[Format, Scheme, Scheme]]] = {}
    for form in FORMATS.values():
        for scheme in form.schemes:
            dotted = dataclasses.replace(
                scheme,
                layers=_dotted(tuple(scheme.layers.items())),
                leaves=_dotted(tuple(scheme.leaves.items())),
            )
            found.setdefault(stem_name(dotted), []).append((form, scheme, dotted))
    return found


def find_named(shapes: Mapping[str, Shape], changes: Mapping[str, Any]) -> Iterator[Named]:
    """The networks all of whose tensors are there.

    `shapes` are those of the file, `changes` of the schemes' conventions.
    """
    plain: dict[str, str] = {}
    for name in shapes:
        plain.setdefault(".".join(parts_of(name)), name)
    ordered = sorted(plain)
    prefixes = {
        ".".join(parts[:-length])
        for parts in (name.split(".") for name in ordered)
        for length in range(1, min(_MAX_STEM_PARTS, len(parts)) + 1)
        if ".".join(parts[-length:]) in _stems()
    }
    used: set[str] = set()
    for prefix in sorted(prefixes, key=lambda p: (p.count("."), bool(p), p)):
        start = f"{prefix}." if prefix else ""
        first, last = bisect.bisect_left(ordered, start), bisect.bisect_left(ordered, f"{prefix}/")
        last = last if prefix else len(ordered)
        if last - first < MIN_TENSORS:
            continue
        region = {
            name[len(start) :]: plain[name] for name in ordered[first:last] if name not in used
        }
        found = _read(region, shapes, changes)
        if found is not None:
            own = set(found.names.values())
            used |= {f"{start}{name}" for name, file in region.items() if file in own}
            yield found


def _read(
    region: Mapping[str, str], shapes: Mapping[str, Shape], changes: Mapping[str, Any]
) -> Named | None:
    """The network of a region's names, as the scheme reads it that knows most of them."""
    read: dict[tuple[int, int], dict[str, str]] = {}
    levels: dict[int, list[tuple[Format, Scheme, dict[str, str]]]] = {}
    stems = [stem for stem in _stems() if stem in region]
    for form, scheme, dotted in itertools.chain(*(_stems()[stem] for stem in stems)):
        key = id(dotted.layers), id(dotted.leaves)
        if key not in read:
            read[key] = canonical_names(dotted, region)[0]
        names = {own: region[foreign] for foreign, own in read[key].items()}
        if len(names) == len(read[key]):  # no two names are one tensor
            levels.setdefault(len(names), []).append((form, scheme, names))
    for known in sorted(levels, reverse=True):
        if known < max(MIN_TENSORS, NEARLY * max(levels)):
            break
        whole = [
            found
            for form, scheme, names in levels[known]
            if (found := _fit(form, scheme, names, shapes, changes)) is not None
        ]
        ranked = [f for f in whole if (f.preset or "").partition("/")[0] in f.scheme.families]
        ranked += [found for found in whole if found.preset]
        if whole:
            best = [*ranked, *whole][0]
            own = set(best.names.values())
            return dataclasses.replace(best, left=tuple(set(region.values()) - own))
    return None


def _fit(
    form: Format,
    scheme: Scheme,
    names: Mapping[str, str],
    shapes: Mapping[str, Shape],
    changes: Mapping[str, Any],
) -> Named | None:
    """The network, if the plan of the spec that its tensors tell has just these."""
    if any(own not in names for own in scheme.requires):
        return None
    found = {own: canonical_shape(scheme, own, shapes[name]) for own, name in names.items()}
    try:
        spec = infer_spec(found, get_spec(scheme.convention, **{**scheme.changes, **changes}))
        if make_plan(spec).tensors != found:
            return None
    except (CheckpointError, SpecError):
        return None
    return Named(form, scheme, spec, find_preset(spec, scheme.families), names, ())


def canonical_shape(scheme: Scheme, tensor: str, shape: Shape) -> Shape:
    """The shape of a scheme's tensor in canonical layout."""
    axes = (3, 2, 0, 1) if scheme.channels_last else (0, 1, 2, 3)
    if len(shape) == 4:
        turned = tuple(shape[axis] for axis in axes)
        is_matrix = tensor == "head.weight" and scheme.head_is_conv and turned[2:] == (1, 1)
        return turned[:2] if is_matrix else turned
    return shape[::-1] if len(shape) == 2 and scheme.channels_last else tuple(shape)


def blocks_of(names: Mapping[str, str]) -> list[Words]:
    """The words that the names of all kernels of a block begin with, where they are more than the
    network's.
    """
    blocks: dict[str, list[Words]] = {}
    for own, name in names.items():
        if own.startswith("stages.") and "conv" in own:
            blocks.setdefault(".".join(own.split(".")[:4]), []).append(words_of(parts_of(name)))
    shared = [common(paths) for paths in blocks.values()]
    root = common(shared) if len(shared) > 1 else ()
    return [path for path in shared if len(path) > len(root)]


def inside(names: Sequence[str], blocks: Sequence[Words]) -> list[str]:
    """Those of the names that are inside a block."""
    paths = set(blocks)
    words = {name: words_of(parts_of(name)) for name in names}
    return [
        name
        for name, own in words.items()
        if any(own[:length] in paths for length in range(1, len(own) + 1))
    ]
