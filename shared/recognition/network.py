"""`Network`: a ResNet in a file, by its names or by its structure, with its classifier."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from shared.architecture.ops import Shape
from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.naming.schemes import Format, Scheme
from shared.recognition.conventions import Mismatch, dialect_of, resolve
from shared.recognition.heads import find_head
from shared.recognition.layers import LAYOUTS, WEIGHT, Layer, Tensor, layout_of, oriented
from shared.recognition.named import Named, blocks_of, canonical_shape, inside
from shared.recognition.names import AVERAGED, Words, common, parts_of, pattern_of, words_of
from shared.recognition.other_networks import word_for
from shared.recognition.structure import Structure
from shared.weights.dtypes import is_float

HEAD = ("head.weight", "head.bias")
_CAFFE2_NORM = re.compile(r"_bn_[sb]$")  # group norms are called `_gn_s` there
_AFFINE = (
    "its norms have a scale and an offset alone, into which Caffe2 has folded mean and variance, "
    "as in Detectron's R-50.pkl"
)
_BARE = " (its norms have no running statistics, as group norms)"
_SEPARATOR = re.compile(r"[./]")


@dataclass(frozen=True)
class Network:
    """A ResNet in a file.

    `names` maps canonical tensors to the file's. `axes` says which of the file's axes are the
    canonical ones; a classifier that is a 1 x 1 convolution loses the last two, a vector all those
    of size 1.
    """

    path: str  # what the names of its kernels begin with, as the file has them
    scope: Words  # the parts of names that its layers have in common
    spec: ResNetSpec
    preset: str | None
    names: Mapping[str, str]
    shapes: Mapping[str, Shape]  # canonical
    axes: Mapping[str, tuple[int, ...]]
    convention: str  # the preset that says what no tensor tells
    format: Format | None = None  # None: by structure
    scheme: Scheme | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the convention
    assumes: str = ""  # of the code behind its names
    preprocessing: str | None = None  # of the images of those who have such names
    doubts: tuple[str, ...] = ()
    twins: tuple[str, ...] = ()  # paths of the same tensors, value by value
    twin_names: tuple[str, ...] = ()

    @property
    def classifier(self) -> bool:
        return HEAD[0] in self.names

    @property
    def features(self) -> int:
        """Channels that the last stage gives."""
        return self.spec.widths[-1] * self.spec.expansion

    @property
    def how(self) -> str:
        """By which format's names it was known, or "structure"."""
        return self.format.name if self.format else "structure"


class Refusal(NamedTuple):
    """Why something is no network of ours, though much of it is."""

    path: str
    why: str
    known: bool = False  # what it has more has a name


def from_names(named: Named, tensors: Mapping[str, Tensor]) -> Network | Refusal:
    """The network in a scheme's names, or why it is none: something else inside its blocks."""
    shapes = {name: tensors[name].shape for name in (*named.names.values(), *named.left)}
    path, within = path_of(named.names), inside(named.left, blocks_of(named.names))
    word = word_for(within, shapes) or word_for(named.left, shapes, surrounding=True)
    if word or (word := not_floats(named.names, tensors)):
        return Refusal(path, word, True)
    if within:
        return Refusal(path, f"{within[0]} is inside a block")
    canonical = {
        own: canonical_shape(named.scheme, own, shapes[name]) for own, name in named.names.items()
    }
    layout = LAYOUTS[1] if named.scheme.channels_last else LAYOUTS[0]
    turned = {4: layout.kernel_axes, 2: layout.matrix_axes}
    axes = {
        own: turned.get(len(shapes[name]), tuple(range(len(shapes[name]))))
        for own, name in named.names.items()
    }
    return Network(
        path=path,
        scope=common([parts_of(name) for own, name in named.names.items() if own not in HEAD]),
        spec=named.spec,
        preset=named.preset,
        names=named.names,
        shapes=canonical,
        axes=axes,
        convention=named.scheme.convention,
        format=named.format,
        scheme=named.scheme,
    )


def from_structure(
    structure: Structure,
    layers: Sequence[Layer],
    tensors: Mapping[str, Tensor],
    changes: Mapping[str, Any],
) -> Network | Refusal:
    """The network of a structure, or why it is none.

    `layers`: all in the file that are no known network's.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    scope, own, names = structure.scope, set(structure.layers.values()), structure.names()
    near = [la for la in layers if la not in own and la.parts[: len(scope)] == scope]
    around = [*names.values(), *(name for la in near for name in la.names.values())]
    within = [name for la in _inside_blocks(structure, near) for name in la.names.values()]
    among = [name for la in _among_blocks(structure, near) for name in la.names.values()]
    path = path_of(names)
    word = word_for(within, shapes) or word_for(among, shapes, by_names=True)
    word = word or word_for(around, shapes, surrounding=True)
    if word or (word := not_floats(names, tensors)):
        return Refusal(path, word, True)
    if more := [*within, *among]:
        return Refusal(path, f"{more[0]} is inside its stem or stages, and part of no block")
    dialect = dialect_of(names.values(), last=structure.layout.name == "HWIO")
    canonical = structure.shapes()
    bare = not any(".running_" in own for own in canonical)
    if bare and any(_CAFFE2_NORM.search(name) for name in names.values()):
        return Refusal(path, _AFFINE, True)
    resolved = resolve(canonical, changes, pre=structure.pre, dialect=dialect)
    if isinstance(resolved, Mismatch):
        return Refusal(path, f"{_told(resolved, names)}{_BARE if bare else ''}")
    return Network(
        path=path,
        scope=scope,
        spec=resolved.spec,
        preset=resolved.preset,
        names={key: names[key] for key in make_plan(resolved.spec).tensors},
        shapes=canonical,
        axes={key: structure.axes(shapes[name]) for key, name in names.items()},
        convention=resolved.convention,
        changes=resolved.changes,
        assumes=dialect.says if dialect else "",
        preprocessing=dialect.preprocessing if dialect else None,
        doubts=tuple(structure.doubts),
    )


def _told(mismatch: Mismatch, names: Mapping[str, str]) -> str:
    """A tensor that no plan has, or has otherwise, in the file's own names."""
    own, found, expected = mismatch.tensor, mismatch.found, mismatch.expected
    if own is None:
        return mismatch.why
    if found is None:
        block = own.rpartition(".")[0].rpartition(".")[0]
        beside = next((name for key, name in names.items() if key.startswith(f"{block}.")), None)
        where = f", beside {beside}" if beside else ""
        return f"there is no {own} {list(expected or ())}{where}"
    if expected is None:
        return f"{names[own]}, by its place {own}, is more than any network here has"
    return f"{names[own]} has shape {list(found)}, expected {list(expected)} for {own}"


def _inside_blocks(structure: Structure, near: Sequence[Layer]) -> list[Layer]:
    """Layers inside blocks, or beside the stem's, where detectron2 has the classifier, too."""
    stem = {la.parts[:-1] for own, la in structure.layers.items() if own.startswith("stem.conv")}
    stem = {parts for parts in stem if len(parts) > len(structure.scope)}
    blocks = set(structure.blocks)
    return [
        la
        for la in near
        if any(la.words[:length] in blocks for length in range(1, len(la.words) + 1))
        or (la.kind != "linear" and any(la.parts[: len(parts)] == parts for parts in stem))
    ]


def _among_blocks(structure: Structure, near: Sequence[Layer]) -> list[Layer]:
    """Layers in a part that is called like one with blocks, and has several convolutions."""
    depth = len(words_of(structure.scope))
    blocks = set(structure.blocks)
    stages = {pattern_of(path[depth : depth + 1]) for path in blocks if len(path) > depth}
    convs: dict[Words, int] = {}
    for la in near:
        part = la.words[: depth + 1]
        convs[part] = convs.get(part, 0) + (la.kind == "conv")
    return [
        la
        for la in near
        if pattern_of(la.words[depth : depth + 1]) in stages and convs[la.words[: depth + 1]] > 1
    ]


def not_floats(names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str | None:
    """Why a network is none whose weights are integers."""
    whole = [name for name in names.values() if not is_float(tensors[name].dtype)]
    return f"quantised tensors: {whole[0]} is {tensors[whole[0]].dtype}" if whole else None


def with_classifiers(
    networks: Sequence[Network], layers: Sequence[Layer], tensors: Mapping[str, Tensor]
) -> list[Network]:
    """The networks, with the classifiers that stand elsewhere, or are called by other names; equal
    ones under several names are one.
    """
    used = {name for network in networks for name in network.names.values()}
    free = [la for la in layers if used.isdisjoint(la.names.values())]
    features = {network.features for network in networks}
    linear = [la for la in layers if la.kind == "linear"]
    linear = [la for la in linear if any(n in features for n in la.shapes[WEIGHT])]
    same = _equal_layers(linear, {la for la in linear if la in free}, tensors)
    layout, _ = layout_of(layers)
    found = []
    for group in same:
        free = [la for la in free if la is group[0] or la not in group]
    for network in networks:
        if not network.classifier:
            others = [other.scope for other in networks if other is not network]
            head, doubt = find_head(network.scope, network.features, free, layout, others)
            if doubt:
                network = replace(network, doubts=(*network.doubts, doubt))
            if head is not None and "bias" in head.layer.names:
                network = _with_head(network, head.layer, head.axes)
                free.remove(head.layer)
        found.append(_with_twins(network, same, used))
    return found


def _equal_layers(
    layers: Sequence[Layer], free: Container[Layer], tensors: Mapping[str, Tensor]
) -> list[list[Layer]]:
    """Layers that are the same, value by value; of several only the first may not be free."""
    alike: dict[Hashable, list[Layer]] = {}
    for la in layers:
        alike.setdefault(tuple(sorted(la.shapes.items())), []).append(la)
    found: list[list[Layer]] = []
    for members in alike.values():
        if len(members) > 1 and any(la in free for la in members):  # whose values are read
            groups: dict[Hashable, list[Layer]] = {}
            for la in sorted(members, key=lambda la: la in free):
                values = tuple(_digest(tensors[la.names[role]]) for role in sorted(la.names))
                group = groups.setdefault(values, [])
                if not group or la in free:
                    group.append(la)
            found += [group for group in groups.values() if len(group) > 1]
    return found


def _digest(tensor: Tensor) -> tuple[str, bytes]:
    return tensor.dtype.str, hashlib.sha256(tensor.load().tobytes()).digest()


def _with_twins(network: Network, same: Sequence[Sequence[Layer]], used: Container[str]) -> Network:
    """The network, with the other names of its classifier."""
    own = network.names.get(HEAD[0])
    names = [
        name
        for group in same
        if any(la.names[WEIGHT] == own for la in group)
        for la in group
        for name in la.names.values()
        if name not in used and name not in (own, network.names.get(HEAD[1]))
    ]
    return replace(network, twin_names=(*network.twin_names, *names))


def _with_head(network: Network, layer: Layer, axes: tuple[int, ...]) -> Network:
    shape = oriented(layer.shapes[WEIGHT], axes)[:2]
    pool = network.spec.head.pool if network.spec.head.pool != "none" else "avg"
    weight, bias = HEAD
    return replace(
        network,
        names={**network.names, weight: layer.names[WEIGHT], bias: layer.names["bias"]},
        shapes={**network.shapes, weight: shape, bias: shape[:1]},
        axes={**network.axes, weight: axes, bias: (0,)},
        spec=network.spec.replace(num_classes=shape[0], **{"head.pool": pool}),
    )


def path_of(names: Mapping[str, str]) -> str:
    """What the names of a network's kernels begin with, as the file has them; and what TensorFlow
    puts behind those of averages.
    """
    kernels = [name for own, name in names.items() if "conv" in own and own.endswith("weight")]
    start, end = min(kernels), max(kernels)
    pairs = enumerate(itertools.zip_longest(start, end))
    length = next((i for i, (a, b) in pairs if a != b), len(start))
    ends = [match.start() for match in _SEPARATOR.finditer(start[:length])]
    path = start[: ends[-1]].rstrip("./~") if ends else ""
    averaged = all(name.endswith(f"/{AVERAGED}") for name in kernels)
    return f"{path}/{AVERAGED}".lstrip("/") if averaged else path
