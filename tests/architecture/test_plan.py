"""The plan: names and order of layers, where strides, dilation, padding and projections stand,
shapes and costs.
"""

from __future__ import annotations

from collections import Counter
from math import prod

import pytest

from shared import Plan, ResNetSpec, SpecError, get_spec, make_plan
from shared.architecture.ops import (
    TRAINABLE,
    AvgPool,
    BlurPool,
    Conv,
    MaxPool,
    Subsample,
    window_pads,
)
from shared.architecture.spec import MAX_IMAGE_SIZE
from tests.probes import PRESETS


def small(preset: str, **changes: object) -> Plan:
    """A preset with one block in each of two stages."""
    spec = get_spec(preset)
    depths = (1, 1) if len(spec.depths) == 4 else (1, 1, 1)
    return make_plan(spec.replace(**{"depths": depths, **changes}), 32)


def rows_of(plan: Plan) -> list[str]:
    return [row.name for row in plan.layers]


def convs_of(plan: Plan, leaf: str) -> list[Conv]:
    """The blocks' convolutions of that name, in order."""
    return [getattr(block, leaf) for _, block in plan.blocks()]


BLOCK = "stages.{}.blocks.{}"
BOTTLENECK = [
    "conv1",
    "norm1",
    "conv2",
    "norm2",
    "conv3",
    "norm3",
    "",
]  # and the block's own output


@pytest.mark.parametrize(
    ("preset", "first_block", "second_block", "tail"),
    [
        pytest.param(
            "torchvision/resnet18",
            ["conv1", "norm1", "conv2", "norm2", ""],
            ["shortcut.conv", "shortcut.norm", "conv1", "norm1", "conv2", "norm2", ""],
            ["pool", "head"],
            id="basic",
        ),
        pytest.param(
            "torchvision/resnet50",
            ["shortcut.conv", "shortcut.norm", *BOTTLENECK],
            ["shortcut.conv", "shortcut.norm", *BOTTLENECK],
            ["pool", "head"],
            id="bottleneck",
        ),
        pytest.param(
            "timm/resnetv2_18",
            ["norm1", "conv1", "norm2", "conv2", ""],
            ["norm1", "shortcut.conv", "conv1", "norm2", "conv2", ""],
            ["final_norm", "pool", "head"],
            id="preact-basic",
        ),
        pytest.param(
            "timm/resnetv2_50",
            ["norm1", "shortcut.conv", "conv1", "norm2", "conv2", "norm3", "conv3", ""],
            ["norm1", "shortcut.conv", "conv1", "norm2", "conv2", "norm3", "conv3", ""],
            ["final_norm", "pool", "head"],
            id="preact-bottleneck",
        ),
        pytest.param(
            "timm/resnet50d",
            ["shortcut.conv", "shortcut.norm", *BOTTLENECK],
            [
                "shortcut.pool",
                "shortcut.conv",
                "shortcut.norm",
                "conv1",
                "norm1",
                "conv2",
                "norm2",
                "conv3",
                "norm3",
                "",
            ],
            ["pool", "head"],
            id="resnet-d",
        ),
    ],
)
def test_layers_in_execution_order(
    preset: str, first_block: list, second_block: list, tail: list
) -> None:
    plan = small(preset)
    stem = [name for name in rows_of(plan) if name.startswith("stem.")]
    blocks = [f"{BLOCK.format(0, 0)}.{leaf}".rstrip(".") for leaf in first_block]
    blocks += [f"{BLOCK.format(1, 0)}.{leaf}".rstrip(".") for leaf in second_block]
    assert rows_of(plan) == [*stem, *blocks, *tail]


# timm 1.0.31 models/resnet.py: `aa` follows the second activation of a bottleneck and the first of
# a basic block, and `maxpool` is the average pool, or a max pool and the filter.
@pytest.mark.parametrize(
    ("preset", "stem", "block"),
    [
        (
            "timm/resnetaa50",
            ["conv1", "norm1", "pool"],
            ["conv1", "norm1", "conv2", "norm2", "anti_alias", "conv3", "norm3", ""],
        ),
        (
            "timm/resnetblur50",
            ["conv1", "norm1", "pool", "anti_alias"],
            ["conv1", "norm1", "conv2", "norm2", "anti_alias", "conv3", "norm3", ""],
        ),
        (
            "timm/resnetblur18",
            ["conv1", "norm1", "pool", "anti_alias"],
            ["conv1", "norm1", "anti_alias", "conv2", "norm2", ""],
        ),
        (
            "timm/resnetaa34d",
            ["conv1", "norm1", "conv2", "norm2", "conv3", "norm3", "pool"],
            ["conv1", "norm1", "anti_alias", "conv2", "norm2", ""],
        ),
    ],
)
def test_where_anti_aliasing_stands(preset: str, stem: list[str], block: list[str]) -> None:
    plan = small(preset)
    rows = rows_of(plan)
    assert [row for row in rows if row.startswith("stem.")] == [f"stem.{leaf}" for leaf in stem]
    strided = [row for row in rows if row.startswith("stages.1.") and "shortcut" not in row]
    assert strided == [f"stages.1.blocks.0.{leaf}".rstrip(".") for leaf in block]
    assert "stages.0.blocks.0.anti_alias" not in rows
    assert {conv.stride for _, each in plan.blocks() for conv in each.convs} == {1}


def test_operators_of_anti_aliasing() -> None:
    average, blur = (make_plan(get_spec(f"timm/resnet{kind}50")) for kind in ("aa", "blur"))
    assert (average.stem.pool, average.stem.anti_alias) == (AvgPool(padding="valid"), None)
    assert (blur.stem.pool, blur.stem.anti_alias) == (MaxPool(stride=1), BlurPool())
    assert average.stages[1][0].anti_alias == AvgPool(padding="valid")
    assert blur.stages[1][0].anti_alias == BlurPool()


def test_a_dilated_stage_is_blurred_where_it_does_not_stride() -> None:
    """As timm's `use_aa`; its average is over one pixel there."""
    dilate = (False, False, False, True)
    average, blur = (get_spec(f"timm/resnet{kind}50", dilate=dilate) for kind in ("aa", "blur"))
    assert [block.anti_alias for block in make_plan(blur).stages[3]] == [BlurPool(1), None, None]
    assert [block.anti_alias for block in make_plan(average).stages[3]] == [None] * 3


@pytest.mark.parametrize(
    ("preset", "size", "message"),
    [
        (
            "timm/resnetaa50",
            240,
            "timm/resnetaa50 cannot take images of 240 x 240 pixels: stages.3.blocks.0.join: "
            "its shortcut has 8 x 8 pixels and its branch 7 x 7",
        ),
        ("timm/resnetaa50", (64, 2), "stem.pool: 2 x 2 windows do not fit 32 x 1 pixels"),
        ("timm/resnetblur50", (32, 16), "stages.3.blocks.0.anti_alias: 2 x 1 pixels are too few"),
        ("he/resnet50", (2, 224), "stem.pool: 3 x 3 windows do not fit 1 x 112 pixels"),
    ],
)
def test_sizes_that_a_layer_cannot_take_are_refused(
    preset: str, size: int | tuple[int, int], message: str
) -> None:
    with pytest.raises(SpecError) as refusal:
        make_plan(get_spec(preset), size)
    assert message in str(refusal.value)


def test_the_specs_own_size_is_not_needed_for_tensors() -> None:
    plan = make_plan(get_spec("timm/resnetaa50", image_size=240))
    assert plan.tensors == make_plan(get_spec("timm/resnetaa50")).tensors
    with pytest.raises(SpecError, match="cannot take images of 240 x 240"):
        _ = plan.output


@pytest.mark.parametrize(
    ("preset", "stem"),
    [
        ("torchvision/resnet50", ["stem.conv1", "stem.norm1", "stem.pool"]),
        ("timm/resnetv2_50", ["stem.conv1", "stem.pool"]),
        ("fb/preresnet50", ["stem.conv1", "stem.norm1", "stem.pool"]),
        ("cifar/resnet20", ["stem.conv1", "stem.norm1"]),
        (
            "timm/resnetv2_50d",
            ["stem.conv1", "stem.norm1", "stem.conv2", "stem.norm2", "stem.conv3", "stem.pool"],
        ),
    ],
)
def test_stem_layers(preset: str, stem: list[str]) -> None:
    assert [name for name in rows_of(small(preset)) if name.startswith("stem.")] == stem


NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")
# Canonical layer -> torchvision's, written by hand for ResNet-18.
RESNET18_LAYERS = {
    "stem.conv1": "conv1",
    "stem.norm1": "bn1",
    "stages.0.blocks.0.conv1": "layer1.0.conv1",
    "stages.0.blocks.0.norm1": "layer1.0.bn1",
    "stages.0.blocks.0.conv2": "layer1.0.conv2",
    "stages.0.blocks.0.norm2": "layer1.0.bn2",
    "stages.0.blocks.1.conv1": "layer1.1.conv1",
    "stages.0.blocks.1.norm1": "layer1.1.bn1",
    "stages.0.blocks.1.conv2": "layer1.1.conv2",
    "stages.0.blocks.1.norm2": "layer1.1.bn2",
    "stages.1.blocks.0.shortcut.conv": "layer2.0.downsample.0",
    "stages.1.blocks.0.shortcut.norm": "layer2.0.downsample.1",
    "stages.1.blocks.0.conv1": "layer2.0.conv1",
    "stages.1.blocks.0.norm1": "layer2.0.bn1",
    "stages.1.blocks.0.conv2": "layer2.0.conv2",
    "stages.1.blocks.0.norm2": "layer2.0.bn2",
    "stages.1.blocks.1.conv1": "layer2.1.conv1",
    "stages.1.blocks.1.norm1": "layer2.1.bn1",
    "stages.1.blocks.1.conv2": "layer2.1.conv2",
    "stages.1.blocks.1.norm2": "layer2.1.bn2",
    "stages.2.blocks.0.shortcut.conv": "layer3.0.downsample.0",
    "stages.2.blocks.0.shortcut.norm": "layer3.0.downsample.1",
    "stages.2.blocks.0.conv1": "layer3.0.conv1",
    "stages.2.blocks.0.norm1": "layer3.0.bn1",
    "stages.2.blocks.0.conv2": "layer3.0.conv2",
    "stages.2.blocks.0.norm2": "layer3.0.bn2",
    "stages.2.blocks.1.conv1": "layer3.1.conv1",
    "stages.2.blocks.1.norm1": "layer3.1.bn1",
    "stages.2.blocks.1.conv2": "layer3.1.conv2",
    "stages.2.blocks.1.norm2": "layer3.1.bn2",
    "stages.3.blocks.0.shortcut.conv": "layer4.0.downsample.0",
    "stages.3.blocks.0.shortcut.norm": "layer4.0.downsample.1",
    "stages.3.blocks.0.conv1": "layer4.0.conv1",
    "stages.3.blocks.0.norm1": "layer4.0.bn1",
    "stages.3.blocks.0.conv2": "layer4.0.conv2",
    "stages.3.blocks.0.norm2": "layer4.0.bn2",
    "stages.3.blocks.1.conv1": "layer4.1.conv1",
    "stages.3.blocks.1.norm1": "layer4.1.bn1",
    "stages.3.blocks.1.conv2": "layer4.1.conv2",
    "stages.3.blocks.1.norm2": "layer4.1.bn2",
    "head": "fc",
}


def test_canonical_tensors_of_resnet18() -> None:
    leaves = {"conv": ("weight",), "head": ("weight", "bias"), "norm": NORM_LEAVES}
    kinds = {name: name.rpartition(".")[2].rstrip("123") for name in RESNET18_LAYERS}
    expected = [f"{name}.{leaf}" for name in RESNET18_LAYERS for leaf in leaves[kinds[name]]]
    plan = make_plan(get_spec("torchvision/resnet18"))
    assert list(plan.tensors) == expected
    assert plan.tensors["stem.conv1.weight"] == (64, 3, 7, 7)
    assert plan.tensors["stages.1.blocks.0.shortcut.conv.weight"] == (128, 64, 1, 1)
    assert plan.tensors["stages.3.blocks.1.conv2.weight"] == (512, 512, 3, 3)
    assert plan.tensors["head.weight"] == (1000, 512)


def test_costs_of_every_preset_agree() -> None:
    """Parameters are counted three ways; shapes and multiply-adds two ways."""
    found, expected = {}, {}
    for preset in PRESETS:
        plan = make_plan(get_spec(preset))
        trainable = sum(
            prod(shape)
            for name, shape in plan.tensors.items()
            if name.rpartition(".")[2] in TRAINABLE
        )
        params = sum(row.params for row in plan.layers)
        macs = sum(row.macs for row in plan.layers)
        found[preset] = (trainable, params, macs, plan.layers[-1].output, plan.output)
        classes = (plan.spec.num_classes,)
        expected[preset] = (plan.params, plan.params, plan.macs, classes, classes)
    assert found == expected


def test_every_tensor_of_a_preset_belongs_to_a_named_layer() -> None:
    strays = {}
    for preset in PRESETS:
        plan = make_plan(get_spec(preset))
        rows = Counter(rows_of(plan))
        strays[preset] = [name for name in plan.tensors if rows[name.rpartition(".")[0]] != 1]
        strays[preset] += [row for row, count in rows.items() if count > 1]
    assert {preset: names for preset, names in strays.items() if names} == {}


def test_equal_blocks_are_one_object() -> None:
    stage = make_plan(get_spec("torchvision/resnet50")).stages[0]
    assert stage[1] is stage[2]


@pytest.mark.parametrize(
    ("preset", "strides"),
    [
        pytest.param(
            "torchvision/resnet50",
            {"conv1": [1, 1, 1, 1], "conv2": [1, 1, 2, 1]},
            id="v1.5-second-conv",
        ),
        pytest.param(
            "he/resnet50", {"conv1": [1, 1, 2, 1], "conv2": [1, 1, 1, 1]}, id="v1-first-conv"
        ),
        pytest.param(
            "torchvision/resnet18", {"conv1": [1, 1, 2, 1], "conv2": [1, 1, 1, 1]}, id="basic"
        ),
        pytest.param(
            "keras/resnet50v2",
            {"conv1": [1, 1, 1, 1], "conv2": [1, 2, 1, 2]},
            id="keras-v2-last-block",
        ),
    ],
)
def test_where_the_stride_stands(preset: str, strides: dict[str, list[int]]) -> None:
    plan = make_plan(get_spec(preset, depths=(2, 2)), 64)
    assert {leaf: [conv.stride for conv in convs_of(plan, leaf)] for leaf in strides} == strides


def test_keras_v2_shortcuts_stride_in_the_last_block() -> None:
    first, last = make_plan(get_spec("keras/resnet50v2", depths=(2, 2)), 64).stages[0]
    assert first.shortcut.conv is not None
    assert first.shortcut.conv.stride == 1
    assert last.shortcut.subsample == Subsample(2)


@pytest.mark.parametrize(
    ("dilate", "strides", "dilations"),
    [
        pytest.param(
            (False, False, True, True),
            [1, 1, 2, 1, 1, 1, 1, 1],
            [1, 1, 1, 1, 1, 2, 2, 4],
            id="stride-8",
        ),
        pytest.param(
            (False, False, False, True),
            [1, 1, 2, 1, 2, 1, 1, 1],
            [1, 1, 1, 1, 1, 1, 1, 2],
            id="stride-16",
        ),
        pytest.param(
            (False, True, False, True),
            [1, 1, 1, 1, 2, 1, 1, 1],
            [1, 1, 1, 2, 2, 2, 2, 4],
            id="alternating",
        ),
    ],
)
def test_dilation_replaces_stride_as_in_torchvision(
    dilate: tuple, strides: list, dilations: list
) -> None:
    """The block that would have strided keeps the dilation of the stage before it."""
    plan = make_plan(get_spec("torchvision/resnet50", depths=(2, 2, 2, 2), dilate=dilate), 64)
    convs = convs_of(plan, "conv2")
    assert [conv.stride for conv in convs] == strides
    assert [conv.dilation for conv in convs] == dilations
    assert [conv.symmetric_pad for conv in convs] == dilations


def test_dilation_keeps_the_tensors() -> None:
    spec = get_spec("torchvision/resnet50")
    assert (
        make_plan(spec.replace(dilate=(False, False, True, True))).tensors
        == make_plan(spec).tensors
    )


# Which of the blocks (stage, block) of a 2-2 net have a projection.
@pytest.mark.parametrize(
    ("projection", "where"),
    [
        ("never", []),
        ("channels", ["1.0"]),
        ("shape", ["1.0"]),
        ("entry", ["0.0", "1.0"]),
        ("always", ["0.0", "0.1", "1.0", "1.1"]),
    ],
)
def test_projection_policies(projection: str, where: list[str]) -> None:
    plan = make_plan(get_spec("resnet18", depths=(2, 2), shortcut_projection=projection))
    found = [name for name, block in plan.blocks() if block.shortcut.conv is not None]
    assert found == [f"stages.{i}.blocks.{j}" for i, j in (pair.split(".") for pair in where)]


def test_projection_by_shape_or_by_channels_differs_where_only_the_size_changes() -> None:
    spec = get_spec("resnet18", depths=(1, 1), widths=(64, 64))
    by_shape, by_channels = (
        make_plan(spec.replace(shortcut_projection=p)).stages[1][0] for p in ("shape", "channels")
    )
    assert by_shape.shortcut.conv is not None
    assert by_channels.shortcut.subsample == Subsample(2)


@pytest.mark.parametrize(("side", "zeros"), [("split", (8, 8)), ("tail", (0, 16))])
def test_side_of_option_as_zero_channels(side: str, zeros: tuple[int, int]) -> None:
    block = make_plan(get_spec("cifar/resnet20", shortcut_zero_pad=side)).stages[1][0]
    assert block.shortcut.subsample == Subsample(2, *zeros)


@pytest.mark.parametrize(
    ("preset", "shared_preact"),
    [
        pytest.param(
            "timm/resnetv2_18",
            {"0.0": False, "0.1": False, "1.0": True, "1.1": False},
            id="projection",
        ),
        pytest.param(
            "fb/preresnet18",
            {"0.0": False, "0.1": False, "1.0": True, "1.1": False},
            id="fb-imagenet",
        ),
        pytest.param(
            "cifar/preresnet20",
            {"0.0": True, "0.1": False, "1.0": True, "1.1": False},
            id="fb-cifar",
        ),
    ],
)
def test_which_shortcuts_see_the_activated_tensor(
    preset: str, shared_preact: dict[str, bool]
) -> None:
    stages = make_plan(get_spec(preset)).stages
    assert {
        key: stages[int(key[0])][int(key[2])].shortcut_preact for key in shared_preact
    } == shared_preact


def test_an_activated_stem_spares_the_first_unit_its_own_activation() -> None:
    plan = make_plan(get_spec("fb/preresnet50"))
    assert [block.preact for _, block in plan.blocks()] == [False] + [True] * 15
    assert "stages.0.blocks.0.norm1.weight" not in plan.tensors


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "pads"),
    [
        ((56, 56), 3, 2, 1, ((0, 1), (0, 1))),
        ((55, 56), 3, 2, 1, ((1, 1), (0, 1))),
        ((224, 225), 7, 2, 1, ((2, 3), (3, 3))),
        ((56, 56), 3, 1, 1, ((1, 1), (1, 1))),
        ((56, 56), 3, 1, 2, ((2, 2), (2, 2))),
        ((7, 8), 2, 2, 1, ((0, 1), (0, 0))),
        ((8, 8), 1, 2, 1, ((0, 0), (0, 0))),
        ((1, 1), 3, 2, 1, ((1, 1), (1, 1))),
    ],
    ids=str,
)
def test_same_padding(size: tuple, kernel: int, stride: int, dilation: int, pads: tuple) -> None:
    assert window_pads(size, kernel, stride, dilation, "same") == pads


@pytest.mark.parametrize(
    ("kernel", "dilation", "pad"), [(7, 1, 3), (3, 1, 1), (3, 4, 4), (1, 1, 0)]
)
def test_symmetric_padding_does_not_depend_on_the_size(
    kernel: int, dilation: int, pad: int
) -> None:
    op = Conv(8, 8, kernel, stride=2, dilation=dilation)
    assert op.pads((56, 57)) == op.pads((13, 2)) == ((pad, pad), (pad, pad))
    assert op.symmetric_pad == pad


@pytest.mark.parametrize(
    ("preset", "op"),
    [
        ("torchvision/resnet50", MaxPool(3, 2, "symmetric")),
        ("keras/resnet50v2", MaxPool(3, 2, "zero")),
        ("bit/r50x1", MaxPool(3, 2, "zero")),
        ("flax/resnet50", MaxPool(3, 2, "same")),
        ("he/resnet50", MaxPool(3, 2, "ceil")),
    ],
)
def test_stem_pools(preset: str, op: MaxPool) -> None:
    assert make_plan(get_spec(preset)).stem.pool == op
    assert op.pad_value == (0.0 if op.padding == "zero" else float("-inf"))


def test_resnet_d_pools_where_it_strides() -> None:
    stages = make_plan(get_spec("timm/resnet50d")).stages
    assert [stage[0].shortcut.pool for stage in stages] == [None, *[AvgPool(2, 2)] * 3]
    assert [stage[0].shortcut.conv.stride for stage in stages] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        (224, [(112, 112), (56, 56), (56, 56), (28, 28), (14, 14), (7, 7)]),
        (225, [(113, 113), (57, 57), (57, 57), (29, 29), (15, 15), (8, 8)]),
        ((97, 64), [(49, 32), (25, 16), (25, 16), (13, 8), (7, 4), (4, 2)]),
        (1, [(1, 1)] * 6),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "preset", ["torchvision/resnet50", "timm/resnet50d", "flax/resnet50", "keras/resnet50"]
)
def test_sizes_of_feature_maps(
    preset: str, size: int | tuple[int, int], sides: list[tuple[int, int]]
) -> None:
    """Every convention rounds up where it halves; only what is under the window differs."""
    plan = make_plan(get_spec(preset), size)
    found = {row.name: row.output[:2] for row in plan.layers}
    stages = [f"stages.{i}.blocks.{len(stage) - 1}" for i, stage in enumerate(plan.stages)]
    assert [found[name] for name in ("stem.conv1", "stem.pool", *stages)] == sides


def test_image_size_is_the_specs_own_by_default() -> None:
    assert make_plan(get_spec("cifar/resnet20")).image_size == (32, 32)
    assert make_plan(get_spec("resnet50")).image_size == (224, 224)


@pytest.mark.parametrize(
    "size", [0, -1, (224, 0), MAX_IMAGE_SIZE + 1, (1, MAX_IMAGE_SIZE + 1)], ids=str
)
def test_impossible_image_sizes_are_refused(size: int | tuple[int, int]) -> None:
    with pytest.raises(SpecError, match=f"from 1 to {MAX_IMAGE_SIZE} pixels"):
        make_plan(ResNetSpec(), size)


@pytest.mark.parametrize(
    ("pool", "tail", "output"),
    [
        ("none", ["final_norm"], (7, 7, 2048)),
        ("avg", ["final_norm", "pool"], (2048,)),
        ("max", ["final_norm", "pool"], (2048,)),
    ],
)
def test_without_a_classifier_the_network_returns_features(
    pool: str, tail: list[str], output: tuple
) -> None:
    plan = make_plan(get_spec("timm/resnetv2_50", num_classes=0, head_pool=pool), 224)
    assert rows_of(plan)[-len(tail) :] == tail
    assert plan.output == output
    assert plan.head is None


@pytest.mark.parametrize(
    ("preset", "kinds"),
    [
        ("resnet18", {"BasicBlock"}),
        ("resnet50", {"Bottleneck"}),
        ("timm/resnetv2_18", {"PreActBasicBlock"}),
        ("timm/resnetv2_50", {"PreActBottleneck"}),
        ("ablation/resnet110_act_before_add", {"AblationBlock"}),
        ("ablation/resnet110_exclusive_gate_b6", {"AblationBlock"}),
        ("ablation/resnet110_original", {"BasicBlock"}),
        ("ablation/resnet164_full_pre", {"PreActBottleneck"}),
    ],
)
def test_kinds_of_blocks(preset: str, kinds: set[str]) -> None:
    assert {block.kind for _, block in make_plan(get_spec(preset)).blocks()} == kinds


@pytest.mark.parametrize("preset", ["cifar/resnet1202", "cifar/preresnet1001"])
def test_the_deepest_presets_have_as_many_weighted_layers_as_their_names_say(preset: str) -> None:
    """Convolutions and linear layers on the main path: shortcuts are not counted."""
    plan = make_plan(get_spec(preset))
    convs = [
        row for row in plan.layers if row.op in ("conv", "linear") and ".shortcut." not in row.name
    ]
    assert str(len(convs)) == preset.partition("resnet")[2]
