"""`Checkpoint`: a third-party checkpoint, every tensor accounted for, under canonical names.

No model is built to read one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.architecture.preprocessing import PREPROCESSING
from shared.architecture.presets import get_preset, get_spec
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, RosettaError, SpecError, nearest, shown
from shared.formats.attempt import Identified, Wanted, attempt
from shared.formats.configuration.statements import Statements, with_layer_names
from shared.formats.containers.archive import Archive
from shared.formats.containers.registry import read_archive
from shared.formats.contents import (
    Inside,
    canonical_archive,
    groups_text,
    inside,
    left_out,
    narrowed,
    pick,
    reading_of,
    readings_as,
    summary,
)
from shared.formats.readings import Reading, near_text, no_resnet, occurs_in, readings, weight_names
from shared.formats.render import expresses
from shared.formats.sources import FetchedFile, fetch
from shared.formats.values import ValueCheck
from shared.naming.infer import NOT_INFERABLE, TOLD_BY_TENSORS, candidates, field_of
from shared.naming.names import COUNTER, plan_of
from shared.naming.nearest_preset import Nearest, by_names, by_shapes, first
from shared.naming.schemes import FORMATS, Format
from shared.recognition.find import Survey
from shared.recognition.find import survey as survey_of
from shared.recognition.leftovers import COUNTER as COUNTERS
from shared.recognition.leftovers import OTHER, Group
from shared.recognition.network import Refusal
from shared.recognition.other_networks import Word
from shared.weights.canonical import Weights

MANY = 1 << 30
# `normalizer.new_mean`, `0.std`, `pixel_mean`, `mean_rgb`
NORMALISER = re.compile(r"(^|[./_])(mean|std|stddev|var|variance)(_rgb)?(:0)?$")
WHOLE = 0.5  # a file of whose names a scheme knows fewer is not that scheme's


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Identified):
    """What a file is: its format, its network, and its tensors in canonical layout."""

    path: Path
    format: Format
    archive: Archive
    ignored: tuple[str, ...]  # tensors that are no weights: PyTorch's batch counters
    # pixels of the shorter side before the crop, where released weights want another than usual
    resize: int | None = None
    inside: tuple[Inside, ...] = ()  # every network of the file
    taken_by: str = "the only one"  # the rule by which this one is opened
    left: tuple[Group, ...] = ()  # what belongs to none
    left_out: tuple[str, ...] = ()  # tensors of those that the caller says may be left
    refused: tuple[Refusal, ...] = ()  # what is nearly a network
    doubts: tuple[str, ...] = ()  # of how tensors were told apart
    assumes: str = ""  # of the code behind names that no format has
    assumed_preprocessing: str | None = None  # of the same code

    @property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(sorted({entry.dtype.name for entry in self.entries.values()}))

    @property
    def params(self) -> int:
        """Trainable parameters."""
        return plan_of(self.spec).params

    @property
    def preprocessing(self) -> str:
        """How the images were prepared that the weights were trained on; a key of
        `PREPROCESSING`.
        """
        stated = self.archive.metadata.get("preprocessing", "")
        if stated in PREPROCESSING:
            return stated
        told = next((told.preprocessing for told in self.told if told.preprocessing), None)
        told = told or self.assumed_preprocessing
        return told or get_preset(self.preset or self.scheme.convention).preprocessing

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the rest of the file was, and what is in doubt."""
        taken = [network.path for network in self.inside if network.taken]
        said = []
        if len(self.inside) > 1 and taken:
            said.append(f"of {len(self.inside)} networks the one at {taken[0]}: {self.taken_by}")
        foreign = [group for group in self.left if group.kind == OTHER]
        by_itself = [group for group in self.left if group.kind not in (OTHER, COUNTERS)]
        if foreign:
            said.append(f"left out, as they belong to no ResNet: {groups_text(foreign)}")
        if by_itself:
            said.append(f"left out, as no output depends on them: {groups_text(by_itself)}")
        if self.normalisers:
            said.append(
                f"the file's model normalises its images itself, with {first(self.normalisers)}: "
                "the ResNet alone wants them normalised"
            )
        if self.prepared:
            said.append(f"the file's model prepares its images itself: {', '.join(self.prepared)}")
        return (*said, *self.doubts, *([self.assumes] if self.assumes else []))

    @property
    def normalisers(self) -> list[str]:
        """Tensors, beside the network, of a mean or a deviation for each channel of the images."""
        return [
            name
            for group in self.left
            for name in group.names
            if NORMALISER.search(name) and self.archive.entries[name].size == self.spec.in_channels
        ]

    @property
    def prepared(self) -> tuple[str, ...]:
        """The layers that prepare the images in the file's own model; the network has none."""
        return tuple(layer for told in self.told for layer in told.prepared)

    @property
    def surroundings(self) -> tuple[str, ...]:
        """What the file says of layers without tensors around the network."""
        return tuple(what for told in self.told for what in told.surroundings)

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
        check = self.value_check()
        for name, entry in self.entries.items():
            array = entry.load()
            check.add(name, array)
            yield name, array
        check.finish()

    def value_check(self) -> ValueCheck:
        """Checks the tensors one by one, for callers that read them in an order of their own."""
        digests = self.archive.metadata.get("sha256") if self.format.name == "canonical" else None
        return ValueCheck(self.path, self.names, self.spec.norm.eps, digests)

    def weights(self) -> Weights:
        """All canonical weights, in memory."""
        return dict(self.arrays())


def open_checkpoint(
    source: str | Path,
    format: str | None = None,
    preset: str | None = None,
    changes: Mapping[str, Any] | None = None,
    spec: ResNetSpec | None = None,
    take: str | None = None,
    leave_out: Sequence[str] = (),
    look: bool = False,
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
        take: the path of the network that is meant, where the file holds several; a part of it
            that no other path has will do.
        leave_out: globs of names of tensors that belong to no ResNet and may be left out; `*` is
            all. Optimizers, counters and other numbers are left without being asked.
        look: open the file only to see what is in it: of several networks the first, whatever is
            left.

    Raises `CheckpointError` listing every tensor that is missing, unexpected or mis-shaped, with
    the nearest expected name, or saying what the file is when it holds no network of ours;
    `SpecError` for a format, a preset or released weights that do not exist.
    """
    file = fetch(source, preset) if isinstance(source, str) else FetchedFile(source)
    wanted = Wanted(
        format or file.format,
        file.preset or preset,
        changes or {},
        spec,
        take,
        tuple(leave_out),
        look,
    )
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
        else [f for f in FORMATS.values() if occurs_in(f, archive.container)]
    )
    try:
        archive = with_layer_names(archive)
        statements = Statements(archive)
        statements.early  # noqa: B018 - reads it
    except RosettaError as refusal:
        raise type(refusal)(f"{path}: {refusal}") from None
    names = weight_names(path, archive)
    read = [reading for reading in readings(formats, names) if reading.known]
    best = max((reading.known for reading in read), default=0)
    word: Word | None = None
    if best < len(names):
        survey = survey_of(archive.entries, _untold(wanted.changes))
        if survey.networks and (found := _opened(path, archive, wanted, statements, survey)):
            return found
        word = survey.word
        if word is not None and word.known:
            raise _something_else(path, archive, names, word.text)
        aside = {n for group in survey.left if group.kind != OTHER for n in group.names}
        archive = narrowed(archive, [name for name in names if name not in aside] or names)
        names = weight_names(path, archive)
        read = [reading for reading in readings(formats, names) if reading.known]
        best = max((reading.known for reading in read), default=0)
    if best < WHOLE * len(names):
        if word is not None:
            raise _something_else(path, archive, names, word.text)
        nearest_formats = [max(read, key=lambda r: r.known).format] if read else formats
        raise no_resnet(path, archive, names, nearest_formats)
    if wanted.take and best == len(names):
        raise CheckpointError(
            f"{path}: --take {shown(wanted.take)} means none of its networks; the file is a single "
            "one, with nothing around it"
        )
    try:
        return _read_whole(path, archive, wanted, statements, [r for r in read if r.known == best])
    except RosettaError as error:
        kernels = [entry for entry in archive.entries.values() if len(entry.shape) == 4]
        strange = not kernels or any(entry.dtype.kind in "iu" for entry in kernels)
        if best == len(names) and (strange or not getattr(error, "problems", ())):
            word = survey_of(archive.entries).word
        if best == len(names) and word is not None and word.known:
            raise _something_else(path, archive, names, word.text) from None
        raise


def _something_else(path: Path, archive: Archive, names: Sequence[str], word: str) -> RosettaError:
    """The error of a file that is something else, or nearly a network; and the nearest preset."""
    near = by_shapes({name: archive.entries[name].shape for name in names})
    return CheckpointError(f"{path}: no ResNet that is known: {word}{near_text(near)}")


def _read_whole(
    path: Path, archive: Archive, wanted: Wanted, statements: Statements, read: Sequence[Reading]
) -> Checkpoint:
    """The checkpoint as the best of these readings has it."""
    whole: list[Checkpoint] = []
    failures: list[tuple[RosettaError, Reading]] = []
    for reading in read:
        found = attempt(path, archive, reading, wanted, statements)
        if isinstance(found, RosettaError):
            failures.append((found, reading))
            continue
        checkpoint = _checkpoint(path, archive, reading.format, found)
        family = (found.preset or "").partition("/")[0]
        if found.identified_by == "metadata" or family in found.scheme.families:
            return checkpoint  # formats and their conventions stand in the order of preference
        whole.append(checkpoint)
    if whole:
        named = [checkpoint for checkpoint in whole if checkpoint.preset]
        return min(named or whole, key=_unlike_its_convention)
    error, reading = min(
        failures, key=lambda failure: len(getattr(failure[0], "problems", ())) or MANY
    )
    again = attempt(path, archive, reading, wanted, statements, hints=True)
    raise again if isinstance(again, RosettaError) else error


def _unlike_its_convention(checkpoint: Checkpoint) -> tuple[bool, int]:
    """How badly a convention fits: whether its code cannot be this network, and in how many fields,
    sizes aside, the tensors contradict it. Where they do, what they do not tell is as doubtful.

    Of readings that name a preset the first is the best: they are all the same here.
    """
    scheme, spec = checkpoint.scheme, checkpoint.spec
    if checkpoint.preset:
        return False, 0
    usual = get_spec(scheme.convention, **scheme.changes)
    kernels = [[kernel for kernel, _, _ in s.stem.convs] for s in (spec, usual)]
    told = sum(field_of(spec, name) != field_of(usual, name) for name in TOLD_BY_TENSORS)
    return not expresses(scheme, spec), told + (kernels[0] != kernels[1])


def _untold(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the caller's changes that no tensor tells."""
    return {name: value for name, value in changes.items() if name in NOT_INFERABLE}


def _opened(
    path: Path, archive: Archive, wanted: Wanted, statements: Statements, survey: Survey
) -> Checkpoint | None:
    """The network of a survey that is meant; None where it is not of the format that is asked
    for.

    Raises `CheckpointError` where several could be meant, or where tensors are left that nobody
    said may be.
    """
    network = pick(path, survey, wanted.take, anyone=wanted.look)
    read = [reading_of(network)]
    if wanted.format not in (None, read[0].format.name):
        read = readings_as(get_format(wanted.format), network)
        if not read:
            return None
    if len(survey.networks) > 1 or any(group.kind == OTHER for group in survey.left):
        statements = Statements(archive, part=True)
    left = left_out(path, survey.left, wanted.leave_out, anything=wanted.look)
    turned = canonical_archive(archive, network)
    decided = wanted.take is not None or survey.taken is not None
    return dataclasses.replace(
        _read_whole(path, turned, wanted, statements, read),
        archive=dataclasses.replace(archive, stripped_prefixes=turned.stripped_prefixes),
        ignored=_counters(archive),
        inside=inside(survey, network if decided else None),
        left=tuple(survey.left),
        left_out=tuple(left),
        refused=tuple(survey.refused),
        doubts=(*survey.doubts, *network.doubts),
        assumes=network.assumes,
        assumed_preprocessing=network.preprocessing,
        taken_by="--take" if wanted.take is not None else survey.why,
    )


def _counters(archive: Archive) -> tuple[str, ...]:
    return tuple(name for name in archive.entries if name.endswith(f".{COUNTER}"))


def _checkpoint(path: Path, archive: Archive, form: Format, found: Identified) -> Checkpoint:
    classifier = bool(found.spec.num_classes)
    only = Inside("", summary(found.spec), found.preset, len(found.entries), classifier, True)
    return Checkpoint(
        **vars(found),
        path=path,
        format=form,
        archive=archive,
        ignored=_counters(archive),
        inside=(only,),
    )
