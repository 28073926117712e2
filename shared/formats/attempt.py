"""One reading of a file tried: which network its tensors are, and every tensor accounted for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.architecture.ops import Shape
from shared.architecture.presets import get_preset, get_spec
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, RosettaError, SpecError, with_hints
from shared.formats.containers.archive import Archive, Entry
from shared.formats.naming.infer import candidates, check_blocks, find_preset, infer_spec
from shared.formats.naming.names import foreign_names, plan_of, to_canonical
from shared.formats.naming.nearest_preset import by_names
from shared.formats.naming.schemes import Scheme
from shared.formats.readings import Reading, near_text
from shared.weights.canonical import is_float, raise_problems

MAX_SPEC = 1 << 14  # characters of a spec in a file's metadata
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


def attempt(
    path: Path, archive: Archive, reading: Reading, wanted: Wanted, *, hints: bool = False
) -> Identified | RosettaError:
    """The network as this scheme reads it, or why it is none; `hints`: with the nearest names and
    preset.
    """
    scheme = _configured(reading, archive)
    entries: dict[str, Entry] = {}
    names: dict[str, str] = {}
    doubled = []
    for foreign, canonical in reading.canonical.items():
        if canonical in names:
            doubled.append(f"{foreign} and {names[canonical]} are the same tensor")
        names[canonical] = foreign
        entries[canonical] = to_canonical(scheme, canonical, archive.entries[foreign])
    shapes = {name: entry.shape for name, entry in entries.items()}
    try:
        spec, identified_by = _resolve(archive, scheme, shapes, wanted)
    except RosettaError as error:
        near = by_names(scheme, names, shapes, reading.unrecognised) if hints else None
        return type(error)(
            f"{path}: as {reading.format.title}: {str(error)[:MAX_SAID]}{near_text(near)}"
        )
    plan = plan_of(spec)
    if reading.format.name == "huggingface" and (
        clash := _clash(archive.metadata.get("config", "{}"), spec)
    ):
        return CheckpointError(f"{path}: its config.json is not that of its tensors: {clash}")
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
        told = near is not None and identified_by != "tensors" and near.preset in candidates(spec)
        return CheckpointError(f"{error}{'' if told else near_text(near)}", error.problems)
    found = get_preset(wanted.preset).name if wanted.preset and not wanted.changes else None
    found = found or find_preset(spec, scheme.families)
    if found and identified_by == "tensors":
        spec = spec.replace(
            name=found, image_size=get_spec(found).image_size, init=get_spec(found).init
        )
    ordered = {name: entries[name] for name in plan.tensors}
    return Identified(
        scheme=scheme,
        spec=spec,
        preset=found,
        entries=ordered,
        names=names,
        identified_by=identified_by,
    )


def _resolve(
    archive: Archive, scheme: Scheme, shapes: Mapping[str, Shape], wanted: Wanted
) -> tuple[ResNetSpec, str]:
    """Which network it is, and who says so."""
    if wanted.spec is not None:
        return wanted.spec, "spec"
    if wanted.preset is not None:
        classes = shapes["head.weight"][0] if len(shapes.get("head.weight", ())) == 2 else 0
        return get_spec(wanted.preset, **{"num_classes": classes, **wanted.changes}), "preset"
    if "spec" in archive.metadata:
        spec, identified_by = _told_spec(archive.metadata["spec"], len(shapes)), "metadata"
    else:
        spec, identified_by = (
            infer_spec(shapes, get_spec(scheme.convention, **scheme.changes)),
            "tensors",
        )
    return spec.replace(**wanted.changes) if wanted.changes else spec, identified_by


def _told_spec(text: str, tensors: int) -> ResNetSpec:
    """The spec in a file's metadata, which may ask for anything."""
    if len(text) > MAX_SPEC:
        raise SpecError(
            f"the spec in its metadata has {len(text)} characters; {MAX_SPEC} at most are read"
        )
    spec = ResNetSpec.from_json(text)
    if not spec.name.isprintable():
        raise SpecError(f"name = {spec.name!a}: must be printable, on one line")
    check_blocks(spec.depths, tensors)
    return spec


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


def _configured(reading: Reading, archive: Archive) -> Scheme:
    """The scheme with what a Hugging Face config.json says about the strides."""
    if reading.format.name != "huggingface" or "config" not in archive.metadata:
        return reading.scheme
    config = json.loads(archive.metadata["config"])
    changes: dict[str, Any] = {}
    if (
        config.get("downsample_in_bottleneck") is True
        and config.get("layer_type", "bottleneck") == "bottleneck"
    ):
        changes["block.stride_conv"] = 1
    if config.get("downsample_in_first_stage") is True:
        changes["strides"] = (2, 2, 2, 2)
    return dataclasses.replace(reading.scheme, changes=changes) if changes else reading.scheme


def _clash(config: str, spec: ResNetSpec) -> str | None:
    """Where the sizes in a Hugging Face config.json are not those of the tensors."""
    table = json.loads(config)
    widths = [spec.expansion * width for width in spec.widths]
    for key, found in (("depths", list(spec.depths)), ("hidden_sizes", widths)):
        if table.get(key, found) != found:
            return f"{key} = {ascii(table[key])[:80]} there, {found} by the tensors"
    return None
