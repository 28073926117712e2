"""Models of other packages: all ResNets that a spec can express are identified, as what their
packages say that they are, and no other model is.

Packages that were written for Keras 2 need processes of their own: `python -m benchmarks
identified` has these, and its page is held to what was measured.
"""

from __future__ import annotations

import pytest

from benchmarks import identified, others
from shared import identify, list_presets
from tests.zoo import rest_in_zoo

MODELS = {m.key: m for m in others.models() if m.package not in identified.ENVIRONMENTS}
SHORT = {  # one or a few of each package that the README's tests install, and one that is none
    *("torchvision/resnet18", "timm/resnetv2_18", "dm-haiku/ResNet18"),
    *("keras.applications/ResNet50V2", "segmentation-models-pytorch/resnet18"),
    *("transformers/ResNet, basic", "timm/skresnet18"),
    *("image-classifiers/resnet18", "pytorchcv/preresnet10"),
}
ZOO = {
    *("torchvision/resnet50", "torchvision/resnext50_32x4d", "timm/resnet26t", "timm/resnet50_gn"),
    *("timm/resnetv2_50d_gn", "timm/resnetv2_50x1_bit", "timm/seresnet50", "timm/resnet50_clip"),
    *("timm/resnest14d", "timm/nf_resnet26", "transformers/ResNet, as published"),
    *("transformers/ResNet, downsample_in_bottleneck", "keras.applications/ResNet101"),
    *("transformers/ResNet, downsample_in_first_stage", "keras.applications/MobileNetV2"),
    *("keras.applications/VGG16", "keras.applications/DenseNet121", "keras-hub/resnet_18"),
    *("keras-hub/resnet_v2_50", "keras-hub/resnet_vd_50"),
    *("dm-haiku/ResNet50, resnet_v2", "flaxmodels/ResNet18", "flaxmodels/ResNet50"),
    *("jax-resnet/ResNet18", "jax-resnet/ResNeXt50", "jax-resnet/ResNetD50"),
    *("timm/resnet10t", "timm/resnet18d", "timm/resnetblur18", "timm/resnetaa34d"),
}


@pytest.mark.parametrize("name", rest_in_zoo(MODELS, SHORT, ZOO))
def test_what_a_model_is(name: str) -> None:
    model = MODELS[name]
    try:
        built = model.make()
    except ModuleNotFoundError as error:
        pytest.skip(f"{model.package} is not installed ({error})")
    found = identify(built, model.size)
    assert identified.is_right(model, found), (found.verdict, found.preset, found.notes)
    if found.recognised:
        assert found.departures == [] or found.verdict == "at this size only"
    else:
        assert found.departures or found.verdict == "no ResNet"


@pytest.mark.zoo
def test_a_network_that_takes_one_size_is_told_so() -> None:
    """jax-resnet's average pool floors what its branch ceils."""
    pytest.importorskip("jax_resnet")
    found = identify(MODELS["jax-resnet/ResNetD50"].make(), 224)
    assert (found.verdict, found.image_sizes) == ("at this size only", [224])
    assert [note for note in found.notes if "224 x 224 pixels alone" in note]


def test_the_page_is_of_the_rows() -> None:
    rows, missing = identified.read_rows(), identified.read_missing()
    assert identified.PAGE.read_text("utf-8") == identified.page(rows, missing)


def test_98_of_100_are_identified_and_none_falsely() -> None:
    rows = identified.read_rows()
    inside = [row for row in rows if row.scope]
    assert sum(row.right for row in inside) >= 0.98 * len(inside)
    assert [row.key for row in rows if row.recognised and not row.right] == []
    known = {model.key: model.scope for model in others.models()}
    assert {row.key: row.scope for row in rows}.items() <= known.items()


def test_what_a_model_should_be_is_a_preset() -> None:
    named = {model.preset for model in others.models() if model.preset}
    assert named <= set(list_presets())
