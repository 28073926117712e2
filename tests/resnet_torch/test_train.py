"""Training in PyTorch: the optimizers' meaning in plain NumPy, gradients by differences, and
resuming.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import resnet_torch
from resnet_torch.train import Trainer, cross_entropy, forward, to_tensor
from shared import CheckpointError, get_spec, make_plan
from shared.architecture.presets import miniature
from shared.training.config import PROBE, OptimizerConfig, Training
from tests.architecture.test_peers import TORCHVISION, peer_name
from tests.numpy_training import OPTIMIZERS, RATES, numpy_loss, numpy_step
from tests.peers import import_torchvision
from tests.probes import same_weights
from tests.torch_models import BIASED, DROPOUT, FROZEN, SAMPLES, UNBIASED, loaded
from tests.training_probes import REFUSED_STATES, batch_for, masks_for

# Float64 against plain NumPy, parameters and slots of four steps. Measured by this file: 4.6e-16.
STEP_LIMIT = 1e-13

# Against central differences of width 2e-6, relative to the tensor's largest value: the
# differences' own rounding. Measured: 2.1e-7.
DIFFERENCE_LIMIT = 1e-5

# Float32 of a compiled network against eager, two steps. Measured: 0.
COMPILED_LIMIT = 1e-5


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-3))


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_mean_what_numpy_says(optimizer: OptimizerConfig) -> None:
    """With another learning rate at every step."""
    model = loaded("keras/resnet50v2")  # has biases
    trainer, batch = (
        Trainer(model, Training(optimizer=optimizer, label_smoothing=0.1)),
        batch_for(model.spec),
    )
    weights = {name: trainer.weights()[name] for name in trainer.parameters}
    slots: dict[str, dict] = {name: {} for name in weights}
    for t, rate in enumerate(RATES, start=1):
        found = trainer.gradients(*batch)
        weights = {
            n: numpy_step(optimizer, w, found.tensors[n], slots[n], t, rate)
            for n, w in weights.items()
        }
        assert trainer.step(*batch, rate) == found.loss
        after = trainer.weights()
        assert max(relative(after[name], w) for name, w in weights.items()) <= STEP_LIMIT
    assert trainer.steps == len(RATES)
    state = trainer.state()
    assert state.keys() == {f"{slot}/{name}" for slot in optimizer.slots for name in weights}
    for key, array in state.items():
        slot, _, name = key.partition("/")
        assert relative(array, slots[name][slot]) <= STEP_LIMIT


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
    peer = (
        import_torchvision().models.resnet18(num_classes=10).to(memory_format=torch.channels_last)
    )
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
    assert all(
        torch.equal(t, found[peer_name(n, TORCHVISION)]) for n, t in model.state_dict().items()
    )


@pytest.mark.parametrize(
    ("preset", "training"), [(p, PROBE) for p in SAMPLES] + [(p, FROZEN) for p in SAMPLES[:2]]
)
def test_gradients_are_the_central_differences(preset: str, training: Training) -> None:
    """At two random places of a random tensor of every kind, and of the images."""
    model = loaded(preset)
    trainer, (images, labels), masks = (
        Trainer(model, training),
        batch_for(model.spec),
        masks_for(model.spec),
    )
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
            assert abs(difference - gradient[place]) <= DIFFERENCE_LIMIT * max(
                np.abs(gradient).max(), 1e-2
            ), name

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
    assert all(
        (".running_" in name) != np.array_equal(before[name], after[name]) for name in before
    )
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_feature_map_averages_to_logits() -> None:
    spec = miniature(get_spec(UNBIASED)).replace(num_classes=0, **{"head.pool": "none"})
    model = resnet_torch.build(spec, dtype="float64")
    trainer, (images, labels) = Trainer(model, Training()), batch_for(spec)
    found = trainer.gradients(images, labels)
    output = resnet_torch.trace(model, images, checks=("train",))["train/output"]
    assert output.ndim == 4
    assert (
        found.loss
        == found.unsmoothed
        == pytest.approx(numpy_loss(output.mean((1, 2)), labels, 0.0), rel=1e-13)
    )
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


@pytest.mark.parametrize("damage", REFUSED_STATES.values(), ids=REFUSED_STATES)
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
    slots = [
        t for state in trainer.optimizer.state.values() for key, t in state.items() if key != "step"
    ]
    grads = [p.grad for p in trainer.parameters.values()]
    assert {t.dtype for t in (*slots, *grads, *trainer.model.parameters())} == {torch.float64}
    found = trainer.gradients(*batch)
    arrays = [
        *found.tensors.values(),
        found.images,
        *trainer.weights().values(),
        *trainer.state().values(),
    ]
    assert {array.dtype for array in arrays} == {np.dtype(np.float64)}
    assert found.loss != float(np.float32(found.loss))


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
    assert (
        max(relative(found[name], array) for name, array in eager.weights().items())
        <= COMPILED_LIMIT
    )
    torch.compiler.reset()
