"""The naming schemes: every preset's names in every format that can express it, there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared import CheckpointError, get_spec, list_presets, make_plan
from shared.architecture.spec import ResNetSpec
from shared.formats.checkpoint import Wanted, identify
from shared.formats.containers.archive import Archive, Entry
from shared.formats.layouts import from_canonical
from shared.formats.render import choose_scheme, expressing, obstacles, render
from shared.naming.infer import candidates, differences, infer_spec, not_inferable, same_function
from shared.naming.names import canonical_names, foreign_names
from shared.naming.schemes import FORMATS

FLOAT32 = np.dtype(np.float32)
# blocks; deeper presets repeat the same ones, and a few stand for their numbers of two digits
DEEP = 20
TALL = (
    "torchvision/resnet152",
    "keras/resnet152",
    "keras/resnet152v2",
    "flax/resnet152",
    "cifar/resnet110",
)
from tests.probes import DISTINCT
from tests.zoo import rest_in_zoo

PRESETS = [name for name in list_presets() if sum(get_spec(name).depths) <= DEEP or name in TALL]


def entries_of(spec: ResNetSpec) -> dict[str, Entry]:
    """Tensors that have shapes and cannot be read."""
    return {
        name: Entry(shape, FLOAT32, unreadable) for name, shape in make_plan(spec).tensors.items()
    }


def unreadable() -> np.ndarray:
    raise AssertionError("naming a tensor needs none of its values")


def archive_of(spec: ResNetSpec, form: str) -> Archive:
    """The archive of the format, without the spec that our own formats carry along."""
    target = FORMATS[form]
    scheme = choose_scheme(spec, target)
    entries = {n: from_canonical(scheme, n, entry) for n, entry in entries_of(spec).items()}
    archive = render(spec, entries, target, scheme, target.containers[0])
    metadata = {key: value for key, value in archive.metadata.items() if key != "spec"}
    return Archive(archive.container, archive.entries, metadata)


# Every fourth function: each format's own networks are read below as well.
@pytest.mark.parametrize("preset", rest_in_zoo(PRESETS, [p for p in PRESETS if p in DISTINCT][::4]))
def test_every_format_that_can_express_a_preset_names_it(preset: str) -> None:
    """Formats of other projects know the very function; our own names, which any network can have,
    the tensors.
    """
    spec = get_spec(preset)
    expressed = 0
    for name, target in FORMATS.items():
        scheme = expressing(spec, target)
        if scheme is None:
            continue
        expressed += 1
        found = identify(Path("file"), archive_of(spec, name), Wanted(name))
        assert list(found.entries) == list(make_plan(spec).tensors), name
        if scheme.free is not None:
            # No tensor tells it, and timm lets one choose it; so does transformers, in config.json.
            chosen: dict[str, Any] = {"anti_alias": spec.anti_alias}
            if name == "huggingface":
                chosen |= {"strides": spec.strides, "block.stride_conv": spec.block.stride_conv}
            told = found.spec.replace(**chosen)
            assert same_function(told, spec), (name, differences(told, spec))
            assert found.preset is not None
    assert expressed >= 4  # our own


@pytest.mark.zoo  # naming what stands in the way takes longer than all of the above
@pytest.mark.parametrize("preset", PRESETS)
def test_every_other_format_refuses_it(preset: str) -> None:
    spec = get_spec(preset)
    for target in FORMATS.values():
        if not expressing(spec, target):
            with pytest.raises(CheckpointError, match="cannot express"):
                choose_scheme(spec, target)


@pytest.mark.parametrize(
    ("preset", "form"),
    [
        ("torchvision/resnet50", "torchvision"),
        ("torchvision/resnext50_32x4d", "torchvision"),
        ("timm/resnet50_gn", "timm"),
        ("timm/resnet26t", "timm"),
        ("timm/resnetv2_50", "timm"),
        ("timm/resnetv2_50d_gn", "timm"),
        ("timm/resnetv2_50x1_bit", "timm"),
        ("cifar/resnet56", "akamaster"),
        ("kuangliu/resnet18", "kuangliu"),
        ("kuangliu/preact_resnet50", "kuangliu"),
        ("keras/resnet152", "keras-applications"),
        ("keras/resnet101v2", "keras-applications"),
        ("keras_hub/resnet_vd_50", "keras-hub"),
        ("flax/resnet34", "linen"),
        ("bit/r101x1", "bit"),
        ("d2l/resnet18", "d2l"),
        ("article/resnet50v2", "article-003"),
    ],
)
@pytest.mark.parametrize("classes", [0, 7])
def test_a_file_is_known_without_being_told(preset: str, form: str, classes: int) -> None:
    spec = get_spec(preset, num_classes=classes)
    found = identify(Path("file"), archive_of(spec, form), Wanted())
    assert (found.format.name, found.preset) == (form, preset)
    assert found.spec.num_classes == classes
    assert same_function(found.spec, spec)


# Of the tensors of another convention, which comes first: where a bottleneck of CIFAR strides,
# and a ReLU in front of a branch without its norm.
AMBIGUOUS = ("cifar/resnet164", "ablation/resnet110_act_only_pre")


@pytest.mark.parametrize("form", FORMATS)
def test_sizes_that_no_preset_has_are_read_by_their_own_convention(form: str) -> None:
    """Several conventions share their names. Strides, pools and eps, which no tensor tells, are
    those of the one that has the same kinds of layers.
    """
    wrong = {}
    for scheme in FORMATS[form].schemes:
        usual = get_spec(scheme.convention, **scheme.changes)
        depths = (*(2 for _ in usual.depths[1:]), 1)
        sized = scheme.free is None or "depths" in scheme.free
        if not sized or scheme.convention in AMBIGUOUS:
            continue
        spec = usual.replace(num_classes=7, depths=depths)
        found = identify(Path("file"), archive_of(spec, form), Wanted())
        if not same_function(found.spec, spec):
            wrong[scheme.convention] = differences(spec, found.spec)
    assert wrong == {}


@pytest.mark.parametrize("form", FORMATS)
def test_names_of_a_format_are_different_and_read_back(form: str) -> None:
    for scheme in FORMATS[form].schemes:
        plan = make_plan(get_spec(scheme.convention, **scheme.changes))
        names, unmapped = foreign_names(scheme, plan)
        assert not unmapped
        assert len(set(names.values())) == len(names) == len(plan.tensors)
        back, unrecognised = canonical_names(scheme, list(names.values()))
        assert not unrecognised
        assert back == {foreign: canonical for canonical, foreign in names.items()}


@pytest.mark.parametrize(
    ("preset", "form", "reason"),
    [
        ("keras/resnet50", "torchvision", "norm.eps is 1e-05 there, 1.001e-05 here"),
        ("keras/resnet50", "torchvision", "stem.bias is False there, True here"),
        ("keras/resnet50", "huggingface", "shortcut.bias"),
        ("he/resnet101", "torchvision", "block.stride_conv is 2 there, 1 here"),
        ("flax/resnet50", "torchvision", "block.padding is symmetric there, same here"),
        ("torchvision/resnet50", "linen", "stem.pool_padding is same there, symmetric here"),
        ("torchvision/resnet50", "bit", "no name for stem.norm1.weight"),
        ("keras/resnet50v2", "timm", "block.stride_block is first there, last here"),
        ("timm/resnetv2_50x1_bit", "bit", "weight_std_eps is 1e-10 there, 1e-08 here"),
    ],
)
def test_what_a_format_cannot_express_is_refused_with_the_reason(
    preset: str, form: str, reason: str
) -> None:
    found = {
        text for scheme in FORMATS[form].schemes for text in obstacles(get_spec(preset), scheme)
    }
    assert any(reason in text for text in found), found
    with pytest.raises(CheckpointError, match="cannot express"):
        choose_scheme(get_spec(preset), FORMATS[form])


def test_a_pool_padding_that_makes_no_difference_is_none() -> None:
    """Zeros behind a ReLU are as good as minus infinity; before one they are not."""
    v1, v2 = get_spec("torchvision/resnet50"), get_spec("timm/resnetv2_50")
    assert same_function(v1, v1.replace(**{"stem.pool_padding": "zero"}))
    assert not same_function(v2, v2.replace(**{"stem.pool_padding": "zero"}))


@pytest.mark.parametrize(
    "preset", ["he/resnet50", "keras/resnet50", "keras/resnet50v2", "timm/resnet26t"]
)
def test_a_network_that_is_no_preset_is_inferred(preset: str) -> None:
    spec = get_spec(preset, depths=(1, 2, 1, 1), num_classes=3, in_channels=4)
    shapes = dict(make_plan(spec).tensors)
    assert same_function(infer_spec(shapes, get_spec(preset)), spec)


def test_candidates_are_all_with_the_same_tensors() -> None:
    found = candidates(get_spec("torchvision/resnet50", num_classes=10))
    assert set(found) >= {
        "torchvision/resnet50",
        "timm/resnet50",
        "timm/resnetaa50",
        "timm/resnetblur50",
        "he/resnet50_no_bias",
        "flax/resnet50",
        "tf/resnet50_v1",
    }
    assert "keras/resnet50" not in found  # has biases
    assert "timm/resnet50d" not in found


def test_anti_aliasing_is_what_no_tensor_tells() -> None:
    average, v2 = get_spec("timm/resnetaa50"), get_spec("timm/resnetv2_50")
    assert not_inferable(average)["anti_alias"] == "average"
    assert not_inferable(get_spec("torchvision/resnet50"))["anti_alias"] == "none"
    assert "anti_alias" not in not_inferable(v2)  # which nobody has anti-aliased


def test_networks_that_differ_in_a_pool_are_different() -> None:
    """At 224 pixels Caffe's pool is the SAME one, and other sizes tell them apart."""
    plain, twins = get_spec("torchvision/resnet50"), candidates(get_spec("torchvision/resnet50"))
    same = {name for name in twins if same_function(plain, get_spec(name))}
    assert not same & {"timm/resnetaa50", "timm/resnetblur50", "he/resnet50_no_bias"}
    he = get_spec("he/resnet50")
    assert not same_function(he, he.replace(**{"stem.pool_padding": "same"}))


@pytest.mark.parametrize("preset", ["timm/resnetaa50", "timm/resnetblur18", "timm/resnetaa34d"])
def test_formats_without_anti_aliasing_refuse_it(preset: str) -> None:
    """timm's own tensors have the same names, and torchvision's code cannot be these networks."""
    spec = get_spec(preset)
    assert expressing(spec, FORMATS["timm"])
    for name in ("canonical", "torch", "keras", "nnx"):
        assert expressing(spec, FORMATS[name])
    for name in ("torchvision", "huggingface", "keras-hub", "keras-applications", "linen"):
        with pytest.raises(CheckpointError, match=f"anti_alias is none there, {spec.anti_alias}"):
            choose_scheme(spec, FORMATS[name])
