"""Training in Flax: optax means what `shared.training` says, gradients are right, and traces keep the contract."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
nnx = pytest.importorskip("flax.nnx")
optax = pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402

import resnet_flax  # noqa: E402
from resnet_flax import Trainer  # noqa: E402
from resnet_flax.layers import BatchNorm, Dropout, get_layer  # noqa: E402
from resnet_flax.model import ResNet  # noqa: E402
from resnet_flax.train import canonical_name, cross_entropy, in_training, layer_by_layer, make_optimizer  # noqa: E402
from shared import (  # noqa: E402
    CheckpointError,
    FrameworkError,
    ResNetSpec,
    SpecError,
    Trace,
    get_spec,
    make_plan,
    ops,
    probe_images,
    probe_weights,
)
from shared.checks import CHECKS, expected_shapes  # noqa: E402
from shared.presets import miniature  # noqa: E402
from shared.training import (  # noqa: E402
    PROBE,
    Optimizer,
    Training,
    dropout_masks,
    norm_layers,
    num_outputs,
    probe_labels,
)
from shared.weights import to_channels_last  # noqa: E402
from tests.probes import relative_error, same_weights  # noqa: E402

BATCH, SIDE = 4, 32

# Float64, a step of optax against NumPy's, relative to the largest value. Measured: 5.1e-16.
STEP_LIMIT = 1e-14

# Float64, the same loss as one program and layer by layer, after three steps. Measured: the same bits.
SAME_LIMIT = 1e-12

# A gradient against central differences of width 1e-6, relative to the tensor's largest. Measured: 3.8e-8.
DIFFERENCE_LIMIT = 1e-6

BIASED, UNBIASED, DROPOUT = "keras/resnet50v2", "torchvision/resnet18", "ablation/resnet110_dropout_shortcut"
FROZEN = Training(optimizer=Optimizer(kind="adam", decay_norms=False), frozen_norms=True)

# Blocks of each stage: XLA takes its time for every layer that is new.
SAMPLES = {
    "torchvision/resnet18": (1, 1),
    "keras/resnet50v2": (1,),  # biases
    "cifar/preresnet20": (1, 1),
    "bit/r50x1": (1,),  # group norm, weight standardisation
    "fb/preresnet18": (1, 1),
    "ablation/resnet110_dropout_shortcut": (1, 1),
    "ablation/resnet110_exclusive_gate_b6": (1, 1),
}


@pytest.fixture(autouse=True)
def _x64():
    """Float64 for the length of a test."""
    with jax.enable_x64(True):
        yield


def sample(preset: str, **changes: Any) -> ResNetSpec:
    """A miniature of two stages, of a block each."""
    return miniature(get_spec(preset)).replace(**{"depths": (1, 1), **changes})


def loaded(preset: str, dtype: str = "float64", **changes: Any) -> ResNet:
    spec = sample(preset, **changes)
    model = resnet_flax.build(spec, dtype=dtype)
    resnet_flax.load_weights(model, probe_weights(spec, dtype=dtype))
    return model


def batch_for(spec: ResNetSpec, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Float64 images and labels."""
    labels = probe_labels(BATCH, num_outputs(make_plan(spec, SIDE)), seed)
    return probe_images((BATCH, SIDE, SIDE, spec.in_channels), seed, "float64"), labels


def masks_for(spec: ResNetSpec, step: int = 0) -> dict[str, np.ndarray]:
    return dropout_masks(make_plan(spec, SIDE), BATCH, step)


OPTIMIZERS = {
    "sgd": Optimizer(momentum=0.0, weight_decay=0.0),
    "decay": Optimizer(momentum=0.0, weight_decay=0.1),
    "momentum": Optimizer(momentum=0.8, weight_decay=0.0),
    "nesterov": Optimizer(momentum=0.8, nesterov=True, weight_decay=0.1),
    "momentum-decay": Optimizer(momentum=0.8, weight_decay=0.1),
    "momentum-decay-kernels": Optimizer(momentum=0.8, weight_decay=0.1, decay_norms=False),
    "adam": Optimizer(kind="adam", betas=(0.0, 0.9), eps=1e-3, weight_decay=0.0),
    "adam-decay": Optimizer(kind="adam", betas=(0.7, 0.9), eps=1e-3, weight_decay=0.1),
    "adamw": Optimizer(kind="adamw", betas=(0.7, 0.9), eps=1e-3, weight_decay=0.1),
    "adamw-kernels": Optimizer(kind="adamw", betas=(0.7, 0.9), eps=1e-3, weight_decay=0.1, decay_norms=False),
}
RATES = (0.01, 0.03, 0.002, 0.02)


def numpy_step(o: Optimizer, w: np.ndarray, g: np.ndarray, slots: dict, t: int, rate: float) -> np.ndarray:
    """One tensor's step; `slots` are changed in place."""
    decay = o.weight_decay if o.decay_norms or w.ndim > 1 else 0.0
    if o.kind == "adamw":
        w = w - rate * decay * w
    else:
        g = g + decay * w
    if o.kind == "sgd":
        v = slots["momentum_buffer"] = o.momentum * slots.get("momentum_buffer", 0.0) + g
        return w - rate * (g + o.momentum * v if o.nesterov else v)
    (b1, b2), first, second = o.betas, slots.get("exp_avg", 0.0), slots.get("exp_avg_sq", 0.0)
    m, v = slots["exp_avg"], slots["exp_avg_sq"] = b1 * first + (1 - b1) * g, b2 * second + (1 - b2) * g**2
    return w - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + o.eps)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_mean_what_numpy_says(optimizer: Optimizer) -> None:
    """With another learning rate and other gradients at every step, biases and norms among the parameters."""
    model = loaded(BIASED, depths=(1,))
    trainer, plan = Trainer(model, Training(optimizer=optimizer)), make_plan(model.spec)
    names = Training().trainable(plan)
    weights = {name: trainer.weights()[name] for name in names}
    slots: dict[str, dict] = {name: {} for name in names}
    update = nnx.jit(lambda optimizer, model, g, rate: optimizer.update(model, g, learning_rate=rate))
    for t, rate in enumerate(RATES, start=1):
        given = {n: np.random.default_rng(t).standard_normal(plan.tensors[n]) for n in names}
        update(trainer.optimizer, model, as_gradients(model, given), jnp.asarray(rate))
        weights = {n: numpy_step(optimizer, w, given[n], slots[n], t, rate) for n, w in weights.items()}
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
    """1 - 0.999 ** 1 in float32 is wrong in the fifth digit, and so is the first step of `optax.adam`."""
    with jax.enable_x64(False):
        model = loaded(UNBIASED, "float32", depths=(1,))
        optimizer = make_optimizer(model, Optimizer(kind="adam", betas=(0.9, 0.999), eps=1e-3, weight_decay=0.0))
        before = np.asarray(model.head.bias[...], np.float64)
        shapes = make_plan(model.spec).tensors
        gradients = as_gradients(model, {name: np.full(shape, 1e-3, np.float32) for name, shape in shapes.items()})
        update = nnx.jit(lambda optimizer, model, g, rate: optimizer.update(model, g, learning_rate=rate))
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
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = (1 - smoothing) * np.eye(7)[labels] + smoothing / 7
    assert found.dtype == jnp.float64
    assert float(found) == pytest.approx(-(targets * log_p).sum(1).mean(), rel=1e-14)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("unbiased", [True, False])
def test_running_statistics_are_the_plans(unbiased: bool, jit: bool) -> None:
    """And the batch is normalised by its biased variance in both."""
    layer = BatchNorm(ops.BatchNorm(5, eps=1e-3, momentum=0.7, unbiased=unbiased), rngs=nnx.Rngs(0), dtype="float64")
    call = nnx.jit(lambda layer, x: layer(x)) if jit else lambda layer, x: layer(x)
    mean, variance, rng = np.zeros(5), np.ones(5), np.random.default_rng(0)
    for _ in range(2):
        x = rng.standard_normal((2, 3, 1, 5)) * 2 + 1
        y = call(layer, jnp.asarray(x))
        mean = 0.7 * mean + 0.3 * x.mean((0, 1, 2))
        variance = 0.7 * variance + 0.3 * x.var((0, 1, 2)) * (6 / 5 if unbiased else 1)
        np.testing.assert_allclose(layer.mean[...], mean, rtol=1e-14)
        np.testing.assert_allclose(layer.var[...], variance, rtol=1e-14)
        expected = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-3)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-14)
    layer(jnp.asarray(x), use_running_average=True)
    layer.eval()
    layer(jnp.asarray(x))
    np.testing.assert_allclose(layer.var[...], variance, rtol=1e-14)


def test_a_single_value_a_channel_has_no_variance() -> None:
    layer = BatchNorm(ops.BatchNorm(3, momentum=0.75), rngs=nnx.Rngs(0), dtype="float64")
    layer(jnp.ones((1, 1, 1, 3)))
    np.testing.assert_array_equal(layer.var[...], 0.75)


def test_dropout_keeps_what_its_mask_keeps() -> None:
    layer = Dropout(ops.Dropout(0.4), rngs=nnx.Rngs(0))
    x, rng = np.random.default_rng(0).standard_normal((2, 3, 4, 5)), np.random.default_rng(1)
    before = nnx.state(layer)
    layer.mask = jnp.asarray(rng.random(x.shape) < 0.6)
    np.testing.assert_allclose(layer(jnp.asarray(x)), x * np.asarray(layer.mask) / 0.6, rtol=1e-15)
    np.testing.assert_array_equal(layer(jnp.asarray(x), deterministic=True), x)
    layer.eval()
    np.testing.assert_array_equal(layer(jnp.asarray(x)), x)
    layer.mask = None
    assert jax.tree.structure(nnx.state(layer)) == jax.tree.structure(before)


def test_dropout_without_a_mask_is_the_stock_layer() -> None:
    layer, stock = Dropout(ops.Dropout(0.4), rngs=nnx.Rngs(3)), nnx.Dropout(0.4, rngs=nnx.Rngs(3))
    assert jax.tree.structure(nnx.state(layer)) == jax.tree.structure(nnx.state(stock))
    ones = jnp.ones((4, 50, 50, 4))
    first, second = np.asarray(layer(ones)), np.asarray(layer(ones))
    np.testing.assert_array_equal(first, stock(ones))
    assert not np.array_equal(first, second)
    np.testing.assert_allclose(np.unique(first), [0.0, 1 / 0.6], rtol=1e-15)
    assert np.mean(first > 0) == pytest.approx(0.6, abs=0.01)  # 4 standard deviations


def test_masks_decide_a_step_and_each_step_draws_its_own() -> None:
    spec, losses = sample(DROPOUT, depths=(1,)), []
    trainer = Trainer(loaded(DROPOUT, depths=(1,)), PROBE, compiled=False)
    for masks in (masks_for(spec), masks_for(spec), masks_for(spec, 1), None, None):
        losses.append(trainer.gradients(*batch_for(spec), masks).loss)
    assert losses[0] == losses[1]
    assert len(set(losses)) == 4
    assert get_layer(trainer.model, "stages.0.blocks.0.dropout").mask is None


def test_a_compiled_step_is_the_layerwise_one_and_compiled_once() -> None:
    spec = sample(DROPOUT, depths=(1,))
    batch = batch_for(spec)
    whole, layerwise = (Trainer(loaded(DROPOUT, depths=(1,)), PROBE, compiled=compiled) for compiled in (True, False))
    expected = [layerwise.step(*batch, rate, masks_for(spec, i)) for i, rate in enumerate(RATES[:3])]
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
    np.testing.assert_allclose(whole.evaluate(batch[0]), layerwise.evaluate(batch[0]), rtol=0, atol=SAME_LIMIT)
    one, other = whole.gradients(*batch, masks_for(spec)), layerwise.gradients(*batch, masks_for(spec))
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


@pytest.mark.parametrize("kind", ["batch", "group"])
def test_frozen_norms_stay_as_they_are(kind: str) -> None:
    model = loaded(UNBIASED, depths=(1,), **{"norm.kind": kind})
    trainer, before = Trainer(model, FROZEN, compiled=False), resnet_flax.export_weights(model)
    images, labels = batch_for(model.spec)
    logits = jnp.asarray(trainer.evaluate(images))
    found = trainer.gradients(images, labels)
    assert found.loss == found.unsmoothed == pytest.approx(float(cross_entropy(logits, labels, 0.0)), rel=1e-13)
    trainer.step(images, labels, 0.01)
    after, norms = trainer.weights(), norm_layers(make_plan(model.spec))
    trained = {name for name in before if name.rpartition(".")[0] not in norms}
    assert len(trained) < len(before)
    assert {name for name in before if not np.array_equal(before[name], after[name])} == trained
    assert found.tensors.keys() == trained
    assert trainer.state().keys() == {f"{slot}/{name}" for slot in ("exp_avg", "exp_avg_sq") for name in trained}


def test_gradients_leave_parameters_and_move_statistics() -> None:
    model = loaded(UNBIASED, depths=(1,))
    before = resnet_flax.export_weights(model)
    found = Trainer(model, PROBE, compiled=False).gradients(*batch_for(model.spec))
    after = resnet_flax.export_weights(model)
    assert all((".running_" in name) != np.array_equal(before[name], after[name]) for name in before)
    assert found.loss != found.unsmoothed


def test_a_feature_map_averages_to_logits() -> None:
    model = loaded(UNBIASED, depths=(1,), num_classes=0, **{"head.pool": "none"})
    images, labels = batch_for(model.spec)
    found = Trainer(nnx.clone(model), PROBE, compiled=False).gradients(images, labels)
    output = resnet_flax.trace(model, images, checks=("train",))["train/output"]
    logits = jnp.asarray(output.mean((1, 2)))
    assert output.ndim == 4
    assert found.unsmoothed == pytest.approx(float(cross_entropy(logits, jnp.asarray(labels), 0.0)), rel=1e-13)


@pytest.mark.parametrize(
    ("name", "dtype", "compiled"),
    [("adamw-kernels", "float32", True), ("nesterov", "float64", False), ("adam-decay", "bfloat16", True)],
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
        assert {array.dtype.name for array in {**resumed.weights(), **resumed.state()}.values()} == {dtype}


REFUSED = {
    "missing": lambda s: s.pop("exp_avg/head.bias"),
    "unexpected": lambda s: s.update({"exp_avg/head.scale": s["exp_avg/head.bias"]}),
    "another-slot": lambda s: s.update({"momentum_buffer/head.bias": s["exp_avg/head.bias"]}),
    "mis-shaped": lambda s: s.update({"exp_avg/head.bias": s["exp_avg/head.bias"][:-1]}),
    "not-finite": lambda s: s.update({"exp_avg/head.bias": np.full(10, np.inf)}),
    "integer": lambda s: s.update({"exp_avg/head.bias": s["exp_avg/head.bias"].astype(int)}),
    "not-exact": lambda s: s.update({"exp_avg/head.bias": s["exp_avg/head.bias"].astype(np.float64) + 1e-12}),
}


def test_a_refused_state_leaves_the_trainer_unchanged() -> None:
    trainer = Trainer(loaded(UNBIASED, "float32", depths=(1,)), Training(optimizer=OPTIMIZERS["adam"]))
    weights = {key: np.full_like(array, 0.5) for key, array in trainer.state().items()}
    trainer.load_state(weights, 3)
    for damage in REFUSED.values():
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
    trainer = Trainer(loaded(UNBIASED, depths=(1,)), Training(optimizer=OPTIMIZERS[name]), compiled=False)
    batch = batch_for(trainer.model.spec)
    found = trainer.gradients(*batch)
    trainer.step(*batch, 0.01)
    kept = [array for array in jax.tree.leaves(nnx.state(trainer.optimizer)) if array.ndim]
    assert kept
    arrays = [*found.tensors.values(), found.images, *trainer.weights().values(), *trainer.state().values(), *kept]
    assert {array.dtype.name for array in [*arrays, trainer.evaluate(batch[0])]} == {"float64"}
    assert found.loss != float(np.float32(found.loss))


def test_float64_is_refused_where_jax_has_none() -> None:
    model = loaded(UNBIASED, depths=(1,))
    with jax.enable_x64(False), pytest.raises(FrameworkError, match="JAX_ENABLE_X64"):
        Trainer(model, PROBE)


@pytest.mark.parametrize(("preset", "training"), [*((preset, PROBE) for preset in SAMPLES), (BIASED, FROZEN)])
def test_a_trace_is_whole_and_right_and_leaves_the_model_as_it_was(preset: str, training: Training) -> None:
    """One test of three things, because XLA takes most of its time for the same programs in all of them."""
    model = loaded(preset, depths=SAMPLES[preset])  # its dropouts draw, but where they have masks
    images, labels = batch_for(model.spec)
    before, state = nnx.graphdef(model), values_of(model)
    trace = resnet_flax.trace(model, images, checks=CHECKS[::-1], training=training)
    assert nnx.graphdef(model) == before
    assert all(np.array_equal(a, b) for a, b in zip(values_of(model), state, strict=True))

    shapes: dict[str, tuple[int, ...]] = {}
    for check in CHECKS:
        shapes |= expected_shapes(check, make_plan(model.spec, SIDE), BATCH, training)
    assert [(name, trace.shape(name)) for name in trace.names] == list(shapes.items())
    assert {trace[name].dtype.name for name in trace.names} == {"float64"}
    assert all(np.isfinite(trace[name]).all() for name in trace.names)
    assert {"training", "labels"} <= trace.about.keys()
    with jax.default_matmul_precision("highest"):  # or all is compiled once more
        assert_gradients_are_differences(trace, model, images, labels, training)


def values_of(model: ResNet) -> list[np.ndarray]:
    """All arrays, the random keys of dropouts among them."""
    leaves = jax.tree.leaves(nnx.state(model))
    keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [np.array(jax.random.key_data(a) if key else a) for a, key in zip(leaves, keys, strict=True)]


def assert_gradients_are_differences(
    trace: Trace, model: ResNet, images: np.ndarray, labels: np.ndarray, training: Training
) -> None:
    """At two random places of a random tensor of every kind, and of the images."""
    weights, rng = probe_weights(model.spec, dtype="float64"), np.random.default_rng(1)
    masks = {name: jnp.asarray(mask) for name, mask in masks_for(model.spec).items()}

    def loss() -> float:
        resnet_flax.load_weights(model, weights)
        logits = layer_by_layer(in_training(model, training, masks))(jnp.array(images))
        return float(cross_entropy(logits, jnp.asarray(labels), training.label_smoothing))

    kinds: dict[str, list[str]] = {}
    for name in training.trainable(make_plan(model.spec)):
        layer, _, leaf = name.rpartition(".")
        kinds.setdefault(f"{layer.rpartition('.')[2].rstrip('123')}.{leaf}", []).append(name)
    names = [kind[rng.integers(len(kind))] for kind in kinds.values()]
    for name, values in [*((name, weights[name]) for name in names), ("input", images)]:
        gradient = trace[f"grad/{name}"]
        for _ in range(2):
            place, losses = tuple(int(rng.integers(n)) for n in values.shape), []
            kept = values[place]
            for width in (1e-6, -1e-6):
                values[place] = kept + width
                losses.append(loss())
            values[place] = kept
            difference = (losses[0] - losses[1]) / 2e-6
            # A convolution's bias in front of a batch norm has the gradient 0.
            assert abs(difference - gradient[place]) <= DIFFERENCE_LIMIT * max(np.abs(gradient).max(), 1e-2), name
    assert loss() == pytest.approx(float(trace["loss"]), rel=SAME_LIMIT)


@pytest.mark.parametrize("preset", [BIASED, UNBIASED])
def test_a_networks_statistics_follow_from_its_activations(preset: str) -> None:
    model = loaded(preset, **{"norm.running_var": "biased" if preset == BIASED else "unbiased"})
    before = resnet_flax.export_weights(model)
    trace = resnet_flax.trace(model, batch_for(model.spec)[0], checks=("train",))
    checked = 0
    for node in make_plan(model.spec, SIDE).nodes():
        if not isinstance(node.op, ops.BatchNorm) or f"train/{node.inputs[0]}" not in trace.names:
            continue
        checked += 1
        x = trace[f"train/{node.inputs[0]}"]
        stored = x.var((0, 1, 2)) * node.op.stored_variance(x[..., 0].size)
        for leaf, moment in (("running_mean", x.mean((0, 1, 2))), ("running_var", stored)):
            key = f"{node.name}.{leaf}"
            expected = node.op.momentum * before[key] + (1 - node.op.momentum) * moment
            np.testing.assert_allclose(trace[f"stats/{key}"], expected, rtol=0, atol=1e-13)
    assert checked >= 3


def test_labels_make_the_trace() -> None:
    model = loaded(UNBIASED, depths=(1,))
    images, labels = batch_for(model.spec)
    default, given, other = (
        resnet_flax.trace(model, images, y, checks=("gradients",)) for y in (None, labels, (labels + 1) % 10)
    )
    assert given["loss"] == default["loss"] != other["loss"]
    assert given.about["labels"] == default.about["labels"] != other.about["labels"]
    assert "labels" not in resnet_flax.trace(model, images).about


def test_unknown_checks_are_refused() -> None:
    model = loaded(UNBIASED, depths=(1,))
    with pytest.raises(SpecError, match="unknown check"):
        resnet_flax.trace(model, batch_for(model.spec)[0], checks=("backward",))


def test_half_precisions_are_widened_in_a_trace() -> None:
    model = loaded(UNBIASED, "bfloat16", depths=(1,))
    trace = resnet_flax.trace(model, batch_for(model.spec)[0], checks=("train",))
    assert trace.dtype == "bfloat16"
    assert {trace[name].dtype.name for name in trace.names} == {"float32"}
