"""Which norm stands where: by channels, by names that go together, and by their order.

In post-activation units norm k follows convolution k, in pre-activation units it precedes it: the
channels of the norms of a block that changes them tell which.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from shared.recognition.blocks import SIDE, Block, last_of, local_names
from shared.recognition.chain import Chain
from shared.recognition.layers import Layer
from shared.recognition.names import Words, pattern_of, pieces_of, shared

# Words for kinds of layers, which a convolution and its norm do not share.
_KIND = re.compile(
    r"(?:conv|conv\dd|convolution|bn|norm|batch|batchnorm|batchnorm\dd|normalization|"
    r"batchnormalization|gn|group|groupnorm|res|scale|standardized|spatbn)+"
)
_SIDE_NORM = "shortcut.norm"
_INPUT_NORM = "stem.input_norm"
_PICTURE = 4  # channels at most: grey, RGB, RGB and depth or transparency


class Hypothesis(NamedTuple):
    """How a network's units are normalised."""

    pre: bool
    side: bool  # a norm behind the shortcut's convolution
    first: bool = True  # the first unit has its own pre-activation


class Norms(NamedTuple):
    """Canonical layer -> norm; whether units are pre-activation ones; and doubts."""

    layers: Mapping[str, Layer]
    pre: bool
    side: bool  # there are norms behind the shortcuts' convolutions
    doubts: list[str]


def find_norms(chain: Chain, norms: Sequence[Layer]) -> Norms | str:
    """The norms of a network among those that are called like it, or why there are none that
    fit.
    """
    if not norms:
        return "it has no norms"
    return _counted(chain, norms) if chain.counted else _named(chain, norms)


def hypotheses(chain: Chain) -> Iterator[Hypothesis]:
    projects = any(SIDE in block.chosen for block in chain.blocks)
    sides = (True, False) if projects else (False,)
    for side in sides:
        yield Hypothesis(False, side)
    for side in reversed(sides):
        for first in (True, False):
            yield Hypothesis(True, side, first)


def needs(block: Block, told: Hypothesis, *, first: bool) -> dict[str, int]:
    """Name of a norm in the block -> channels."""
    mains = [block.chosen[f"conv{k}"] for k in range(1, int(last_of(block.kind)[-1]) + 1)]
    if told.pre:
        channels = [block.inputs, *(conv.outputs for conv in mains[:-1])]
        found = {f"norm{k}": count for k, count in enumerate(channels, 1)}
        if first and not told.first:
            del found["norm1"]
    else:
        found = {f"norm{k}": conv.outputs for k, conv in enumerate(mains, 1)}
    if told.side and SIDE in block.chosen:
        found[_SIDE_NORM] = block.outputs
    return found


# Blocks that names tell.


def _named(chain: Chain, norms: Sequence[Layer]) -> Norms | str:
    inside, free = _members(chain, norms)
    for told in hypotheses(chain):
        wanted = [needs(block, told, first=i == 0) for i, block in enumerate(chain.blocks)]
        if all(
            Counter(need.values()) == Counter(norm.channels for norm in members)
            for need, members in zip(wanted, inside, strict=True)
        ):
            break
    else:
        return _misfit(chain, inside)
    found: dict[str, Layer] = {}
    doubts: list[str] = []
    called = local_names(inside)
    known = _learn(wanted, inside, called)
    for i, block in enumerate(chain.blocks):
        calls = {norm: known.get(called[norm]) for norm in inside[i]}
        roles, doubt = _assign(block, wanted[i], inside[i], calls)
        doubts += [doubt] if doubt else []
        found |= {f"{i}.{role}": norm for role, norm in roles.items()}
    outer, more = _outside(chain, free, told.pre)
    return Norms(found | outer, told.pre, told.side, doubts + more)


def _members(chain: Chain, norms: Sequence[Layer]) -> tuple[list[list[Layer]], list[Layer]]:
    """The norms of each block, and those of none: by path, or called like one of its
    convolutions.
    """
    by_path = {block.path: i for i, block in enumerate(chain.blocks)}
    by_key = {key_of(conv.layer): i for i, block in enumerate(chain.blocks) for conv in block.convs}
    inside: list[list[Layer]] = [[] for _ in chain.blocks]
    free = []
    for norm in norms:
        paths = (norm.words[:n] for n in range(len(norm.words) + 1))
        place = next((by_path[path] for path in paths if path in by_path), None)
        if place is None:
            place = by_key.get(key_of(norm))
        if place is None:
            free.append(norm)
        else:
            inside[place].append(norm)
    return inside, free


def key_of(layer: Layer) -> Words:
    """What is left of a layer's name without the words for kinds of layers: `bn2a_branch2a` and
    `res2a_branch2a` are called alike.
    """
    found = []
    for word in layer.words:
        pieces = [
            str(piece)
            for piece in pieces_of(word.lower())
            if isinstance(piece, int) or not _KIND.fullmatch(piece)
        ]
        found.append("".join(pieces))
    return tuple(word for word in found if word)


def _learn(
    wanted: Sequence[Mapping[str, int]],
    inside: Sequence[Sequence[Layer]],
    called: Mapping[Layer, Words],
) -> dict[Words, str]:
    """The names of norms that only one role's channels fit in some block."""
    known: dict[Words, str] = {}
    for need, members in zip(wanted, inside, strict=True):
        for norm in members:
            roles = [role for role, channels in need.items() if channels == norm.channels]
            if len(roles) == 1:
                known.setdefault(called[norm], roles[0])
    return known


def _assign(
    block: Block,
    need: Mapping[str, int],
    members: Sequence[Layer],
    calls: Mapping[Layer, str | None],
) -> tuple[dict[str, Layer], str | None]:
    """The block's norms by role, and the doubt where only their order tells some apart.

    `calls`: the role that a norm's name has where shapes tell.
    """
    left, found, doubt = list(members), {}, None  # type: list[Layer], dict[str, Layer], str | None
    if _SIDE_NORM in need:
        found[_SIDE_NORM], sure = _of_shortcut(block, need[_SIDE_NORM], left, calls)
        left.remove(found[_SIDE_NORM])
        doubt = None if sure else _told(found[_SIDE_NORM], members)
    mains = [role for role in need if role != _SIDE_NORM]
    keys = {key_of(block.chosen[f"conv{role[-1]}"].layer): role for role in mains}
    paired = {keys[key]: norm for norm in left if (key := key_of(norm)) in keys}
    if len(paired) == len(mains) and _fits(paired, need):
        return found | paired, doubt
    fitting = [
        pairs
        for order in itertools.permutations(left)
        if _fits(pairs := dict(zip(mains, order, strict=True)), need)
    ]

    def strange(pairs: Mapping[str, Layer]) -> int:
        return sum(calls[norm] not in (None, role) for role, norm in pairs.items())

    best = min(fitting, key=strange)
    rivals = [pairs for pairs in fitting if strange(pairs) == strange(best)]
    for role, norm in best.items():
        others = {pairs[role] for pairs in rivals} - {norm}
        if any(pattern_of(other.words) != pattern_of(norm.words) for other in others):
            doubt = doubt or _told(norm, [norm, *others])
    return found | best, doubt


def _fits(pairs: Mapping[str, Layer], need: Mapping[str, int]) -> bool:
    return all(need[role] == norm.channels for role, norm in pairs.items())


def _of_shortcut(
    block: Block, channels: int, left: Sequence[Layer], calls: Mapping[Layer, str | None]
) -> tuple[Layer, bool]:
    """The norm behind the shortcut's convolution, and whether that is sure."""
    side = block.chosen[SIDE].layer
    fitting = [norm for norm in left if norm.channels == channels]
    others = {conv.layer.parts[:-1] for role, conv in block.chosen.items() if role != SIDE}
    tests: tuple[Callable[[Layer], bool], ...] = (
        lambda norm: key_of(norm) == key_of(side),
        lambda norm: norm.parts[:-1] == side.parts[:-1] and side.parts[:-1] not in others,
        lambda norm: norm.parts[: len(side.parts)] == side.parts,
        lambda norm: calls[norm] == _SIDE_NORM,
    )
    for test in tests:
        named = [norm for norm in fitting if test(norm)]
        if len(named) == 1:
            return named[0], True
    unnamed = [norm for norm in fitting if calls[norm] is None] or fitting
    return unnamed[0 if block.convs[0].layer is side else -1], len(fitting) == 1


def _told(norm: Layer, members: Sequence[Layer]) -> str:
    same = [other for other in members if other.channels == norm.channels]
    return f"{either(same, ' and ')} have one shape; their order alone tells them apart"


def either(layers: Sequence[Layer], joint: str = " or ") -> str:
    """Layers as doubts name them, by a tensor of each."""
    return joint.join(next(iter(layer.names.values())) for layer in layers[:4])


def _outside(chain: Chain, free: Sequence[Layer], pre: bool) -> tuple[dict[str, Layer], list[str]]:
    """The norms of the images and the stem, and the last one of a pre-activation network."""
    found: dict[str, Layer] = {}
    left = list(free)
    images = [norm for norm in left if norm.channels == _image_channels(chain)]
    if images:
        found[_INPUT_NORM] = _nearest(images, chain.stem[0].layer)[0]
        left.remove(found[_INPUT_NORM])
    unsure: list[Layer] = []
    for k, conv in enumerate(chain.stem, 1):
        fitting = [norm for norm in left if norm.channels == conv.outputs]
        keyed = [norm for norm in fitting if key_of(norm) == key_of(conv.layer)]
        if not fitting:
            continue
        near = _nearest(fitting, conv.layer)
        found[f"stem.norm{k}"] = norm = (keyed or near)[0]
        left.remove(norm)
        if not keyed:
            more = len(near) - len([c for c in chain.stem[k - 1 :] if c.outputs == conv.outputs])
            unsure += near if more > 0 else [norm]
    doubts = [
        f"the norms of the stem could be exchanged: {either(same)}"
        for channels in {norm.channels for norm in unsure}
        if len({pattern_of(n.words) for n in unsure if n.channels == channels}) > 1
        and (same := [norm for norm in unsure if norm.channels == channels])
    ]
    last = [norm for norm in left if norm.channels == chain.features]
    if pre and last:
        near = _nearest(last, chain.stem[0].layer)
        found["final_norm"] = near[0]
        if len(near) > 1:
            doubts.append(f"the last norm could be {either(near)}")
    if len(images) > 1:
        doubts.append(f"the norm of the images could be {either(images)}")
    return found, doubts


def _image_channels(chain: Chain) -> int | None:
    """Channels of images that may have a norm of their own.

    Those of pictures alone: where a file lacks its first convolution, the norm behind that would
    pass for one of images of as many channels.
    """
    channels = chain.stem[0].inputs
    others = {chain.features, *(conv.outputs for conv in chain.stem)}
    return channels if channels <= _PICTURE and channels not in others else None


def _nearest(norms: Sequence[Layer], layer: Layer) -> list[Layer]:
    """Those whose names begin most as the layer's does."""
    most = max(shared(norm.words, layer.words) for norm in norms)
    return [norm for norm in norms if shared(norm.words, layer.words) == most]


def _misfit(chain: Chain, inside: Sequence[Sequence[Layer]]) -> str:
    told = next(iter(hypotheses(chain)))
    for i, block in enumerate(chain.blocks):
        need = needs(block, told, first=i == 0)
        found = sorted(norm.channels for norm in inside[i])
        if sorted(need.values()) != found:
            return (
                f"the norms of {'.'.join(block.path)} have {found} channels, expected "
                f"{sorted(need.values())} behind its convolutions"
            )
    return "its norms fit no kind of block"


# Blocks that were read off a sequence.


def _counted(chain: Chain, norms: Sequence[Layer]) -> Norms | str:
    channels = [norm.channels for norm in norms]
    # Pre-activation units have no norms at their shortcuts, others have.
    told = sorted(hypotheses(chain), key=lambda told: (not told.side, told.pre == told.side))
    for whole in (True, False):  # behind the network there may be others
        fitting: list[Norms] = []
        for one in told:
            normed = (False, True) if _image_channels(chain) else (False,)
            ends = ((False, True), (True, False), normed)
            for stem, final, images in itertools.product(*ends):
                names, wanted = _sequence(chain, one, stem=stem, final=final, images=images)
                if wanted == (channels if whole else channels[: len(wanted)]):
                    found = Norms(dict(zip(names, norms, strict=False)), one.pre, one.side, [])
                    if all(found.layers != other.layers for other in fitting):
                        fitting.append(found)
        if fitting:
            return fitting[0]._replace(doubts=_rivals(fitting))
    return f"its {len(norms)} norms are not in the order of its {len(chain.convs)} convolutions"


def _rivals(fitting: Sequence[Norms]) -> list[str]:
    """The doubt where norms that are only counted fit several kinds of units."""
    if len(fitting) < 2:
        return []
    kinds = ["pre-activation" if norms.pre else "post-activation" for norms in fitting]
    if len(set(kinds)) == 1:
        first, second = fitting[0].layers, fitting[1].layers
        key = next(key for key, norm in first.items() if second.get(key) is not norm)
        name = either([fitting[0].layers[key]])
        return [f"{name} is taken for {key}; by its channels it could stand elsewhere as well"]
    return [
        f"the norms are taken for those of {kinds[0]} units without a norm at the shortcut; by "
        f"their channels alone the units could be {next(k for k in kinds if k != kinds[0])} ones"
    ]


def _sequence(
    chain: Chain, told: Hypothesis, *, stem: bool, final: bool, images: bool
) -> tuple[list[str], list[int]]:
    """The norms in the order in which a network runs them, and their channels."""
    found = [(f"stem.norm{k}", conv.outputs) for k, conv in enumerate(chain.stem, 1)]
    if not stem:
        found.pop()
    if images:
        found.insert(0, (_INPUT_NORM, chain.stem[0].inputs))
    for i, block in enumerate(chain.blocks):
        need = needs(block, told, first=i == 0)
        order = [
            role.replace("conv", "norm")
            for conv in block.convs
            for role, chosen in block.chosen.items()
            if chosen is conv
        ]
        found += [(f"{i}.{role}", need[role]) for role in order if role in need]
    if final and told.pre:
        found.append(("final_norm", chain.features))
    return [name for name, _ in found], [channels for _, channels in found]
