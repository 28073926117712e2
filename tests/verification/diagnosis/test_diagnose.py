"""Every hypothesis, planted in a miniature, is found and named; none is named that makes no
difference.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from shared.errors import CheckpointError, SpecError
from shared.frameworks.diagnose import diagnose_observations
from shared.training.config import PROBE
from shared.verification.diagnosis.limits import low_precision
from shared.verification.diagnosis.observations import observations
from shared.verification.diagnosis.passes import Passes
from shared.verification.hypotheses.hypothesis import Hypothesis
from shared.verification.hypotheses.listing import every, named
from shared.verification.hypotheses.of_spec import of_spec
from shared.verification.hypotheses.of_surroundings import PRECISIONS
from shared.verification.recording import EVAL, GRADIENTS, STEP, TRAIN
from tests.parity.planted_training import MISTAKES as TRAINING
from tests.verification.diagnosis.ports import (
    SHALLOW,
    diagnosed,
    observed,
    right,
    small,
    with_mistakes,
)
from tests.zoo import in_zoo, rest_in_zoo

ZOO = (
    "torchvision/resnet18",
    "torchvision/resnet50",
    "keras/resnet50v2",
    "he/resnet50",
    "tf/resnet18_v1",
    "bit/r50x1",
    "torchvision/resnext50_32x4d",
    "cifar/resnet20",
    "ablation/resnet110_exclusive_gate_b6",
    "ablation/resnet110_scale_0.5_0.5",
)
TELLING = {
    "torchvision/resnet18": (
        "block.padding=same",
        "stem.pool_padding=same",
        "norm.eps=0.001",
        "shortcut.norm=false",
        "block.order=act_before_add",
        "BGR",
        "channels-first read as channels-last",
        "unit for imagenet",
        "0 to 255 for imagenet",
        "normalised twice (imagenet)",
        "softmax",
        "shifted by the background class",
        "batch statistics in evaluation",
        "batch reversed",
        "every kernel: HWIO read as OIHW",
        "every norm: its variance taken for a deviation",
        "last gammas zero",
        "rounded to bfloat16",
        "rounded to float16",
        "stem.conv1: its height and width transposed",
        "stages.1.blocks.0.norm1: gamma and beta exchanged",
        "head: bias not loaded (zeros)",
        "stages.0.blocks.0 and stages.0.blocks.1 exchanged",
        "imagenet: mean and deviation exchanged",
        "every ReLU: GELU",
        "stem.pool_padding=valid",
        "stages.1.blocks.0.norm2: its epsilon is 0.001",
        "stages.2.blocks.0.conv1: its padding is same",
        "stages.2.blocks.1.norm1: batch statistics",
        "stages.1.blocks.1.relu_1: left out",
        "stages.2.blocks.1.join: the shortcut left out",
    ),
    "torchvision/resnet50": (
        "block.stride_conv=1",
        "stages.1.blocks.0: strides in conv1",
        "norm.folded=true",  # its convolutions have biases that those of the right one lack
    ),
    "keras/resnet50v2": ("stem.pool_padding=symmetric", "block.stride_block=first"),
    "bit/r50x1": ("weight_std_eps=null", "norm.groups=2"),
    "cifar/resnet20": ("shortcut.zero_pad=tail",),
    "ablation/resnet110_exclusive_gate_b6": ("shortcut.join=shortcut_gate",),
}


CASES = [(preset, name) for preset, names in TELLING.items() for name in names]
# One of each kind, as these take longer. The short run names the others with every layer there, the
# zoo all in both ways.
OUTPUTS_ALONE = {
    ("torchvision/resnet18", name)
    for name in (
        *("block.padding=same", "norm.eps=0.001", "block.order=act_before_add", "softmax"),
        *("channels-first read as channels-last", "0 to 255 for imagenet"),
        *("batch statistics in evaluation", "every kernel: HWIO read as OIHW", "every ReLU: GELU"),
        "stages.1.blocks.0.norm1: gamma and beta exchanged",
        "stages.1.blocks.0.norm2: its epsilon is 0.001",
    )
} | {
    ("keras/resnet50v2", "stem.pool_padding=symmetric"),
    ("bit/r50x1", "weight_std_eps=null"),
    ("cifar/resnet20", "shortcut.zero_pad=tail"),
}


@pytest.mark.parametrize(("preset", "name"), rest_in_zoo(CASES, OUTPUTS_ALONE))
def test_a_planted_mistake_is_named(preset: str, name: str) -> None:
    assert is_named(preset, name)


@pytest.mark.parametrize(
    "step", [pytest.param(60, marks=pytest.mark.zoo), pytest.param(1, marks=pytest.mark.exhaustive)]
)
@pytest.mark.parametrize("preset", ZOO)
def test_every_planted_mistake_is_named(preset: str, step: int) -> None:
    """All of a network in one test: they are thousands, and each would be collected every time."""
    wrong, possible = {}, 0
    for hypothesis in every(small(preset))[::step]:
        if hypothesis.shows_in != "training" and hypothesis.kind != "precision":
            try:
                possible += is_named(preset, hypothesis.name)
            except AssertionError as error:
                wrong[hypothesis.name] = str(error)
    assert wrong == {}
    assert possible > 3


def is_named(preset: str, name: str) -> bool:
    """From outputs alone, in float32; False where the network cannot have the mistake.

    What has no effect on these inputs is the same function; of two mistakes with one effect, either
    may be named.
    """
    base = right(small(preset))
    hypothesis = named(name, base.spec)
    port = hypothesis(base)
    if port is None:
        return False
    try:
        output = Passes(port).get(f"{EVAL}/output")
    except SpecError:
        return False  # the network cannot take the images
    wanted = base.spec.num_classes
    if not np.isfinite(output).all() or abs(output.shape[-1] - wanted) > 1:
        return False  # no port returns that
    found = diagnosed([name], preset)
    if found.same:
        assert found.error_before <= found.limit
        return True
    assert found.explained, found.nearest
    assert found.error_after <= max(found.limit, found.error_before / 8)
    if len(hypothesis.settings) > 1 and len(found.causes) > 1:  # a cause a field
        assert {cause.set for cause in found.causes} <= set(hypothesis.settings)
        return True
    (cause,) = found.causes
    if cause.what != hypothesis.what:
        twin = next(h for h in every(base.spec) if h.what == cause.what)
        same = Passes(with_mistakes(base, [twin])).get(f"{EVAL}/output")
        largest = np.abs(output).max()
        # Each is within the limit of what the port returned.
        assert np.abs(same - output).max() <= 2 * max(found.limit, 1e-6) * largest
    elif hypothesis.set:
        assert cause.set == " ".join(hypothesis.settings)
    return True


def test_an_operator_of_a_layer_that_is_folded_away_is_impossible() -> None:
    """And no error: the search puts any two changes together."""
    base = right(small("torchvision/resnet50"))
    names = ["stem.norm1: batch statistics", "norm.folded=true"]
    with pytest.raises(SpecError, match="does not fit altered operators"):
        Passes(with_mistakes(base, names)).get(f"{EVAL}/output")


@pytest.mark.parametrize(
    ("preset", "name"), rest_in_zoo(CASES, {case for case in CASES if case not in OUTPUTS_ALONE})
)
def test_the_very_mistake_is_named(preset: str, name: str) -> None:
    """With every layer there: also where it starts."""
    base = right(small(preset))
    hypothesis = named(name, base.spec)
    port = with_mistakes(base, [name])
    seen = observed(port, base, layers=None)
    found = diagnose_observations(base.weights, base.spec, seen)
    assert found.explained
    assert not found.same
    assert [cause.what for cause in found.causes] == [hypothesis.what]
    first = (found.key or "").removeprefix("eval/")
    start = found.causes[0].where[0]
    there = [key.removeprefix("eval/") for key in seen.values]
    starts = [start, "output"]
    if "relu" in name.lower():  # an activation shows in the layer behind it
        starts.append(there[there.index(start) + 1])
    assert first in starts or start not in there  # the wrong network lacks the layer


PAIRS = [
    "norm.eps=0.001 + BGR",
    "stem.pool_padding=same + stages.0.blocks.0 and stages.0.blocks.1 exchanged",
    "block.padding=same + softmax",
    "stages.1.blocks.0.conv1: flipped in height and width + head: bias not loaded (zeros)",
    "stages.0.blocks.1.join: the branch twice + softmax",
]


@pytest.mark.parametrize("names", rest_in_zoo(PAIRS, PAIRS[:1]))
def test_two_mistakes_are_both_named_from_outputs_alone(names: str) -> None:
    pair = names.split(" + ")
    base = right(small())
    found = diagnosed(pair)
    assert found.explained
    assert {c.what for c in found.causes} == {named(name, base.spec).what for name in pair}
    assert found.error_after <= found.limit


@pytest.mark.zoo
def test_a_preparation_before_the_channels_change_places_is_found() -> None:
    """Neither is near to the images alone, and the two do not add up."""
    preset, pair = "torchvision/resnet50", ("fashion-mnist for imagenet", "BGR")
    found = diagnosed(pair, preset)
    base = right(small(preset))
    assert [c.what for c in found.causes] == [named(name, base.spec).what for name in pair]
    assert found.error_after <= found.limit


def test_three_mistakes_with_layers() -> None:
    names = [
        "BGR",
        "stages.0.blocks.1.norm2: mean not loaded (zeros)",
        "stages.2.blocks.0.conv2: flipped in width",
    ]
    found = diagnosed(names, layers=None)
    assert found.explained
    assert [c.what for c in found.causes] == [named(n, small()).what for n in names]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_same_is_the_same(dtype: str) -> None:
    found = diagnosed([], layers=None, dtype=dtype)
    assert found.same
    assert found.explained
    assert found.causes == ()
    assert found.tried == 0


def test_what_makes_no_difference_here_is_not_named() -> None:
    """Dilation without a stride, biases of zero, an eps beyond float32: the same function."""
    for name in ("stem.bias=true", "shortcut.bias=true", "shortcut.preact=never"):
        found = diagnosed([name])
        assert found.same, name
        assert found.causes == ()


def test_a_change_without_effect_is_not_named_beside_one_with_effect() -> None:
    """SAME in stem and blocks, at a size where it changes the blocks alone."""
    base = right(small("cifar/resnet20"))
    seen = observed(with_mistakes(base, ["block.padding=same"]), base)
    found = diagnose_observations(base.weights, base.spec, seen)
    assert [cause.set for cause in found.causes] == ["block.padding=same"]


def test_an_eps_that_float32_cannot_show_is_found_in_float64() -> None:
    assert diagnosed(["norm.eps=1.001e-05"], dtype="float32").same
    found = diagnosed(["norm.eps=1.001e-05"], dtype="float64")
    assert [cause.set for cause in found.causes] == ["norm.eps=1.001e-05"]


def noise(port):
    """A kernel with other values, which no hypothesis has."""
    name = "stages.1.blocks.0.conv1.weight"
    rng = np.random.default_rng(3)
    kernel = port.weights[name]
    changed = kernel + 0.3 * kernel.std() * rng.standard_normal(kernel.shape)
    return dataclasses.replace(port, weights={**port.weights, name: changed})


UNKNOWN = Hypothesis("weights", "unknown", "nothing that is known", noise)


@pytest.mark.parametrize("layers", [in_zoo(((),)), None], ids=["outputs", "layers"])
def test_what_no_change_explains_is_not_explained(layers) -> None:
    found = diagnosed([UNKNOWN], SHALLOW, layers=layers)
    assert not found.same
    assert not found.explained
    assert found.causes == ()
    assert found.error_after > found.limit
    assert len(found.nearest) <= 3
    if layers is None:
        assert found.key == found.still == "eval/stages.1.blocks.0.conv1"


def test_a_part_is_explained_where_the_rest_is_not() -> None:
    found = diagnosed(["BGR", UNKNOWN], SHALLOW, layers=None)
    assert [cause.what for cause in found.causes] == [named("BGR", SHALLOW).what]
    assert not found.explained
    assert found.still == "eval/stages.1.blocks.0.conv1"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layers", [(), None], ids=["outputs", "layers"])
def test_rounding_is_no_mistake(precision: str, layers) -> None:
    """The reference in that precision, with another order of the sums."""
    base = right(small("torchvision/resnet50"), 4)
    low = dataclasses.replace(
        base,
        weights={name: array.astype(np.float32) for name, array in base.weights.items()},
        images=base.images.astype(np.float32),
        precision=precision,
    )
    seen = observed(low, base, layers=layers)
    found = diagnose_observations(base.weights, base.spec, seen)
    assert found.same
    assert found.explained
    if found.causes:
        assert found.causes[0].kind == "precision"


@pytest.mark.parametrize(
    ("mistake", "layers"),
    [
        ("block.padding=same", None),
        ("block.padding=same", ("stem.conv1",)),
        ("head: bias not loaded (zeros)", None),
    ],
)
def test_rounding_in_front_of_a_mistake_does_not_hide_it(mistake: str, layers) -> None:
    base = right(small())
    wrong = with_mistakes(base, [mistake])
    seen = observed(low_precision(wrong, "TF32"), base, layers=layers)
    found = diagnose_observations(base.weights, base.spec, seen)
    assert not found.same
    assert found.explained
    assert [cause.what for cause in found.causes] == [named(mistake, base.spec).what]
    assert found.notes == ("eval/stem.conv1 differs as TF32 rounds",)
    assert found.dtype == "TF32"


@pytest.mark.parametrize("dtype", ["float32", in_zoo("float64")])
def test_outputs_that_agree_do_not_make_a_layer_the_same(dtype: str) -> None:
    base = right(SHALLOW)
    seen = observed(base, base, layers=None, dtype=dtype)
    key = "eval/stages.1.blocks.0.conv1"
    off = seen.values[key] * np.float32(1.25)
    off[0] *= -1
    seen = dataclasses.replace(seen, values={**seen.values, key: off})
    found = diagnose_observations(base.weights, base.spec, seen)
    assert not found.same
    assert not found.explained
    assert found.key == found.still == key


def test_a_mistake_is_not_taken_for_rounding() -> None:
    """One whose size is that of bfloat16."""
    found = diagnosed(["norm.eps=0.001"])
    assert not found.same
    assert [cause.set for cause in found.causes] == ["norm.eps=0.001"]


TRAINING_IDS = [mistake.name.replace(" ", "-") for mistake in TRAINING]
TOLD_APART = [mistake for mistake in TRAINING if mistake.check != STEP]


@pytest.mark.parametrize("mistake", rest_in_zoo(TRAINING, TOLD_APART), ids=TRAINING_IDS)
def test_a_mistake_in_training_is_named(mistake) -> None:
    base = right(small(mistake.preset).replace(depths=(1, 1)), 4, mistake.right)
    wanted = named(mistake.planted, base.spec, mistake.right)
    checks = [EVAL, TRAIN, GRADIENTS, STEP] if mistake.check == STEP else [EVAL, TRAIN, GRADIENTS]
    seen = observed(with_mistakes(base, [wanted]), base, dtype="float64", checks=checks)
    found = diagnose_observations(base.weights, base.spec, seen)
    assert found.key == mistake.where
    assert found.explained
    assert [cause.what for cause in found.causes] == [wanted.what]
    assert found.error_after <= found.limit


def test_training_alike_is_the_same() -> None:
    base = right(small(), 4)
    seen = observed(base, base, dtype="float64", checks=[EVAL, TRAIN, GRADIENTS])
    assert diagnose_observations(base.weights, base.spec, seen).same


def test_features_are_compared_where_features_are_returned() -> None:
    base = right(small())
    port = with_mistakes(base, ["block.padding=same"])
    features = Passes(port).get("eval/pool")
    spec = base.spec.replace(num_classes=1000)
    weights = {**base.weights, "head.weight": np.zeros((1000, 64)), "head.bias": np.zeros(1000)}
    seen = observations({"outputs": features}, base.images, spec, "a test")
    found = diagnose_observations(weights, spec, seen)
    assert [cause.set for cause in found.causes] == ["block.padding=same"]


def test_a_layer_may_be_channels_first() -> None:
    base = right(small())
    passes = Passes(with_mistakes(base, ["norm.eps=0.001"]))
    arrays = {
        "stem.norm1": passes.get("eval/stem.norm1").transpose(0, 3, 1, 2),
        "outputs": passes.get("eval/output"),
    }
    found = diagnose_observations(
        base.weights, base.spec, observations(arrays, base.images, base.spec, "a test")
    )
    assert found.key == "eval/stem.norm1"
    assert [cause.set for cause in found.causes] == ["norm.eps=0.001"]
    assert found.notes == ("eval/stem.norm1 is read as [N, C, H, W]",)


@pytest.mark.parametrize(
    ("arrays", "images", "said"),
    [
        ({"outputs": np.zeros((2, 7))}, (2, 64, 64, 3), "expected [N, 10] of classes"),
        ({"outputs": np.zeros((3, 10))}, (2, 64, 64, 3), "there are 2 images"),
        ({"outputs": np.full((2, 10), np.nan)}, (2, 64, 64, 3), "not finite"),
        ({"outputs": np.zeros((2, 10), int)}, (2, 64, 64, 3), "expected a float type"),
        ({"outputs": np.zeros((2, 10))}, (2, 3, 64, 64), "transpose them to [N, H, W, C]"),
        ({"logits": np.zeros((2, 10))}, (2, 64, 64, 3), "neither outputs nor a layer"),
        ({"outputs": np.zeros((2, 10))}, (2, 64, 64), "expected [N, height, width, 3]"),
    ],
)
def test_bad_files_are_refused(arrays, images, said: str) -> None:
    with pytest.raises(CheckpointError) as refusal:
        observations(arrays, np.zeros(images), small(), "port.npz")
    assert said in str(refusal.value)
    assert "port.npz" in str(refusal.value)


def test_a_cause_is_said_in_words_and_not_by_the_name_of_a_field() -> None:
    for preset in ZOO:
        for hypothesis in of_spec(small(preset)):
            assert not [key for key in hypothesis.set if f"{key} is " in hypothesis.what]


def test_plain_sgd_has_no_mistakes_of_adam() -> None:
    plain = PROBE.replace({"optimizer.momentum": 0.0})
    assert not [h.name for h in every(small(), plain) if "Adam" in h.name]


def test_names_of_hypotheses_are_different_and_enough() -> None:
    for preset in ZOO:
        names = [h.name for h in every(small(preset), PROBE)]
        assert len(set(names)) == len(names)
        assert len(names) > 300
