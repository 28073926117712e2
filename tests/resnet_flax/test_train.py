"""Training in Flax: optax means what `shared.training.config` says, steps are compiled, and
training is resumed.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
nnx = pytest.importorskip("flax.nnx")
pytest.importorskip("optax")

import jax.numpy as jnp

import resnet_flax
from resnet_flax import Trainer
from resnet_flax.model import ResNet
from resnet_flax.train import canonical_name, cross_entropy, make_optimizer
from shared import CheckpointError, FrameworkError, make_plan
from shared.training.config import PROBE, OptimizerConfig, Training
from shared.weights.canonical import to_channels_last
from tests import numpy_training
from tests.flax_models import BIASED, DROPOUT, UNBIASED, loaded, sample
from tests.numpy_training import RATES, numpy_loss, numpy_step
from tests.probes import relative_error, same_weights
from tests.training_probes import REFUSED_STATES, batch_for, masks_for

pytestmark = pytest.mark.usefixtures("x64")

# Float64, a step of optax against NumPy's, relative to the largest value. Measured: 5.1e-16.
STEP_LIMIT = 1e-14

# Float64, the same loss as one program and layer by layer, after three steps. Measured: the same
# bits.
SAME_LIMIT = 1e-12

# Adam also where it keeps no mean of the gradients.
OPTIMIZERS = numpy_training.OPTIMIZERS | {
    "adam": OptimizerConfig(kind="adam", betas=(0.0, 0.9), eps=1e-3, weight_decay=0.0)
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_mean_what_numpy_says(optimizer: OptimizerConfig) -> None:
    """With another learning rate and other gradients at every step, biases and norms among the
    parameters.
    """
    model = loaded(BIASED, depths=(1,))
    trainer, plan = Trainer(model, Training(optimizer=optimizer)), make_plan(model.spec)
    names = Training().trainable(plan)
    weights = {name: trainer.weights()[name] for name in names}
    slots: dict[str, dict] = {name: {} for name in names}
    update = nnx.jit(
        lambda optimizer, model, g, rate: optimizer.update(model, g, learning_rate=rate)
    )
    for t, rate in enumerate(RATES, start=1):
        given = {n: np.random.default_rng(t).standard_normal(plan.tensors[n]) for n in names}
        update(trainer.optimizer, model, as_gradients(model, given), jnp.asarray(rate))
        weights = {
            n: numpy_step(optimizer, w, given[n], slots[n], t, rate) for n, w in weights.items()
        }
        after = trainer.weights()
        assert max(relative_error(after[name], w) for name, w in weights.items()) <= STEP_LIMIT
    assert trainer.steps == len(RATES)
    state = trainer.state()
    assert sorted(state) == sorted(f"{slot}/{name}" for slot in optimizer.slots for name in names)
    for key, array in state.items():
        slot, _, name = key.partition("/")
        assert relative_error(array, slots[name][slot]) <= STEP_LIMIT


def as_gradients(model: ResNet, arrays: dict[str, np.ndarray]) -> nnx.State:
    """Canonical arrays as `nnx.grad` would give them."""
    return nnx.map_state(
        lambda path, p: p.replace(jnp.asarray(to_channels_last("", arrays[canonical_name(path)]))),
        nnx.state(model, nnx.Param),
    )


def test_adams_corrections_are_exact_in_float32() -> None:
    """1 - 0.999 ** 1 in float32 is wrong in the fifth digit, and so is the first step of
    `optax.adam`.
    """
    with jax.enable_x64(False):
        model = loaded(UNBIASED, "float32", depths=(1,))
        optimizer = make_optimizer(
            model, OptimizerConfig(kind="adam", betas=(0.9, 0.999), eps=1e-3, weight_decay=0.0)
        )
        before = np.asarray(model.head.bias[...], np.float64)
        shapes = make_plan(model.spec).tensors
        gradients = as_gradients(
            model, {name: np.full(shape, 1e-3, np.float32) for name, shape in shapes.items()}
        )
        update = nnx.jit(
            lambda optimizer, model, g, rate: optimizer.update(model, g, learning_rate=rate)
        )
        updates = update(optimizer, model, gradients, jnp.float32(1.0))
        # Both averages are corrected to the gradient: it is divided by its own size plus eps.
        np.testing.assert_allclose(updates["head"]["bias"], -0.5, rtol=5e-7)
        np.testing.assert_allclose(model.head.bias[...], before - 0.5, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 2, 7)], ids=str)
def test_cross_entropy_is_numpys(shape: tuple[int, ...], smoothing: float) -> None:
    rng = np.random.default_rng(0)
    output, labels = rng.standard_normal(shape), rng.integers(0, 7, 5)
    found = cross_entropy(jnp.asarray(output), jnp.asarray(labels), smoothing)
    logits = output if output.ndim == 2 else output.mean((1, 2))
    assert found.dtype == jnp.float64
    assert float(found) == pytest.approx(numpy_loss(logits, labels, smoothing), rel=1e-14)


def test_a_compiled_step_is_the_layerwise_one_and_compiled_once() -> None:
    spec = sample(DROPOUT, depths=(1,))
    batch = batch_for(spec)
    whole, layerwise = (
        Trainer(loaded(DROPOUT, depths=(1,)), PROBE, compiled=compiled)
        for compiled in (True, False)
    )
    expected = [
        layerwise.step(*batch, rate, masks_for(spec, i)) for i, rate in enumerate(RATES[:3])
    ]
    found = [whole.step(*batch, RATES[0], masks_for(spec, 0))]
    compiled: list[str] = []

    def count(event: str, seconds: float, **_: Any) -> None:
        compiled.extend([event] if "backend_compile" in event else [])

    jax.monitoring.register_event_duration_secs_listener(count)
    found += [whole.step(*batch, rate, masks_for(spec, i)) for i, rate in enumerate(RATES[:3]) if i]
    assert compiled == []  # the learning rate and the masks are arguments
    np.testing.assert_allclose(found, expected, rtol=SAME_LIMIT)
    for a, b in ((whole.weights(), layerwise.weights()), (whole.state(), layerwise.state())):
        assert max(relative_error(a[name], b[name]) for name in b) <= SAME_LIMIT
    np.testing.assert_allclose(
        whole.evaluate(batch[0]), layerwise.evaluate(batch[0]), rtol=0, atol=SAME_LIMIT
    )
    one, other = (
        whole.gradients(*batch, masks_for(spec)),
        layerwise.gradients(*batch, masks_for(spec)),
    )
    assert one.loss == pytest.approx(other.loss, rel=SAME_LIMIT)
    assert relative_error(one.images, other.images) <= SAME_LIMIT
    assert compiled  # the listener works


def test_the_mode_of_the_model_is_neither_read_nor_changed() -> None:
    one, other = (Trainer(loaded(UNBIASED, depths=(1,)), PROBE, compiled=False) for _ in range(2))
    other.model.eval()
    before, batch = nnx.graphdef(other.model), batch_for(one.model.spec)
    assert one.step(*batch, 0.01) == other.step(*batch, 0.01)
    one.evaluate(batch[0])
    assert one.step(*batch, 0.01) == other.step(*batch, 0.01)
    assert nnx.graphdef(other.model) == before
    assert same_weights(one.weights(), other.weights())


def test_gradients_leave_parameters_and_move_statistics() -> None:
    model = loaded(UNBIASED, depths=(1,))
    before = resnet_flax.export_weights(model)
    found = Trainer(model, PROBE, compiled=False).gradients(*batch_for(model.spec))
    after = resnet_flax.export_weights(model)
    assert all(
        (".running_" in name) != np.array_equal(before[name], after[name]) for name in before
    )
    assert found.loss != found.unsmoothed


def test_a_feature_map_averages_to_logits() -> None:
    model = loaded(UNBIASED, depths=(1,), num_classes=0, **{"head.pool": "none"})
    images, labels = batch_for(model.spec)
    found = Trainer(nnx.clone(model), PROBE, compiled=False).gradients(images, labels)
    output = resnet_flax.trace(model, images, checks=("train",))["train/output"]
    logits = jnp.asarray(output.mean((1, 2)))
    assert output.ndim == 4
    assert found.unsmoothed == pytest.approx(
        float(cross_entropy(logits, jnp.asarray(labels), 0.0)), rel=1e-13
    )


@pytest.mark.parametrize(
    ("name", "dtype", "compiled"),
    [
        ("adamw-kernels", "float32", True),
        ("nesterov", "float64", False),
        ("adam-decay", "bfloat16", True),
    ],
)
def test_training_resumes_bit_for_bit(name: str, dtype: str, compiled: bool) -> None:
    training, spec = Training(optimizer=OPTIMIZERS[name]), sample(DROPOUT, depths=(1,))
    batch, masks = batch_for(spec), masks_for(spec)
    with jax.enable_x64(dtype == "float64"):
        straight = Trainer(loaded(DROPOUT, dtype, depths=(1,)), training, compiled=compiled)
        for rate in RATES[:2]:
            straight.step(*batch, rate, masks)
        weights, state, steps = pickle.loads(  # noqa: S301 -- nothing but values goes over
            pickle.dumps((straight.weights(), straight.state(), straight.steps))
        )
        resumed = Trainer(resnet_flax.build(spec, seed=7, dtype=dtype), training, compiled=compiled)
        resnet_flax.load_weights(resumed.model, weights)
        resumed.load_state(state, steps)
        assert same_weights(resumed.state(), straight.state())
        for rate in RATES[2:]:
            assert straight.step(*batch, rate, masks) == resumed.step(*batch, rate, masks)
        assert resumed.steps == straight.steps == len(RATES)
        assert same_weights(resumed.weights(), straight.weights())
        assert same_weights(resumed.state(), straight.state())
        assert {
            array.dtype.name for array in {**resumed.weights(), **resumed.state()}.values()
        } == {dtype}


def test_a_refused_state_leaves_the_trainer_unchanged() -> None:
    trainer = Trainer(
        loaded(UNBIASED, "float32", depths=(1,)), Training(optimizer=OPTIMIZERS["adam"])
    )
    weights = {key: np.full_like(array, 0.5) for key, array in trainer.state().items()}
    trainer.load_state(weights, 3)
    for damage in REFUSED_STATES.values():
        state = dict(weights)
        damage(state)
        with pytest.raises(CheckpointError, match=r"head\."):
            trainer.load_state(state, 5)
        assert same_weights(trainer.state(), weights)
        assert trainer.steps == 3


def test_state_is_copied_both_ways() -> None:
    trainer = Trainer(loaded(UNBIASED, depths=(1,)), PROBE)
    given = {key: np.full_like(array, 0.5) for key, array in trainer.state().items()}
    trainer.load_state(given, 1)
    for arrays in (given, trainer.state()):
        for array in arrays.values():
            array[:] = 7.0
    assert {float(v) for array in trainer.state().values() for v in np.unique(array)} == {0.5}


@pytest.mark.parametrize("name", ["momentum", "adam", "adamw"])
def test_a_float64_trainer_is_float64_all_through(name: str) -> None:
    trainer = Trainer(
        loaded(UNBIASED, depths=(1,)), Training(optimizer=OPTIMIZERS[name]), compiled=False
    )
    batch = batch_for(trainer.model.spec)
    found = trainer.gradients(*batch)
    trainer.step(*batch, 0.01)
    kept = [array for array in jax.tree.leaves(nnx.state(trainer.optimizer)) if array.ndim]
    assert kept
    arrays = [
        *found.tensors.values(),
        found.images,
        *trainer.weights().values(),
        *trainer.state().values(),
        *kept,
    ]
    assert {array.dtype.name for array in [*arrays, trainer.evaluate(batch[0])]} == {"float64"}
    assert found.loss != float(np.float32(found.loss))


def test_float64_is_refused_where_jax_has_none() -> None:
    model = loaded(UNBIASED, depths=(1,))
    with jax.enable_x64(False), pytest.raises(FrameworkError, match="JAX_ENABLE_X64"):
        Trainer(model, PROBE)
