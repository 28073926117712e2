"""Every preset under other projects' names, and names that nobody has: found, and told which tensor
is which.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Mapping

import pytest

from shared import get_spec, list_presets, make_plan
from shared.architecture.presets import miniature
from shared.architecture.spec import ResNetSpec
from shared.formats.containers.archive import Entry
from shared.recognition.conventions import DIALECTS as KNOWN
from shared.recognition.find import survey
from shared.recognition.network import Network
from tests.recognition.dialects import (
    CAFFE2,
    DIALECTS,
    FLAX,
    GLUON,
    KERAS,
    SLIM,
    TORCH,
    Dialect,
    counted,
    renamed,
    table,
)
from tests.zoo import rest_in_zoo

PRESETS = list_presets()
DISTINCT = list({miniature(get_spec(name)).replace(name="any"): name for name in PRESETS}.values())
# Units of 3 x 3 convolutions without a single projection are a plain row where layers are counted.
BARE = [
    name
    for name in PRESETS
    if get_spec(name).shortcut.projection == "never" or "gate" in get_spec(name).shortcut.join
]


def small(preset: str) -> tuple[ResNetSpec, dict[str, int]]:
    """A preset's miniature, and what its tensors do not tell and conventions have otherwise."""
    spec = miniature(get_spec(preset))
    groups = {"norm.groups": spec.norm.groups} if spec.norm.kind == "group" else {}
    return spec, groups


def only(entries: Mapping[str, Entry], changes: Mapping[str, int]) -> Network:
    found = survey(entries, changes)
    assert len(found.networks) == 1, (found.refused, found.word)
    assert [group for group in found.left if group.kind == "other"] == []
    assert found.taken is found.networks[0]
    return found.networks[0]


def shuffled(entries: Mapping[str, Entry], seed: int) -> dict[str, Entry]:
    items = list(entries.items())
    random.Random(seed).shuffle(items)  # noqa: S311 - an order, not a secret
    return dict(items)


@pytest.mark.parametrize("preset", rest_in_zoo(PRESETS, DISTINCT[::4]))
def test_every_preset_is_recognised_in_other_names(preset: str) -> None:
    """Three dialects a preset; in the file's order, and in any."""
    spec, changes = small(preset)
    for name in random.Random(preset).sample(sorted(DIALECTS), 3):  # noqa: S311 - a choice
        entries, truth = renamed(spec, DIALECTS[name])
        for tensors in (entries, shuffled(entries, 1)):
            network = only(tensors, changes)
            assert dict(network.names) == truth, name
            assert network.doubts == (), name
            assert network.spec.num_classes == spec.num_classes


NETWORKS = ("torchvision/resnet50", "timm/resnet18d", "keras/resnet50v2", "cifar/resnet20")
# In the short run, each dialect has one of them, by turns.
BY_TURNS = [*zip(DIALECTS, itertools.cycle(NETWORKS), strict=False)]


@pytest.mark.parametrize(
    ("dialect", "preset"), rest_in_zoo([*itertools.product(DIALECTS, NETWORKS)], BY_TURNS)
)
def test_every_dialect_is_recognised(dialect: str, preset: str) -> None:
    """Shapes that a plan has are those that the axes make of the file's."""
    spec, changes = small(preset)
    entries, truth = renamed(spec, DIALECTS[dialect])
    network = only(entries, changes)
    assert dict(network.names) == truth
    assert network.shapes == make_plan(network.spec).tensors
    for own, shape in network.shapes.items():
        stored = entries[network.names[own]].shape
        turned = tuple(stored[axis] for axis in network.axes[own])
        assert tuple(n for n in turned if n > 1) == tuple(n for n in shape if n > 1), own
    assert "resnet" not in network.path or dialect in ("slim", "haiku", "hf-flax")


def random_dialect(seed: int) -> Dialect:
    """Names of no project: words, separators, counts and leaves are drawn."""
    rng = random.Random(seed)  # noqa: S311 - names, not secrets
    kinds = (TORCH, "./", False), (KERAS, "./", True), (SLIM, "/", True), (FLAX, "/", True)
    leaves, joints, last = rng.choice([*kinds, (GLUON, "_", False), (CAFFE2, "_", False)])
    dot = rng.choice(joints)
    stage = rng.choice(["stage", "layer", "group", "s", "part", "level"])
    block = rng.choice(["", "unit", "block", "b"])
    count = rng.choice(["s", "s1", "s2"]), rng.choice(["b", "b1"])
    joint = rng.choice([dot, "_"])
    conv, norm = rng.choice([("conv", "bn"), ("c", "n"), ("convolution", "norm"), ("op", "scale")])
    number = rng.choice(["{k}", "{k0}", "_{k}"])
    inner = rng.choice(["", f"body{dot}", f"residual{dot}"])
    side = rng.choice(["shortcut", "skip", "downsample", "match", "proj", "identity"])
    pair = rng.choice([(f"{dot}0", f"{dot}1"), (f"_{conv}", f"_{norm}"), (f"{dot}a", f"{dot}b")])
    prefix = rng.choice(["", f"net{dot}", f"encoder{dot}", f"my_model{dot}"])
    unit = f"{prefix}{stage}{{{count[0]}}}{joint}{block}{{{count[1]}}}{joint}"
    layers = f"{inner}{conv}{number} {inner}{norm}{number} {side}{pair[0]} {side}{pair[1]} gate"
    first = rng.choice(["first", "root", "input"])
    stem = f"{prefix}{first}{dot}{conv}{number}", f"{prefix}{first}{dot}{norm}{number}"
    return Dialect(table(*stem, unit, layers, f"{prefix}tail_{norm}", "head"), leaves, last)


NUMBERED = [(name, i) for i, name in enumerate(PRESETS)]


@pytest.mark.parametrize(
    ("preset", "seed"),
    rest_in_zoo(NUMBERED, [case for case in NUMBERED if case[0] in DISTINCT][::2]),
)
def test_every_preset_is_recognised_in_random_names(preset: str, seed: int) -> None:
    """Right, or the doubt is told, with a tensor that is in question."""
    spec, changes = small(preset)
    entries, truth = renamed(spec, random_dialect(seed))
    network = only(shuffled(entries, seed), changes)
    wrong = [name for own, name in network.names.items() if truth.get(own) != name]
    assert not wrong or any(name in doubt for doubt in network.doubts for name in wrong)


COUNTED = [*itertools.product([name for name in PRESETS if name not in BARE], (True, False))]


@pytest.mark.parametrize(
    ("preset", "side_first"), rest_in_zoo(COUNTED, [c for c in COUNTED if c[0] in DISTINCT][::3])
)
def test_layers_that_are_only_counted(preset: str, side_first: bool) -> None:
    """Read off the order of their numbers, which is said; norms whose kind of unit the channels
    leave open may be another's, which is said as well.
    """
    spec, changes = small(preset)
    start, gap = (17, 3) if side_first else (0, 1)
    entries, truth = renamed(spec, counted(spec, start, gap, side_first=side_first))
    network = only(shuffled(entries, 3), changes)
    assert "counted as they run" in network.doubts[0]
    wrong = {own for own, name in network.names.items() if truth.get(own) != name}
    assert all("norm" in own for own in wrong)  # of kernels none
    assert not wrong or len(network.doubts) == 2


@pytest.mark.parametrize("preset", rest_in_zoo(BARE, BARE[::3]))
def test_counted_layers_without_projections_are_refused(preset: str) -> None:
    """A row of convolutions could as well be a plain network, and a gate a projection."""
    spec, changes = small(preset)
    entries, _ = renamed(spec, counted(spec))
    found = survey(entries, changes)
    assert not found.networks


def test_what_no_tensor_tells_is_taken_from_the_habits_of_whose_names_they_are() -> None:
    spec = miniature(get_spec("torchvision/resnet50"))
    haiku = only(renamed(spec, DIALECTS["haiku"])[0], {})
    assert (haiku.spec.block.padding, haiku.spec.stem.pool_padding) == ("same", "same")
    assert "SAME" in haiku.assumes
    slim = only(renamed(spec, DIALECTS["slim"])[0], {})
    assert (slim.spec.strides, slim.spec.block.stride_block) == ((2, 2, 2, 1), "last")
    caffe2 = only(renamed(spec, DIALECTS["caffe2"])[0], {})
    assert caffe2.spec.block.stride_conv == 1
    assert "BGR" in caffe2.assumes
    flax = only(renamed(spec, DIALECTS["hf-flax"])[0], {})
    assert flax.spec.block.padding == "symmetric"
    plain = only(renamed(spec, DIALECTS["short"])[0], {})
    assert (plain.spec.block.padding, plain.assumes) == ("symmetric", "")


@pytest.mark.parametrize("known", KNOWN[:-1], ids=[known.name for known in KNOWN[:-1]])
def test_every_known_dialect_is_one_of_those_that_are_tried(known: object) -> None:
    spec = miniature(get_spec("torchvision/resnet50"))
    names = [name for d in DIALECTS.values() for name in renamed(spec, d)[1].values()]
    names += [name.replace("bottleneck_v1", "bottleneck_v2") for name in names]
    roots = ("resnet_model", "base_model")  # as in `test_habits`
    names += [f"{r}/{name}" for r in roots for name in renamed(spec, counted(spec))[1].values()]
    assert any(re.search(known.mark, name) for name in names)  # type: ignore[attr-defined]


@pytest.mark.parametrize("preset", ["torchvision/resnet50", "timm/resnetv2_50", "cifar/resnet20"])
def test_whole_presets_keep_their_names(preset: str) -> None:
    """At full size the preset is known, whatever its layers are called."""
    spec = get_spec(preset)
    assert only(renamed(spec, DIALECTS["short"])[0], {}).preset == preset


@pytest.mark.parametrize(
    "preset", ["torchvision/resnet18", "torchvision/resnet50", "timm/resnet50t"]
)
@pytest.mark.parametrize("dialect", ["short", "counted"])
def test_a_norm_without_its_convolution_is_no_norm_of_images(preset: str, dialect: str) -> None:
    """Without the first convolution, the second takes what the first norm gives."""
    spec = get_spec(preset)
    entries, truth = renamed(spec, DIALECTS["short"] if dialect == "short" else counted(spec))
    del entries[truth["stem.conv1.weight"]]
    found = survey(entries, {})
    assert all("stem.input_norm.bias" not in network.names for network in found.networks)
