"""One network against specs: those that it may be, and every preset of its depths.

What stands before the stem and behind the logits is set apart first. Norms that an exporter has
folded into their convolutions are unfolded, exactly, where nothing lies flat without that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np

from shared.architecture.presets import get_spec, list_presets
from shared.architecture.spec import ResNetSpec
from shared.errors import SpecError
from shared.graphs.align import at_least
from shared.graphs.infer import NotResNet, candidates
from shared.graphs.net import Net, Node, compacted
from shared.graphs.overlay import Departure, Overlay, Target, overlay
from shared.graphs.planned import Planned, planned
from shared.graphs.structure import BACK, FRONT

CUSTOM = ResNetSpec().name  # of what is no preset
ALIGNED = 4  # candidates that are paired node by node where none lies flat
# Where folded norms are unfolded: behind convolutions that a ReLU alone follows; behind all; or
# behind those at these places in the order of comparison.
Mode = str | tuple[int, ...]
MODES: tuple[Mode, ...] = ("relu", "all")
# Fields that are what they are in every graph: a preset that differs here does not lie flat.
VISIBLE = (
    *("block.kind", "block.groups", "block.base_width", "stem.convs", "norm.kind"),
    *("anti_alias", "weight_std_eps", "stem.input_norm"),
)
SOME = 4  # additions, below which nothing is compared with a ResNet
NEAR = 2  # blocks by which a preset may differ and still be near


@dataclass
class Trimmed:
    """A network without what prepares its images and what follows its logits."""

    target: Target
    front: list[Node]
    back: list[Node]
    mode: Mode = ""  # in which norms are unfolded; empty: none are
    unfolded: int = 0  # how many are

    @property
    def image(self) -> tuple[int, int]:
        return self.target.net.nodes[self.target.first].image


@dataclass
class Match:
    """What a network is at one image size: every spec that lies flat, or the nearest one."""

    trimmed: Trimmed
    exact: list[Overlay] = field(default_factory=list)
    nearest: Overlay | None = None
    reason: str = ""  # why no spec could be inferred


def trimmed(net: Net) -> Trimmed:
    """Set apart what is no part of the network."""
    nodes, output = net.nodes, net.output
    back: list[Node] = []
    while nodes[output].op in BACK:
        back.insert(0, nodes[output])
        output = nodes[output].ins[0]
    inner = Net(nodes, net.input, output)
    readers = inner.readers()
    front: list[Node] = []
    first = net.input
    while len(readers[first]) == 1 and (step := _preparation(readers[first][0])) is not None:
        first = step.id
        front.append(step)
    return Trimmed(Target(inner, first), front, back)


def _preparation(node: Node) -> Node | None:
    """The step that prepares the images; a norm without statistics is no more than that."""
    if node.op == "BatchNorm" and node.attrs["eps"] is None:
        tensors = {"scale": node.tensors["weight"], "shift": node.tensors["bias"]}
        return dataclasses.replace(node, op="Affine", attrs={}, tensors=tensors)
    return node if node.op in FRONT else None


def match(net: Net, against: ResNetSpec | None = None) -> Match:
    """What the network is, or what tells it from `against`."""
    unanimous(net)
    found = _matched(trimmed(net), against)
    for mode in MODES:
        if not found.exact:
            found = _better(found, _in_mode(net, mode), against)
    likely = against or (found.nearest.spec if found.nearest else None)
    if not found.exact and likely is not None:
        found = _better(found, _in_mode(net, _as_planned(net, likely)), against)
    return found


def _better(found: Match, own: Trimmed | None, against: ResNetSpec | None) -> Match:
    """What the network is in another mode, where that has fewer departures."""
    if own is None:
        return found
    other = _matched(own, against)
    return other if other.exact or _departures(other) < _departures(found) else found


def trimmed_as(net: Net, like: Trimmed) -> Trimmed:
    """The same model at another image size, in the same mode."""
    unanimous(net)
    return _in_mode(net, like.mode) or trimmed(net)


def _as_planned(net: Net, against: ResNetSpec) -> tuple[int, ...]:
    """The convolutions without a norm behind which the plan has one, if it has as many of them."""
    own = trimmed(net).target
    try:
        plan = planned(against, own.net.nodes[own.first].image)
    except SpecError:
        return ()
    mine, theirs = _convs([plan.net.nodes[i] for i in plan.order]), _convs(own.order)
    if len(mine) != len(theirs):
        return ()
    ours, own_readers = plan.net.readers(), own.net.readers()
    return tuple(
        k
        for k, (a, b) in enumerate(zip(mine, theirs, strict=True))
        if _is_normed(ours[a.id]) and not _is_normed(own_readers[b.id])
    )


def _convs(nodes: Iterable[Node]) -> list[Node]:
    return [node for node in nodes if node.op == "Conv"]


def _is_normed(readers: Iterable[Node]) -> bool:
    return any(reader.op in ("BatchNorm", "GroupNorm", "Affine") for reader in readers)


def _in_mode(net: Net, mode: Mode) -> Trimmed | None:
    """None where nothing is unfolded."""
    other = unfolded(net, mode) if mode else None
    if other is None:
        return None
    own = trimmed(other[0])
    own.mode, own.unfolded = mode, other[1]
    return own


def _departures(found: Match) -> int:
    return len(found.nearest.departures) if found.nearest else 1 << 30


def unanimous(net: Net) -> None:
    """Where an exporter has computed some standardised kernels and left others, take all as they
    are computed: a spec has one treatment for all.
    """
    convs = [node for node in net.nodes if node.op == "Conv"]
    if len({node.attrs["weight_std_eps"] for node in convs}) < 2:
        return
    if not any("computed" in note for node in convs for note in node.notes):
        return
    for node in convs:
        if node.attrs["weight_std_eps"] is not None:
            node.tensors["weight"] = node.attrs["computed"]
            node.attrs["weight_std_eps"] = None
            node.notes.append("its kernel is computed by weight standardisation")


def unfolded(net: Net, mode: Mode) -> tuple[Net, int] | None:
    """With an identity norm behind convolutions that have a bias and no norm: gamma 1, mean 0, beta
    the bias. The function is the same.
    """
    readers = net.readers()
    chosen: set[int] | None = None
    if isinstance(mode, tuple):
        convs = _convs(trimmed(net).target.order)
        chosen = {convs[k].id for k in mode if k < len(convs)}
    nodes: list[Node] = []
    number: dict[int, int] = {}
    count = 0
    for node in net.nodes:
        copy = dataclasses.replace(
            node,
            id=len(nodes),
            ins=[number[i] for i in node.ins],
            tensors=dict(node.tensors),
            names=dict(node.names),
        )
        nodes.append(copy)
        number[node.id] = copy.id
        behind = readers[node.id]
        if chosen is not None:
            fits = node.id in chosen
        elif mode == "relu":
            fits = [reader.op for reader in behind] == ["ReLU"]
        else:
            fits = bool(behind) and not _is_normed(behind)
        if node.op == "Conv" and "bias" in node.tensors and fits:
            size = node.channels
            norm = Node(len(nodes), "BatchNorm", [copy.id], {"eps": None}, dict(node.size))
            norm.where, norm.line = node.where, node.line
            norm.tensors = {
                "weight": np.ones(size),
                "bias": copy.tensors.pop("bias"),
                "running_mean": np.zeros(size),
            }
            norm.value, copy.value = copy.value, None  # which is behind the bias
            norm.names = {"bias": copy.names.pop("bias", None)}
            nodes.append(norm)
            number[node.id] = norm.id
            count += 1
    if not count:
        return None
    return compacted(nodes, number[net.input], number[net.output]), count


def _matched(own: Trimmed, against: ResNetSpec | None) -> Match:
    found = Match(own)
    try:
        inferred = [against] if against else candidates(own.target)
    except NotResNet as error:
        found.reason = str(error)
        inferred = []
    plans = list(_planned(inferred, own))
    found.exact = [o for plan in plans if _may_fit(plan, own) and (o := fits(plan, own))]
    if not found.exact and (plans or _adds(own) >= SOME):
        near = [] if against else list(_planned(_near_presets(inferred, own), own))
        found.nearest = _nearest(
            [*plans[:1], *_likeliest(plans[1:], own), *_likeliest(near, own)], own
        )
    return found


def _planned(specs: Iterable[ResNetSpec], own: Trimmed) -> Iterator[Planned]:
    """The plans of those specs that take such images, equal ones once."""
    seen: set[object] = set()
    for spec in specs:
        try:
            plan = planned(spec, own.image)
        except SpecError:
            continue
        key = tuple((node.where, plan.ops.get(node.id), *node.ins) for node in plan.net.nodes)
        if key not in seen:
            seen.add(key)
            yield plan


def _may_fit(plan: Planned, own: Trimmed) -> bool:
    return len(plan.order) == len(own.target.order) + 1


def fits(plan: Planned, own: Trimmed) -> Overlay | None:
    """The overlay, if it lies flat."""
    if not _may_fit(plan, own):
        return None
    mine = (plan.net.nodes[i] for i in plan.order if i)
    for a, b in zip(mine, own.target.order, strict=True):
        if a.op != b.op and not (a.op == "BatchNorm" and b.op == "Affine"):
            return None
    found = overlay(plan, own.target)
    return found if found.exact else None


def _likeliest(plans: list[Planned], own: Trimmed) -> list[Planned]:
    """Those that may have the fewest departures, by the counts of their operators."""
    orders = [[plan.net.nodes[i] for i in plan.order if i] for plan in plans]
    bounds = sorted((at_least(order, own.target.order), k) for k, order in enumerate(orders))
    return [plans[k] for _, k in bounds[:ALIGNED]]


def _nearest(plans: list[Planned], own: Trimmed) -> Overlay:
    """With the fewest departures; of equals, one that is a preset."""
    overlays = [overlay(plan, own.target) for plan in plans]
    return min(overlays, key=lambda o: (sum(map(weight_of, o.departures)), o.spec.name == CUSTOM))


def weight_of(departure: Departure) -> float:
    """How much a departure says against a network: structure more than numbers."""
    if departure.what in ("extra", "missing", "operator", "wiring"):
        return float(departure.count)
    return 0.7 if departure.what in ("kernel", "channels", "groups", "stride") else 0.5


def like(name: str, spec: ResNetSpec) -> ResNetSpec:
    """A preset with the classes and input channels of another spec."""
    changes = {"num_classes": spec.num_classes, "in_channels": spec.in_channels}
    preset = get_spec(name)
    if spec.num_classes == 0:
        changes["head.pool"] = spec.head.pool  # type: ignore[assignment]
    return preset.replace(**changes)


def _adds(own: Trimmed) -> int:
    return sum(node.op == "Add" for node in own.target.order)


def _near_presets(inferred: list[ResNetSpec], own: Trimmed) -> Iterator[ResNetSpec]:
    """Presets of about the same depths; all of them, where nothing could be inferred."""
    if not inferred:
        output = own.target.net.nodes[own.target.net.output]
        source = own.target.net.nodes[own.target.first]
        classes = output.channels if output.op == "Linear" else 0
        for name in list_presets():
            found = get_spec(name).replace(in_channels=source.channels)
            yield found.replace(num_classes=classes) if classes else found
        return
    spec = inferred[0]
    for name in list_presets():
        preset = get_spec(name)
        if preset.block.kind != spec.block.kind or preset.widths[0] != spec.widths[0]:
            continue
        if len(preset.depths) != len(spec.depths):
            continue
        apart = sum(abs(a - b) for a, b in zip(preset.depths, spec.depths, strict=True))
        if apart <= NEAR:
            yield like(name, spec)


def flat_presets(spec: ResNetSpec, own: Trimmed) -> dict[str, Overlay]:
    """Every preset that lies flat on the network, by name."""
    found = {}
    visible = attrgetter(*VISIBLE)
    for name in list_presets():
        preset = get_spec(name)
        if (preset.depths, preset.widths) != (spec.depths, spec.widths):
            continue
        if visible(preset) != visible(spec):
            continue
        try:
            flat = fits(planned(like(name, spec), own.image), own)
        except SpecError:
            continue
        if flat is not None:
            found[name] = flat
    return found
