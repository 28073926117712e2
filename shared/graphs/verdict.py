"""What a model is, in one answer: the spec and its weights with the proof, or where it departs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared.architecture.ops import Conv
from shared.architecture.plan import make_plan
from shared.architecture.preprocessing import PREPROCESSING, preprocess
from shared.architecture.presets import get_spec
from shared.architecture.spec import ResNetSpec
from shared.errors import RosettaError, SpecError
from shared.graphs.compare import COMPUTED, FOLDED, NEUTRAL, ZERO_BIAS, Note
from shared.graphs.evidence import NOTHING, Evidence, compare_numbers, prepared
from shared.graphs.match import Match, Trimmed, fits, flat_presets, like, match, trimmed_as
from shared.graphs.near import nearest_preset, of_papers
from shared.graphs.net import Node
from shared.graphs.normal import normalise
from shared.graphs.overlay import SHARED, Departure, Overlay, overlay
from shared.graphs.planned import planned
from shared.graphs.primitives import RawGraph
from shared.weights.canonical import Weights

SAME_MODEL = "same model"
SAME_FUNCTION = "same function"
THIS_SIZE = "at this size only"
OPERATORS = "same operators"  # and the numbers are others, or show nothing
DEPARTS = "departs"
NO_RESNET = "no ResNet"
FRONT = "before the stem"
SHARE = 0.6  # of a network's convolutions, that a model must have to be compared with it
PAPERS = 4  # networks of papers that are compared node by node
SMALL = 97  # pixels of the images of the numbers, odd, where the model takes them

Read = Callable[[int | None], RawGraph]


@dataclass
class Identified:
    """The answer. `weights` are canonical, and `names` what the user calls each of them."""

    verdict: str
    spec: ResNetSpec | None = None
    presets: list[str] = field(default_factory=list)
    departures: list[Departure] = field(default_factory=list)
    surroundings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    nearest: str | None = None  # preset, where the network is none
    from_nearest: list[Departure] = field(default_factory=list)  # of a spec that is no preset
    paper: tuple[str, str] | None = None  # the preset of a paper that is nearest, and which paper
    from_paper: list[Departure] = field(default_factory=list)
    image_sizes: list[int] = field(default_factory=list)
    evidence: Evidence | None = None
    weights: Weights = field(default_factory=dict)
    names: dict[str, str | None] = field(default_factory=dict)

    @property
    def preset(self) -> str | None:
        return self.presets[0] if self.presets else None

    @property
    def recognised(self) -> bool:
        """The network is a spec, and the numbers say so too."""
        proved = self.evidence is not None and self.evidence.passed
        return self.verdict in (SAME_MODEL, SAME_FUNCTION, THIS_SIZE) and proved

    def to_dict(self) -> dict[str, Any]:
        """As `rosetta identify --json` writes it."""
        evidence = self.evidence
        return {
            "recognised": self.recognised,
            "verdict": self.verdict,
            "preset": self.preset,
            "presets": self.presets,
            "nearest": self.nearest,
            "spec": self.spec.to_dict() if self.spec and self.verdict != NO_RESNET else None,
            "departures": [_listed(departure) for departure in self.departures],
            "from_nearest": [_listed(departure) for departure in self.from_nearest],
            "paper": list(self.paper) if self.paper else None,
            "from_paper": [_listed(departure) for departure in self.from_paper],
            "surroundings": self.surroundings,
            "notes": self.notes,
            "assumed": self.assumed,
            "evidence": None if evidence is None else evidence.to_dict(),
            "image_sizes": self.image_sizes,
            "tensors": len(self.weights),
            "names": self.names,
        }


def _listed(departure: Departure) -> dict[str, Any]:
    return {
        "where": departure.where,
        "what": departure.what,
        "theirs": departure.theirs,
        "ours": departure.ours,
        "line": departure.line or None,
        "layer": departure.layer or None,
    }


def identify_graph(
    read: Read, image_size: int | None = None, against: ResNetSpec | None = None
) -> Identified:
    """Which network `read` reads: it is called for an image size and for the next one, because even
    sizes hide padding. `against`: compare with this spec alone.

    Raises what `read` raises at the first size.
    """
    graph = read(image_size)
    found = match(normalise(graph), against)
    answer = Identified(DEPARTS, image_sizes=[graph.image_size], notes=list(graph.remarks))
    answer.surroundings = surroundings(found.trimmed)
    if found.exact:
        _decide(answer, found, graph, read, against)
    elif found.nearest is None:
        answer.verdict = NO_RESNET
        answer.notes.append(found.reason)
        unknown = [node.label for node in found.trimmed.target.order if node.op == "Other"]
        if unknown:
            answer.notes.append(f"it has operators that are not known: {listed(unknown)}")
    else:
        _depart(answer, found.nearest, against)
    return answer


def _depart(answer: Identified, nearest: Overlay, against: ResNetSpec | None) -> None:
    answer.spec = nearest.spec
    answer.departures = nearest.departures
    answer.nearest = (against or nearest.spec).name if against else nearest_preset(nearest.spec)
    wrong = {departure.layer for departure in nearest.departures}
    nodes = nearest.ours.net.nodes
    convs = {nodes[i].where for i, op in nearest.ours.ops.items() if isinstance(op, Conv)}
    placed = len(convs & set(nearest.placed) - wrong) / max(len(convs), 1)
    if placed < SHARE and not against:
        answer.verdict, answer.spec, answer.departures = NO_RESNET, None, []
        name = nearest.spec.name
        of = "the nearest network" if name == ResNetSpec().name else f"{name}, the nearest,"
        answer.notes.append(f"only {placed:.0%} of the convolutions of {of} are there")


def _decide(
    answer: Identified, found: Match, graph: RawGraph, read: Read, against: ResNetSpec | None
) -> None:
    """One spec lies flat at the first size; the second decides which, or whether any does."""
    own = found.trimmed
    flat = {} if against else flat_presets(found.exact[0].spec, own)
    chosen = _preferred(flat, found.exact[0].spec, own)
    options = [*(flat[name] for name in chosen), *found.exact]
    try:
        second = read(graph.image_size + 1)
    except Exception as error:  # noqa: BLE001 - the user's own code may raise anything at a size
        best = options[0]
        text = next(iter(str(error).strip().splitlines()), "")
        what = text if isinstance(error, RosettaError) else f"{type(error).__name__}: {text}"
        answer.notes.append(
            f"it was read at {graph.image_size} x {graph.image_size} pixels alone, where even and "
            f"odd sizes could not be told apart: {what}"
        )
        answer.verdict = THIS_SIZE
    else:
        answer.image_sizes.append(second.image_size)
        other = trimmed_as(normalise(second), own)
        kept = [o for o in options if _fits_again(o.spec, other)]
        best = kept[0] if kept else options[0]
        if kept:
            chosen = [name for name in chosen if any(o is flat[name] for o in kept)]
        else:
            answer.verdict = THIS_SIZE
            own_side, side = graph.image_size, second.image_size
            if graph.fixed:
                answer.image_sizes.pop()
                answer.notes.append(
                    f"the file is for images of {own_side} x {own_side} pixels; at {side} x {side} "
                    "its operators do not fit, so that even and odd sizes could not be told apart"
                )
            else:
                there = planned(best.spec, other.image)
                answer.departures = overlay(there, other.target).departures
                answer.notes.append(f"the departures are those at {side} x {side} pixels")
    answer.presets = chosen
    answer.spec = _with_momentum(best.spec, own)
    answer.weights, answer.names = best.weights, best.names
    changes = _function_notes(best.notes, own)
    answer.notes += changes
    if answer.verdict != THIS_SIZE:
        answer.verdict = SAME_FUNCTION if changes else SAME_MODEL
    answer.assumed = _assumed(answer.spec, own)
    if any(get_spec(name).block.dropout != answer.spec.block.dropout for name in chosen):
        answer.assumed.append("block.dropout")
    if not chosen:
        answer.nearest = against.name if against else nearest_preset(best.spec)
        if not against:
            answer.from_nearest = _from_preset(answer.nearest, best.spec, own) or []
    if not against:
        _compare_with_papers(answer, best.spec, own)
    _prove(answer, graph, own)
    proved = answer.evidence is not None and answer.evidence.passed
    if answer.verdict in (SAME_MODEL, SAME_FUNCTION) and not proved:
        answer.verdict = OPERATORS
    if answer.evidence is not None and not answer.evidence.shows:
        answer.notes.append(NOTHING)


def _compare_with_papers(answer: Identified, spec: ResNetSpec, own: Trimmed) -> None:
    """What the network does otherwise than the paper's own that is nearest to it."""
    found = [
        (departures, (name, paper))
        for name, paper in of_papers(spec)[:PAPERS]
        if (departures := _from_preset(name, spec, own)) is not None
    ]
    if found:
        departures, answer.paper = min(found, key=lambda pair: sum(d.count for d in pair[0]))
        answer.from_paper = departures if answer.paper[0] != answer.nearest else []


def _from_preset(name: str, spec: ResNetSpec, own: Trimmed) -> list[Departure] | None:
    """What a preset has otherwise, in the user's modules; None where it takes no such images."""
    try:
        return overlay(planned(like(name, spec), own.image), own.target).departures
    except SpecError:
        return None


def _fits_again(spec: ResNetSpec, other: Trimmed) -> bool:
    try:
        return fits(planned(spec, other.image), other) is not None
    except SpecError:
        return False


def _prove(answer: Identified, graph: RawGraph, own: Trimmed) -> None:
    spec = answer.spec
    if spec is None or set(answer.weights) != set(make_plan(spec).tensors):
        answer.notes.append("not every tensor of the network was found")
        return
    sizes = [graph.image_size]
    if answer.verdict != THIS_SIZE and graph.image_size > SMALL:
        sizes = [SMALL, graph.image_size, 224]  # the last: where a layer is for that size alone
    for size in sizes:
        try:
            answer.evidence = compare_numbers(
                graph, spec, answer.weights, own.front, own.back, size
            )
            return
        except Exception as error:  # noqa: BLE001 - a user's model may raise anything
            problem = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"
    answer.notes.append(f"the model could not be run ({problem})")


# Presets.


def _preferred(flat: dict[str, Overlay], spec: ResNetSpec, own: Trimmed) -> list[str]:
    """Names of presets, those first whose momentum is the model's."""
    seen = _momentum(own)
    return sorted(flat, key=lambda name: seen is not None and get_spec(name).norm.momentum != seen)


def _momentum(own: Trimmed) -> float | None:
    """That of the norms, where the source shows it."""
    momenta = [n.attrs["momentum"] for n in own.target.order if n.attrs.get("momentum") is not None]
    return Counter(momenta).most_common(1)[0][0] if momenta else None


def _with_momentum(spec: ResNetSpec, own: Trimmed) -> ResNetSpec:
    momentum = _momentum(own)
    if momentum is None or not 0 <= momentum < 1:
        return spec
    return spec.replace(**{"norm.momentum": momentum})


# Sentences.


def _function_notes(notes: Iterable[Note], own: Trimmed) -> list[str]:
    """What makes the network the same function, and not the same model: training would differ."""
    places: dict[str, list[str]] = {}
    for note in notes:
        places.setdefault(note.kind, []).append(note.where)
    texts = {
        FOLDED: "the scale and shift of a norm alone are left, without its statistics and eps",
        ZERO_BIAS: "no bias; zeros stand for it",
        NEUTRAL: "a norm without scale or shift; ones or zeros stand for it",
        COMPUTED: "the kernel is computed from other constants, and taken as it comes out",
        SHARED: "one tensor is used in several layers, which training would tie",
    }
    found = [f"{text}: {listed(places[kind])}" for kind, text in texts.items() if kind in places]
    if own.unfolded:
        found.append(
            f"{own.unfolded} norms are folded into the convolutions in front; identities stand for "
            "them"
        )
    for node in own.target.order:
        found += [f"{node.where}: {note}" for note in node.notes if "stand for" in note]
    return found


def listed(places: Iterable[str], most: int = 3) -> str:
    """Some of many places, and how many more."""
    unique = list(dict.fromkeys(places))
    shown = ", ".join(unique[:most])
    return shown + (f" and {len(unique) - most} more" if len(unique) > most else "")


def _assumed(spec: ResNetSpec, own: Trimmed) -> list[str]:
    """Fields that no inference graph shows."""
    found = ["init", "norm.running_var"] if spec.norm.kind == "batch" else ["init"]
    if spec.norm.kind == "batch" and _momentum(own) is None:
        found.append("norm.momentum")
    if any(n.op == "BatchNorm" and n.attrs["eps"] is None for n in own.target.order):
        found.append("norm.eps")
    return found


def surroundings(own: Trimmed) -> list[str]:
    """What stands before the stem and behind the head, each as a sentence."""
    found = [f"{FRONT}: {_step(node)}" for node in own.front]
    name = _preprocessing(own.front)
    if name:
        found.append(f"{FRONT}, together: the preprocessing {name}")
    return [*found, *(f"behind the head: {node.label}" for node in own.back)]


def _step(node: Node) -> str:
    if node.op == "Scale":
        return f"x * {node.attrs['scale']:.6g} + {node.attrs['shift']:.6g}"
    if node.op == "Reverse":
        return "channels in the opposite order" if node.attrs["axes"] == ("C",) else "a flip"
    if node.op == "Affine":
        scale, shift = (_numbers(node.tensors[leaf]) for leaf in ("scale", "shift"))
        return f"x * [{scale}] + [{shift}], channel by channel"
    raise TypeError(f"{node} is no preparation")


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _preprocessing(front: list[Node]) -> str | None:
    """The preprocessing of ours that the steps are together, and of which pixels."""
    if not front:
        return None
    pixels = np.random.default_rng(0).uniform(0, 255, (64, 1, 1, 3))
    for name, how in PREPROCESSING.items():
        want = preprocess(pixels, how)
        for most in (255, 1):
            try:
                got = prepared(front, pixels * most / 255)
            except ValueError:  # of other than three channels
                return None
            if np.allclose(got, want, rtol=1e-4, atol=1e-4):
                return f"{name}, of pixels from 0 to {most}"
    return None
