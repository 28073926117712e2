"""One reading of a file tried: which network its tensors are, and every tensor accounted for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.architecture.ops import Shape
from shared.architecture.presets import get_preset, get_spec
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, RosettaError, SpecError, with_hints
from shared.formats.configuration.statements import Statements
from shared.formats.configuration.told import Told, sets
from shared.formats.containers.archive import Archive, Entry
from shared.formats.layouts import to_canonical
from shared.formats.readings import Reading, near_text
from shared.naming.infer import candidates, find_preset, infer_spec, is_preset, not_inferable
from shared.naming.names import foreign_names, plan_of
from shared.naming.nearest_preset import by_names
from shared.naming.schemes import Scheme
from shared.weights.canonical import raise_problems
from shared.weights.dtypes import is_float

MAX_SAID = 1000  # characters of an error that quotes the file


@dataclass(frozen=True)
class Wanted:
    """What the caller knows about a file better than the file does."""

    format: str | None = None
    preset: str | None = None
    changes: Mapping[str, Any] = field(
        default_factory=dict
    )  # of the spec, as `ResNetSpec.replace` takes them
    spec: ResNetSpec | None = None  # all of it
    take: str | None = None  # the path of the network that is meant, where a file holds several
    leave_out: tuple[str, ...] = ()  # globs of tensors that belong to none and may be left
    look: bool = False  # just to be told what there is: several networks, or more, are no error


@dataclass(frozen=True, kw_only=True)
class Identified:
    """What a reading of a file comes to."""

    scheme: Scheme
    spec: ResNetSpec
    preset: str | None
    entries: Mapping[str, Entry]  # canonical, in the plan's order
    names: Mapping[str, str]  # canonical -> the file's
    # What said which network it is: "metadata", "preset", "tensors", or the caller's "spec".
    identified_by: str
    told: tuple[Told, ...]  # what the file says that no tensor tells
    given: Mapping[str, Any]  # what the caller says that no tensor tells

    @property
    def told_fields(self) -> dict[str, Any]:
        """The fields of the spec that the file tells and no tensor does."""
        return {name: v for told in self.told for name, v in told.shown(self.spec).items()}

    @property
    def assumed(self) -> dict[str, Any]:
        """The fields that neither tensors, nor the file, nor the caller tell: they are as the
        convention of the tensors' names has them."""
        known = self.told_fields.keys() | self.given.keys()
        return {n: v for n, v in not_inferable(self.spec).items() if n not in known}


def attempt(
    path: Path,
    archive: Archive,
    reading: Reading,
    wanted: Wanted,
    statements: Statements,
    *,
    hints: bool = False,
) -> Identified | RosettaError:
    """The network as this scheme reads it, or why it is none; `hints`: with the nearest names and
    preset.
    """
    scheme = reading.scheme
    entries: dict[str, Entry] = {}
    names: dict[str, str] = {}
    doubled = []
    for foreign, canonical in reading.canonical.items():
        if canonical in names:
            doubled.append(f"{foreign} and {names[canonical]} are the same tensor")
        names[canonical] = foreign
        entries[canonical] = to_canonical(scheme, canonical, archive.entries[foreign])
    shapes = {name: entry.shape for name, entry in entries.items()}
    make = functools.partial(infer_spec, shapes, get_spec(scheme.convention, **scheme.changes))
    try:
        spec, identified_by = _resolve(shapes, make, wanted, statements)
    except RosettaError as error:
        near = by_names(scheme, names, shapes, reading.unrecognised) if hints else None
        return type(error)(
            f"{path}: as {reading.format.title}: {str(error)[:MAX_SAID]}{near_text(near)}"
        )
    plan = plan_of(spec)
    expected, unmapped = foreign_names(scheme, plan)
    problems = _problems(archive, plan.tensors, expected, names, shapes)
    problems["without a name in this format"] = unmapped
    unrecognised = reading.unrecognised
    problems["unexpected"] += with_hints(unrecognised, expected.values()) if hints else unrecognised
    problems["duplicate"] = doubled
    preset = find_preset(spec, scheme.families) if hints and identified_by == "tensors" else None
    try:
        raise_problems(f"{path} as {reading.format.title}, {preset or spec.name}", problems)
    except CheckpointError as error:
        if not hints or preset:
            return error
        near = by_names(scheme, names, shapes, reading.unrecognised)
        known = near is not None and identified_by != "tensors" and near.preset in candidates(spec)
        return CheckpointError(f"{error}{'' if known else near_text(near)}", error.problems)
    try:
        told, spec = _agreed(spec, identified_by, names, make, wanted, statements)
    except RosettaError as error:
        message = f"{path}: {str(error)[:MAX_SAID]}"
        return CheckpointError(message, [message])
    spec, found = _named(spec, identified_by, scheme, wanted, told)
    return Identified(
        scheme=scheme,
        spec=spec,
        preset=found,
        entries={name: entries[name] for name in plan.tensors},
        names=names,
        identified_by=identified_by,
        told=told,
        given={
            name: value
            for name, value in not_inferable(spec).items()
            if identified_by in ("preset", "spec") or sets(wanted.changes, name)
        },
    )


def _resolve(
    shapes: Mapping[str, Shape],
    make: Callable[[Mapping[str, Any]], ResNetSpec],
    wanted: Wanted,
    statements: Statements,
) -> tuple[ResNetSpec, str]:
    """Which network it is, as far as names of layers do not matter, and what says so."""
    if wanted.spec is not None:
        return wanted.spec, "spec"
    if wanted.preset is not None:
        classes = shapes["head.weight"][0] if len(shapes.get("head.weight", ())) == 2 else 0
        return get_spec(wanted.preset, **{"num_classes": classes, **wanted.changes}), "preset"
    for told in statements.early:
        if told.spec is not None:
            return told.spec.replace(**wanted.changes), "metadata"
    fields = {name: value for told in statements.early for name, value in told.fields.items()}
    try:
        spec = make(fields)
    except SpecError:  # they are not of this network, which `_agreed` says
        spec = make({})
    return spec.replace(**wanted.changes), "tensors"


def _agreed(
    spec: ResNetSpec,
    identified_by: str,
    names: Mapping[str, str],
    make: Callable[[Mapping[str, Any]], ResNetSpec],
    wanted: Wanted,
    statements: Statements,
) -> tuple[tuple[Told, ...], ResNetSpec]:
    """What the file says, and the network with it.

    Raises `CheckpointError` where parts of the file, or the file and the caller, say different
    things.
    """
    early = statements.early
    for told in early:
        if objection := told.check(spec):
            raise CheckpointError(f"{told.source} says {objection}")
    free = identified_by == "tensors"
    asked = f"--preset {wanted.preset}{' with --set' if wanted.changes else ''}"
    others = {
        "preset": asked,
        "spec": f"the spec {spec.name}",
        "tensors": "the nearest network that can be built",
    }
    whose = others.get(identified_by, "its metadata")
    late = statements.late(spec, names, make if free else None, whose)
    everything = (*early, *late)
    if free and late:
        base = late[-1].spec or make({n: v for told in everything for n, v in told.fields.items()})
        spec = base.replace(**wanted.changes)
    for told in everything:
        if free:
            whose = next((t.source for t in everything if t is not told), "its tensors' names")
        if told.binding and (conflict := told.contradiction(spec, wanted.changes, whose)):
            raise CheckpointError(conflict)
    return tuple(told for told in everything if told.binding or free), spec


def _named(
    spec: ResNetSpec, identified_by: str, scheme: Scheme, wanted: Wanted, told: tuple[Told, ...]
) -> tuple[ResNetSpec, str | None]:
    """The spec under the name of the preset that it is, and that name."""
    found = get_preset(wanted.preset).name if wanted.preset and not wanted.changes else None
    stated = (one.preset for one in told if one.preset)
    found = found or next((name for name in stated if is_preset(spec, name)), None)
    found = found or find_preset(spec, scheme.families)
    if identified_by != "tensors":
        return spec, found
    size = next((one.image_size for one in told if one.image_size), None)
    if "image_size" in wanted.changes:  # no part of the function: the caller's choice
        size = spec.image_size
    if found:
        preset = get_spec(found)
        spec = spec.replace(name=found, image_size=size or preset.image_size, init=preset.init)
    return (spec.replace(image_size=size) if size else spec), found


def _problems(
    archive: Archive,
    tensors: Mapping[str, Shape],
    expected: Mapping[str, str],
    names: Mapping[str, str],
    shapes: Mapping[str, Shape],
) -> dict[str, list[str]]:
    """Every tensor that is missing, unexpected, mis-shaped or not of a float type, in the file's
    own names.
    """
    missing = [
        f"{expected[name]} {list(shape)}"
        for name, shape in tensors.items()
        if name in expected and name not in shapes
    ]
    extra = [names[name] for name in shapes if name not in tensors]
    misshaped = [
        f"{names[name]} has shape {list(archive.entries[names[name]].shape)}, expected "
        f"{list(shape)}" + (f" for {name}" if names[name] != name else "")
        for name, shape in tensors.items()
        if name in shapes and tuple(shapes[name]) != tuple(shape)
    ]
    wrong = [
        f"{names[name]} is {archive.entries[names[name]].dtype}"
        for name in shapes
        if not is_float(archive.entries[names[name]].dtype)
    ]
    return {
        "missing": missing,
        "unexpected": extra,
        "of another shape": misshaped,
        "not float": wrong,
    }
