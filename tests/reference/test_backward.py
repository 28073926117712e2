"""The gradients of the reference's operators against finite differences, values by hand, and
PyTorch's autograd.

As in `test_reference`, the oracle is `torch.nn.functional`, never `resnet_torch`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from shared.architecture import ops
from shared.reference import backward
from shared.reference.backward import BACKWARD
from shared.reference.forward import OPERATORS, batch_statistics
from tests.differences import AUTOGRAD_LIMIT, finite_difference, random, some_indices
from tests.probes import relative_error

OPERATOR_LIMIT = 1e-8  # relative to the largest gradient. Measured at most 2e-9

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
# Whose windows do not fit one pixel.
LARGER_WINDOWS = [
    ops.MaxPool(padding="ceil"),
    ops.AvgPool(padding="valid"),
    ops.BlurPool(),
    ops.BlurPool(1),
]
OTHERS = [
    ops.BatchNorm(4, eps=1e-3),
    ops.BatchNorm(4, eps=1e-3, scale=False),
    ops.GroupNorm(4, 1, eps=1e-3),
    ops.GroupNorm(4, 2),
    ops.GroupNorm(4, 4, eps=1e-3),
    ops.FoldedNorm(4),
    ops.Subsample(2),
    ops.Subsample(2, 2, 3),
    ops.Subsample(3, 0, 4),
    ops.ReLU(),
    ops.Dropout(0.3),
    ops.Merge(),
    ops.Merge("scale", (0.5, 2.0)),
    ops.Merge("exclusive_gate"),
    ops.Merge("shortcut_gate"),
    ops.GlobalPool(),
    ops.GlobalPool("max"),
    ops.Linear(4, 6),
]


def problem(
    op: ops.Op, size: tuple[int, int]
) -> tuple[list[np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Inputs and tensors of an operator, and the weights of a sum of its outputs."""
    count = 1 if not isinstance(op, ops.Merge) else 3 if op.mode.endswith("gate") else 2
    shape = (4,) if isinstance(op, ops.Linear) else (*size, 4)
    inputs = [random(f"input {k}", 3, *shape) for k in range(count)]
    tensors = {leaf: random(leaf, *of) for leaf, of in op.tensors().items()}
    if isinstance(op, ops.BatchNorm):
        tensors["running_var"] = tensors["running_var"] ** 2
    if isinstance(op, ops.Dropout):
        tensors["mask"] = random("mask", 3, *shape) > 0
    return inputs, tensors, random("dy", 3, *op.output(*([shape] * count)))


def check_differences(
    op: ops.Op, size: tuple[int, int], batch_moments: bool, rule: Callable
) -> None:
    inputs, tensors, dy = problem(op, size)

    def used() -> Mapping[str, np.ndarray]:
        return tensors | batch_statistics(op, tensors, *inputs)[0] if batch_moments else tensors

    by_inputs, by_tensors = rule(op, used(), dy, *inputs)
    pairs = [
        *zip(inputs, by_inputs, strict=True),
        *((tensors[leaf], g) for leaf, g in by_tensors.items()),
    ]
    for array, gradient in pairs:
        assert gradient.shape == array.shape
        for index in some_indices(array, 12, str(op)):
            expected = finite_difference(
                lambda: (OPERATORS[type(op)](op, used(), *inputs) * dy).sum(), array, index
            )
            assert abs(gradient[index] - expected) <= OPERATOR_LIMIT * max(
                1.0, np.abs(gradient).max()
            )


def identity(op: ops.Op) -> str:
    return f"{op.kind}: {op.describe()}"


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("op", WINDOWS, ids=identity)
def test_windows_against_finite_differences(op: ops.Op, size: tuple[int, int]) -> None:
    check_differences(op, size, False, BACKWARD[type(op)])


@pytest.mark.parametrize("size", [(8, 9), (7, 6), (2, 3)], ids=str)
@pytest.mark.parametrize("op", LARGER_WINDOWS, ids=identity)
def test_larger_windows_against_finite_differences(op: ops.Op, size: tuple[int, int]) -> None:
    check_differences(op, size, False, BACKWARD[type(op)])


@pytest.mark.parametrize("size", [(8, 9), (7, 6)], ids=str)
def test_a_valid_pool_against_finite_differences(size: tuple[int, int]) -> None:
    check_differences(ops.MaxPool(padding="valid"), size, False, BACKWARD[ops.MaxPool])


@pytest.mark.parametrize("op", OTHERS, ids=identity)
def test_operators_against_finite_differences(op: ops.Op) -> None:
    check_differences(op, (5, 4), isinstance(op, ops.BatchNorm), BACKWARD[type(op)])


def test_frozen_batch_norm_against_finite_differences() -> None:
    check_differences(ops.BatchNorm(4, eps=1e-3), (5, 4), False, backward.frozen_batch_norm)


def test_every_operator_has_a_gradient() -> None:
    assert (
        BACKWARD.keys()
        == OPERATORS.keys()
        == {type(op) for op in (*WINDOWS, *LARGER_WINDOWS, *OTHERS)}
    )


def gradient_of(op: ops.Op, dy: list, x: list) -> list:
    """By a single channel of one image, given as rows."""
    found = BACKWARD[type(op)](
        op, {}, np.array(dy, float)[None, ..., None], np.array(x, float)[None, ..., None]
    )
    return found[0][0][0, ..., 0].tolist()


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        # Windows start at -1 and 1; where all is equal, the first pixel inside the image takes all.
        ("symmetric", [[1, 2, 0, 0], [3, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]),
        (
            "zero",
            [[0, 0, 0, 0], [0, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        ),  # first is a zero of the border
        ("same", [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]),  # they start at 0 and 2
        ("ceil", [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]),
    ],
)
def test_the_first_of_equal_maxima_takes_all(padding: str, expected: list) -> None:
    assert (
        gradient_of(ops.MaxPool(padding=padding), [[1, 2], [3, 4]], np.zeros((4, 4)).tolist())
        == expected
    )


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


def windowed(op: ops.Op, x, weight, bias):
    """PyTorch's output of a convolution or a pool; it pads explicitly what the operator pads."""
    from torch.nn import functional as F

    if isinstance(op, ops.BlurPool):
        kernel = x.new_tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]]).expand(4, 1, 3, 3) / 16
        return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), kernel, stride=op.stride, groups=4)
    fill = op.pad_value if isinstance(op, ops.MaxPool) else 0.0
    (top, bottom), (left, right) = op.pads((9, 8))
    sides = (left, right, top, bottom)
    framed = F.pad(x, sides, value=fill)
    if isinstance(op, ops.MaxPool):
        return F.max_pool2d(framed, 3, 2)
    if isinstance(op, ops.AvgPool):
        ones = F.pad(x.detach() * 0 + 1, sides, value=float(op.count_pad))
        return F.avg_pool2d(framed, 2, op.stride) / F.avg_pool2d(ones, 2, op.stride)
    kernel = weight
    if op.weight_std_eps:  # timm's formulation
        rows = weight.reshape(1, op.out_channels, -1)
        kernel = F.batch_norm(rows, None, None, training=True, eps=op.weight_std_eps)
        kernel = kernel.reshape(weight.shape)
    return F.conv2d(framed, kernel, bias, op.stride, 0, op.dilation, op.groups)


# Against autograd, ties of max pools among them.


@pytest.mark.parametrize("op", [*WINDOWS, *LARGER_WINDOWS, *OTHERS[:4]], ids=identity)
def test_operators_against_autograd(op: ops.Op) -> None:
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    inputs, tensors, dy = problem(op, (9, 8))
    if isinstance(op, ops.MaxPool):
        inputs = [np.maximum(np.round(inputs[0]), 0)]  # most windows have several maxima
    x = torch.from_numpy(inputs[0]).requires_grad_()
    leaves = {
        leaf: torch.from_numpy(array).requires_grad_()
        for leaf, array in tensors.items()
        if "run" not in leaf
    }
    nchw, weight, bias = x.permute(0, 3, 1, 2), leaves.get("weight"), leaves.get("bias")
    used = tensors
    if isinstance(op, ops.BatchNorm):
        used = tensors | batch_statistics(op, tensors, *inputs)[0]
        y = F.batch_norm(nchw, None, None, weight, bias, training=True, eps=op.eps)
    elif isinstance(op, ops.GroupNorm):
        y = F.group_norm(nchw, op.groups, weight, bias, op.eps)
    else:
        y = windowed(op, nchw, weight, bias)
    expected = torch.autograd.grad(
        y, [x, *leaves.values()], torch.from_numpy(dy).permute(0, 3, 1, 2)
    )
    (by_input,), by_tensors = BACKWARD[type(op)](op, used, dy, *inputs)
    for found, wanted in zip(
        [by_input, *(by_tensors[leaf] for leaf in leaves)], expected, strict=True
    ):
        assert relative_error(found, wanted.numpy()) <= AUTOGRAD_LIMIT
