"""`python -m shared.formats > docs/formats.md`: every format, from the tables that the code reads
and writes by.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from shared.architecture.plan import make_plan
from shared.architecture.presets import get_spec, list_presets
from shared.formats.containers.archive import MAX_DIMENSIONS, MAX_ELEMENTS
from shared.formats.containers.registry import CONTAINERS
from shared.formats.convert import USUAL
from shared.formats.owners import OWNERS
from shared.formats.readings import MAX_NAME, MAX_NAMES
from shared.formats.render import COUNTED, expressing
from shared.naming.infer import MAX_BLOCKS, NOT_INFERABLE, not_inferable
from shared.naming.names import foreign_names
from shared.naming.schemes import FORMATS, Format, Scheme

# Where the names are defined.
PROJECTS = {
    "canonical": "this project's exchange format, `shared/weights/canonical.py`",
    "torchvision": "pytorch/vision, `torchvision/models/resnet.py`",
    "timm": "huggingface/pytorch-image-models, `timm/models/resnet.py` and `resnetv2.py`",
    "huggingface": "`ResNetForImageClassification` and `ResNetModel`",
    "akamaster": "`resnet.py`",
    "kuangliu": "`models/resnet.py` and `preact_resnet.py`",
    "torch": "this project's PyTorch package",
    "keras-applications": "keras-team/keras, `applications/resnet.py` and `resnet_v2.py`",
    "keras-caffe": "keras-team/keras-applications up to 1.0.7, `resnet50.py`",
    "keras-hub": "keras-team/keras-hub, `models/resnet/resnet_backbone.py`",
    "keras": "this project's Keras package",
    "linen": "google/flax, `examples/imagenet/models.py`",
    "nnx": "this project's Flax package",
    "bit": "google-research/big_transfer, the released files",
    "article-000": "as listed there",
    "d2l": "d2l-ai/d2l-en, `chapter_convolutional-modern/resnet.md`",
    "article-003": "as listed there",
}
# Where a file of one of our own formats says which network it is.
SPEC_KEPT = ("safetensors", "keras-weights", "keras", "hdf5")
EXAMPLES = (
    "stem.conv1.weight",
    "stages.1.blocks.0.conv2.weight",
    "stages.1.blocks.0.norm2.weight",
    "head.weight",
)

START = """# Checkpoint formats

Written by `python -m shared.formats`, from the tables by which files are read and written. A *format* is how a project
names its tensors, a *container* the kind of file that they are in. `rosetta inspect FILE` finds out both, and
`rosetta convert` goes from any format to any other.

"""

ANY = """
## I have a file from …

A file is a tree of names and tensors, whatever wraps it. `rosetta inspect FILE` lists every ResNet inside, with its
path, which one would be taken and why, and what is left over. `convert`, `predict`, `verify`, `trace` and `evaluate`
take `--take PATH` where a file holds several, and refuse to leave out what belongs to no ResNet until
`--leave-out GLOB` says that it may be (`'*'`: all of it). `TO` is any name with a suffix, as `resnet50.safetensors`.

"""

NOT_OURS = """
What is no ResNet of ours is refused by its name: squeeze-and-excitation or another attention in the blocks, selective
kernels, split attention, attention pooling, Res2Net, quantised or folded tensors, and other networks such as VGG,
DenseNet, MobileNet or transformers. What is nearly one is told with the tensor where it fails, and the nearest preset.
"""

GUARANTEES = f"""
## What is checked, and what is refused

**Reading.** Every tensor of a file is accounted for. What is missing, unexpected, doubled, of another shape or not of
a floating type is an error that counts all of it and names the first of each kind, in the file's own names. Names of
the formats above win; what they do not explain is recognised by its structure. To read a file
no model is built, and nothing in it is run. PyTorch's `num_batches_tracked`, on which no output depends, is left out,
and written as 0 where a format's own files have it. Optimizers, counters and configurations are not carried.

**What no tensor tells**, such as an epsilon, a padding, or which convolution has the stride, a file may say itself: in
the configuration of a whole Keras or KerasHub model (`.keras`, `.h5`, TensorFlow.js), in the `config.json` of
transformers or timm, in the metadata of our own files. It is then *told*, and believed where a spec can say it;
what cannot be built, what the tensors contradict, and what `--preset` or `--set` contradict is refused, naming the
key and the value. The rest is as whoever defined the format has it: it is *assumed* below, unless `--preset` or `--set`
give it. `rosetta inspect` says which is which. What is *free* is what the format's code lets one choose (of
`stem.convs` the widths, of `strides` the first stage's). `shared/architecture/spec.py` says what the fields mean.

**Converting** puts a target in its place only if

* the code behind its format can be the same function. If not, the error names the fields that stand in the way;
  nothing is approximated. `--fold-bias` and `--fold-eps`, when asked for, move a bias or a difference of epsilon into
  the running statistics and round each number once;
* every value of the source is finite, no running variance is negative, and the tensors of a canonical file match the
  SHA-256 that it has of each;
* what was written reads back: the same names, shapes, types and bits, tensor by tensor.

A file is written beside its target, flushed to the disk, and renamed: whoever is interrupted has the old file or the
new one. A folder is made in the same way, and never replaces anything. Numbers keep their type unless `--dtype` rounds
them. Where a container has no bfloat16 or float16 they become float32, exactly; float64 is refused where it has none.

**Limits.** At most {MAX_NAMES:,} tensors with names of {MAX_NAME} characters, {MAX_DIMENSIONS} dimensions and
{MAX_ELEMENTS:,} elements each, and {MAX_BLOCKS:,} blocks. A file without metadata does not say which network it is:
where a reader would take the target for another one, `rosetta convert` says that the preset has to be named. Whether
weights are *good* is not checked; `--check` runs source and target and compares every layer.
"""


def main() -> None:
    sys.stdout.write(page())


def page() -> str:
    """The page, in Markdown."""
    found = {name: presets_of(f) for name, f in FORMATS.items()}
    summary = [
        (
            f"[`{name}`](#{name})",
            f.title,
            ", ".join(_suffixes(c)[0] for c in f.containers),
            "yes" if _is_written(f) else "no",
            _count(len(found[name])),
        )
        for name, f in FORMATS.items()
    ]
    parts = [
        START,
        *_table(("format", "names of", "files", "written", "presets"), summary),
        ANY,
        *_table(
            ("from", "known by", "what is read", "command"),
            ((o.whose, o.looks, o.read, f"`{o.command}`") for o in OWNERS.values()),
        ),
        NOT_OURS,
        GUARANTEES,
        *_containers(),
    ]
    for f in FORMATS.values():
        parts += _section(f, found[f.name])
    return "".join(parts)


def presets_of(f: Format) -> list[str]:
    """The presets that the format can express."""
    return [name for name in list_presets() if expressing(get_spec(name), f)]


def _containers() -> Iterator[str]:
    yield "\n## Containers\n\n"
    yield (
        "What a file is follows from its first bytes and its name, which must not contradict "
        "each other.\n\n"
    )
    usual = {container: f"`{form}`" for container, form in USUAL.items()}
    yield from _table(
        ("container", "files", "numbers that are written", "`--to`, unless given"),
        (
            (
                c.title,
                ", ".join(_suffixes(c.name)),
                ", ".join(c.dtypes) or "none: read only",
                usual.get(c.name, ""),
            )
            for c in CONTAINERS.values()
        ),
    )


def _section(f: Format, presets: Sequence[str]) -> Iterator[str]:
    yield f"\n## {f.name}\n\n{f.title} ({PROJECTS[f.name]}).\n\n"
    files = "; ".join(
        f"{CONTAINERS[name].title}, {' '.join(_suffixes(name))}" for name in f.containers
    )
    yield f"* Files: {files}.{'' if _is_written(f) else ' Read, and not written.'}\n"
    last, conv = f.schemes[0].channels_last, f.schemes[0].head_is_conv
    layout = "HWIO kernels, [in, out] matrices" if last else "OIHW kernels, [out, in] matrices"
    counted = "; written with `num_batches_tracked`" if f.name in COUNTED else ""
    yield f"* Layout: {layout}{', the classifier a 1 x 1 convolution' if conv else ''}{counted}.\n"
    families = Counter(name.partition("/")[0] for name in presets)
    told = ", ".join(f"{family} {count}" for family, count in families.items())
    some = f" ({told})" if 0 < len(presets) < len(list_presets()) else ""
    yield f"* Presets: {_count(len(presets))}{some}.\n"
    yield from (_our_own if f.schemes[0].free is None else _conventions)(f)


def _our_own(f: Format) -> Iterator[str]:
    """Any network, whose spec is in the file or has to be guessed."""
    kept = [CONTAINERS[c].title for c in f.containers if c in SPEC_KEPT]
    bare = [CONTAINERS[c].title for c in f.containers if c not in SPEC_KEPT]
    yield f"* Free: everything. The metadata of {', '.join(kept)} says which network it is"
    yield f"; {', '.join(bare)} has no place for it.\n" if bare else ".\n"
    if f.name == "canonical":
        named = ", ".join(f"`{scheme.convention}`" for scheme in f.schemes)
        yield (
            "* Assumed without metadata: as in the first of these whose family has this very "
            "network, or else in the first of those that have the most of its kinds of layers: "
            f"{named}.\n\n"
        )
    else:
        yield "* Assumed without metadata: as in [`canonical`](#canonical).\n\n"
    yield from _names(f.schemes[:1])


def _conventions(f: Format) -> Iterator[str]:
    """What each variant takes for granted, and what it lets one choose."""
    told = [
        {name: _show(value) for name, value in not_inferable(_convention(scheme)).items()}
        for scheme in f.schemes
    ]
    common = {
        name: value
        for name, value in told[0].items()
        if all(other.get(name) == value for other in told)
    }
    whose = (
        f" as in {_called(f.schemes[0])}"
        if len({_called(scheme) for scheme in f.schemes}) == 1
        else ""
    )
    yield f"* Assumed{whose}: {_fields(common)}.\n"
    for free, schemes in _by_freedom(f.schemes):
        which = (
            ""
            if len(schemes) == len(f.schemes)
            else f" as {', '.join(_called(s) for s in schemes)}"
        )
        yield f"* Free{which}: {_fields(free)}.{_told_by(f, free)}\n"
    yield "\n"
    yield from _names(
        f.schemes, [{n: v for n, v in own.items() if n not in common} for own in told]
    )


def _told_by(f: Format, free: Sequence[str]) -> str:
    """What tells the fields that are free and not in the tensors."""
    fields = _fields([name for name in free if name in NOT_INFERABLE])
    if not fields:
        return ""
    says = "a folder's `config.json`" if f.name == "huggingface" else "`--set`"
    return f" Not in the tensors: {fields}, which {says} says."


def _by_freedom(schemes: Sequence[Scheme]) -> list[tuple[tuple[str, ...], list[Scheme]]]:
    groups: dict[tuple[str, ...], list[Scheme]] = {}
    for scheme in schemes:
        groups.setdefault(scheme.free or (), []).append(scheme)
    return list(groups.items())


def _names(schemes: Sequence[Scheme], assumed: Sequence[Mapping[str, str]] = ()) -> Iterator[str]:
    """Some tensors as each variant calls them, and what it assumes that others do not."""
    heads, rows = [f"`{tensor}`" for tensor in EXAMPLES], []
    for i, scheme in enumerate(schemes):
        names, _ = foreign_names(scheme, make_plan(_convention(scheme)))
        row = [f"`{names[tensor]}`" for tensor in EXAMPLES]
        rows.append([_called(scheme), *row, _fields(assumed[i])] if len(schemes) > 1 else row)
    yield from _table(["as in", *heads, "assumed as well"] if len(schemes) > 1 else heads, rows)


def _convention(scheme: Scheme) -> Any:
    return get_spec(scheme.convention, **scheme.changes)


def _called(scheme: Scheme) -> str:
    """The convention and how the scheme differs from it."""
    changes = ", ".join(f"`{name}` {_show(value)}" for name, value in scheme.changes.items())
    return f"`{scheme.convention}`{f' with {changes}' if changes else ''}"


def _fields(fields: Sequence[str] | Mapping[str, str]) -> str:
    """Names of fields, with their values if they have any."""
    values = fields if isinstance(fields, Mapping) else dict.fromkeys(fields, "")
    return ", ".join(f"`{name}` {value}".rstrip() for name, value in values.items())


def _show(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _suffixes(container: str) -> list[str]:
    return [f"`{suffix}`" for suffix in CONTAINERS[container].suffixes] or ["a folder"]


def _is_written(f: Format) -> bool:
    return set(f.containers) > set(f.read_only)


def _count(presets: int) -> str:
    every = len(list_presets())
    return f"all {every}" if presets == every else f"{presets or 'none'} of {every}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}\n"
    for row in rows:
        yield f"| {' | '.join(row)} |\n"


if __name__ == "__main__":
    main()
