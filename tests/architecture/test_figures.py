"""The plans have the published numbers of parameters, multiply-adds and tensors, and the printed
shapes.
"""

from __future__ import annotations

from math import prod

import pytest

from shared import Plan, get_spec, make_plan
from shared.architecture.ops import TRAINABLE
from tests import figures

# He et al. 2015 print table 1 with two digits and do not say how they round: 3.858e9 became 3.8.
PAPER_V1_UNIT = 0.1


def is_trainable(tensor: str) -> bool:
    return tensor.rpartition(".")[2] in TRAINABLE


def statistics(plan: Plan) -> int:
    """Values that are not trained: running means and variances."""
    return sum(prod(shape) for name, shape in plan.tensors.items() if not is_trainable(name))


def printed_like(value: float, figure: str) -> str:
    """`value` with as many decimals as `figure` has."""
    return f"{value:.{len(figure.partition('.')[2])}f}"


@pytest.mark.parametrize("preset", figures.TORCHVISION)
def test_torchvision_params_and_gflops(preset: str) -> None:
    plan, (params, gflops) = make_plan(get_spec(preset)), figures.TORCHVISION[preset]
    assert plan.params == params
    assert printed_like(plan.macs / 1e9, gflops) == gflops


@pytest.mark.parametrize("preset", figures.KERAS)
def test_keras_applications_counts(preset: str) -> None:
    plan = make_plan(get_spec(preset))
    found = figures.KerasCounts(
        params=plan.params + statistics(plan),
        trainable=plan.params,
        non_trainable=statistics(plan),
        tensors=len(plan.tensors),
        trainable_tensors=sum(map(is_trainable, plan.tensors)),
    )
    assert found == figures.KERAS[preset]


@pytest.mark.parametrize("preset", figures.KERAS_HUB_BACKBONE)
def test_keras_hub_backbone_params(preset: str) -> None:
    plan = make_plan(get_spec(preset, num_classes=0))
    assert plan.params + statistics(plan) == figures.KERAS_HUB_BACKBONE[preset]


@pytest.mark.parametrize("preset", figures.KERAS_HUB_CLASSIFIER)
def test_keras_hub_vd_params(preset: str) -> None:
    plan = make_plan(get_spec(preset))
    assert plan.params + statistics(plan) == figures.KERAS_HUB_CLASSIFIER[preset]


@pytest.mark.parametrize("preset", figures.TIMM_PARAMS_M)
def test_timm_params(preset: str) -> None:
    printed = figures.TIMM_PARAMS_M[preset]
    assert printed_like(make_plan(get_spec(preset)).params / 1e6, printed) == printed


@pytest.mark.parametrize(
    ("preset", "projection", "params"),
    [(preset, "shape", params) for preset, params in figures.IMGCLSMOB_POST.items()]
    + [(preset, "channels", params) for preset, params in figures.IMGCLSMOB_PRE.items()],
)
def test_imgclsmob_params(preset: str, projection: str, params: int) -> None:
    assert make_plan(get_spec(preset, shortcut_projection=projection)).params == params


@pytest.mark.parametrize("preset", figures.PACKAGES)
def test_params_of_other_packages(preset: str) -> None:
    assert make_plan(get_spec(preset)).params == figures.PACKAGES[preset]


@pytest.mark.parametrize("preset", figures.WRN_PARAMS_M)
def test_wide_resnet_params(preset: str) -> None:
    printed = figures.WRN_PARAMS_M[preset]
    assert printed_like(make_plan(get_spec(preset)).params / 1e6, printed) == printed


@pytest.mark.parametrize("preset", figures.PAPER_V1_GMACS)
def test_paper_v1_multiply_adds(preset: str) -> None:
    gmacs = make_plan(get_spec(preset)).macs / 1e9
    assert gmacs == pytest.approx(float(figures.PAPER_V1_GMACS[preset]), abs=PAPER_V1_UNIT)


@pytest.mark.parametrize(
    ("preset", "printed"),
    [*figures.PAPER_V1_CIFAR_PARAMS_M.items(), *figures.PAPER_V2_PARAMS_M.items()],
)
def test_paper_cifar_params(preset: str, printed: str) -> None:
    assert printed_like(make_plan(get_spec(preset)).params / 1e6, printed) == printed


@pytest.mark.parametrize("preset", figures.DERIVED)
def test_derived_figures(preset: str) -> None:
    plan, (params, gmacs) = make_plan(get_spec(preset)), figures.DERIVED[preset]
    assert plan.params == params
    assert gmacs is None or printed_like(plan.macs / 1e9, gmacs) == gmacs


@pytest.mark.parametrize(
    ("preset", "classes", "params"),
    [("bit/r50x1", 21843, 68256659), ("article/resnet50v2", 1000, 25549416)],
)
def test_derived_params_with_other_heads(preset: str, classes: int, params: int) -> None:
    assert make_plan(get_spec(preset, num_classes=classes)).params == params


def test_derived_multiply_adds_of_d2l_at_its_training_size() -> None:
    assert f"{make_plan(get_spec('d2l/resnet18'), 96).macs / 1e9:.4f}" == "0.3187"


def shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Output shape of every layer, and of every stage under `stages.i`."""
    found = {row.name: row.output for row in plan.layers}
    return found | {
        f"stages.{i}": found[f"stages.{i}.blocks.{len(s) - 1}"] for i, s in enumerate(plan.stages)
    }


# The shapes that the articles print, for one image, channels last.
ARTICLE_SHAPES = {
    "d2l/resnet18": {
        "stem.conv1": (112, 112, 64),
        "stem.norm1": (112, 112, 64),
        "stem.pool": (56, 56, 64),
        "stages.0": (56, 56, 64),
        "stages.1": (28, 28, 128),
        "stages.2": (14, 14, 256),
        "stages.3": (7, 7, 512),
        "pool": (512,),
        "head": (10,),
    },
    "article/resnet34": {
        "stem.conv1": (112, 112, 64),
        "stem.norm1": (112, 112, 64),
        "stem.pool": (56, 56, 64),
        "stages.0": (56, 56, 64),
        "stages.1": (28, 28, 128),
        "stages.1.blocks.0.shortcut.norm": (28, 28, 128),  # the downsample example
        "stages.1.blocks.0.conv1": (28, 28, 128),
        "stages.2": (14, 14, 256),
        "stages.3": (7, 7, 512),
        "pool": (512,),
        "head": (1000,),
    },
}


@pytest.mark.parametrize("preset", ARTICLE_SHAPES)
def test_shapes_that_the_articles_print(preset: str) -> None:
    found = shapes(make_plan(get_spec(preset), 224))
    assert {name: found[name] for name in ARTICLE_SHAPES[preset]} == ARTICLE_SHAPES[preset]


def residual_demo(**changes: object) -> Plan:
    """Article 001's `Residual` alone, on a 6 x 6 image of 3 channels: one block behind a 1 x 1
    stem.
    """
    spec = get_spec("d2l/resnet18", in_channels=3, num_classes=0, depths=(1,), **changes)
    return make_plan(spec.replace(stem_convs=((1, 1, 3),), stem_pool="none", head_pool="none"), 6)


@pytest.mark.parametrize(
    ("width", "stride", "output"),
    [
        pytest.param(3, 1, (6, 6, 3), id="identity"),
        pytest.param(6, 2, (3, 3, 6), id="use_1x1conv-stride2"),
    ],
)
def test_shapes_of_article_001s_residual_demo(
    width: int, stride: int, output: tuple[int, ...]
) -> None:
    plan = residual_demo(widths=(width,), strides=(stride,))
    assert plan.output == output
    assert ("stages.0.blocks.0.shortcut.conv.bias" in plan.tensors) == (stride == 2)


# Side of the feature map behind each stage at 224 x 224. The Keras layout strides in the last
# block.
STANDARD_SIDES = (56, 28, 14, 7)
KERAS_V2_SIDES = (28, 14, 7, 7)
STAGE_SIDES = {
    "he/resnet18_a": STANDARD_SIDES,
    "he/resnet34_a": STANDARD_SIDES,
    "he/resnet50": STANDARD_SIDES,
    "he/resnet101": STANDARD_SIDES,
    "he/resnet152": STANDARD_SIDES,
    "keras/resnet50": STANDARD_SIDES,
    "keras/resnet50v2": KERAS_V2_SIDES,
    "keras/resnet101v2": KERAS_V2_SIDES,
    "keras/resnet152v2": KERAS_V2_SIDES,
    "article/resnet50v2": KERAS_V2_SIDES,
    "timm/resnetv2_50": STANDARD_SIDES,
    "bit/r50x1": STANDARD_SIDES,
    "tf/resnet50_v2": STANDARD_SIDES,
    "fb/preresnet50": STANDARD_SIDES,
    "keras_hub/resnet_v2_50": STANDARD_SIDES,
}


@pytest.mark.parametrize("preset", STAGE_SIDES)
def test_stage_sizes_at_224(preset: str) -> None:
    found = shapes(make_plan(get_spec(preset), 224))
    assert found["stem.conv1"][:2] == (112, 112)
    assert tuple(found[f"stages.{i}"][0] for i in range(4)) == STAGE_SIDES[preset]
