"""Networks inside files: wrappers, several networks, parts of something bigger, classifiers, and
what is left over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from shared import get_spec, make_plan, probe_weights
from shared.architecture.presets import miniature
from shared.formats.containers.archive import Entry
from shared.formats.render import choose_scheme, render
from shared.naming.schemes import FORMATS
from shared.recognition.find import Survey, survey
from shared.recognition.layers import layout_of, read_layers
from shared.recognition.leftovers import AVERAGES, CONFIGURATION, COUNTER, NUMBER, OPTIMIZER, OTHER
from tests.recognition.dialects import DIALECTS, counted, entry, renamed, unreadable
from tests.zoo import rest_in_zoo

Entries = Mapping[str, Entry]
FEATURES = 256  # of the miniature below


def net(seed: int = 0, classes: int = 5, **changes: object) -> dict[str, Entry]:
    """A narrow ResNet-50 with values, in torchvision's names, with counters."""
    spec = miniature(get_spec("torchvision/resnet50")).replace(num_classes=classes, **changes)
    entries = {name: Entry.of(array) for name, array in probe_weights(spec, seed).items()}
    target = FORMATS["timm"]  # whose names are torchvision's, and whose stems may be narrow
    return dict(render(spec, entries, target, choose_scheme(spec, target), "torch").entries)


BODY = net(classes=0)
LINEAR = {"weight": entry(5, FEATURES), "bias": entry(5)}


def under(prefix: str, entries: Entries) -> dict[str, Entry]:
    return {prefix + name: tensor for name, tensor in entries.items()}


def called(prefix: str, *layers: tuple[int, ...]) -> dict[str, Entry]:
    """Linear layers of a sequence with activations between."""
    found = {}
    for i, (outputs, inputs) in enumerate(layers):
        found[f"{prefix}.{2 * i}.weight"] = entry(outputs, inputs)
        found[f"{prefix}.{2 * i}.bias"] = entry(outputs)
    return found


def others(found: Survey) -> list[str]:
    return [group.path for group in found.left if group.kind == OTHER]


def kinds(found: Survey) -> dict[str, str]:
    return {group.path: group.kind for group in found.left}


# Wrappers.


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "state_dict/model.resnet.",
        "a/b/c/",
        "_fsdp_wrapped_module.",
    ],
)
def test_a_network_is_found_under_any_prefix(prefix: str) -> None:
    found = survey(under(prefix, net()))
    assert [n.path for n in found.networks] == [prefix.rstrip("./")]
    assert found.taken is found.networks[0]
    assert found.networks[0].how == "torchvision"
    assert kinds(found) == {COUNTER: COUNTER}


@pytest.mark.parametrize("wrapper", ["_orig_mod", "module", "_checkpoint_wrapped_module"])
def test_wrappers_in_the_middle_of_names(wrapper: str) -> None:
    entries = {n.replace("layer1.", f"layer1.{wrapper}."): t for n, t in net().items()}
    found = survey(entries)
    assert len(found.networks[0].names) == len(make_plan(found.networks[0].spec).tensors)
    assert not others(found)


def test_a_module_that_was_pickled_whole() -> None:
    """Its tensors are at the attributes of its modules."""

    def place(name: str) -> str:
        *path, leaf = name.split(".")
        kind = "_parameters" if leaf in ("weight", "bias") else "_buffers"
        return "/".join((*(f"_modules/{part}" for part in path), kind, leaf))

    found = survey({place(name): tensor for name, tensor in net().items()})
    assert [n.how for n in found.networks] == ["torchvision"]
    assert not others(found)


def test_values_are_not_read_for_one_network() -> None:
    entries = {name: Entry(t.shape, t.dtype, unreadable) for name, t in net().items()}
    assert survey(entries).taken is not None


# Several.


@pytest.mark.parametrize(
    ("paths", "taken", "rule"),
    [
        (("state_dict", "state_dict_ema"), "state_dict", "running average"),
        (("model_ema/module", "model"), "model", "running average"),
        (("net", "swa_net"), "net", "running average"),
        (("module.encoder_k", "module.encoder_q"), "module.encoder_q", "key encoder"),
        (("online_network", "target_network"), "online_network", "key encoder"),
        (("student", "teacher"), None, "no rule"),
        (("left", "right"), None, "no rule"),
    ],
)
def test_which_of_two_is_meant(paths: tuple[str, str], taken: str | None, rule: str) -> None:
    found = survey(under(f"{paths[0]}/", net(1)) | under(f"{paths[1]}/", net(2)))
    assert [n.path for n in found.networks] == list(paths)
    assert (found.taken.path if found.taken else None) == taken
    assert rule in found.why
    assert not others(found)


def test_averages_behind_the_names_of_variables() -> None:
    """TensorFlow's own averages: `conv1/weights/ExponentialMovingAverage`."""
    spec = miniature(get_spec("torchvision/resnet50"))
    raw, _ = renamed(spec, DIALECTS["slim"])
    averaged = {
        f"{name}/ExponentialMovingAverage": Entry.of(np.full(t.shape, 2, np.float32))
        for name, t in raw.items()
    }
    raw = {name: Entry.of(np.ones(t.shape, np.float32)) for name, t in raw.items()}
    found = survey(raw | averaged)
    assert [len(n.names) for n in found.networks] == [len(raw), len(raw)]


def test_equal_networks_are_one_and_unequal_ones_two() -> None:
    twice = under("module.attacker.model.", net(1)) | under("module.model.", net(1))
    found = survey(twice)
    assert [(n.path, n.twins) for n in found.networks] == [
        ("module.model", ("module.attacker.model",))
    ]
    assert not others(found)
    assert found.at("module.attacker.model") == found.networks
    changed = dict(twice)
    name = "module.model.layer4.1.bn3.running_var"
    changed[name] = Entry.of(changed[name].load() + np.float32(1e-7))
    assert len(survey(changed).networks) == 2


def test_averages_of_parameters_alone_are_no_network_with_group_norms() -> None:
    """`shadow` of `named_parameters()`; alone it would be one."""
    shadow = {n: t for n, t in under("shadow.", net(2)).items() if "running" not in n}
    found = survey(under("model.", net(1)) | shadow, {"norm.groups": 4})
    assert [n.path for n in found.networks] == ["model"]
    assert [(r.path, "running statistics" in r.why) for r in found.refused] == [("shadow", True)]
    assert kinds(found)["shadow"] == AVERAGES
    narrow = survey(under("model.", net(1)) | shadow)  # 32 groups do not divide its channels
    assert [n.path for n in narrow.networks] == ["model"]
    assert (others(narrow), kinds(narrow)["shadow"]) == ([], AVERAGES)
    (alone,) = survey(shadow, {"norm.groups": 4}).networks
    assert alone.spec.norm.kind == "group"


def test_reading_stops_at_the_first_tensor_that_differs() -> None:
    read: list[str] = []

    def watched(name: str, tensor: Entry) -> Entry:
        def load() -> np.ndarray:
            read.append(name)
            return tensor.load()

        return Entry(tensor.shape, tensor.dtype, load)

    entries = under("a.", net(1)) | under("b.", net(2))
    assert len(survey({n: watched(n, t) for n, t in entries.items()}).networks) == 2
    assert len(read) == 2


def test_a_path_may_be_said_in_part() -> None:
    found = survey(under("state_dict/module.encoder_q.", net(1)) | under("x/encoder_k.", net(2)))
    assert [n.path for n in found.at("encoder_q")] == ["state_dict/module.encoder_q"]
    assert [n.path for n in found.at("coder_q")] == ["state_dict/module.encoder_q"]
    assert len(found.at("encoder")) == 2
    assert found.at("decoder") == []
    assert len(found.at("x/encoder_k")) == 1


# Parts of something bigger.


@pytest.mark.parametrize(
    ("prefix", "more"),
    [
        ("backbone.body.", {"backbone.fpn.inner_blocks.0.0.weight": entry(16, 32, 1, 1)}),
        ("encoder.", {f"decoder.{i}.conv.weight": entry(64, 64, 3, 3) for i in range(4)}),
        ("", {f"decoder{i}.conv{k}.weight": entry(64, 64, 3, 3) for i in (1, 2) for k in (1, 2)}),
        ("patch_embed.backbone.", {"blocks.0.attn.qkv.weight": entry(96, 32)}),
    ],
    ids=["detector", "segmenter", "beside", "hybrid"],
)
def test_a_backbone_in_something_bigger(prefix: str, more: Entries) -> None:
    spec = miniature(get_spec("torchvision/resnet50")).replace(num_classes=0)
    for entries in (BODY, renamed(spec, DIALECTS["short"])[0]):
        found = survey(under(prefix, entries) | dict(more))
        assert [n.path for n in found.networks] == [prefix.rstrip(".")]
        assert {name for g in found.left if g.kind == OTHER for name in g.names} == set(more)


@pytest.mark.parametrize(
    "decoder",
    [((128, 256, 1), (128, 128, 3), (64, 128, 1)), ((128, 256, 3), (128, 128, 3))],
    ids=["bottleneck", "basic"],
)
def test_blocks_that_narrow_are_no_stage(decoder: tuple[tuple[int, int, int], ...]) -> None:
    """A decoder begins where the encoder ends, and its blocks are of the same convolutions."""
    spec = miniature(get_spec("torchvision/resnet50")).replace(num_classes=0)
    entries, truth = renamed(spec, DIALECTS["short"])
    more = {
        f"up4.conv{k}.weight": entry(o, i, size, size) for k, (o, i, size) in enumerate(decoder)
    }
    found = survey(entries | more)
    assert dict(found.networks[0].names) == truth
    assert {name for g in found.left for name in g.names} == set(more)


def test_a_stage_that_is_no_part_of_the_network_is_not_cut_off_in_silence() -> None:
    """Two stages of basic blocks, and two of another kind that are called alike."""
    spec = miniature(get_spec("torchvision/resnet18")).replace(
        depths=(2, 2), widths=(8, 16), strides=(1, 2), dilate=(False, False), num_classes=0
    )
    entries, _ = renamed(spec, DIALECTS["short"])
    entries |= {f"stage3.0.c{k}.weight": entry(32, 16, 5, 5) for k in (1, 2)}
    found = survey(entries)
    assert not found.networks
    assert "part of no block" in found.refused[0].why


# Classifiers.


@pytest.mark.parametrize(
    "name",
    ["fc", "fc.1", "last_linear", "classifier", "head.fc", "linear", "my_own_layer", "head.0.out"],
)
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_single_linear_layer_is_the_classifier(name: str, prefix: str) -> None:
    found = survey(under(prefix, BODY) | {f"{name}.{leaf}": t for leaf, t in LINEAR.items()})
    network = found.networks[0]
    assert network.names["head.weight"] == f"{name}.weight"
    assert network.spec.num_classes == 5
    assert not others(found)


@pytest.mark.parametrize(
    "more",
    [
        called("fc", (FEATURES, FEATURES), (16, FEATURES)),
        called("projection_head", (32, FEATURES), (16, 32)),
        called("projector", (16, FEATURES)),
        called("whiten", (16, FEATURES)),
        called("head.mlp", (32, FEATURES)) | {"head.last_layer.weight_v": entry(40, 32)},
        {"fc1.weight": entry(32, FEATURES), "fc1.bias": entry(32), "fc2.weight": entry(5, 32)},
        called("out", (5, FEATURES // 2)),
        {"head.weight": entry(5, FEATURES)},
    ],
    ids=["moco", "swav", "byol", "retrieval", "dino", "two layers", "other features", "no bias"],
)
def test_projections_are_no_classifiers(more: Entries) -> None:
    found = survey(under("net.", BODY) | dict(more))
    assert not found.networks[0].classifier
    assert {name for g in found.left if g.kind == OTHER for name in g.names} == set(more)


def test_of_several_single_layers_a_known_name_is_taken_or_none() -> None:
    def layer(name: str) -> dict[str, Entry]:
        weight, bias = np.full((5, FEATURES), len(name)), np.zeros(5)
        return {f"{name}.weight": Entry.of(weight * 1.0), f"{name}.bias": Entry.of(bias)}

    known = survey(under("net.", BODY) | layer("age") | layer("classifier"))
    assert known.networks[0].names["head.weight"] == "classifier.weight"
    assert others(known) == ["age"]
    unknown = survey(under("net.", BODY) | layer("age") | layer("gender"))
    assert not unknown.networks[0].classifier
    assert "could each be the classifier" in unknown.networks[0].doubts[0]


@pytest.mark.parametrize("classes", [0, 5])
def test_equal_classifiers_under_several_names_are_one(classes: int) -> None:
    matrix = net(1)["fc.weight"].load()
    layer = {"weight": Entry.of(matrix), "bias": net(1)["fc.bias"]}
    more = {f"{name}.{leaf}": t for name in ("age", "out") for leaf, t in layer.items()}
    found = survey(under("net.", net(1, classes)) | more)
    head = found.networks[0].names["head.weight"]
    assert head == ("net.fc.weight" if classes else "age.weight")
    assert not others(found)
    assert not found.networks[0].doubts
    changed = Entry.of(matrix + np.float32(1e-6))
    assert "out" in others(survey(under("net.", net(1)) | more | {"out.weight": changed}))


def test_a_matrix_that_is_stored_the_other_way_round_is_told_by_its_features() -> None:
    found = survey(BODY | {"out.weight": entry(FEATURES, 5), "out.bias": entry(5)})
    assert found.networks[0].axes["head.weight"] == (1, 0)
    assert found.networks[0].shapes["head.weight"] == (5, FEATURES)


# What is left.


def test_what_is_left_by_itself_and_what_is_not() -> None:
    entries = under("state_dict/", net()) | {
        "optimizer/state/0/momentum_buffer": entry(8, 3, 7, 7),
        "lr_scheduler/base": entry(3),
        "best_acc1": Entry.of(np.float32(76)),
        "epoch": Entry.of(np.int64(3)),
        "n_averaged": Entry.of(np.int64(3)),
        "mean_rgb": entry(3),
        "state_dict/queue_ptr": Entry.of(np.zeros(1, np.int64)),
        "state_dict/queue": entry(16, 64),
        "criterion.weight": entry(5),
        "state_dict/normalizer.new_mean": entry(3, 1, 1),
    }
    found = survey(entries)
    assert kinds(found) == {
        COUNTER: COUNTER,
        "optimizer": OPTIMIZER,
        "lr_scheduler": OPTIMIZER,
        NUMBER: NUMBER,
        "mean_rgb": CONFIGURATION,
        "state_dict/queue": OTHER,
        "criterion": OTHER,
        "state_dict/normalizer": OTHER,
    }


def test_every_tensor_is_accounted_for_once() -> None:
    entries = under("a.", net(1)) | under("b.", net(1)) | under("c.", net(2)) | {"x": entry(3)}
    found = survey(entries)
    names = [name for n in found.networks for name in (*n.names.values(), *n.twin_names)]
    names += [name for group in found.left for name in group.names]
    assert sorted(names) == sorted(entries)


# Layouts.


@pytest.mark.parametrize(("leaf", "layout"), [("weight", "OIHW"), ("kernel", "HWIO")])
def test_kernels_that_fit_several_layouts_are_read_by_their_leaves(leaf: str, layout: str) -> None:
    """And the doubt is told; a single kernel of other sizes ends it."""
    layers = read_layers({f"a{i}/{leaf}": entry(3, 3, 3, 3) for i in range(3)})
    found, doubt = layout_of(layers)
    assert found.name == layout
    assert "OIHW or HWIO" in str(doubt)
    shape = (8, 9, 3, 3) if leaf == "weight" else (3, 3, 9, 8)
    assert layout_of([*layers, *read_layers({f"b/{leaf}": entry(*shape)})]) == (found, None)


# Speed.


def many(make: Callable[[int], tuple[str, Entry]], count: int = 16_000) -> dict[str, Entry]:
    return dict(make(i) for i in range(count))


LARGE: dict[str, Callable[[], Entries]] = {
    "deep": lambda: renamed(get_spec("cifar/resnet1202"), DIALECTS["short"])[0],
    "counted": lambda: renamed(
        get_spec("cifar/preresnet1001"), counted(get_spec("cifar/preresnet1001"))
    )[0],
    "row": lambda: many(lambda i: (f"conv2d_{i}/kernel", entry(3, 3, 64, 64))),
    "blocks": lambda: many(lambda i: (f"a{i // 2}.conv{i % 2}.weight", entry(64, 64, 3, 3))),
    "stems": lambda: many(lambda i: (f"l{i}.conv1.weight", entry(64, 3, 7, 7))),
    "long": lambda: many(
        lambda i: (".".join(str(i * k % 7) for k in range(9, 30)) + f".{i}.weight", entry(9, 9))
    ),
}


# `test_nearest_preset.py` has long names and rows of layers of no network, too.
@pytest.mark.parametrize("kind", rest_in_zoo(LARGE, ("deep", "counted")))
def test_sixteen_thousand_names_are_judged_quickly(kind: str) -> None:
    entries = LARGE[kind]()
    started = time.process_time()
    survey(entries)
    assert time.process_time() - started < 6  # 0.3 to 1.3 s on an idle machine
