"""The reference's training against truths of its own: finite differences, values by hand, and PyTorch's autograd.

As in `test_reference`, the oracles are `torch.nn.functional` and `torch.optim`, never `resnet_torch`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pytest

from shared import CheckpointError, ResNetSpec, backward, get_spec, make_plan, ops, probe_images, reference
from shared.backward import BACKWARD
from shared.checks import CHECKS, expected_shapes
from shared.presets import miniature
from shared.reference import OPERATORS, Reference, Trainer, batch_statistics
from shared.reference_training import cross_entropy, cross_entropy_backward, make_optimizer
from shared.training import PROBE, Optimizer, Training, dropout_masks, norm_layers, num_outputs, probe_labels
from shared.weights import Weights, named_rng
from tests.probes import relative_error, same_weights

STEP = 1e-6  # of a finite difference of an operator: its rounding is about 1e-10, its curvature 1e-12
OPERATOR_LIMIT = 1e-8  # relative to the largest gradient. Measured at most 2e-9
# A network's loss bends wherever a ReLU or the maximum of a pool switches within the step: then a smaller one counts.
NETWORK_STEPS = (1e-7, 1e-8)
NETWORK_LIMIT = 1e-6  # relative to the largest gradient. Measured at most 3e-8
AUTOGRAD_LIMIT = 1e-13  # float64 against float64, sums in another order. Measured at most 8e-16

SIZES = [(8, 9), (7, 6), (1, 2)]
WINDOWS = [
    ops.Conv(4, 6, 3, bias=True),
    ops.Conv(4, 6, 3, stride=2),
    ops.Conv(4, 6, 7, stride=2, padding="same"),
    ops.Conv(4, 6, 1),
    ops.Conv(4, 6, 1, stride=2, bias=True),
    ops.Conv(4, 6, 3, stride=2, dilation=2, padding="same"),
    ops.Conv(4, 6, 3, stride=2, groups=2),
    ops.Conv(4, 4, 3, dilation=2, groups=4, bias=True),
    ops.Conv(4, 6, 3, weight_std_eps=1e-2),
    ops.Conv(4, 6, 3, groups=2, weight_std_eps=1e-5),
    ops.MaxPool(),
    ops.MaxPool(padding="zero"),
    ops.MaxPool(padding="same"),
    ops.AvgPool(),
    ops.AvgPool(stride=1),
    ops.AvgPool(stride=1, count_pad=True),
]
OTHERS = [
    ops.BatchNorm(4, eps=1e-3),
    ops.GroupNorm(4, 1, eps=1e-3),
    ops.GroupNorm(4, 2),
    ops.GroupNorm(4, 4, eps=1e-3),
    ops.Subsample(2),
    ops.Subsample(2, 2, 3),
    ops.Subsample(3, 0, 4),
    ops.ReLU(),
    ops.Dropout(0.3),
    ops.Join(),
    ops.Join("scale", (0.5, 2.0)),
    ops.Join("exclusive_gate"),
    ops.Join("shortcut_gate"),
    ops.GlobalPool(),
    ops.GlobalPool("max"),
    ops.Linear(4, 6),
]


def random(name: str, *shape: int) -> np.ndarray:
    return named_rng(name, 1).standard_normal(shape)


def problem(op: ops.Op, size: tuple[int, int]) -> tuple[list[np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Inputs and tensors of an operator, and the weights of a sum of its outputs."""
    count = 1 if not isinstance(op, ops.Join) else 3 if op.how.endswith("gate") else 2
    shape = (4,) if isinstance(op, ops.Linear) else (*size, 4)
    inputs = [random(f"input {k}", 3, *shape) for k in range(count)]
    tensors = {leaf: random(leaf, *of) for leaf, of in op.tensors().items()}
    if isinstance(op, ops.BatchNorm):
        tensors["running_var"] = tensors["running_var"] ** 2
    if isinstance(op, ops.Dropout):
        tensors["mask"] = random("mask", 3, *shape) > 0
    return inputs, tensors, random("dy", 3, *op.output(*([shape] * count)))


def finite_difference(
    function: Callable[[], float], array: np.ndarray, index: tuple[int, ...], step: float = STEP
) -> float:
    """The central difference of `function`, which reads `array`, at one of its values."""
    value = array[index]
    array[index] = value + step
    above = function()
    array[index] = value - step
    below = function()
    array[index] = value
    return (above - below) / (2 * step)


def some_indices(array: np.ndarray, count: int, name: str) -> list[tuple[int, ...]]:
    flat = named_rng(name, 2).choice(array.size, min(count, array.size), replace=False)
    return [tuple(int(i) for i in np.unravel_index(k, array.shape)) for k in flat]


def check_differences(op: ops.Op, size: tuple[int, int], batch_moments: bool, rule: Callable) -> None:
    inputs, tensors, dy = problem(op, size)

    def used() -> Mapping[str, np.ndarray]:
        return tensors | batch_statistics(op, tensors, *inputs)[0] if batch_moments else tensors

    by_inputs, by_tensors = rule(op, used(), dy, *inputs)
    pairs = [*zip(inputs, by_inputs, strict=True), *((tensors[leaf], g) for leaf, g in by_tensors.items())]
    for array, gradient in pairs:
        assert gradient.shape == array.shape
        for index in some_indices(array, 12, str(op)):
            expected = finite_difference(lambda: (OPERATORS[type(op)](op, used(), *inputs) * dy).sum(), array, index)
            assert abs(gradient[index] - expected) <= OPERATOR_LIMIT * max(1.0, np.abs(gradient).max())


def identity(op: ops.Op) -> str:
    return f"{op.kind}: {op.describe()}"


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("op", WINDOWS, ids=identity)
def test_windows_against_finite_differences(op: ops.Op, size: tuple[int, int]) -> None:
    check_differences(op, size, False, BACKWARD[type(op)])


@pytest.mark.parametrize("op", OTHERS, ids=identity)
def test_operators_against_finite_differences(op: ops.Op) -> None:
    check_differences(op, (5, 4), isinstance(op, ops.BatchNorm), BACKWARD[type(op)])


def test_frozen_batch_norm_against_finite_differences() -> None:
    check_differences(ops.BatchNorm(4, eps=1e-3), (5, 4), False, backward.frozen_batch_norm)


def test_every_operator_has_a_gradient() -> None:
    assert BACKWARD.keys() == OPERATORS.keys() == {type(op) for op in (*WINDOWS, *OTHERS)}


def gradient_of(op: ops.Op, dy: list, x: list) -> list:
    """By a single channel of one image, given as rows."""
    found = BACKWARD[type(op)](op, {}, np.array(dy, float)[None, ..., None], np.array(x, float)[None, ..., None])
    return found[0][0][0, ..., 0].tolist()


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        # Windows start at -1 and 1; where all is equal, the first pixel inside the image takes all.
        ("symmetric", [[1, 2, 0, 0], [3, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]),
        ("zero", [[0, 0, 0, 0], [0, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]),  # first is a zero of the border
        ("same", [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]),  # they start at 0 and 2
    ],
)
def test_the_first_of_equal_maxima_takes_all(padding: str, expected: list) -> None:
    assert gradient_of(ops.MaxPool(padding=padding), [[1, 2], [3, 4]], np.zeros((4, 4)).tolist()) == expected


def test_a_zero_of_the_border_that_wins_takes_the_gradient_away() -> None:
    x = np.full((4, 4), -1.0)
    x[0, 0] = 1.0
    found = gradient_of(ops.MaxPool(padding="zero"), [[1, 2], [3, 4]], x.tolist())
    assert found == [[1, 0, 0, 0], [0, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_the_first_of_equal_global_maxima_takes_all() -> None:
    x = np.array([[0.0, 7.0], [7.0, 7.0]]).reshape(1, 2, 2, 1)
    ((found,), _) = backward.global_pool(ops.GlobalPool("max"), {}, np.array([[3.0]]), x)
    assert found.ravel().tolist() == [0.0, 3.0, 0.0, 0.0]


def test_relu_at_zero() -> None:
    assert gradient_of(ops.ReLU(), [[5, 5, 5]], [[-1, 0, 2]]) == [[0, 0, 5]]


# Single operators against autograd, ties of max pools among them.


@pytest.mark.parametrize("op", [*WINDOWS, *OTHERS[:4]], ids=identity)
def test_operators_against_autograd(op: ops.Op) -> None:
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    inputs, tensors, dy = problem(op, (9, 8))
    if isinstance(op, ops.MaxPool):
        inputs = [np.maximum(np.round(inputs[0]), 0)]  # most windows have several maxima
    x = torch.from_numpy(inputs[0]).requires_grad_()
    leaves = {leaf: torch.from_numpy(array).requires_grad_() for leaf, array in tensors.items() if "run" not in leaf}
    nchw, weight, bias = x.permute(0, 3, 1, 2), leaves.get("weight"), leaves.get("bias")
    used = tensors
    if isinstance(op, ops.BatchNorm):
        used = tensors | batch_statistics(op, tensors, *inputs)[0]
        y = F.batch_norm(nchw, None, None, weight, bias, training=True, eps=op.eps)
    elif isinstance(op, ops.GroupNorm):
        y = F.group_norm(nchw, op.groups, weight, bias, op.eps)
    else:
        fill = op.pad_value if isinstance(op, ops.MaxPool) else 0.0
        (top, bottom), (left, right) = op.pads((9, 8))
        framed = F.pad(nchw, (left, right, top, bottom), value=fill)
        if isinstance(op, ops.Conv):
            kernel = weight
            if op.weight_std_eps:  # timm's formulation
                rows = weight.reshape(1, op.out_channels, -1)
                kernel = F.batch_norm(rows, None, None, training=True, eps=op.weight_std_eps).reshape(weight.shape)
            y = F.conv2d(framed, kernel, bias, op.stride, 0, op.dilation, op.groups)
        elif isinstance(op, ops.MaxPool):
            y = F.max_pool2d(framed, 3, 2)
        else:
            ones = F.pad(torch.ones_like(nchw), (left, right, top, bottom), value=float(op.count_pad))
            y = F.avg_pool2d(framed, 2, op.stride) / F.avg_pool2d(ones, 2, op.stride)
    expected = torch.autograd.grad(y, [x, *leaves.values()], torch.from_numpy(dy).permute(0, 3, 1, 2))
    (by_input,), by_tensors = BACKWARD[type(op)](op, used, dy, *inputs)
    for found, wanted in zip([by_input, *(by_tensors[leaf] for leaf in leaves)], expected, strict=True):
        assert relative_error(found, wanted.numpy()) <= AUTOGRAD_LIMIT


# The loss.


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(5, 7), (5, 2, 3, 7)], ids=str)
def test_cross_entropy_against_autograd(shape: tuple[int, ...], smoothing: float) -> None:
    torch = pytest.importorskip("torch")
    logits, labels = 10 * random("logits", *shape), probe_labels(5, 7, 0)
    x = torch.from_numpy(logits).requires_grad_()
    means = x if x.ndim == 2 else x.mean((1, 2))
    loss = torch.nn.functional.cross_entropy(means, torch.from_numpy(labels), label_smoothing=smoothing)
    loss.backward()
    assert cross_entropy(logits, labels, smoothing) == pytest.approx(loss.item(), rel=AUTOGRAD_LIMIT)
    assert relative_error(cross_entropy_backward(logits, labels, smoothing), x.grad.numpy()) <= AUTOGRAD_LIMIT


def test_label_smoothing_by_hand() -> None:
    """Probabilities 1/4 and 3/4, the first class is right, and the target of smoothing 0.2 is (0.9, 0.1)."""
    logits, labels = np.log([[1.0, 3.0]]), np.array([0])
    assert cross_entropy(logits, labels, 0.0) == pytest.approx(math.log(4), rel=1e-15)
    expected = -0.9 * math.log(1 / 4) - 0.1 * math.log(3 / 4)
    assert cross_entropy(logits, labels, 0.2) == pytest.approx(expected, rel=1e-15)
    assert cross_entropy_backward(logits, labels, 0.2)[0] == pytest.approx([0.25 - 0.9, 0.75 - 0.1], rel=1e-14)


def test_large_logits_do_not_overflow() -> None:
    assert cross_entropy(np.array([[1e4, 0.0]]), np.array([1]), 0.0) == 1e4


# The optimizers.


@pytest.mark.parametrize(
    "optimizer",
    [
        Optimizer(momentum=0.0, weight_decay=0.0),
        Optimizer(momentum=0.0, weight_decay=0.01),
        Optimizer(momentum=0.9, weight_decay=0.01),
        Optimizer(momentum=0.9, weight_decay=0.01, nesterov=True),
        Optimizer(momentum=0.9, weight_decay=0.01, decay_norms=False),
        Optimizer(kind="adam", weight_decay=0.01),
        Optimizer(kind="adam", betas=(0.8, 0.95), eps=1e-3, weight_decay=0.01, decay_norms=False),
        Optimizer(kind="adamw", weight_decay=0.05),
        Optimizer(kind="adamw", weight_decay=0.05, decay_norms=False),
    ],
    ids=lambda o: f"{o.kind}-{o.momentum}-{o.weight_decay}{'-nesterov' * o.nesterov}{'-some' * (not o.decay_norms)}",
)
def test_optimizers_are_pytorchs(optimizer: Optimizer) -> None:
    """Five steps, each with a learning rate of its own, on a kernel and a bias."""
    torch = pytest.importorskip("torch")
    weights = {"head.weight": random("w", 3, 4), "head.bias": random("b", 3)}
    parameters = {name: torch.nn.Parameter(torch.from_numpy(array.copy())) for name, array in weights.items()}
    decays = (optimizer.weight_decay, optimizer.weight_decay if optimizer.decay_norms else 0.0)
    groups = [{"params": [p], "weight_decay": d} for p, d in zip(parameters.values(), decays, strict=True)]
    theirs = {
        "sgd": lambda: torch.optim.SGD(groups, 1.0, momentum=optimizer.momentum, nesterov=optimizer.nesterov),
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


def one_number(optimizer: Optimizer, name: str = "head.weight", ndim: int = 2) -> list[float]:
    """1.0 after each of two steps at rates 0.5 and 0.25 with gradients 2 and 4."""
    weights = {name: np.ones((1,) * ndim)}
    made, found = make_optimizer(Reference(get_spec("resnet18"), weights), optimizer), []
    for gradient, rate in ((2.0, 0.5), (4.0, 0.25)):
        weights |= made.update(weights, {name: np.full((1,) * ndim, gradient)}, rate)
        found.append(weights[name].item())
    return found


def test_optimizers_by_hand() -> None:
    assert one_number(Optimizer(momentum=0.0, weight_decay=0.0)) == [0.0, -1.0]
    assert one_number(Optimizer(momentum=0.5, weight_decay=0.0)) == [0.0, -1.25]  # velocities 2 and 5
    assert one_number(Optimizer(momentum=0.5, weight_decay=0.0, nesterov=True)) == [-0.5, -2.125]  # 2 + 1, 4 + 2.5
    assert one_number(Optimizer(momentum=0.5, weight_decay=2.0)) == [-1.0, -2.0]  # velocities 2 + 2 and 4 - 2 + 2
    some = Optimizer(momentum=0.5, weight_decay=2.0, decay_norms=False)
    assert one_number(some) == [-1.0, -2.0]
    assert one_number(some, "head.bias", 1) == [0.0, -1.25]
    # Adam's first step is the learning rate, whatever the gradient; AdamW has taken half of the weight before it.
    adam = one_number(Optimizer(kind="adam", weight_decay=0.0))
    assert adam[0] == pytest.approx(0.5, abs=1e-8)
    assert one_number(Optimizer(kind="adamw", weight_decay=1.0))[0] == pytest.approx(0.0, abs=1e-8)
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
    y = reference.batch_norm(op, {"weight": np.ones(1), "bias": np.zeros(1), **batch}, x)
    assert y.mean() == pytest.approx(0.0, abs=1e-15)
    assert y.var() == pytest.approx(8.0 / 9.0)  # biased, and eps is 1


def test_dropout_keeps_what_the_mask_says_and_scales_it() -> None:
    found = reference.dropout(ops.Dropout(0.75), {"mask": np.array([True, False, True])}, np.array([1.0, 2.0, 3.0]))
    assert found.tolist() == [4.0, 0.0, 12.0]


DROPOUT = miniature(get_spec("ablation/resnet110_dropout_shortcut"))


def batch_of(spec: ResNetSpec, batch: int = 4, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels."""
    images = probe_images((batch, size, size, spec.in_channels), dtype="float64")
    return images, probe_labels(batch, num_outputs(make_plan(spec)), 0)


def test_without_masks_the_trainer_drops_about_the_right_share() -> None:
    spec = DROPOUT.replace(**{"shortcut.dropout": 0.25})
    plan = make_plan(spec, 32)
    images, labels = batch_of(spec)
    masks = dropout_masks(plan, 4, 1)
    assert len(masks) > 2
    assert np.mean(np.concatenate([mask.ravel() for mask in masks.values()])) == pytest.approx(0.75, abs=0.01)
    losses = [Trainer(reference.build(spec), PROBE).gradients(images, labels, given).loss for given in
              (None, masks, dropout_masks(plan, 4, 2))]  # fmt: skip
    assert losses[0] == losses[1] != losses[2]


def test_masks_change_at_every_step() -> None:
    trainer = Trainer(reference.build(DROPOUT), PROBE)
    losses = {trainer.step(*batch_of(DROPOUT), 0.0) for _ in range(3)}
    assert len(losses) == 3


FROZEN = Training(optimizer=Optimizer(weight_decay=5e-4), frozen_norms=True)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "bit/r50x1"])
def test_frozen_norms_stay_as_they_are(name: str) -> None:
    spec = miniature(get_spec(name))
    model, norms = reference.build(spec), norm_layers(make_plan(spec))
    before = reference.export_weights(model)
    trainer = Trainer(model, FROZEN)
    images, labels = batch_of(spec)
    found = trainer.gradients(images, labels)
    assert list(found.tensors) == list(FROZEN.trainable(make_plan(spec)))
    assert found.loss == pytest.approx(cross_entropy(trainer.evaluate(images), labels, 0.0), rel=1e-12)
    trainer.step(images, labels, 0.1)
    kept = {tensor for tensor, array in trainer.weights().items() if np.array_equal(array, before[tensor])}
    assert kept == {tensor for tensor in before if tensor.rpartition(".")[0] in norms}


# Whole networks.

NETWORKS = {
    name: miniature(get_spec(name))
    for name in (
        "torchvision/resnet18",
        "torchvision/resnext50_32x4d",
        "timm/resnet50d",
        "timm/resnetv2_50d_gn",
        "he/resnet18_a",
        "keras/resnet50v2",
        "cifar/preresnet20",
        "bit/r50x1",
        "fb/preresnet18",
        "ablation/resnet110_dropout_shortcut",
        "ablation/resnet110_exclusive_gate_b6",
        "ablation/resnet110_shortcut_gate_b0",
        "ablation/resnet110_scale_0.5_0.5",
        "ablation/resnet110_norm_after_add",
        "ablation/resnet110_act_only_pre",
    )
}
NETWORKS["dilated"] = NETWORKS["timm/resnet50d"].replace(dilate=(False, False, True, True))
NETWORKS["features"] = NETWORKS["torchvision/resnet18"].replace(num_classes=0, **{"head.pool": "max"})
NETWORKS["image"] = NETWORKS["fb/preresnet18"].replace(num_classes=0, **{"head.pool": "none"})


def size_for(spec: ResNetSpec) -> int:
    """So that batch norm has more than a few values in the last stage."""
    return 32 if len(spec.depths) == 3 else 64


def check_network(spec: ResNetSpec, training: Training, coordinates: int) -> None:
    """Gradients at single values of as many tensors, of every kind, and along a direction through all of them."""
    images, labels = batch_of(spec, size=size_for(spec))
    plan = make_plan(spec, images.shape[1:3])
    masks = dropout_masks(plan, len(images), 0)
    model = reference.build(spec)
    arrays = {**reference.export_weights(model), "images": images}
    found = Trainer(model, training).gradients(images, labels, masks)
    gradients = {**found.tensors, "images": found.images}
    assert {name: gradient.shape for name, gradient in gradients.items()} == {
        name: arrays[name].shape for name in (*training.trainable(plan), "images")
    }

    def loss(arrays: Weights) -> float:
        *_, last = reference.forward(plan, arrays, arrays["images"], training, masks)
        return float(cross_entropy(last.output, labels, training.label_smoothing))

    def agrees(gradient: float, difference: Callable[[float], float], scale: float) -> bool:
        return any(abs(gradient - difference(step)) <= NETWORK_LIMIT * scale for step in NETWORK_STEPS)

    largest = max(np.abs(gradient).max() for gradient in gradients.values())
    names = ["images", "images", *named_rng(spec.name, 0).choice(list(found.tensors), coordinates - 2)]
    for k, name in enumerate(names):
        (index,) = some_indices(arrays[name], 1, f"{name} {k}")
        difference = partial(finite_difference, lambda: loss(arrays), arrays[name], index)
        assert agrees(gradients[name][index], difference, largest), (name, index)

    along = {name: random(name, *array.shape) / math.sqrt(array.size) for name, array in gradients.items()}

    def directional(step: float) -> float:
        above, below = (
            loss({name: array + sign * step * along.get(name, 0.0) for name, array in arrays.items()})
            for sign in (1, -1)
        )
        return (above - below) / (2 * step)

    expected = sum((gradients[name] * direction).sum() for name, direction in along.items())
    deviation = math.sqrt(sum((gradient**2).mean() for gradient in gradients.values()))  # of such sums
    assert agrees(expected, directional, deviation)


@pytest.mark.parametrize("spec", NETWORKS.values(), ids=NETWORKS)
def test_gradients_against_finite_differences(spec: ResNetSpec) -> None:
    check_network(spec, PROBE, 16)


def test_gradients_with_frozen_norms_against_finite_differences() -> None:
    check_network(NETWORKS["torchvision/resnet18"], FROZEN, 16)


@pytest.mark.parametrize(
    "name",
    [
        "torchvision/resnet18",
        "keras/resnet50v2",
        "cifar/preresnet20",
        "bit/r50x1",
        "ablation/resnet110_dropout_shortcut",
        "ablation/resnet110_exclusive_gate_b6",
        "features",
        "image",
    ],
)
def test_a_trace_has_the_expected_keys_and_leaves_the_model_as_it_was(name: str) -> None:
    spec, size = NETWORKS[name], 32
    images, _ = batch_of(spec, size=size)
    model = reference.build(spec)
    before = reference.export_weights(model)
    trace = reference.trace(model, images, checks=CHECKS[::-1])
    plan = make_plan(spec, size)
    shapes = [pair for check in CHECKS for pair in expected_shapes(check, plan, 4, PROBE).items()]
    assert [(name, trace.shape(name)) for name in trace.names] == shapes
    assert {trace[name].dtype for name in trace.names} == {np.dtype("float64")}
    assert all(np.isfinite(trace[name]).all() for name in trace.names)
    assert same_weights(model.weights, before)
    assert trace.about["training"] == PROBE.to_json()
    if spec.num_classes:
        assert trace["loss"] == cross_entropy(trace["train/output"], probe_labels(4, spec.num_classes, 0), 0.1)


@pytest.mark.parametrize(
    "training",
    [FROZEN, *(Training(optimizer=Optimizer(kind=kind, momentum=0.0)) for kind in ("sgd", "adam", "adamw"))],
    ids=lambda training: training.optimizer.kind + "-frozen" * training.frozen_norms,
)
def test_a_trace_of_another_training_has_the_expected_keys(training: Training) -> None:
    spec = NETWORKS["cifar/preresnet20"]
    trace = reference.trace(reference.build(spec), batch_of(spec)[0], checks=CHECKS[1:], training=training)
    plan = make_plan(spec, 32)
    shapes = [pair for check in CHECKS[1:] for pair in expected_shapes(check, plan, 4, training).items()]
    assert [(name, trace.shape(name)) for name in trace.names] == shapes


def test_an_inference_trace_says_nothing_of_training() -> None:
    trace = reference.trace(reference.build(DROPOUT), batch_of(DROPOUT)[0])
    assert not {"training", "labels"} & set(trace.about)


def test_statistics_are_those_after_one_forward_pass() -> None:
    spec = NETWORKS["torchvision/resnet18"]
    images, labels = batch_of(spec)
    model = reference.build(spec)
    trace = reference.trace(model, images, checks=("train",))
    Trainer(model, PROBE).gradients(images, labels)
    names = [name for name in model.weights if ".running_" in name]
    assert all(np.array_equal(trace[f"stats/{name}"], model.weights[name]) for name in names)
    values = trace["train/stem.conv1"].reshape(-1, 8)
    old = reference.build(spec).weights
    for leaf, batch in (("mean", values.mean(axis=0)), ("var", values.var(axis=0, ddof=1))):
        expected = 0.9 * old[f"stem.norm1.running_{leaf}"] + 0.1 * batch
        assert relative_error(trace[f"stats/stem.norm1.running_{leaf}"], expected) <= 1e-13


# The trainer.


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_training_is_resumed_bit_for_bit(kind: str) -> None:
    """Two trainers of three steps and of one and two, in a network with dropout and masks of its own."""
    training = Training(optimizer=Optimizer(kind=kind), label_smoothing=0.1)
    batch = batch_of(DROPOUT)
    whole = Trainer(reference.build(DROPOUT), training)
    losses = [whole.step(*batch, rate) for rate in (0.1, 0.02, 0.03)]

    first = Trainer(reference.build(DROPOUT), training)
    resumed_losses = [first.step(*batch, 0.1)]
    model = reference.build(DROPOUT)
    reference.load_weights(model, first.weights())
    resumed = Trainer(model, training)
    resumed.load_state(first.state(), first.steps)
    assert resumed.steps == 1
    resumed_losses += [resumed.step(*batch, rate) for rate in (0.02, 0.03)]

    assert resumed_losses == losses
    assert same_weights(resumed.weights(), whole.weights())
    assert same_weights(resumed.state(), whole.state())
    assert resumed.steps == whole.steps == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state, name: state.pop(name), "1 missing"),
        (lambda state, name: state.update(other=state[name]), "unexpected other"),
        (lambda state, name: state.update({name: state[name][:1]}), "of another shape"),
        (lambda state, name: state.update({name: state[name].astype(int)}), "int64, expected a float"),
        (lambda state, name: state.update({name: state[name] * np.nan}), "not finite"),
    ],
    ids=["missing", "extra", "shape", "dtype", "nan"],
)
def test_a_state_that_does_not_fit_is_refused(change: Callable, message: str) -> None:
    trainer = Trainer(reference.build(DROPOUT), PROBE)
    trainer.step(*batch_of(DROPOUT), 0.1)
    before, state = trainer.state(), trainer.state()
    change(state, "momentum_buffer/head.weight")
    with pytest.raises(CheckpointError, match=message):
        trainer.load_state(state, 7)
    assert same_weights(trainer.state(), before)
    assert trainer.steps == 1


def test_what_a_trainer_returns_is_a_copy() -> None:
    trainer = Trainer(reference.build(DROPOUT), PROBE)
    trainer.step(*batch_of(DROPOUT), 0.1)
    for returned in (trainer.weights(), trainer.state()):
        for array in returned.values():
            array[...] = np.nan
    assert all(
        np.isfinite(array).all() for array in itertools.chain(trainer.weights().values(), trainer.state().values())
    )


def test_evaluation_uses_the_running_statistics() -> None:
    spec = NETWORKS["torchvision/resnet18"]
    images, labels = batch_of(spec)
    trainer = Trainer(reference.build(spec), PROBE)
    assert np.array_equal(trainer.evaluate(images), reference.trace(trainer.model, images)["eval/output"])
    before = trainer.evaluate(images)
    trainer.gradients(images, labels)
    assert not np.array_equal(trainer.evaluate(images), before)


def test_training_learns_a_batch() -> None:
    spec = NETWORKS["cifar/preresnet20"]
    images, labels = batch_of(spec)
    trainer = Trainer(reference.build(spec), Training())
    losses = [trainer.step(images, labels, 0.02) for _ in range(12)]
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_float32_stays_float32(kind: str) -> None:
    trainer = Trainer(reference.build(DROPOUT, dtype="float32"), Training(optimizer=Optimizer(kind=kind)))
    images, labels = batch_of(DROPOUT)
    trainer.step(images, labels, np.float64(0.1))
    found = trainer.gradients(images, labels)
    arrays = [*trainer.weights().values(), *trainer.state().values(), *found.tensors.values(), found.images]
    assert {array.dtype for array in [*arrays, trainer.evaluate(images)]} == {np.dtype("float32")}
