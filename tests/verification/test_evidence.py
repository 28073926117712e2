"""Evidence from stored statistics: the right settings of trained networks are never ruled out, and
a setting that the statistics were made with is found.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shared import SpecError, get_spec, miniature, probe_weights, read_weights
from shared.architecture.plan import make_plan
from shared.architecture.preprocessing import PREPROCESSING, preprocess
from shared.architecture.spec import ResNetSpec
from shared.images.samples import sample_pixels
from shared.reference.forward import forward
from shared.verification import evidence
from shared.verification.evidence import FIELDS, Evidence, divergences, gather
from shared.weights.pretrained import pretrained_file

SIDE = 32
PIXELS = sample_pixels(SIDE)


def trained_on_the_samples(spec: ResNetSpec) -> dict[str, np.ndarray]:
    """Probe weights with the statistics that the samples, as "imagenet", make in training mode."""
    weights = probe_weights(spec, dtype="float64")
    images = preprocess(PIXELS, PREPROCESSING["imagenet"])
    plan = make_plan(spec, (SIDE, SIDE))
    for step in forward(plan, weights, images, train=True):
        if "running_mean" in step.tensors:
            for leaf in ("running_mean", "running_var"):
                weights[f"{step.node.name}.{leaf}"] = step.tensors[leaf]
    return weights


def by_field(found: list[Evidence]) -> dict[str, Evidence]:
    return {evidence.field: evidence for evidence in found}


@pytest.mark.parametrize(
    ("preset", "field", "value"),
    [
        ("torchvision/resnet50", "block.stride_conv", 1),
        ("torchvision/resnet50", "block.padding", "same"),
        ("torchvision/resnet50", "stem.padding", "same"),
        ("torchvision/resnet50", "stem.pool", "none"),
        ("torchvision/resnet50", "shortcut.pool", "avg"),
        ("torchvision/resnet50", "anti_alias", "blur"),
        ("torchvision/resnet50", "strides", (1, 2, 2, 1)),
        ("keras/resnet50v2", "block.stride_block", "first"),
        ("cifar/resnet20", "shortcut.zero_pad", "tail"),
    ],
)
def test_the_setting_that_made_the_statistics_is_found(preset: str, field: str, value: Any) -> None:
    assumed = miniature(get_spec(preset))
    truth = assumed.replace(**{field: value})
    others = [name for name in FIELDS if name != field]
    weights = trained_on_the_samples(truth)
    found = by_field(gather(assumed, weights, PIXELS, "imagenet", told=others))[field]
    assert found.value == value
    assert found.score < min(found.other_scores.values())
    assert found.strength != "none"


def test_the_preprocessing_is_found() -> None:
    spec = miniature(get_spec("torchvision/resnet18"))
    found = by_field(gather(spec, trained_on_the_samples(spec), PIXELS, "caffe"))["preprocessing"]
    assert (found.value, found.instead_of, found.strength) == ("imagenet", "caffe", "strong")


def test_what_makes_no_difference_is_no_evidence() -> None:
    """An activation is never negative, so zeros around it are as good as -inf."""
    spec = miniature(get_spec("torchvision/resnet18"))
    found = by_field(gather(spec, trained_on_the_samples(spec), PIXELS, None))
    pads = found["stem.pool_padding"]
    assert pads.value == "symmetric"
    assert "zero" in pads.as_likely
    assert pads.instead_of is None


@pytest.mark.parametrize("name", ["fashion-mnist/resnet20", "fashion-mnist/resnet20-v2"])
def test_the_truth_is_never_ruled_out_of_trained_networks(name: str) -> None:
    weights, spec = read_weights(pretrained_file(name))
    found = gather(spec, weights, sample_pixels(spec.image_size)[::2], "fashion-mnist")
    assert {evidence.field for evidence in found} >= {"preprocessing", "stem.pool", "norm.eps"}
    assert [evidence.field for evidence in found if evidence.instead_of is not None] == []
    assert by_field(found)["preprocessing"].other_scores["0 to 255"] > 100


def test_what_is_told_needs_no_evidence() -> None:
    spec = miniature(get_spec("torchvision/resnet18"))
    weights = trained_on_the_samples(spec)
    found = gather(spec, weights, PIXELS[:2], None, told=FIELDS)
    assert [evidence.field for evidence in found] == ["preprocessing"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (miniature(get_spec("bit/r50x1")), "group norms"),
        (miniature(get_spec("resnet18")).replace(in_channels=13), "13 channels"),
    ],
    ids=["group norm", "13 channels"],
)
def test_refused(spec: ResNetSpec, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        gather(spec, probe_weights(spec), PIXELS[:1], None)


def test_a_few_images_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = miniature(get_spec("torchvision/resnet18"))
    weights = probe_weights(spec)
    images = preprocess(PIXELS[:3], PREPROCESSING["imagenet"])
    together = divergences(spec, weights, images)
    monkeypatch.setattr(evidence, "PIXELS_AT_A_TIME", 2 * SIDE * SIDE)
    np.testing.assert_allclose(divergences(spec, weights, images), together, rtol=1e-9)


def test_divergences_are_those_of_normal_distributions() -> None:
    """By NumPy's own moments of what stands in front of each norm."""
    spec = miniature(get_spec("torchvision/resnet18"))
    weights = probe_weights(spec, dtype="float64")
    images = preprocess(PIXELS[:2], PREPROCESSING["imagenet"])
    expected = []
    for step in forward(make_plan(spec, (SIDE, SIDE)), weights, images):
        if "running_mean" in step.tensors:
            mean, found = step.inputs[0].mean((0, 1, 2)), step.inputs[0].var((0, 1, 2))
            shift, stored = mean - step.tensors["running_mean"], step.tensors["running_var"]
            ratio = found / stored
            expected.append(np.median(ratio + shift**2 / stored - 1 - np.log(ratio)) / 2)
    np.testing.assert_allclose(divergences(spec, weights, images), expected, rtol=1e-9)


def test_what_overflows_is_as_far_as_can_be() -> None:
    spec = miniature(get_spec("torchvision/resnet18"))
    weights = {name: array * np.float32(1e30) for name, array in probe_weights(spec).items()}
    images = preprocess(PIXELS[:1], PREPROCESSING["imagenet"]).astype(np.float32)
    assert max(divergences(spec, weights, images)) == evidence.FARTHEST


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 5])
def test_strides_of_any_number_of_stages(stages: int) -> None:
    spec = ResNetSpec(
        depths=(1,) * stages,
        widths=tuple(8 << k for k in range(stages)),  # every stage projects, strided or not
        strides=(1, *[2] * (stages - 1)),
        dilate=(False,) * stages,
    )
    found = [value for value, _ in evidence.alternatives(spec, "strides")]
    assert found[0] == spec.strides
    assert {len(strides) for strides in found} == {stages}
    assert len(found) == len(set(found)) == {1: 2, 2: 3, 3: 4, 4: 5, 5: 2}[stages]


def test_one_wrong_field_does_not_make_another_look_wrong() -> None:
    """Both SAME padding and an average in front of a convolution shift what it sees."""
    assumed = miniature(get_spec("torchvision/resnet18"))
    truth = assumed.replace(block_padding="same", stem_pool="none")
    found = by_field(gather(assumed, trained_on_the_samples(truth), PIXELS, "imagenet"))
    assert found["stem.pool"].instead_of == "max"
    assert found["block.padding"].value == "same"
    assert {name for name, evidence in found.items() if evidence.instead_of is not None} == {
        "stem.pool",
        "block.padding",
    }


def test_what_excludes_the_evidence_for_another_field_is_no_candidate_beside_it() -> None:
    """An average in the place of the stride is none where the 1x1 strides."""
    assumed = miniature(get_spec("torchvision/resnet50"))
    weights = trained_on_the_samples(assumed.replace(block_stride_conv=1))
    told = [name for name in FIELDS if name not in ("block.stride_conv", "anti_alias")]
    found = by_field(gather(assumed, weights, PIXELS, "imagenet", told=told))
    assert found["block.stride_conv"].instead_of == 2
    assert "anti_alias" not in found


def test_a_network_that_cannot_take_the_images_is_no_candidate() -> None:
    spec = miniature(get_spec("kuangliu/resnet18"))
    told = [name for name in FIELDS if name != "anti_alias"]
    found = gather(spec, probe_weights(spec), sample_pixels(28)[:1], None, told=told)
    assert found[1].field == "anti_alias"
    assert found[1].other_scores.keys() == {"blur"}


@pytest.mark.parametrize(("fit", "strength"), [(0.01, "clear"), (0.3, "weak"), (3.0, "none")])
def test_images_that_do_not_fit_tell_less(fit: float, strength: str) -> None:
    found = evidence._judged("stem.pool", "max", {"max": 3.0, "none": 1.0}, fit)
    assert found.strength == strength
    assert found.value == ("max" if strength == "none" else "none")
