"""Training in Keras: the optimizers' meaning, gradients, steps, and what a trace
records of them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

if os.environ["KERAS_BACKEND"] == "jax":
    os.environ["JAX_ENABLE_X64"] = "1"
keras = pytest.importorskip("keras")

import numpy as np

import resnet_keras
from resnet_keras import ablation, init, layers, optimizers, train
from shared import CheckpointError, ResNetSpec, make_plan, probe_images, probe_weights
from shared.architecture import ops
from shared.architecture.spec import InitSpec
from shared.training.config import PROBE, OptimizerConfig, Training
from shared.verification.recording import CHECKS
from tests.keras_backend_parity import TRAINED, global_state, small, training_trace
from tests.numpy_training import numpy_loss, numpy_step
from tests.probes import relative_error
from tests.training_probes import BATCH, SIDE, batch_for, expected_arrays, masks_for

# Float64 against a few lines of NumPy: worst 3e-16.
EXACT = 1e-14
# The rounding of a loss of 4 over a step of 1e-6: worst 4e-10; gradients are about 1e-2.
DIFFERENCES = 2e-9
# Two backends after ten steps of a small network: worst 2e-13.
BACKENDS = 1e-12

DROPOUT = "ablation/resnet110_dropout_shortcut"
PRESETS = (
    "torchvision/resnet18",
    "keras/resnet50v2",
    "cifar/preresnet20",
    "bit/r50x1",
    "fb/preresnet18",
    DROPOUT,
    "ablation/resnet110_exclusive_gate_b6",
    "ablation/resnet164_norm_after_add",
)


def make_trainer(
    spec: ResNetSpec, training: Training = PROBE, **kwargs: Any
) -> resnet_keras.Trainer:
    model = resnet_keras.build(spec, dtype="float64")
    resnet_keras.load_weights(model, probe_weights(spec, dtype="float64"))
    return resnet_keras.Trainer(model, training, **kwargs)


def to_numpy(tensor: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(tensor))


@pytest.mark.parametrize("decay_norms", [True, False])
@pytest.mark.parametrize(
    "fields",
    [
        {"momentum": 0.0},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"kind": "adam", "eps": 1e-2},
        {"kind": "adam", "betas": (0.0, 0.9)},
        {"kind": "adamw"},
    ],
)
def test_optimizers_mean_what_pytorchs_mean(fields: dict[str, Any], decay_norms: bool) -> None:
    """With another learning rate at every step: a kernel and a bias."""
    optimizer = OptimizerConfig(weight_decay=0.1, decay_norms=decay_norms, **fields)
    rng = np.random.default_rng(0)
    start = [rng.standard_normal((3, 2)), rng.standard_normal(2)]
    gradients = [[rng.standard_normal(w.shape) for w in start] for _ in range(4)]
    rates = [0.1, 0.013, 0.2, 0.007]
    variables = [keras.Variable(w, dtype="float64") for w in start]
    model = SimpleNamespace(
        inputs=[SimpleNamespace(dtype="float64")], trainable_variables=variables
    )
    made = train.make_optimizer(model, optimizer)  # type: ignore[arg-type]
    for step, rate in zip(gradients, rates, strict=True):
        made.learning_rate = rate
        made.apply([keras.ops.convert_to_tensor(g, "float64") for g in step])
    for i, variable in enumerate(variables):
        expected, slots = start[i], {}
        for t, (step, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
            expected = numpy_step(optimizer, expected, step[i], slots, t, rate)
        assert relative_error(to_numpy(variable), expected) <= EXACT
    assert {keras.backend.standardize_dtype(v.dtype) for v in made.variables[1:]} == {"float64"}


def test_adams_corrections_are_exact_in_float32() -> None:
    """1 - 0.999 by a subtraction in float32 is wrong by 1e-5."""
    variable = keras.Variable(np.zeros(1), dtype="float32")
    made = optimizers.Adam(1.0, eps=1e-30)
    made.build([variable])
    made.apply([keras.ops.convert_to_tensor([3.0], "float32")])
    assert abs(to_numpy(variable)[0] + 1) < 1e-6


@pytest.mark.parametrize("kind", [optimizers.SGD, optimizers.Adam, optimizers.AdamW])
def test_optimizers_survive_a_keras_file(kind: Any, tmp_path: Path) -> None:
    """Through `compile`, `fit`, and a saved model that goes on just as the first."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, kernel_initializer="ones")])
    model.compile(kind(0.1, decay=0.2, decay_norms=False), "mse")
    x, y = np.ones((4, 3), "float32"), np.zeros((4, 2), "float32")
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is kind
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    assert (loaded.optimizer.decay, loaded.optimizer.decay_norms) == (0.2, False)
    for trained in (model, loaded):
        trained.fit(x, y, verbose=0)
    assert all(
        np.array_equal(a, b) for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True)
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(4, 7), (4, 3, 2, 7)])
def test_cross_entropy(smoothing: float, shape: tuple[int, ...]) -> None:
    logits, labels = (
        probe_images((4, *(1,) * (4 - len(shape)), *shape[1:]), dtype="float64").reshape(shape),
        [1, 6, 0, 1],
    )  # type: ignore[arg-type]
    found = train.cross_entropy(
        keras.ops.convert_to_tensor(logits, "float64"), np.array(labels), smoothing
    )
    x = logits.mean(axis=(1, 2)) if len(shape) == 4 else logits
    assert to_numpy(found).dtype == np.float64
    assert abs(to_numpy(found) - numpy_loss(x, np.array(labels), smoothing)) <= EXACT


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("unbiased", [True, False])
def test_running_variance_follows_the_plan(unbiased: bool, dtype: str) -> None:
    op = ops.BatchNorm(5, momentum=0.75, unbiased=unbiased)
    norm = layers.Norm2D(op, init.Scope("norm", dtype, InitSpec(), seed=0))
    x = probe_images((2, 2, 1, 5), dtype=dtype)
    norm(keras.ops.convert_to_tensor(x, dtype), training=True)
    expected = 0.75 + 0.25 * op.stored_variance(4) * x.var(axis=(0, 1, 2))
    found = {variable.name: to_numpy(variable) for variable in norm.variables}["moving_variance"]
    assert relative_error(found, expected) <= (EXACT if dtype == "float64" else 1e-6)
    assert type(norm).from_config(norm.get_config()).unbiased is unbiased


def test_a_norm_saved_before_the_field_was_there_stays_biased() -> None:
    config = layers.Norm2D(
        ops.BatchNorm(5), init.Scope("norm", "float32", InitSpec(), seed=0)
    ).get_config()
    del config["unbiased"]
    assert layers.BatchNormalization.from_config(config).unbiased is False


def test_dropout_with_and_without_a_mask() -> None:
    images = keras.Input((8, 8, 16))
    dropout = ablation.Dropout(
        ops.Dropout(0.25), init.Scope("dropout", "float32", InitSpec(), seed=0)
    )
    model = keras.Model(images, dropout(images))
    x = probe_images((8, 8, 8, 16))
    drawn = to_numpy(model(x, training=True))
    kept = drawn != 0
    assert 0.7 < kept.mean() < 0.8
    np.testing.assert_allclose(drawn[kept], x[kept] / 0.75, rtol=1e-6)
    mask = np.random.default_rng(0).random(x.shape) < 0.5
    with ablation.keeping(model, {"dropout": mask}):
        np.testing.assert_allclose(to_numpy(model(x, training=True)), x * mask / 0.75, rtol=1e-6)
        assert np.array_equal(to_numpy(model(x, training=False)), x)
    assert not np.array_equal(to_numpy(model(x, training=True)) != 0, mask)


def test_steps_are_compiled_once_and_masks_are_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled and eager steps are the same; masks and learning rates change from step to step."""
    calls: list[bool] = []  # of Python's, which a compiled step makes only once
    monkeypatch.setattr(
        train, "cross_entropy", lambda *a, f=train.cross_entropy: (calls.append(True), f(*a))[1]
    )
    spec = small(DROPOUT)
    (images, labels), masks = batch_for(spec), masks_for(spec)
    other = masks_for(spec, 1)
    results = []
    for compiled in (True, False):
        trainer = make_trainer(spec, compiled=compiled)
        losses = [
            trainer.step(images, labels, rate, m)
            for rate, m in ((0.1, masks), (0.01, other), (0.05, masks))
        ]
        steps = 3 if keras.backend.backend() == "torch" or not compiled else 1
        assert len(calls) == 2 * steps, "with and without smoothing"
        calls.clear()
        results.append(
            {"losses": np.array(losses), "out": trainer.evaluate(images), **trainer.weights()}
        )
    worst = {name: relative_error(array, results[1][name]) for name, array in results[0].items()}
    assert max(worst.values()) <= EXACT, worst
    trainer.step(images, labels, 0.1)  # without masks


def test_frozen_norms_stay_as_they_are() -> None:
    spec = small("torchvision/resnet18")
    training = Training(label_smoothing=0.1, frozen_norms=True)
    trainer = make_trainer(spec, training, compiled=False)
    images, labels = batch_for(spec)
    before = trainer.weights()
    loss = trainer.step(images, labels, 0.1)
    after = trainer.weights()
    changed = {name for name, array in after.items() if not np.array_equal(array, before[name])}
    assert changed == set(training.trainable(make_plan(spec)))
    assert "stem.norm1.weight" not in changed
    # In training mode, too, the loss is that of the running statistics.
    logits = resnet_keras.trace(make_trainer(spec).model, images)["eval/output"]
    assert (
        abs(loss - to_numpy(train.cross_entropy(keras.ops.convert_to_tensor(logits), labels, 0.1)))
        <= EXACT
    )


@pytest.mark.parametrize(
    "preset", ["torchvision/resnet18", "bit/r50x1", DROPOUT, "ablation/resnet110_shortcut_gate_b6"]
)
def test_gradients_are_differences_of_the_loss(preset: str) -> None:
    """By two numbers of every kind of tensor, and of the images."""
    spec = small(preset)
    trainer = make_trainer(spec)
    (images, labels), masks = batch_for(spec), masks_for(spec)
    weights = trainer.weights()
    found = trainer.gradients(images, labels, masks)
    assert list(found.tensors) == list(PROBE.trainable(make_plan(spec)))
    kinds = {name.split(".", 4 * name.startswith("stages"))[-1]: name for name in found.tensors}
    rng = np.random.default_rng(0)

    def loss(name: str, array: np.ndarray) -> float:
        resnet_keras.load_weights(
            trainer.model, weights if name == "images" else {**weights, name: array}
        )
        return trainer.gradients(array if name == "images" else images, labels, masks).loss

    assert abs(loss("images", images) - found.loss) <= EXACT
    for name, gradient in [
        *((name, found.tensors[name]) for name in kinds.values()),
        ("images", found.images),
    ]:
        array = images if name == "images" else weights[name]
        steepest = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        for at in (steepest, tuple(rng.integers(0, array.shape))):
            sides = []
            for h in (1e-6, -1e-6):
                moved = array.copy()
                moved[at] += h
                sides.append(loss(name, moved))
            assert abs((sides[0] - sides[1]) / 2e-6 - gradient[at]) <= DIFFERENCES, (name, at)


def test_loss_without_smoothing_is_given_too() -> None:
    spec = small("torchvision/resnet18")
    images, labels = batch_for(spec)
    smoothed = make_trainer(spec, compiled=False).gradients(images, labels)
    plain = make_trainer(spec, Training(), compiled=False).gradients(images, labels)
    assert smoothed.loss != smoothed.unsmoothed
    assert smoothed.unsmoothed == plain.unsmoothed == plain.loss


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_training_resumes_bit_for_bit(kind: Any) -> None:
    spec = small("torchvision/resnet18")
    training = Training(optimizer=OptimizerConfig(kind=kind))
    images, labels = batch_for(spec)
    first = make_trainer(spec, training, compiled=False)
    first.step(images, labels, 0.01)
    saved, state, steps = first.weights(), first.state(), first.steps
    assert steps == 1
    second = make_trainer(spec, training, compiled=False)
    resnet_keras.load_weights(second.model, saved)
    second.load_state(state, steps)
    for array in (*saved.values(), *state.values()):
        array.fill(7)  # what was saved and loaded is a copy
    assert first.step(images, labels, 0.02) == second.step(images, labels, 0.02)
    for one, other in ((first.weights(), second.weights()), (first.state(), second.state())):
        assert [name for name, array in one.items() if not np.array_equal(array, other[name])] == []


@pytest.mark.parametrize("mistake", ["missing", "unexpected", "shape", "not finite", "not exact"])
def test_refused_state_leaves_the_optimizer_as_it_was(mistake: str) -> None:
    spec = small("torchvision/resnet18")
    model = resnet_keras.build(spec)
    trainer = resnet_keras.Trainer(model, PROBE)
    state = {name: array + 1 for name, array in trainer.state().items()}
    key = "momentum_buffer/head.bias"
    if mistake == "missing":
        del state[key]
    elif mistake == "unexpected":
        state["momentum_buffer/head.gamma"] = state[key]
    elif mistake == "shape":
        state[key] = state[key][:1]
    elif mistake == "not finite":
        state[key][0] = np.nan
    else:
        state[key] = state[key].astype("float64") + 1e-12
    with pytest.raises(CheckpointError, match=mistake):
        trainer.load_state(state, 3)
    assert trainer.steps == 0
    assert not any(array.any() for array in trainer.state().values())


@pytest.mark.parametrize("preset", PRESETS)
def test_trace_records_what_every_trace_records(preset: str) -> None:
    """Names, shapes, order and dtype; and the model is left as it was."""
    assert_records(small(preset), PROBE)


def test_trace_of_other_heads_and_optimizers() -> None:
    frozen = Training(optimizer=OptimizerConfig(kind="adamw"), frozen_norms=True)
    assert_records(small("fb/preresnet18", num_classes=0, head_pool="none"), frozen)


def assert_records(spec: ResNetSpec, training: Training) -> None:
    model = make_trainer(spec).model
    before, state = global_state(), resnet_keras.export_weights(model)
    trace = resnet_keras.trace(
        model, batch_for(spec)[0], checks=tuple(reversed(CHECKS)), training=training
    )
    assert [(name, trace[name].shape) for name in trace.names] == expected_arrays(
        spec, CHECKS, training
    )
    assert [name for name in trace.names if trace[name].dtype != np.float64] == []
    assert Training.from_json(trace.about["training"]) == training
    assert {"labels", "weights", "images"} <= set(trace.about)
    assert global_state() == before
    assert [
        name
        for name, array in resnet_keras.export_weights(model).items()
        if not np.array_equal(array, state[name])
    ] == []


def test_half_precision_trains() -> None:
    spec = small("torchvision/resnet18")
    model = resnet_keras.build(spec, dtype="bfloat16")
    trace = resnet_keras.trace(model, probe_images((BATCH, SIDE, SIDE, 3)), checks=CHECKS)
    assert {
        name: trace[name].dtype for name in trace.names if not np.isfinite(trace[name]).all()
    } == {}
    assert trace["grad/head.bias"].dtype == trace["step10/head.bias"].dtype == np.float32


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends(backend: str, tmp_path: Path) -> None:
    """The same training, and no change of global state."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_ENABLE_X64": "1"}
    file = tmp_path / "trace.npz"
    command = [sys.executable, "-m", "tests.keras_backend_parity", str(file)]
    root = Path(__file__).parents[2]
    run = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == {"changed": []}
    with np.load(file) as found:
        for preset in TRAINED:
            expected = training_trace(preset)
            errors = {
                n: relative_error(found[f"{preset}/{n}"], expected[n]) for n in expected.names
            }
            assert {name: error for name, error in errors.items() if not error <= BACKENDS} == {}
