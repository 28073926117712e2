"""Which networks of a file are one, and which of several is meant."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

from shared.recognition.layers import Tensor
from shared.recognition.names import parts_of
from shared.recognition.network import HEAD, Network

_AVERAGED = re.compile(r"(\w+_)?(ema|swa|averaged?|polyak|shadow)(_\w+)?|ExponentialMovingAverage")
_KEY = re.compile(
    r"(\w+_)?(encoder_k|key|key_encoder|encoder_key|momentum|momentum_encoder|target)(_\w+)?"
)
# A network of the first kind follows one of the second as a running average.
RULES = (
    (_AVERAGED, "raw weights come before their running average"),
    (_KEY, "a query encoder comes before the key encoder, which is a running average of it"),
)


def without_twins(networks: Sequence[Network], tensors: Mapping[str, Tensor]) -> list[Network]:
    """Networks that are the same, value by value, as one: the one of the shortest path."""
    found: dict[Hashable, list[Network]] = {}
    for network in sorted(networks, key=lambda n: (not n.classifier, len(n.scope))):
        alike = found.setdefault(_body(network), [])
        for i, other in enumerate(alike):
            if _same(network, other, tensors):
                alike[i] = replace(
                    other,
                    twins=(*other.twins, network.path),
                    twin_names=(*other.twin_names, *network.names.values()),
                )
                break
        else:
            alike.append(network)
    place = {id(network.names): i for i, network in enumerate(networks)}
    return sorted(itertools.chain(*found.values()), key=lambda n: place[id(n.names)])


def _body(network: Network) -> Hashable:
    """What networks have in common that could be the same but for their classifiers."""
    return tuple(sorted(item for item in network.shapes.items() if item[0] not in HEAD))


def _same(a: Network, b: Network, tensors: Mapping[str, Tensor]) -> bool:
    """Whether every tensor of `a` is one of `b`, bit by bit; small ones are read first."""
    if any(b.shapes.get(key) != shape for key, shape in a.shapes.items()):
        return False
    for key in sorted(a.shapes, key=lambda key: math.prod(a.shapes[key])):
        x, y = tensors[a.names[key]], tensors[b.names[key]]
        if a.names[key] != b.names[key] and (
            x.dtype != y.dtype
            or a.axes[key] != b.axes[key]
            or x.load().tobytes() != y.load().tobytes()
        ):
            return False
    return True


def choose(networks: Sequence[Network]) -> tuple[Network | None, str]:
    """The network that is meant, and the rule by which it is; None where no rule says so.

    Raw weights come before their running averages, because the plain name means them, and a query
    encoder before its key encoder. Between a student and a teacher nothing decides.
    """
    if len(networks) < 2:
        return (networks[0], "the only one") if networks else (None, "there is none")
    left, rules = list(networks), []  # type: list[Network], list[str]
    for pattern, rule in RULES:
        kept = [n for n in left if not any(map(pattern.fullmatch, parts_of(n.path)))]
        if kept and len(kept) < len(left):
            left, rules = kept, [*rules, rule]
    if len(left) == 1:
        return left[0], "; ".join(rules)
    return None, "no rule says which of them is meant"
