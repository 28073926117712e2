"""What every `Trainer` keeps to: the optimizers' meaning, gradients, steps, and going on from a
state.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from shared import CheckpointError, ResNetSpec, make_plan
from shared.training.config import PROBE, OptimizerConfig, Training
from tests.contract.sides import SIDES, SOON, SOONEST, Side
from tests.numpy_training import OPTIMIZERS, RATES, numpy_loss, numpy_step
from tests.parity.rendering import FRAMEWORKS
from tests.probes import relative_error, same_weights, small
from tests.training_probes import (
    BIASED,
    DROPOUT,
    FROZEN,
    REFUSED_STATES,
    UNBIASED,
    batch_for,
    masks_for,
)
from tests.zoo import rest_in_zoo

# Float64, four steps against NumPy's, relative to the tensor's largest value. Measured: 5.1e-16.
STEP_LIMIT = 1e-14

# Float64, one loss by two ways. Measured: 2.2e-16.
LOSS_LIMIT = 1e-14

# Against central differences of width 2e-6, relative to the tensor's largest value, or to 1e-2: the
# rounding of the loss over the width.
DIFFERENCE_LIMIT = 1e-6


@pytest.mark.parametrize(
    ("side", "name"),
    rest_in_zoo(
        itertools.product(SIDES, OPTIMIZERS),
        [
            *itertools.product(SOONEST, OPTIMIZERS),
            *((("keras", "flax")[i % 2], name) for i, name in enumerate(OPTIMIZERS)),
        ],
    ),
    indirect=["side"],
)
def test_optimizers_mean_what_numpy_says(side: Side, name: str) -> None:
    """With other gradients and another learning rate at every step; biases and norms are among the
    parameters.
    """
    spec, optimizer = small(BIASED, (1,)), OPTIMIZERS[name]
    trainer, shapes = side.trainer(spec, Training(optimizer=optimizer)), make_plan(spec).tensors
    weights = {name: trainer.weights()[name] for name in Training().trainable(make_plan(spec))}
    slots: dict[str, dict] = {name: {} for name in weights}
    for t, rate in enumerate(RATES, start=1):
        given = {n: np.random.default_rng(t).standard_normal(shapes[n]) for n in weights}
        side.update(trainer, given, rate)
        weights = {
            n: numpy_step(optimizer, w, given[n], slots[n], t, rate) for n, w in weights.items()
        }
        after = trainer.weights()
        assert max(relative_error(after[name], w) for name, w in weights.items()) <= STEP_LIMIT
    state = trainer.state()
    assert sorted(state) == sorted(f"{slot}/{name}" for slot in optimizer.slots for name in weights)
    for key, array in state.items():
        slot, _, name = key.partition("/")
        assert relative_error(array, slots[name][slot]) <= STEP_LIMIT


@pytest.mark.parametrize(
    ("side", "name"),
    rest_in_zoo(
        itertools.product(SIDES, ["nesterov", "adamw-kernels"]),
        [
            *itertools.product(SOONEST, ["nesterov"]),
            *itertools.product((*SOONEST, "keras"), ["adamw-kernels"]),
        ],
    ),
    indirect=["side"],
)
def test_a_step_is_the_update_by_its_gradients(side: Side, name: str) -> None:
    spec, optimizer = small(BIASED, (1,)), OPTIMIZERS[name]
    trainer = side.trainer(spec, Training(optimizer=optimizer, label_smoothing=0.1))
    batch, slots = batch_for(spec), {name: {} for name in Training().trainable(make_plan(spec))}
    for t, rate in enumerate(RATES[:2], start=1):
        before, found = trainer.weights(), trainer.gradients(*batch)
        assert trainer.step(*batch, rate) == pytest.approx(found.loss, rel=LOSS_LIMIT)
        after = trainer.weights()
        for name, of in slots.items():
            expected = numpy_step(optimizer, before[name], found.tensors[name], of, t, rate)
            assert relative_error(after[name], expected) <= STEP_LIMIT
    assert trainer.steps == 2


def test_adams_corrections_are_exact_in_float32(side: Side) -> None:
    """1 - 0.999 by a subtraction in float32 is wrong in the fifth digit."""
    adam = OptimizerConfig(kind="adam", betas=(0.9, 0.999), eps=1e-3, weight_decay=0.0)
    spec = small(UNBIASED, (1,))
    with side.precision("float32"):
        model = side.loaded(spec, "float32")
        weights = side.package.export_weights(model)
        side.package.load_weights(
            model, {**weights, "head.bias": np.zeros_like(weights["head.bias"])}
        )
        trainer, plan = side.trainer_of(model, Training(optimizer=adam)), make_plan(spec)
        shapes = {name: plan.tensors[name] for name in trainer.training.trainable(plan)}
        side.update(trainer, {n: np.full(s, 1e-3, np.float32) for n, s in shapes.items()}, 1.0)
        # Both averages are corrected to the gradient: it is divided by its own size plus eps.
        np.testing.assert_allclose(trainer.weights()["head.bias"], -0.5, rtol=5e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 2, 7)], ids=str)
def test_cross_entropy_is_numpys(side: Side, shape: tuple[int, ...], smoothing: float) -> None:
    logits, labels = 3 * np.random.default_rng(0).standard_normal(shape), np.array([0, 6, 2, 2, 5])
    found = side.cross_entropy(logits, labels, smoothing)
    assert found.dtype == np.float64
    expected = numpy_loss(logits.reshape(5, -1, 7).mean(axis=1), labels, smoothing)
    assert float(found) == pytest.approx(expected, rel=LOSS_LIMIT)


DIFFERENTIATED = [
    (UNBIASED, "probe"),
    (UNBIASED, "frozen"),
    (BIASED, "probe"),
    (BIASED, "frozen"),
    ("cifar/preresnet20", "probe"),
    ("bit/r50x1", "probe"),
    ("fb/preresnet18", "probe"),
    ("timm/resnet50d", "probe"),
    (DROPOUT, "probe"),
    ("ablation/resnet110_exclusive_gate_b6", "probe"),
    ("ablation/resnet110_shortcut_gate_b6", "probe"),
    ("ablation/resnet110_norm_after_add", "probe"),
    ("ablation/resnet110_act_before_add", "probe"),
]
# Every kind of norm and dropout in PyTorch; the others' gradients are held to the reference's in
# `tests/parity`.
DIFFERENTIATED_SHORT = [
    *(("torch", UNBIASED, "probe"), ("torch", BIASED, "frozen")),
    *(("torch", "bit/r50x1", "probe"), ("torch", DROPOUT, "probe")),
]


@pytest.mark.parametrize(  # for the reference, see its own tests
    ("side", "preset", "training"),
    rest_in_zoo(
        [(side, *case) for side in FRAMEWORKS for case in DIFFERENTIATED],
        DIFFERENTIATED_SHORT,
        [(("torch", "keras", "flax")[i % 3], *case) for i, case in enumerate(DIFFERENTIATED)],
    ),
    indirect=["side"],
)
def test_gradients_are_central_differences(side: Side, preset: str, training: str) -> None:
    """At the steepest and a random place of a tensor of every kind, and of the images."""
    spec = small(preset)
    trainer = side.trainer(spec, {"probe": PROBE, "frozen": FROZEN}[training])
    (images, labels), masks, rng = batch_for(spec), masks_for(spec), np.random.default_rng(1)
    weights, found = trainer.weights(), trainer.gradients(images, labels, masks)
    assert sorted(found.tensors) == sorted(trainer.training.trainable(make_plan(spec)))

    def loss(name: str, array: np.ndarray) -> float:
        moved = weights if name == "images" else {**weights, name: array}
        side.package.load_weights(trainer.model, moved)
        return side.loss(trainer, array if name == "images" else images, labels, masks)

    assert loss("images", images) == pytest.approx(found.loss, rel=LOSS_LIMIT)
    gradients, given = {**found.tensors, "images": found.images}, {**weights, "images": images}
    for name in [*one_of_each_kind(list(found.tensors), rng), "images"]:
        gradient, array = gradients[name], given[name]
        steepest = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        for place in (steepest, tuple(rng.integers(0, array.shape))):
            sides = []
            for width in (1e-6, -1e-6):
                moved = array.copy()
                moved[place] += width
                sides.append(loss(name, moved))
            difference = (sides[0] - sides[1]) / 2e-6
            # A convolution's bias in front of a batch norm has the gradient 0.
            scale = max(np.abs(gradient).max(), 1e-2)
            assert abs(difference - gradient[place]) <= DIFFERENCE_LIMIT * scale, (name, place)


def one_of_each_kind(names: list[str], rng: np.random.Generator) -> list[str]:
    """A tensor's kind is its layer's name in the block, and its leaf."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(name.split(".", 4 * name.startswith("stages"))[-1], []).append(name)
    return [kind[rng.integers(len(kind))] for kind in kinds.values()]


@pytest.mark.parametrize("side", rest_in_zoo(SIDES, SOON), indirect=True)
def test_gradients_leave_parameters_and_move_statistics(side: Side) -> None:
    spec = small(UNBIASED, (1,))
    trainer = side.trainer(spec)
    before, found, after = trainer.weights(), trainer.gradients(*batch_for(spec)), trainer.weights()
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {
        name for name in before if ".running_" in name
    }
    plain = side.trainer(spec, Training()).gradients(*batch_for(spec))
    assert found.loss != found.unsmoothed
    assert found.unsmoothed == plain.unsmoothed == plain.loss


@pytest.mark.parametrize("side", rest_in_zoo(SIDES, SOON), indirect=True)
def test_a_feature_map_averages_to_logits(side: Side) -> None:
    spec = small(UNBIASED, (1,), num_classes=0, **{"head.pool": "none"})
    trainer, (images, labels) = side.trainer(spec, Training()), batch_for(spec)
    trace = side.package.trace(trainer.model, images, checks=("eval", "train"))
    found, output = trainer.gradients(images, labels), trace["train/output"]
    assert output.ndim == 4
    expected = numpy_loss(output.mean((1, 2)), labels, 0.0)
    assert found.loss == found.unsmoothed == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("side", rest_in_zoo(SIDES, SOON), indirect=True)
def test_evaluation_is_that_of_a_trace_and_does_not_disturb_training(side: Side) -> None:
    """Whatever mode a model is in, a trainer trains it, and evaluates it by its running
    statistics.
    """
    spec = small(BIASED, (1,))
    images, labels = batch_for(spec)
    disturbed = side.loaded(spec)
    expected = side.package.trace(disturbed, images)["eval/output"]
    side.disturb(disturbed)
    one, other = side.trainer(spec), side.trainer_of(disturbed)
    np.testing.assert_array_equal(one.evaluate(images), expected)
    for _ in range(2):
        assert one.step(images, labels, 0.01) == other.step(images, labels, 0.01)
        one.evaluate(images)
    assert same_weights(one.weights(), other.weights())
    assert relative_error(one.evaluate(images), expected) > 1e-3


def test_the_right_images_of_a_step_are_counted(side: Side) -> None:
    spec = small(UNBIASED, (1,))
    trainer, (images, labels) = side.trainer(spec), batch_for(spec)
    output = side.package.trace(trainer.model, images, checks=("train",))["train/output"]
    trainer.step(images, output.argmax(axis=1), 0.01)
    assert trainer.correct == len(images)
    trainer.step(images, (labels + 1) % spec.num_classes, 0.01)
    assert trainer.correct < len(images)


RESUMED_BY = ("sgd", "nesterov", "adam-decay", "adamw-kernels")
RESUMED = [
    *itertools.product(SIDES, RESUMED_BY, ("float64", "float32", "bfloat16"), ("state", "files"))
]
# Each dtype, each slot and both ways; where a step is compiled, one of them.
RESUMED_SHORT = [
    *((side, "adamw-kernels", "float32", "files") for side in SIDES),
    *((side, "nesterov", "float64", "state") for side in SOONEST),
    *((side, "adam-decay", "bfloat16", "files") for side in SOONEST),
]


@pytest.mark.parametrize(
    ("side", "name", "dtype", "way"), rest_in_zoo(RESUMED, RESUMED_SHORT), indirect=["side"]
)
def test_training_goes_on_bit_for_bit(
    side: Side, name: str, dtype: str, way: str, tmp_path: Path
) -> None:
    """From weights and state as arrays, and from the files that `save` writes."""
    if dtype == "bfloat16" and not side.trains_in_half_precision:
        pytest.skip(f"{side.name} trains in float32 and float64")
    training, spec = Training(optimizer=OPTIMIZERS[name]), small(DROPOUT, (1,))
    batch, masks = batch_for(spec), masks_for(spec)
    with side.precision(dtype):
        straight = side.trainer(spec, training, dtype)
        for rate in RATES[:2]:
            straight.step(*batch, rate, masks)
        resumed = side.trainer_of(side.package.build(spec, seed=7, dtype=dtype), training)
        if way == "state":
            side.package.load_weights(resumed.model, straight.weights())
            resumed.load_state(straight.state(), straight.steps)
        else:
            straight.save(tmp_path)
            resumed.restore(tmp_path)
        assert resumed.steps == straight.steps == 2
        assert same_weights(resumed.state(), straight.state())
        for rate in RATES[2:]:
            assert straight.step(*batch, rate, masks) == resumed.step(*batch, rate, masks)
        assert resumed.steps == straight.steps == len(RATES)
        assert same_weights(resumed.weights(), straight.weights())
        assert same_weights(resumed.state(), straight.state())
        assert {array.dtype.name for array in resumed.weights().values()} == {dtype}


@pytest.mark.parametrize("side", rest_in_zoo(SIDES, SOON), indirect=True)
def test_a_fresh_state_is_zeros_that_change_nothing(side: Side) -> None:
    spec = small(UNBIASED, (1,))
    one, other = side.trainer(spec), side.trainer(spec)
    assert not any(array.any() for array in one.state().values())
    other.load_state(one.state(), 0)
    assert one.step(*batch_for(spec), 0.01) == other.step(*batch_for(spec), 0.01)
    assert same_weights(one.weights(), other.weights())


@pytest.mark.parametrize(("damage", "said"), REFUSED_STATES.values(), ids=REFUSED_STATES)
def test_a_refused_state_leaves_the_trainer_unchanged(side: Side, damage, said: str) -> None:
    with side.precision("float32"):
        trainer = side.trainer(
            small(UNBIASED, (1,)), Training(optimizer=OPTIMIZERS["adam"]), "float32"
        )
        kept = {key: np.full_like(array, 0.5) for key, array in trainer.state().items()}
        trainer.load_state(kept, 3)
        damaged = dict(kept)
        damage(damaged)
        with pytest.raises(CheckpointError, match=rf"{said}.*head\.|head\..*{said}"):
            trainer.load_state(damaged, 5)
        assert same_weights(trainer.state(), kept)
        assert trainer.steps == 3


def test_arrays_are_copied_both_ways(side: Side) -> None:
    trainer = side.trainer(small(UNBIASED, (1,)))
    given = {key: np.full_like(array, 0.5) for key, array in trainer.state().items()}
    weights = trainer.weights()
    trainer.load_state(given, 1)
    for arrays in (given, trainer.state(), trainer.weights()):
        for array in arrays.values():
            array[:] = 7.0
    assert {float(v) for array in trainer.state().values() for v in np.unique(array)} == {0.5}
    assert same_weights(trainer.weights(), weights)


@pytest.mark.parametrize(
    ("side", "name"),
    rest_in_zoo(
        itertools.product(SIDES, ["momentum", "adam", "adamw"]),
        [*itertools.product(SOONEST, ["adam"]), ("keras", "momentum"), ("flax", "adamw")],
    ),
    indirect=["side"],
)
def test_a_float64_trainer_is_float64_all_through(side: Side, name: str) -> None:
    spec = small(BIASED, (1,))
    trainer, batch = side.trainer(spec, Training(optimizer=OPTIMIZERS[name])), batch_for(spec)
    trainer.step(*batch, 0.01)
    found = trainer.gradients(*batch)
    arrays = [found.images, trainer.evaluate(batch[0])]
    for group in (found.tensors, trainer.weights(), trainer.state()):
        arrays += group.values()
    assert {array.dtype.name for array in arrays} == {"float64"}
    assert set(side.kept_by(trainer)) == {"float64"}
    assert found.loss != float(np.float32(found.loss))


def spec_of_masks() -> ResNetSpec:
    spec = small(DROPOUT, (1,))
    assert masks_for(spec)
    return spec


@pytest.mark.parametrize("side", rest_in_zoo(SIDES, SOON), indirect=True)
def test_masks_decide_a_step_and_are_gone_after_it(side: Side) -> None:
    spec = spec_of_masks()
    trainer, batch = side.trainer(spec), batch_for(spec)
    masks, other = masks_for(spec), masks_for(spec, 1)
    losses = [trainer.gradients(*batch, given).loss for given in (masks, masks, other)]
    assert losses[0] == losses[1] != losses[2]
    trainer.step(*batch, 0.0, masks)
    drawn = trainer.gradients(*batch).loss
    trainer.step(*batch, 0.0)
    assert len({*losses, drawn, trainer.gradients(*batch).loss}) == 4


@pytest.mark.parametrize(
    ("side", "preset"),
    rest_in_zoo(
        itertools.product(SIDES, [UNBIASED, "bit/r50x1", BIASED]),
        [*itertools.product(SOON, [UNBIASED]), *itertools.product(SOONEST, ["bit/r50x1"])],
    ),
    indirect=["side"],
)
def test_frozen_norms_stay_as_they_are(side: Side, preset: str) -> None:
    """And batch norms use their running statistics in training, too."""
    spec = small(preset, (1,))
    trainer, (images, labels) = side.trainer(spec, FROZEN), batch_for(spec)
    before, trained = trainer.weights(), set(FROZEN.trainable(make_plan(spec)))
    trace = side.package.trace(trainer.model, images, checks=("eval", "train"), training=FROZEN)
    np.testing.assert_array_equal(trace["train/output"], trace["eval/output"])
    found = trainer.gradients(images, labels)
    expected = numpy_loss(trace["eval/output"], labels, FROZEN.label_smoothing)
    assert found.loss == pytest.approx(expected, rel=1e-13)
    for rate in RATES[:2]:
        trainer.step(images, labels, rate)
    after = trainer.weights()
    assert "stem.conv1.weight" in trained < set(before)
    assert {name for name in before if not np.array_equal(before[name], after[name])} == trained
    assert found.tensors.keys() == trained
    slots = FROZEN.optimizer.slots
    assert trainer.state().keys() == {f"{slot}/{name}" for slot in slots for name in trained}
