"""Training in PyTorch: the optimizers' meaning in plain NumPy, gradients by differences, resuming, and the trace."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import resnet_torch  # noqa: E402
from resnet_torch.layers import BiasedBatchNorm2d, Dropout, Norm2d  # noqa: E402
from resnet_torch.model import ResNet  # noqa: E402
from resnet_torch.train import Trainer, cross_entropy, forward, to_tensor  # noqa: E402
from shared import CheckpointError, ResNetSpec, SpecError, get_spec, make_plan, ops, probe_images  # noqa: E402
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
from shared.weights import probe_weights  # noqa: E402
from tests.peers import import_torchvision  # noqa: E402
from tests.probes import same_weights  # noqa: E402
from tests.test_peers import TORCHVISION, peer_name  # noqa: E402

BATCH, SIDE = 4, 32

# Float64 against plain NumPy, parameters and slots of four steps. Measured by this file: 4.6e-16.
STEP_LIMIT = 1e-13

# Against central differences of width 2e-6, relative to the tensor's largest value: the differences' own rounding.
# Measured: 2.1e-7.
DIFFERENCE_LIMIT = 1e-5

# Float32 of a compiled network against eager, two steps. Measured: 0.
COMPILED_LIMIT = 1e-5

SAMPLES = [
    "torchvision/resnet18",
    "keras/resnet50v2",
    "cifar/preresnet20",
    "bit/r50x1",
    "fb/preresnet18",
    "timm/resnet50d",
    "ablation/resnet110_dropout_shortcut",
    "ablation/resnet110_exclusive_gate_b6",
    "ablation/resnet110_norm_after_add",
    "ablation/resnet110_act_before_add",
]
BIASED, UNBIASED, DROPOUT = "keras/resnet50", "torchvision/resnet18", "ablation/resnet110_dropout_shortcut"


def loaded(preset: str, dtype: str = "float64", **changes: object) -> ResNet:
    """A miniature with its probe weights."""
    spec = miniature(get_spec(preset)).replace(**changes)
    model = resnet_torch.build(spec, dtype=dtype)
    resnet_torch.load_weights(model, probe_weights(spec, dtype=dtype))
    return model


def batch_for(spec: ResNetSpec, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Float64 images and labels."""
    labels = probe_labels(BATCH, num_outputs(make_plan(spec, SIDE)), seed)
    return probe_images((BATCH, SIDE, SIDE, spec.in_channels), seed, "float64"), labels


def masks_for(spec: ResNetSpec) -> dict[str, np.ndarray]:
    return dropout_masks(make_plan(spec, SIDE), BATCH, 0)


OPTIMIZERS = {
    "sgd": Optimizer(momentum=0.0, weight_decay=0.0),
    "decay": Optimizer(momentum=0.0, weight_decay=0.1),
    "momentum": Optimizer(momentum=0.8, weight_decay=0.0),
    "nesterov": Optimizer(momentum=0.8, nesterov=True, weight_decay=0.1),
    "momentum-decay": Optimizer(momentum=0.8, weight_decay=0.1),
    "momentum-decay-kernels": Optimizer(momentum=0.8, weight_decay=0.1, decay_norms=False),
    "adam": Optimizer(kind="adam", betas=(0.7, 0.9), eps=1e-3, weight_decay=0.0),
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


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-3))


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_mean_what_numpy_says(optimizer: Optimizer) -> None:
    """With another learning rate at every step."""
    model = loaded("keras/resnet50v2")  # has biases
    trainer, batch = Trainer(model, Training(optimizer=optimizer, label_smoothing=0.1)), batch_for(model.spec)
    weights = {name: trainer.weights()[name] for name in trainer.parameters}
    slots: dict[str, dict] = {name: {} for name in weights}
    for t, rate in enumerate(RATES, start=1):
        found = trainer.gradients(*batch)
        weights = {n: numpy_step(optimizer, w, found.tensors[n], slots[n], t, rate) for n, w in weights.items()}
        assert trainer.step(*batch, rate) == found.loss
        after = trainer.weights()
        assert max(relative(after[name], w) for name, w in weights.items()) <= STEP_LIMIT
    assert trainer.steps == len(RATES)
    state = trainer.state()
    assert state.keys() == {f"{slot}/{name}" for slot in optimizer.slots for name in weights}
    for key, array in state.items():
        slot, _, name = key.partition("/")
        assert relative(array, slots[name][slot]) <= STEP_LIMIT


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def numpy_loss(logits: np.ndarray, labels: np.ndarray, smoothing: float) -> float:
    """Of logits [batch, classes]."""
    target = (1 - smoothing) * np.eye(logits.shape[1])[labels] + smoothing / logits.shape[1]
    return float(-(target * log_softmax(logits)).sum(axis=1).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3, 2)], ids=str)
def test_cross_entropy_is_numpys(shape: tuple[int, ...], smoothing: float) -> None:
    logits, labels = 3 * np.random.default_rng(0).standard_normal(shape), np.array([0, 6, 2, 2, 5])
    found = cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels), smoothing)
    assert found.dtype == torch.float64
    expected = numpy_loss(logits.reshape(5, 7, -1).mean(axis=2), labels, smoothing)
    assert found.item() == pytest.approx(expected, rel=1e-14)


def test_a_step_is_torchvisions_bit_for_bit() -> None:
    """As a plain PyTorch program trains torchvision's ResNet-18 in float32."""
    spec = get_spec("torchvision/resnet18", num_classes=10)
    model = resnet_torch.build(spec)
    peer = import_torchvision().models.resnet18(num_classes=10).to(memory_format=torch.channels_last)
    peer.load_state_dict({peer_name(n, TORCHVISION): t for n, t in model.state_dict().items()})
    optimizer = torch.optim.SGD(peer.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    trainer, (images, labels) = Trainer(model, PROBE), batch_for(spec)
    x = torch.from_numpy(images).float().permute(0, 3, 1, 2)
    for rate in RATES[:3]:
        loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(peer(x), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        assert trainer.step(images, labels, rate) == loss.item()
    found = peer.state_dict()
    assert all(torch.equal(t, found[peer_name(n, TORCHVISION)]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("unbiased", [True, False])
def test_running_statistics_are_the_plans(unbiased: bool) -> None:
    """Of the layer alone, and the batch is normalised by its biased variance in both."""
    op = ops.BatchNorm(5, eps=1e-3, momentum=0.7, unbiased=unbiased)
    layer, rng = Norm2d(op).double(), np.random.default_rng(0)
    assert type(layer) is (torch.nn.BatchNorm2d if unbiased else BiasedBatchNorm2d)
    mean, variance = np.zeros(5), np.ones(5)
    for count in (1, 2):
        x = rng.standard_normal((2, 5, 3, 1)) * 2 + 1
        images = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
        y = layer(images)
        batch_mean, batch_variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
        mean = 0.7 * mean + 0.3 * batch_mean
        variance = 0.7 * variance + 0.3 * batch_variance * (6 / 5 if unbiased else 1)
        np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-14)
        np.testing.assert_allclose(layer.running_var.numpy(), variance, rtol=1e-14)
        per_channel = [v.reshape(5, 1, 1) for v in (batch_mean, np.sqrt(batch_variance + 1e-3))]
        np.testing.assert_allclose(y.detach().numpy(), (x - per_channel[0]) / per_channel[1], rtol=0, atol=1e-14)
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert layer.num_batches_tracked == count
    before = layer.running_var.clone()
    layer.eval()(images)
    assert torch.equal(layer.running_var, before)


@pytest.mark.parametrize("preset", [BIASED, UNBIASED, "timm/resnet50d"])
def test_a_networks_statistics_follow_from_its_activations(preset: str) -> None:
    model = loaded(preset)
    before = resnet_torch.export_weights(model)
    trace = resnet_torch.trace(model, batch_for(model.spec)[0], checks=("train",))
    norms = {node.name: node for node in make_plan(model.spec, SIDE).nodes() if isinstance(node.op, ops.BatchNorm)}
    for name, node in norms.items():
        x = trace[f"train/{node.inputs[0]}"]
        stored = x.var((0, 1, 2)) * node.op.stored_variance(x[..., 0].size)
        for leaf, moment in (("running_mean", x.mean((0, 1, 2))), ("running_var", stored)):
            expected = node.op.momentum * before[f"{name}.{leaf}"] + (1 - node.op.momentum) * moment
            np.testing.assert_allclose(trace[f"stats/{name}.{leaf}"], expected, rtol=0, atol=1e-13)
    unbiased = {node.op.unbiased for node in norms.values()}
    assert unbiased == {preset != BIASED}


@pytest.mark.parametrize("preset", [BIASED, UNBIASED])
def test_a_single_value_a_channel_has_no_variance(preset: str) -> None:
    model = loaded(preset)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float64))


def test_dropout_keeps_what_its_mask_keeps() -> None:
    layer, rng = Dropout(ops.Dropout(0.25)), np.random.default_rng(0)
    x, mask = rng.standard_normal((2, 3, 4, 5)), rng.random((2, 4, 5, 3)) >= 0.25
    layer.mask = torch.from_numpy(mask)
    found = layer(torch.from_numpy(x))
    np.testing.assert_array_equal(found.numpy(), x * mask.transpose(0, 3, 1, 2) / 0.75)
    assert torch.equal(layer.eval()(torch.from_numpy(x)), torch.from_numpy(x))


def test_dropout_without_a_mask_is_the_stock_layer() -> None:
    layer, stock, x = Dropout(ops.Dropout(0.25)), torch.nn.Dropout(0.25), torch.ones(100, 100)
    torch.manual_seed(0)
    found = layer(x)
    torch.manual_seed(0)
    assert torch.equal(found, stock(x))
    torch.testing.assert_close(found[found != 0], torch.full_like(found[found != 0], 1 / 0.75))
    assert (found != 0).double().mean() == pytest.approx(0.75, abs=0.02)  # four and a half deviations


def test_masks_decide_a_step_and_are_gone_behind_it() -> None:
    model = loaded(DROPOUT)
    trainer, batch, masks = Trainer(model, PROBE), batch_for(model.spec), masks_for(model.spec)
    assert masks
    assert trainer.gradients(*batch, masks).loss == trainer.gradients(*batch, masks).loss
    dropouts = [module for module in model.modules() if isinstance(module, Dropout)]
    assert [d.mask for d in dropouts] == [None] * len(masks)
    assert trainer.gradients(*batch).loss != trainer.gradients(*batch).loss
    other = masks | {name: ~mask for name, mask in list(masks.items())[:1]}
    assert trainer.gradients(*batch, masks).loss != trainer.gradients(*batch, other).loss


@pytest.mark.parametrize("preset", ["keras/resnet50v2", "bit/r50x1", "torchvision/resnet18"])
def test_frozen_norms_stay_as_they_are(preset: str) -> None:
    model = loaded(preset)
    training = Training(frozen_norms=True)
    trainer, batch, before = Trainer(model, training), batch_for(model.spec), resnet_torch.export_weights(model)
    norms = norm_layers(make_plan(model.spec))
    frozen = {name for name in before if name.rpartition(".")[0] in norms}
    for rate in (0.01, 0.02):
        trainer.step(*batch, rate)
    after = trainer.weights()
    assert frozen == {name for name in before if np.array_equal(before[name], after[name])}
    assert {name.partition("/")[2] for name in trainer.state()} == before.keys() - frozen
    trace = resnet_torch.trace(model, batch[0], checks=("eval", "train"), training=training)
    np.testing.assert_array_equal(trace["train/output"], trace["eval/output"])  # no statistics of the batch


FROZEN = Training(frozen_norms=True, label_smoothing=0.1)


@pytest.mark.parametrize(("preset", "training"), [(p, PROBE) for p in SAMPLES] + [(p, FROZEN) for p in SAMPLES[:2]])
def test_gradients_are_the_central_differences(preset: str, training: Training) -> None:
    """At two random places of a random tensor of every kind, and of the images."""
    model = loaded(preset)
    trainer, (images, labels), masks = Trainer(model, training), batch_for(model.spec), masks_for(model.spec)
    gradients = trainer.gradients(images, labels, masks)
    x, y, rng = to_tensor(images, model).clone(), torch.from_numpy(labels), np.random.default_rng(1)

    def check(values: torch.Tensor, gradient: np.ndarray, name: str) -> None:
        for _ in range(2):
            place = tuple(int(rng.integers(n)) for n in values.shape)
            losses = []
            with torch.no_grad():
                kept = values[place].item()
                for width in (1e-6, -1e-6):
                    values[place] = kept + width
                    logits = forward(model, x, training, masks)
                    losses.append(cross_entropy(logits, y, training.label_smoothing).item())
                values[place] = kept
            difference = (losses[0] - losses[1]) / 2e-6
            # A convolution's bias in front of a batch norm has the gradient 0.
            assert abs(difference - gradient[place]) <= DIFFERENCE_LIMIT * max(np.abs(gradient).max(), 1e-2), name

    assert list(gradients.tensors) == list(training.trainable(make_plan(model.spec)))
    kinds: dict[str, list[str]] = {}
    for name in gradients.tensors:
        layer, _, leaf = name.rpartition(".")
        kinds.setdefault(f"{layer.rpartition('.')[2]}.{leaf}", []).append(name)
    for names in kinds.values():
        name = names[rng.integers(len(names))]
        check(trainer.parameters[name], gradients.tensors[name], name)
    check(x, gradients.images.transpose(0, 3, 1, 2), "images")
    assert gradients.unsmoothed != gradients.loss


def test_gradients_leave_parameters_and_move_statistics() -> None:
    model = loaded(UNBIASED)
    before = resnet_torch.export_weights(model)
    Trainer(model, PROBE).gradients(*batch_for(model.spec))
    after = resnet_torch.export_weights(model)
    assert all((".running_" in name) != np.array_equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_feature_map_averages_to_logits() -> None:
    spec = miniature(get_spec(UNBIASED)).replace(num_classes=0, **{"head.pool": "none"})
    model = resnet_torch.build(spec, dtype="float64")
    trainer, (images, labels) = Trainer(model, Training()), batch_for(spec)
    found = trainer.gradients(images, labels)
    output = resnet_torch.trace(model, images, checks=("train",))["train/output"]
    assert output.ndim == 4
    assert found.loss == found.unsmoothed == pytest.approx(numpy_loss(output.mean((1, 2)), labels, 0.0), rel=1e-13)
    np.testing.assert_array_equal(
        trainer.evaluate(images), resnet_torch.trace(model, images, checks=("eval",))["eval/output"]
    )


def test_evaluation_does_not_disturb_training() -> None:
    one, other = (Trainer(loaded(BIASED), PROBE) for _ in range(2))
    batch = batch_for(one.model.spec)
    for _ in range(2):
        one.step(*batch, 0.01)
        other.step(*batch, 0.01)
        one.evaluate(batch[0])
    assert same_weights(one.weights(), other.weights())


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam-decay", "adamw-kernels"])
def test_training_resumes_bit_for_bit(name: str, dtype: str) -> None:
    training, spec = Training(optimizer=OPTIMIZERS[name]), miniature(get_spec(DROPOUT))
    batch, masks = batch_for(spec), masks_for(spec)
    straight = Trainer(loaded(DROPOUT, dtype), training)
    for rate in RATES[:2]:
        straight.step(*batch, rate, masks)
    resumed = Trainer(resnet_torch.build(spec, seed=7, dtype=dtype), training)
    resnet_torch.load_weights(resumed.model, straight.weights())
    resumed.load_state(straight.state(), straight.steps)
    assert same_weights(resumed.state(), straight.state())
    for rate in RATES[2:]:
        assert straight.step(*batch, rate, masks) == resumed.step(*batch, rate, masks)
    assert resumed.steps == straight.steps == len(RATES)
    assert same_weights(resumed.weights(), straight.weights())
    assert same_weights(resumed.state(), straight.state())


def test_a_fresh_state_is_zeros_that_change_nothing() -> None:
    one, other = (Trainer(loaded(UNBIASED), PROBE) for _ in range(2))
    assert not any(array.any() for array in one.state().values())
    other.load_state(one.state(), 0)
    batch = batch_for(one.model.spec)
    assert one.step(*batch, 0.01) == other.step(*batch, 0.01)
    assert same_weights(one.weights(), other.weights())


REFUSED = {
    "missing": lambda s: s.pop("exp_avg/head.bias"),
    "unexpected": lambda s: s.update({"exp_avg/head.scale": s["exp_avg/head.bias"]}),
    "another-slot": lambda s: s.update({"momentum_buffer/head.bias": s["exp_avg/head.bias"]}),
    "mis-shaped": lambda s: s.update({"exp_avg/head.bias": s["exp_avg/head.bias"][:-1]}),
    "not-finite": lambda s: s.update({"exp_avg/head.bias": s["exp_avg/head.bias"] * np.inf}),
    "integer": lambda s: s.update({"exp_avg/head.bias": s["exp_avg/head.bias"].astype(int)}),
    "not-exact": lambda s: s.update({"exp_avg/head.bias": s["exp_avg/head.bias"].astype(np.float64) * (1 + 1e-12)}),
}


@pytest.mark.parametrize("damage", REFUSED.values(), ids=REFUSED)
def test_a_refused_state_leaves_the_trainer_unchanged(damage) -> None:
    trainer = Trainer(loaded(UNBIASED, "float32"), Training(optimizer=OPTIMIZERS["adam"]))
    trainer.step(*batch_for(trainer.model.spec), 0.01)
    before, state = trainer.state(), dict(trainer.state())
    damage(state)
    with pytest.raises(CheckpointError, match=r"head\."), np.errstate(invalid="ignore"):
        trainer.load_state(state, 5)
    assert same_weights(trainer.state(), before)
    assert trainer.steps == 1


def test_state_is_a_copy() -> None:
    trainer = Trainer(loaded(UNBIASED), PROBE)
    trainer.step(*batch_for(trainer.model.spec), 0.01)
    trainer.state()["momentum_buffer/head.bias"][:] = 7.0
    assert not (trainer.state()["momentum_buffer/head.bias"] == 7.0).any()


def test_training_keeps_channels_last() -> None:
    trainer = Trainer(loaded(BIASED, "float32"), PROBE)
    batch = batch_for(trainer.model.spec)
    trainer.step(*batch, 0.01)
    trainer.load_state(trainer.state(), trainer.steps)
    trainer.step(*batch, 0.01)
    for kernel in (p for p in trainer.parameters.values() if p.ndim == 4):
        for tensor in (kernel, kernel.grad, trainer.optimizer.state[kernel]["momentum_buffer"]):
            assert tensor.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["momentum", "adam", "adamw"])
def test_a_float64_trainer_is_float64_all_through(name: str) -> None:
    trainer = Trainer(loaded(BIASED), Training(optimizer=OPTIMIZERS[name]))
    batch = batch_for(trainer.model.spec)
    trainer.step(*batch, 0.01)
    slots = [t for state in trainer.optimizer.state.values() for key, t in state.items() if key != "step"]
    grads = [p.grad for p in trainer.parameters.values()]
    assert {t.dtype for t in (*slots, *grads, *trainer.model.parameters())} == {torch.float64}
    found = trainer.gradients(*batch)
    arrays = [*found.tensors.values(), found.images, *trainer.weights().values(), *trainer.state().values()]
    assert {array.dtype for array in arrays} == {np.dtype(np.float64)}
    assert found.loss != float(np.float32(found.loss))


def expected(spec: ResNetSpec, checks: tuple[str, ...], training: Training) -> list[tuple[str, tuple[int, ...]]]:
    plan = make_plan(spec, SIDE)
    return [item for check in checks for item in expected_shapes(check, plan, BATCH, training).items()]


TRAININGS = {
    "probe": PROBE,
    "frozen": Training(frozen_norms=True),
    "adamw": Training(optimizer=Optimizer(kind="adamw")),
    "no-slots": Training(optimizer=Optimizer(momentum=0.0)),
}


@pytest.mark.parametrize(
    ("preset", "training"), [(p, "probe") for p in SAMPLES] + [(BIASED, t) for t in list(TRAININGS)[1:]]
)
def test_traces_have_the_keys_of_the_contract(preset: str, training: str) -> None:
    model = loaded(preset)
    images, labels = batch_for(model.spec)
    trace = resnet_torch.trace(model, images, checks=CHECKS[::-1], training=TRAININGS[training])
    assert [(name, trace.shape(name)) for name in trace.names] == expected(model.spec, CHECKS, TRAININGS[training])
    assert {trace[name].dtype for name in trace.names} == {np.dtype(np.float64)}
    assert Training.from_json(trace.about["training"]) == TRAININGS[training]
    # What one check recorded agrees with the others, and with a trainer that starts from the same weights.
    smoothing = TRAININGS[training].label_smoothing
    assert trace["loss"] == pytest.approx(numpy_loss(trace["train/output"], labels, smoothing), rel=1e-12)
    assert trace["loss/unsmoothed"] == pytest.approx(numpy_loss(trace["train/output"], labels, 0.0), rel=1e-12)
    trainer = Trainer(model, TRAININGS[training])
    assert trace["loss"] == trainer.gradients(images, labels, masks_for(model.spec)).loss
    after = trainer.weights()
    assert all(np.array_equal(trace[n], after[n.removeprefix("stats/")]) for n in trace.names if "stats/" in n)


@pytest.mark.parametrize("checks", [("train",), ("gradients",), ("steps",), ("steps", "eval")], ids=str)
def test_a_check_alone_is_what_it_is_in_company(checks: tuple[str, ...]) -> None:
    model = loaded(DROPOUT)
    images, labels = batch_for(model.spec)
    alone = resnet_torch.trace(model, images, labels, checks=checks)
    company = resnet_torch.trace(model, images, labels, checks=CHECKS)
    assert alone.names
    assert set(alone.names) <= set(company.names)
    assert all(np.array_equal(alone[name], company[name]) for name in alone.names)


def test_evaluation_alone_says_nothing_of_training() -> None:
    model = loaded(UNBIASED)
    assert not {"training", "labels"} & resnet_torch.trace(model, batch_for(model.spec)[0]).about.keys()


def test_labels_make_the_trace() -> None:
    model = loaded(UNBIASED)
    images, labels = batch_for(model.spec)
    given, default, other = (
        resnet_torch.trace(model, images, given, checks=("gradients",))
        for given in (labels, None, (labels + 1) % model.spec.num_classes)
    )
    assert given["loss"] == default["loss"] != other["loss"]
    assert given.about["labels"] == default.about["labels"] != other.about["labels"]


def test_unknown_checks_are_refused() -> None:
    model = loaded(UNBIASED)
    with pytest.raises(SpecError, match="backward"):
        resnet_torch.trace(model, batch_for(model.spec)[0], checks=("backward",))


def test_half_precisions_are_widened_in_a_trace() -> None:
    model = loaded(BIASED, "bfloat16")
    trace = resnet_torch.trace(model, batch_for(model.spec)[0].astype(np.float32), checks=CHECKS)
    arrays = {name: trace[name] for name in trace.names if "loss" not in name and trace[name].size < 1024}
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    assert trace.dtype == "bfloat16"


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("preset", [BIASED, DROPOUT])
def test_a_trace_leaves_the_model_as_it_was(preset: str, training: bool) -> None:
    model = loaded(preset).train(training)
    model.stem.train(not training)
    model.head.weight.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes, random = [module.training for module in model.modules()], torch.get_rng_state()
    resnet_torch.trace(model, batch_for(model.spec)[0], checks=CHECKS, training=FROZEN)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())  # counters, too
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert [n for n, p in model.named_parameters() if not p.requires_grad or p.grad is not None] == ["head.weight"]
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("preset", [BIASED, DROPOUT])
def test_training_compiles_without_a_graph_break(preset: str) -> None:
    """Forward and backward, with masks, by `model.compile()` in front of the trainer."""
    torch.compiler.reset()
    eager, compiled = (Trainer(loaded(preset, "float32", depths=(1,)), PROBE) for _ in range(2))
    compiled.model.compile(backend="aot_eager", fullgraph=True)
    batch, masks = batch_for(eager.model.spec), masks_for(eager.model.spec)
    for _ in range(2):
        expected = eager.step(*batch, 0.01, masks)
        assert compiled.step(*batch, 0.01, masks) == pytest.approx(expected, rel=COMPILED_LIMIT)
    found = compiled.weights()
    assert max(relative(found[name], array) for name, array in eager.weights().items()) <= COMPILED_LIMIT
    torch.compiler.reset()
