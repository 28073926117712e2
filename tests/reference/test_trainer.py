"""The reference's training against truths of its own: values by hand, and PyTorch's autograd and
optimizers.

As in `test_reference`, the oracles are `torch.nn.functional` and `torch.optim`, never
`resnet_torch`.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from shared import get_spec, make_plan
from shared.architecture import ops
from shared.architecture.presets import miniature
from shared.frameworks import reference
from shared.frameworks.reference import Reference, Trainer, make_optimizer
from shared.reference import forward
from shared.reference.forward import batch_statistics
from shared.reference.loss import cross_entropy, cross_entropy_backward
from shared.training.config import PROBE, OptimizerConfig, Training, dropout_masks, probe_labels
from tests.differences import AUTOGRAD_LIMIT, random
from tests.probes import loaded, relative_error
from tests.training_probes import batch_for

DROPOUT = miniature(get_spec("ablation/resnet110_dropout_shortcut"))


# The loss.


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(5, 7), (5, 2, 3, 7)], ids=str)
def test_cross_entropy_against_autograd(shape: tuple[int, ...], smoothing: float) -> None:
    torch = pytest.importorskip("torch")
    logits, labels = 10 * random("logits", *shape), probe_labels(5, 7, 0)
    x = torch.from_numpy(logits).requires_grad_()
    means = x if x.ndim == 2 else x.mean((1, 2))
    loss = torch.nn.functional.cross_entropy(
        means, torch.from_numpy(labels), label_smoothing=smoothing
    )
    loss.backward()
    assert cross_entropy(logits, labels, smoothing) == pytest.approx(
        loss.item(), rel=AUTOGRAD_LIMIT
    )
    assert (
        relative_error(cross_entropy_backward(logits, labels, smoothing), x.grad.numpy())
        <= AUTOGRAD_LIMIT
    )


def test_label_smoothing_by_hand() -> None:
    """Probabilities 1/4 and 3/4, the first class is right, and the target of smoothing 0.2 is (0.9,
    0.1).
    """
    logits, labels = np.log([[1.0, 3.0]]), np.array([0])
    assert cross_entropy(logits, labels, 0.0) == pytest.approx(math.log(4), rel=1e-15)
    expected = -0.9 * math.log(1 / 4) - 0.1 * math.log(3 / 4)
    assert cross_entropy(logits, labels, 0.2) == pytest.approx(expected, rel=1e-15)
    assert cross_entropy_backward(logits, labels, 0.2)[0] == pytest.approx(
        [0.25 - 0.9, 0.75 - 0.1], rel=1e-14
    )


def test_large_logits_do_not_overflow() -> None:
    assert cross_entropy(np.array([[1e4, 0.0]]), np.array([1]), 0.0) == 1e4


# The optimizers.


@pytest.mark.parametrize(
    "optimizer",
    [
        OptimizerConfig(momentum=0.0, weight_decay=0.0),
        OptimizerConfig(momentum=0.0, weight_decay=0.01),
        OptimizerConfig(momentum=0.9, weight_decay=0.01),
        OptimizerConfig(momentum=0.9, weight_decay=0.01, nesterov=True),
        OptimizerConfig(momentum=0.9, weight_decay=0.01, decay_norms=False),
        OptimizerConfig(kind="adam", weight_decay=0.01),
        OptimizerConfig(
            kind="adam", betas=(0.8, 0.95), eps=1e-3, weight_decay=0.01, decay_norms=False
        ),
        OptimizerConfig(kind="adamw", weight_decay=0.05),
        OptimizerConfig(kind="adamw", weight_decay=0.05, decay_norms=False),
    ],
    ids=lambda o: (
        f"{o.kind}-{o.momentum}-{o.weight_decay}{'-nesterov' * o.nesterov}"
        f"{'-some' * (not o.decay_norms)}"
    ),
)
def test_optimizers_are_pytorchs(optimizer: OptimizerConfig) -> None:
    """Five steps, each with a learning rate of its own, on a kernel and a bias."""
    torch = pytest.importorskip("torch")
    weights = {"head.weight": random("w", 3, 4), "head.bias": random("b", 3)}
    parameters = {
        name: torch.nn.Parameter(torch.from_numpy(array.copy())) for name, array in weights.items()
    }
    decays = (optimizer.weight_decay, optimizer.weight_decay if optimizer.decay_norms else 0.0)
    groups = [
        {"params": [p], "weight_decay": d} for p, d in zip(parameters.values(), decays, strict=True)
    ]
    theirs = {
        "sgd": lambda: torch.optim.SGD(
            groups, 1.0, momentum=optimizer.momentum, nesterov=optimizer.nesterov
        ),
        "adam": lambda: torch.optim.Adam(groups, 1.0, betas=optimizer.betas, eps=optimizer.eps),
        "adamw": lambda: torch.optim.AdamW(groups, 1.0, betas=optimizer.betas, eps=optimizer.eps),
    }[optimizer.kind]()
    ours = make_optimizer(Reference(get_spec("resnet18"), weights), optimizer)
    for k, rate in enumerate((0.1, 0.3, 0.01, 0.0, 0.2)):
        gradients = {name: random(f"{name} {k}", *array.shape) for name, array in weights.items()}
        weights |= ours.update(weights, gradients, rate)
        for group in theirs.param_groups:
            group["lr"] = rate
        for name, parameter in parameters.items():
            parameter.grad = torch.from_numpy(gradients[name])
        theirs.step()
    for name, parameter in parameters.items():
        assert relative_error(weights[name], parameter.detach().numpy()) <= AUTOGRAD_LIMIT
        for slot in optimizer.slots:
            expected = theirs.state[parameter][slot].numpy()
            assert relative_error(ours.state[f"{slot}/{name}"], expected) <= AUTOGRAD_LIMIT
    assert set(ours.state) == {f"{slot}/{name}" for slot in optimizer.slots for name in weights}


def one_number(optimizer: OptimizerConfig, name: str = "head.weight", ndim: int = 2) -> list[float]:
    """1.0 after each of two steps at rates 0.5 and 0.25 with gradients 2 and 4."""
    weights = {name: np.ones((1,) * ndim)}
    made, found = make_optimizer(Reference(get_spec("resnet18"), weights), optimizer), []
    for gradient, rate in ((2.0, 0.5), (4.0, 0.25)):
        weights |= made.update(weights, {name: np.full((1,) * ndim, gradient)}, rate)
        found.append(weights[name].item())
    return found


def test_optimizers_by_hand() -> None:
    assert one_number(OptimizerConfig(momentum=0.0, weight_decay=0.0)) == [0.0, -1.0]
    assert one_number(OptimizerConfig(momentum=0.5, weight_decay=0.0)) == [
        0.0,
        -1.25,
    ]  # velocities 2 and 5
    assert one_number(OptimizerConfig(momentum=0.5, weight_decay=0.0, nesterov=True)) == [
        -0.5,
        -2.125,
    ]  # 2 + 1, 4 + 2.5
    assert one_number(OptimizerConfig(momentum=0.5, weight_decay=2.0)) == [
        -1.0,
        -2.0,
    ]  # velocities 2 + 2 and 4 - 2 + 2
    some = OptimizerConfig(momentum=0.5, weight_decay=2.0, decay_norms=False)
    assert one_number(some) == [-1.0, -2.0]
    assert one_number(some, "head.bias", 1) == [0.0, -1.25]
    # Adam's first step is the learning rate, whatever the gradient; AdamW has taken half of the
    # weight before it.
    adam = one_number(OptimizerConfig(kind="adam", weight_decay=0.0))
    assert adam[0] == pytest.approx(0.5, abs=1e-8)
    assert one_number(OptimizerConfig(kind="adamw", weight_decay=1.0))[0] == pytest.approx(
        0.0, abs=1e-8
    )
    mean, square = (0.9 * 0.2 + 0.4) / 0.19, (0.999 * 0.004 + 0.016) / (1 - 0.999**2)
    assert adam[1] == pytest.approx(adam[0] - 0.25 * mean / (math.sqrt(square) + 1e-8), rel=1e-12)


# Norms and dropout in training mode.


@pytest.mark.parametrize(("unbiased", "stored"), [(True, 8.0 / 3 * 4), (False, 8.0)])
def test_running_statistics_by_hand(unbiased: bool, stored: float) -> None:
    """Four values with mean 3 and biased variance 8: what is stored of it is 32/3, or 8."""
    op = ops.BatchNorm(1, eps=1.0, momentum=0.75, unbiased=unbiased)
    x = (3.0 + np.array([0.0, 0.0, 4.0, -4.0])).reshape(2, 1, 2, 1)
    old = {leaf: np.array([v]) for leaf, v in (("running_mean", 2.0), ("running_var", 4.0))}
    batch, moved = batch_statistics(op, old, x)
    assert batch["running_mean"].item() == pytest.approx(3.0)
    assert batch["running_var"].item() == pytest.approx(8.0)
    assert moved["running_mean"].item() == pytest.approx(0.75 * 2.0 + 0.25 * 3.0)
    assert moved["running_var"].item() == pytest.approx(0.75 * 4.0 + 0.25 * stored)
    y = forward.batch_norm(op, {"weight": np.ones(1), "bias": np.zeros(1), **batch}, x)
    assert y.mean() == pytest.approx(0.0, abs=1e-15)
    assert y.var() == pytest.approx(8.0 / 9.0)  # biased, and eps is 1


def test_dropout_keeps_what_the_mask_says_and_scales_it() -> None:
    found = forward.dropout(
        ops.Dropout(0.75), {"mask": np.array([True, False, True])}, np.array([1.0, 2.0, 3.0])
    )
    assert found.tolist() == [4.0, 0.0, 12.0]


def test_without_masks_the_trainer_drops_about_the_right_share() -> None:
    spec = DROPOUT.replace(**{"shortcut.dropout": 0.25})
    plan = make_plan(spec, 32)
    images, labels = batch_for(spec)
    masks = dropout_masks(plan, 4, 1)
    assert len(masks) > 2
    assert np.mean(np.concatenate([mask.ravel() for mask in masks.values()])) == pytest.approx(
        0.75, abs=0.01
    )
    losses = [
        Trainer(loaded(reference, spec), PROBE).gradients(images, labels, given).loss
        for given in (None, masks, dropout_masks(plan, 4, 2))
    ]
    assert losses[0] == losses[1] != losses[2]


def test_masks_change_at_every_step() -> None:
    trainer = Trainer(loaded(reference, DROPOUT), PROBE)
    losses = {trainer.step(*batch_for(DROPOUT), 0.0) for _ in range(3)}
    assert len(losses) == 3


# The trainer.


def test_training_learns_a_batch() -> None:
    spec = miniature(get_spec("cifar/preresnet20"))
    images, labels = batch_for(spec)
    trainer = Trainer(loaded(reference, spec), Training())
    losses = [trainer.step(images, labels, 0.02) for _ in range(12)]
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_float32_stays_float32(kind: str) -> None:
    trainer = Trainer(
        loaded(reference, DROPOUT, dtype="float32"), Training(optimizer=OptimizerConfig(kind=kind))
    )
    images, labels = batch_for(DROPOUT)
    trainer.step(images, labels, np.float64(0.1))
    found = trainer.gradients(images, labels)
    arrays = [
        *trainer.weights().values(),
        *trainer.state().values(),
        *found.tensors.values(),
        found.images,
    ]
    assert {array.dtype for array in [*arrays, trainer.evaluate(images)]} == {np.dtype("float32")}
