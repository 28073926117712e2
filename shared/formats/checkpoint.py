"""`Checkpoint`: a file of somebody's with every tensor accounted for, under canonical names.
Nothing is built.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shared.architecture.ops import Shape
from shared.architecture.preprocessing import PREPROCESSING
from shared.architecture.presets import get_preset, get_spec
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, RosettaError, SpecError, nearest
from shared.formats.containers.ahead import OnFirstLoad
from shared.formats.containers.archive import Archive, Entry
from shared.formats.containers.registry import read_archive
from shared.formats.containers.spans import shown
from shared.formats.naming.infer import candidates, check_blocks, find_preset, infer_spec
from shared.formats.naming.names import (
    COUNTER,
    canonical_names,
    foreign_names,
    plan_of,
    stem_name,
    to_canonical,
)
from shared.formats.naming.nearest_preset import Nearest, by_names, by_shapes, first
from shared.formats.naming.schemes import FORMATS, Format, Scheme
from shared.formats.sources import FetchedFile, fetch
from shared.weights.canonical import Weights, is_float, raise_problems
from shared.weights.digests import sha256_of

MANY = 1 << 30
MAX_NAMES = 1 << 14  # ResNet-1202 has 8,000 with its counters
MAX_NAME = 512  # characters
MAX_SPEC = 1 << 14  # characters of a spec in a file's metadata
MAX_SAID = 1000  # characters of an error that quotes the file
_SAMPLE = 256  # names by which a scheme is dismissed that knows next to none of them
_HINTS = 50  # unexpected tensors that the nearest expected name is looked for
WHOLE = 0.5  # a file of whose names a scheme knows fewer is not that scheme's


@dataclass(frozen=True)
class Wanted:
    """What the caller knows about a file better than the file does."""

    format: str | None = None
    preset: str | None = None
    changes: Mapping[str, Any] = field(
        default_factory=dict
    )  # of the spec, as `ResNetSpec.replace` takes them
    spec: ResNetSpec | None = None  # all of it


@dataclass(frozen=True)
class Checkpoint:
    """What a file is: its format, its network, and its tensors in canonical layout, in the plan's
    order.
    """

    path: Path
    format: Format
    scheme: Scheme
    archive: Archive
    spec: ResNetSpec
    preset: str | None
    entries: Mapping[str, Entry]
    names: Mapping[str, str]  # canonical -> the file's
    ignored: tuple[str, ...]  # tensors that are no weights: PyTorch's batch counters
    # what said which network it is: "metadata", "preset", "tensors", or the caller's "spec"
    identified_by: str
    # pixels of the shorter side before the crop, where released weights want another than usual
    resize: int | None = None

    @property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(sorted({entry.dtype.name for entry in self.entries.values()}))

    @property
    def params(self) -> int:
        """Trainable parameters."""
        return plan_of(self.spec).params

    @property
    def preprocessing(self) -> str:
        """What the pictures need that the weights were trained on; a key of
        `shared.images.photographs.PREPROCESSING`.
        """
        told = self.archive.metadata.get("preprocessing", "")
        return (
            told
            if told in PREPROCESSING
            else get_preset(self.preset or self.scheme.convention).preprocessing
        )

    def candidates(self) -> list[str]:
        """Every preset with the same tensors."""
        return candidates(self.spec)

    def nearest(self) -> Nearest | None:
        """The preset that has most of these tensors, for a network that is none."""
        return by_names(
            self.scheme, self.names, {name: entry.shape for name, entry in self.entries.items()}
        )

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """(canonical name, values), one at a time.

        Raises `CheckpointError` at the end, naming every tensor that is not finite, a variance
        below zero, or not what the SHA-256 in the file's metadata says.
        """
        digests, problems = self._digests(), []
        for name, entry in self.entries.items():
            array = entry.load()
            problems += self._problems(name, array, digests)
            yield name, array
        self._raise(problems)

    def watched(self) -> OnFirstLoad[list[tuple[str, str]]]:
        """The entries, whose values are checked when they are loaded; what is found is for
        `raise_found`.
        """
        digests = self._digests()
        return OnFirstLoad(self.entries, lambda name, array: self._problems(name, array, digests))

    def raise_found(self, found: Mapping[str, list[tuple[str, str]]]) -> None:
        """Raise what `arrays` would."""
        self._raise([problem for problems in found.values() for problem in problems])

    def _problems(
        self, name: str, array: np.ndarray, digests: Mapping[str, Any] | None
    ) -> list[tuple[str, str]]:
        """(kind, what) of all that is wrong with the values."""
        found = []
        if digests is not None and digests.get(name) != sha256_of(array):
            found.append(("damaged", f"{name} does not match its SHA-256"))
        if not np.isfinite(array).all():
            found.append(
                (
                    "not finite",
                    f"{self.names[name]} has {int((~np.isfinite(array)).sum())} such values",
                )
            )
        elif name.endswith("running_var") and (array < 0).any():
            found.append(
                ("negative", f"{self.names[name]} has {int((array < 0).sum())} negative variances")
            )
        return found

    def _raise(self, problems: Sequence[tuple[str, str]]) -> None:
        kinds = ("damaged", "not finite", "negative")
        raise_problems(
            str(self.path), {kind: [what for k, what in problems if k == kind] for kind in kinds}
        )

    def _digests(self) -> dict[str, Any] | None:
        """The SHA-256 of each tensor, where the file tells them."""
        if self.format.name != "canonical" or "sha256" not in self.archive.metadata:
            return None
        try:
            digests = json.loads(self.archive.metadata["sha256"])
        except (ValueError, RecursionError):
            digests = None
        if not isinstance(digests, dict):
            raise CheckpointError(f"{self.path}: its table of SHA-256 digests is invalid")
        return digests

    def weights(self) -> Weights:
        """All canonical weights, in memory."""
        return dict(self.arrays())


def open_checkpoint(
    source: str | Path,
    format: str | None = None,
    preset: str | None = None,
    changes: Mapping[str, Any] | None = None,
    spec: ResNetSpec | None = None,
) -> Checkpoint:
    """Read a checkpoint's header and account for every tensor in it.

    >>> checkpoint = open_checkpoint("rosetta:fashion-mnist/resnet20")
    >>> checkpoint.preset, checkpoint.params
    ('cifar/resnet20', 269434)

    Args:
        source: a file or folder of any format in `FORMATS`; or released weights by name, as
            `hf:REPO`, `torchvision:TAG`, `keras:imagenet` or `rosetta:RECIPE`, which are downloaded
            if they have to be.
        format: a key of `FORMATS`; found out when None.
        preset: which network it is, when its metadata or tensors should not decide; a classifier of
            another size, or none, is taken as it is.
        changes: fields of the spec that are known better, as `ResNetSpec.replace` takes them.
        spec: the whole spec, where it is known.

    Raises `CheckpointError` listing every tensor that is missing, unexpected or mis-shaped, with
    the nearest expected name, or saying what the file is when it holds no network of ours;
    `SpecError` for a format, a preset or released weights that do not exist.
    """
    file = fetch(source, preset) if isinstance(source, str) else FetchedFile(source)
    wanted = Wanted(format or file.format, file.preset or preset, changes or {}, spec)
    checkpoint = identify(file.path, read_archive(file.path), wanted)
    return dataclasses.replace(checkpoint, resize=file.resize)


def get_format(name: str) -> Format:
    """The format of a name. Raises `SpecError` with the nearest ones."""
    if name not in FORMATS:
        raise SpecError(
            f"unknown format {name!r}{nearest(name, FORMATS)}; known are {', '.join(FORMATS)}"
        )
    return FORMATS[name]


def identify(path: Path, archive: Archive, wanted: Wanted) -> Checkpoint:
    """`open_checkpoint` of an archive that has been read."""
    formats = (
        [get_format(wanted.format)]
        if wanted.format
        else [f for f in FORMATS.values() if _occurs_in(f, archive.container)]
    )
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
    read = [reading for reading in _readings(formats, archive, names) if reading.known]
    if not read:
        raise _no_resnet(path, archive, names, formats)
    best = max(r.known for r in read)
    if best < WHOLE * len(names):
        raise _no_resnet(path, archive, names, [max(read, key=lambda r: r.known).format])
    whole: list[Checkpoint] = []
    failures: list[tuple[RosettaError, _Reading]] = []
    for reading in read:
        attempt = _attempt(path, archive, reading, wanted) if reading.known == best else None
        if isinstance(attempt, RosettaError):
            failures.append((attempt, reading))
        elif attempt is not None:
            family = (attempt.preset or "").partition("/")[0]
            if attempt.identified_by == "metadata" or family in attempt.scheme.families:
                return attempt  # formats and their conventions stand in the order of preference
            whole.append(attempt)
    if whole:
        return next((checkpoint for checkpoint in whole if checkpoint.preset), whole[0])
    error, reading = min(
        failures, key=lambda failure: len(getattr(failure[0], "problems", ())) or MANY
    )
    again = _attempt(path, archive, reading, wanted, hints=True)
    raise again if isinstance(again, RosettaError) else error


# Containers that are another one with something beside it, or laid out in another way: timm's
# repositories on the hub are folders with a config.json, too, and HDF5 has two layouts.
_KIN = {"huggingface": ("safetensors", "torch"), "hdf5": ("keras-weights",)}


def _occurs_in(f: Format, container: str) -> bool:
    return any(name in f.containers for name in (container, *_KIN.get(container, ())))


@dataclass(frozen=True)
class _Reading:
    """A file's names as one scheme reads them."""

    format: Format
    scheme: Scheme
    canonical: Mapping[str, str]  # the file's name -> canonical
    unrecognised: tuple[str, ...]

    @property
    def known(self) -> int:
        return len(self.canonical)


def _readings(formats: list[Format], archive: Archive, names: list[str]) -> Iterator[_Reading]:
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
        yield _Reading(f, _configured(f, scheme, archive), canonical, tuple(unrecognised))


def _read_names(scheme: Scheme, names: list[str]) -> tuple[dict[str, str], list[str]]:
    """`canonical_names`, which takes long for many names that are not the scheme's."""
    sample = names[:: len(names) // _SAMPLE + 1]
    if len(names) > len(sample) and 4 * len(canonical_names(scheme, sample)[0]) < len(sample):
        return {}, names
    return canonical_names(scheme, names)


def _configured(f: Format, scheme: Scheme, archive: Archive) -> Scheme:
    """The scheme with what a Hugging Face config.json says about the strides."""
    if f.name != "huggingface" or "config" not in archive.metadata:
        return scheme
    config = json.loads(archive.metadata["config"])
    changes: dict[str, Any] = {}
    if (
        config.get("downsample_in_bottleneck") is True
        and config.get("layer_type", "bottleneck") == "bottleneck"
    ):
        changes["block.stride_conv"] = 1
    if config.get("downsample_in_first_stage") is True:
        changes["strides"] = (2, 2, 2, 2)
    return dataclasses.replace(scheme, changes=changes) if changes else scheme


def _clash(config: str, spec: ResNetSpec) -> str | None:
    """Where the sizes in a Hugging Face config.json are not those of the tensors."""
    table = json.loads(config)
    widths = [spec.expansion * width for width in spec.widths]
    for key, found in (("depths", list(spec.depths)), ("hidden_sizes", widths)):
        if table.get(key, found) != found:
            return f"{key} = {ascii(table[key])[:80]} there, {found} by the tensors"
    return None


def _attempt(
    path: Path, archive: Archive, reading: _Reading, wanted: Wanted, *, hints: bool = False
) -> Checkpoint | RosettaError:
    """The checkpoint as this scheme reads it, or why it is not one; `hints`: with the nearest names
    and preset.
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
    try:
        spec, identified_by = _resolve(archive, scheme, shapes, wanted)
    except RosettaError as error:
        near = by_names(scheme, names, shapes, reading.unrecognised) if hints else None
        return type(error)(
            f"{path}: as {reading.format.title}: {str(error)[:MAX_SAID]}{_near(near)}"
        )
    plan = plan_of(spec)
    if reading.format.name == "huggingface" and (
        clash := _clash(archive.metadata.get("config", "{}"), spec)
    ):
        return CheckpointError(f"{path}: its config.json is not that of its tensors: {clash}")
    expected, unmapped = foreign_names(scheme, plan)
    problems = _problems(archive, plan.tensors, expected, names, shapes)
    problems["without a name in this format"] = unmapped
    hinted = reading.unrecognised[: _HINTS if hints else 0]
    problems["unexpected"] += [f"{name}{nearest(name, expected.values(), 1)}" for name in hinted]
    problems["unexpected"] += reading.unrecognised[len(hinted) : 1000]
    problems["duplicate"] = doubled
    preset = find_preset(spec, scheme.families) if hints and identified_by == "tensors" else None
    try:
        raise_problems(f"{path} as {reading.format.title}, {preset or spec.name}", problems)
    except CheckpointError as error:
        if not hints or preset:
            return error
        near = by_names(scheme, names, shapes, reading.unrecognised)
        told = near is not None and identified_by != "tensors" and near.preset in candidates(spec)
        return CheckpointError(f"{error}{'' if told else _near(near)}", error.problems)
    found = get_preset(wanted.preset).name if wanted.preset and not wanted.changes else None
    found = found or find_preset(spec, scheme.families)
    if found and identified_by == "tensors":
        spec = spec.replace(
            name=found, image_size=get_spec(found).image_size, init=get_spec(found).init
        )
    ordered = {name: entries[name] for name in plan.tensors}
    ignored = tuple(name for name in archive.entries if name.endswith(f".{COUNTER}"))
    return Checkpoint(
        path, reading.format, scheme, archive, spec, found, ordered, names, ignored, identified_by
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


def _no_resnet(
    path: Path, archive: Archive, names: list[str], formats: list[Format]
) -> CheckpointError:
    """No network of ours: the nearest format, the first names that are not its, and the nearest
    preset.
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
            "but not "
            f"{first(unrecognised, 5)}"
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
        f"{path}: no ResNet that is known; {said}{_near(near)}", sorted(unrecognised)
    )


def _near(found: Nearest | None) -> str:
    """What is added to an error about a file that is something else."""
    return f" | the nearest preset is {found}" if found else ""
