"""Every ResNet in a flat table of names and tensors, whatever wraps it, and all that is left over.

Known names win. What they do not explain is recognised by its structure. A tensor's values are read
only to see whether two networks are one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from shared.architecture.ops import Shape
from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.formats.naming.schemes import Format, Scheme
from shared.recognition.conventions import Resolved, dialect_of, resolve
from shared.recognition.heads import find_head
from shared.recognition.layers import (
    LAYOUTS,
    WEIGHT,
    Layer,
    Layout,
    Tensor,
    layout_of,
    oriented,
    read_layers,
)
from shared.recognition.leftovers import COUNTER, Group, groups, kind_of
from shared.recognition.named import blocks_of, canonical_shape, find_named, taken
from shared.recognition.names import Words, common, parts_of, pattern_of, words_of
from shared.recognition.strangers import explain, word_for
from shared.recognition.structure import Misfit, Structure, find_structures
from shared.recognition.tree import make_tree

HEAD = ("head.weight", "head.bias")


@dataclass(frozen=True)
class Network:
    """A ResNet in a file.

    `names` maps canonical tensors to the file's, `axes` says which of a file's axes are the
    canonical ones, where they are not in order; a classifier that is a 1 x 1 convolution loses two.
    """

    path: str  # what its names in the file begin with
    scope: Words
    spec: ResNetSpec
    preset: str | None
    names: Mapping[str, str]
    shapes: Mapping[str, Shape]  # canonical
    axes: Mapping[str, tuple[int, ...]]
    format: Format | None = None  # None: by structure
    scheme: Scheme | None = None
    convention: str = ""  # the preset that says what no tensor tells
    assumes: str = ""
    doubts: tuple[str, ...] = ()
    twins: tuple[str, ...] = ()  # paths of the same tensors, value by value
    twin_names: tuple[str, ...] = ()

    @property
    def classifier(self) -> bool:
        return HEAD[0] in self.names

    @property
    def features(self) -> int:
        return self.spec.widths[-1] * self.spec.expansion

    @property
    def how(self) -> str:
        return self.format.name if self.format else "structure"


@dataclass(frozen=True)
class Survey:
    """What is in a file. `taken` is the network that is meant unless another is asked for."""

    networks: Sequence[Network]
    left: Sequence[Group]
    refused: Sequence[tuple[str, str]] = ()  # path, why
    taken: Network | None = None
    why: str = ""
    doubts: Sequence[str] = ()
    word: str | None = None  # why there is none

    def at(self, path: str) -> list[Network]:
        """The networks that a path means: that of just this path, or all whose paths end or begin
        with it.
        """
        same = [n for n in self.networks if path == n.path or path in n.twins]
        parts = parts_of(path)
        return same or [n for n in self.networks if parts and _has(parts_of(n.path), parts)]


def _has(whole: Words, parts: Words) -> bool:
    return any(whole[i : i + len(parts)] == parts for i in range(len(whole) - len(parts) + 1))


def survey(tensors: Mapping[str, Tensor]) -> Survey:
    """Every ResNet among the tensors, which one is meant, and what is left."""
    aside = {name: kind for name, t in tensors.items() if (kind := kind_of(name, t)) is not None}
    rest = {name: tensor for name, tensor in tensors.items() if name not in aside}
    layers = read_layers(rest)
    layout, doubt = layout_of(layers)
    found, refused = _known(rest)
    used = {name for network in found for name in network.names.values()}
    more, misfits = _structures(rest, [la for la in layers if not used & set(la.names.values())], layout)
    networks = _with_heads([*found, *more], rest, layers)
    refused += misfits
    networks.sort(key=lambda n: _order(n, rest))
    networks = _without_twins(networks, rest)
    used = {name for n in networks for name in (*n.names.values(), *n.twin_names)}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    left = groups(aside, [name for name in rest if name not in used], shapes,
                  [scope for n in networks for scope in (n.scope, *map(parts_of, n.twins))])
    chosen, why = choose(networks)
    word = None if networks else explain(tensors, aside, refused)
    return Survey(networks, left, refused, chosen, why, (doubt,) if doubt and more else (), word)


def _order(network: Network, tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    first = next(iter(network.names.values()))
    return 0, list(tensors).index(first)


# Networks.


def _known(tensors: Mapping[str, Tensor]) -> tuple[list[Network], list[tuple[str, str]]]:
    """Networks in the names of schemes; and those that have something else inside their blocks."""
    found, refused = [], []
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    for named in find_named(shapes):
        names = set(named.names.values())
        path = path_of(named.names)
        scope = common([parts_of(n) for own, n in named.names.items() if own not in HEAD])
        inside = [name for name in shapes if parts_of(name)[: len(scope)] == scope]
        strange = [name for name in inside if name not in names]
        within = taken(strange, blocks_of(named.names))
        if within or (word_for(strange, shapes, surrounding=True) is not None):
            word = word_for(within or strange, shapes) or f"{within[0]} is inside a block"
            refused.append((path, word))
            continue
        canonical = {
            own: canonical_shape(named.scheme, own, shapes[name])
            for own, name in named.names.items()
        }
        axes = {own: _axes(named.scheme, shapes[name]) for own, name in named.names.items()}
        found.append(
            Network(
                path, scope, named.spec, named.preset, named.names, canonical, axes,
                named.format, named.scheme, named.scheme.convention,
            )
        )
    return found, refused


def _axes(scheme: Scheme, shape: Shape) -> tuple[int, ...]:
    layout = LAYOUTS[1] if scheme.channels_last else LAYOUTS[0]
    return {4: layout.kernel_axes, 2: layout.matrix_axes}.get(len(shape), tuple(range(len(shape))))


def _structures(
    tensors: Mapping[str, Tensor], layers: Sequence[Layer], layout: Layout
) -> tuple[list[Network], list[tuple[str, str]]]:
    found, refused = [], []
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    for structure in find_structures(make_tree(layers), layout):
        if isinstance(structure, Misfit):
            refused.append((".".join(structure.scope), structure.why))
            continue
        network = _network(structure, layers, shapes)
        if isinstance(network, Network):
            found.append(network)
        else:
            refused.append((".".join(structure.scope), network))
    return found, refused


def _network(
    structure: Structure, layers: Sequence[Layer], shapes: Mapping[str, Shape]
) -> Network | str:
    own = set(structure.layers.values())
    near = [
        la
        for la in layers
        if la not in own and la.parts[: len(structure.scope)] == structure.scope
    ]
    names = structure.names()
    strange = [name for la in near for name in la.names.values()]
    within = [name for la in _intruders(structure, near) for name in la.names.values()]
    word = word_for(within, shapes) or word_for([*names.values(), *strange], shapes, surrounding=True)
    if word or within:
        return word or f"{within[0]} is inside its stages, and part of no block"
    resolved = _resolved(structure, names)
    if isinstance(resolved, str):
        return resolved
    canonical = structure.shapes()
    axes = {
        key: structure.axes(key.rpartition(".")[0], shapes[name]) for key, name in names.items()
    }
    order = make_plan(resolved.spec).tensors
    return Network(
        path_of(names), structure.scope, resolved.spec, resolved.preset,
        {key: names[key] for key in order}, {key: canonical[key] for key in order}, axes,
        convention=resolved.convention, assumes=resolved.says, doubts=tuple(structure.doubts),
    )


def _intruders(structure: Structure, near: Sequence[Layer]) -> list[Layer]:
    """Layers inside blocks, or among them: called like a part that holds some, and more than one."""
    depth = len(words_of(structure.scope))
    blocks = set(structure.blocks)
    stages = {pattern_of(path[depth : depth + 1]) for path in blocks if len(path) > depth}
    groups: dict[Words, list[Layer]] = {}
    for la in near:
        groups.setdefault(la.words[: depth + 1], []).append(la)
    return [
        la
        for la in near
        if any(la.words[:n] in blocks for n in range(1, len(la.words) + 1))
        or (
            pattern_of(la.words[depth : depth + 1]) in stages
            and sum(other.kind == "conv" for other in groups[la.words[: depth + 1]]) > 1
        )
    ]


def _resolved(structure: Structure, names: Mapping[str, str]) -> Resolved | str:
    dialect = dialect_of(names.values(), last=structure.layout.name == "HWIO")
    return resolve(structure.shapes(), pre=structure.pre, dialect=dialect)


# Classifiers.


def _with_heads(
    networks: Sequence[Network], tensors: Mapping[str, Tensor], layers: Sequence[Layer]
) -> list[Network]:
    used = {name for network in networks for name in network.names.values()}
    free = [la for la in layers if not used & set(la.names.values())]
    layout, _ = layout_of(list(layers))
    found = []
    for network in networks:
        others = [other.scope for other in networks if other is not network]
        if not network.classifier:
            head, doubt = find_head(network.scope, network.features, free, layout, others)
            if doubt:
                network = replace(network, doubts=(*network.doubts, doubt))
            if head is not None:
                network = _with_head(network, head.layer, head.axes)
                free = [la for la in free if la is not head.layer]
        found.append(network)
    return found


def _with_head(network: Network, layer: Layer, axes: tuple[int, ...]) -> Network:
    shape = oriented(layer.shapes[WEIGHT], axes)[:2]
    names, shapes, turned = dict(network.names), dict(network.shapes), dict(network.axes)
    names["head.weight"], shapes["head.weight"] = layer.names[WEIGHT], shape
    turned["head.weight"] = axes
    if "bias" not in layer.names:
        return network
    names["head.bias"], shapes["head.bias"], turned["head.bias"] = layer.names["bias"], shape[:1], (0,)
    pool = network.spec.head.pool if network.spec.head.pool != "none" else "avg"
    spec = network.spec.replace(num_classes=shape[0], **{"head.pool": pool})
    return replace(network, names=names, shapes=shapes, axes=turned, spec=spec)


# Which.


def _without_twins(networks: Sequence[Network], tensors: Mapping[str, Tensor]) -> list[Network]:
    """Networks that are the same, value by value, as one: the one of the shortest path."""
    found: list[Network] = []
    for network in sorted(networks, key=lambda n: (not n.classifier, len(n.scope))):
        for i, other in enumerate(found):
            if same(network, other, tensors):
                found[i] = replace(
                    other,
                    twins=(*other.twins, network.path),
                    twin_names=(*other.twin_names, *network.names.values()),
                )
                break
        else:
            found.append(network)
    place = {network.path: i for i, network in enumerate(networks)}
    return sorted(found, key=lambda n: place[n.path])


def same(a: Network, b: Network, tensors: Mapping[str, Tensor]) -> bool:
    """Whether every tensor of `a` is one of `b`, bit by bit; small ones are read first."""
    if any(b.shapes.get(key) != shape for key, shape in a.shapes.items()):
        return False
    if any(key not in a.shapes for key in b.shapes if key not in HEAD):
        return False
    for key in sorted(a.shapes, key=lambda key: np.prod(a.shapes[key])):
        x, y = tensors[a.names[key]], tensors[b.names[key]]
        if a.names[key] == b.names[key]:
            continue
        if x.dtype != y.dtype or a.axes[key] != b.axes[key]:
            return False
        if x.load().tobytes() != y.load().tobytes():
            return False
    return True


_AVERAGED = re.compile(r"\w*(ema|swa|averaged?|polyak|shadow)|(ema|swa)_\w*|ExponentialMovingAverage")
_KEY = re.compile(r"(\w*_)?(encoder_k|key|key_encoder|encoder_key|momentum|momentum_encoder|target"
                  r"|target_\w+)")


def choose(networks: Sequence[Network]) -> tuple[Network | None, str]:
    """The network that is meant, and the rule by which it is; None where no rule says so.

    Raw weights come before their running averages: the plain name means them. A query encoder comes
    before its key encoder, which is a running average of it. Between a student and a teacher
    nothing decides.
    """
    if len(networks) < 2:
        return (networks[0], "the only one") if networks else (None, "there is none")
    left, why = list(networks), []
    for pattern, rule in (
        (_AVERAGED, "raw weights come before their running averages"),
        (_KEY, "a query encoder comes before the key encoder that follows it"),
    ):
        kept = [n for n in left if not any(pattern.fullmatch(part) for part in parts_of(n.path))]
        if kept and len(kept) < len(left):
            left, why = kept, [*why, rule]
    if len(left) == 1:
        return left[0], "; ".join(why)
    return None, "several, and no rule says which is meant"


_PART = re.compile(r"[./]")


def path_of(names: Mapping[str, str]) -> str:
    """What the names of the network's kernels begin with, as the file has them."""
    kernels = [name for own, name in names.items() if "conv" in own and own.endswith("weight")]
    start, end = min(kernels), max(kernels)
    length = next(
        (i for i, (a, b) in enumerate(itertools.zip_longest(start, end)) if a != b), len(start)
    )
    ends = [match.start() for match in _PART.finditer(start[:length])]
    return start[: ends[-1]].rstrip("./~") if ends else ""
