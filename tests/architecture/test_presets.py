"""The zoo: how many presets, their families, the bare names, and miniatures of the same
structure.
"""

from __future__ import annotations

from collections import Counter

import pytest

from shared import get_spec, list_presets, make_plan
from shared.architecture.presets import (
    FAMILIES,
    MINIATURE_DEPTH,
    aliases,
    get_preset,
    miniature,
    presets,
)
from tests.probes import PRESETS

MINIMUM = 240

# What each family must hold, by its own names.
EXPECTED = {
    "torchvision": (
        "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d "
        "resnext101_64x4d "
        "wide_resnet50_2 wide_resnet101_2"
    ),
    "timm": (
        "resnet10t resnet18d resnet26t resnet50c resnet50s resnet50t resnet200d resnet50_gn "
        "resnetv2_18 "
        "resnetv2_34 resnetv2_50 resnetv2_101 resnetv2_152 resnetv2_50d resnetv2_50t "
        "resnetv2_50x1_bit "
        "resnetv2_152x4_bit"
    ),
    "he": "plain18 plain34 resnet18_a resnet34_a resnet34_b resnet34_c resnet50 resnet101 "
    "resnet152",
    "keras": "resnet50 resnet101 resnet152 resnet50v2 resnet101v2 resnet152v2",
    "keras_hub": "resnet_18 resnet_50 resnet_vd_18 resnet_vd_200 resnet_v2_50 resnet_v2_101",
    "flax": "resnet18 resnet34 resnet50 resnet101 resnet152 resnet200",
    "tf": "resnet18_v1 resnet50_v1 resnet50_v1.5 resnet50_v2 resnet200_v2",
    "fb": "preresnet18 preresnet34 preresnet50 preresnet101 preresnet152 preresnet200",
    "bit": "r50x1 r50x3 r101x1 r101x3 r152x2 r152x4",
    "cifar": (
        "resnet20 resnet32 resnet44 resnet56 resnet110 resnet1202 preresnet20 preresnet110 "
        "preresnet164 preresnet1001"
    ),
    "kuangliu": "resnet18 resnet152 preact_resnet18 preact_resnet152",
    "d2l": "resnet18",
    "article": "resnet34 resnet50v2",
    "ablation": (
        "resnet110_original resnet110_full_pre resnet164_norm_after_add resnet110_scale_0.5_0.5 "
        "resnet110_exclusive_gate_b6 resnet110_shortcut_gate_b0 resnet110_conv_shortcut "
        "resnet110_dropout_shortcut"
    ),
    "haiku": "resnet18_v1 resnet50_v1 resnet200_v1 resnet18_v2 resnet50_v2 resnet200_v2",
    "slim": "resnet_v1_50 resnet_v1_200 resnet_v2_50 resnet_v2_101 resnet_v2_152 resnet_v2_200",
    "wrn": "wrn16_8 wrn28_10 wrn40_2 wrn40_4 wrn16_4_dropout wrn28_10_dropout",
    "transformers": "resnet18 resnet26 resnet34 resnet50 resnet101 resnet152 "
    "resnet50_downsample_in_bottleneck resnet50_downsample_in_first_stage",
    "fbresnet": "fbresnet152",
    "keras_resnet": "resnet18 resnet34 resnet50 resnet101 resnet152 resnet200",
    "keras2": "resnet50 resnet50_valid_pool",
    "image_classifiers": "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50 resnext101",
    "deepvision": "resnet50v2_torch resnet50v2_tensorflow resnet152v2_tensorflow",
    "pytorchcv": "resnet18 resnetbc26b resnet50 resnet50b preresnet18 preresnet200 preresnet269b",
}


def test_there_are_enough_and_each_has_a_name_of_its_own() -> None:
    assert len(PRESETS) > MINIMUM
    assert max(Counter(PRESETS).values()) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_families_hold_what_they_should(family: str) -> None:
    assert {f"{family}/{name}" for name in EXPECTED[family].split()} <= set(PRESETS)


def test_torchvision_is_complete() -> None:
    assert {name for name in PRESETS if name.startswith("torchvision/")} == {
        f"torchvision/{name}" for name in EXPECTED["torchvision"].split()
    }


def test_every_spec_knows_its_preset() -> None:
    assert [get_spec(preset).name for preset in PRESETS] == PRESETS
    found = {preset: get_preset(preset) for preset in PRESETS}
    assert {preset.family for preset in found.values()} == set(FAMILIES)
    sources = {name: FAMILIES[preset.family].source for name, preset in found.items()}
    assert {name: preset.source for name, preset in found.items()} == sources


def test_two_presets_of_a_family_are_not_one_spec() -> None:
    """Across families one net may have several names: `ablation/resnet110_original` is CIFAR's
    ResNet-110.
    """
    specs = Counter(
        (get_preset(name).family, get_spec(name).replace(name="any")) for name in PRESETS
    )
    assert [spec for spec, count in specs.items() if count > 1] == []


@pytest.mark.parametrize(
    ("bare", "full"),
    [
        ("resnet18", "torchvision/resnet18"),
        ("resnet34", "torchvision/resnet34"),
        ("resnet50", "torchvision/resnet50"),
        ("resnet101", "torchvision/resnet101"),
        ("resnet152", "torchvision/resnet152"),
        ("resnext50_32x4d", "torchvision/resnext50_32x4d"),
        ("wide_resnet101_2", "torchvision/wide_resnet101_2"),
        ("resnet34_v1", "he/resnet34_a"),
        ("resnet50_v1", "he/resnet50"),
        ("resnet50_v2", "fb/preresnet50"),
        ("resnet200_v2", "fb/preresnet200"),
        ("resnet1202", "cifar/resnet1202"),
        ("preresnet164", "cifar/preresnet164"),
        ("preresnet18", "fb/preresnet18"),  # pytorchcv has one, too
        ("preresnetbc26b", "pytorchcv/preresnetbc26b"),
        ("r50x1", "bit/r50x1"),
    ],
)
def test_bare_names(bare: str, full: str) -> None:
    assert get_spec(bare) == get_spec(full)


def test_bare_names_lead_to_presets_and_hide_none() -> None:
    assert set(aliases().values()) <= set(presets())
    assert not set(aliases()) & set(presets())


def test_changes_apply_on_top_of_the_preset() -> None:
    spec = get_spec("torchvision/resnet50", num_classes=10, norm_eps=1e-3)
    assert spec == get_spec("torchvision/resnet50").replace(num_classes=10, norm_eps=1e-3)
    assert get_spec("torchvision/resnet50").num_classes == 1000


def test_the_list_is_a_copy() -> None:
    list_presets().clear()
    assert list_presets() == PRESETS


def structure(preset: str, small: bool) -> dict[str, set]:
    """Kinds of operators, of blocks, of shortcuts and of strides: what a rendering can
    get wrong.
    """
    spec = get_spec(preset)
    plan = make_plan(miniature(spec) if small else spec)
    blocks = [block for _, block in plan.blocks()]
    convs = [conv for block in blocks for conv in block.convs]
    return {
        "ops": {node.op.kind for node in plan.nodes()},
        "blocks": {
            (block.kind, block.order, block.preact, block.shortcut_preact) for block in blocks
        },
        "shortcuts": {
            tuple(
                part is not None
                for part in (
                    b.shortcut.pool,
                    b.shortcut.conv,
                    b.shortcut.norm,
                    b.shortcut.subsample,
                )
            )
            for b in blocks
        },
        "convs": {
            (c.kernel_size, c.stride, c.dilation, c.padding, c.bias, c.groups > 1) for c in convs
        },
        "joins": {block.join for block in blocks},
    }


def test_every_miniature_keeps_the_structure() -> None:
    found, expected = (
        {preset: structure(preset, small) for preset in PRESETS} for small in (True, False)
    )
    assert found == expected


def test_every_miniature_is_small() -> None:
    large = []
    for preset in PRESETS:
        spec = miniature(get_spec(preset))
        shallow = max(spec.depths) <= MINIATURE_DEPTH
        if not (shallow and make_plan(spec).params < make_plan(get_spec(preset)).params):
            large.append(preset)
    assert large == []
