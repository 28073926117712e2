"""The NumPy reference against truths of its own: values worked out by hand, and PyTorch's float64
operators.

The reference judges the three renderings, so its operators are not judged by them: the oracles are
`torch.nn.functional`, with padding made explicit here, never `resnet_torch`.
"""

from __future__ import annotations

import numpy as np
import pytest

from shared import CheckpointError, SpecError, get_spec, make_plan, probe_weights
from shared.architecture import ops
from shared.architecture.ops import window_pads
from shared.architecture.presets import miniature
from shared.frameworks import reference
from shared.reference import forward
from shared.weights.random import named_rng
from tests.probes import SIZE, images_for, loaded, relative_error

torch = pytest.importorskip("torch")
F = torch.nn.functional

# Float64 against float64, sums in another order. Measured at most 4e-16.
OPERATOR_LIMIT = 1e-14

SIZES = [(8, 9), (7, 6), (1, 2)]
LARGER_SIZES = [(8, 9), (7, 6), (2, 3)]  # for operators that cannot take one pixel


def random(name: str, *shape: int) -> np.ndarray:
    return named_rng(name, 0).standard_normal(shape)


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def nhwc(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).numpy()


def padded(x: np.ndarray, pads: ops.Pads, value: float) -> torch.Tensor:
    (top, bottom), (left, right) = pads
    return F.pad(nchw(x), (left, right, top, bottom), value=value)


def tensorflow_pads(n: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """TensorFlow's documented SAME rule for one side, written as its guide writes it."""
    effective = (kernel - 1) * dilation + 1
    total = max(effective - stride, 0) if n % stride == 0 else max(effective - (n % stride), 0)
    return total // 2, total - total // 2


@pytest.mark.parametrize("n", range(1, 20))
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"),
    [(3, 2, 1), (7, 2, 1), (3, 1, 2), (2, 2, 1), (1, 2, 1), (5, 3, 1)],
)
def test_same_pads_are_tensorflows(n: int, kernel: int, stride: int, dilation: int) -> None:
    assert window_pads((n, 8), kernel, stride, dilation, "same")[0] == tensorflow_pads(
        n, kernel, stride, dilation
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "op",
    [
        ops.Conv(4, 6, 3),
        ops.Conv(4, 6, 3, stride=2),
        ops.Conv(4, 6, 3, stride=2, padding="same"),
        ops.Conv(4, 6, 7, stride=2, padding="same", bias=True),
        ops.Conv(4, 6, 7, stride=2, bias=True),
        ops.Conv(4, 6, 1, stride=2),
        ops.Conv(4, 6, 3, dilation=2),
        ops.Conv(4, 6, 3, stride=2, dilation=2, padding="same"),
        ops.Conv(4, 6, 3, stride=2, groups=2),
        ops.Conv(4, 4, 3, groups=4, bias=True),
    ],
    ids=lambda op: (
        f"k{op.kernel_size}s{op.stride}d{op.dilation}g{op.groups}-{op.padding}{'-bias' * op.bias}"
    ),
)
def test_convolution(op: ops.Conv, size: tuple[int, int]) -> None:
    x = random("x", 2, *size, op.in_channels)
    weights = {leaf: random(leaf, *shape) for leaf, shape in op.tensors().items()}
    reach = op.dilation * (op.kernel_size - 1)
    pads = ((reach // 2, reach // 2),) * 2
    if op.padding == "same":
        pads = tuple(tensorflow_pads(n, op.kernel_size, op.stride, op.dilation) for n in size)
    kernel = torch.from_numpy(weights["weight"])
    bias = torch.from_numpy(weights["bias"]) if op.bias else None
    expected = F.conv2d(padded(x, pads, 0.0), kernel, bias, op.stride, 0, op.dilation, op.groups)
    assert relative_error(forward.conv(op, weights, x), nhwc(expected)) <= OPERATOR_LIMIT


def test_convolution_by_hand() -> None:
    """A 2 x 2 image under a 3 x 3 kernel of ones at stride 2, both paddings."""
    x = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    weights = {"weight": np.arange(1.0, 10.0).reshape(1, 1, 3, 3)}
    symmetric = forward.conv(ops.Conv(1, 1, 3, stride=2), weights, x)
    same = forward.conv(ops.Conv(1, 1, 3, stride=2, padding="same"), weights, x)
    assert symmetric.item() == 1 * 5 + 2 * 6 + 3 * 8 + 4 * 9
    assert same.item() == 1 * 1 + 2 * 2 + 3 * 4 + 4 * 5


def test_weight_standardisation_by_hand() -> None:
    """Filters with mean 2 and variance 1, and with mean 0 and variance 4: biased, over the whole
    filter.
    """
    weights = {"weight": np.array([[1.0, 3.0], [-2.0, 2.0]]).reshape(2, 2, 1, 1)}
    x = np.array([10.0, 1.0]).reshape(1, 1, 1, 2)
    found = forward.conv(ops.Conv(2, 2, weight_std_eps=3.0), weights, x)
    expected = [(-10.0 + 1.0) / np.sqrt(1 + 3), (-20.0 + 2.0) / np.sqrt(4 + 3)]
    assert found.ravel() == pytest.approx(expected, rel=OPERATOR_LIMIT)


def test_weight_standardisation_against_batch_norm() -> None:
    """timm's formulation: every filter a channel of one image, normalised in training mode."""
    op = ops.Conv(4, 6, 3, weight_std_eps=1e-3)
    x, kernel = random("x", 2, 5, 6, 4), random("kernel", 6, 4, 3, 3)
    standard = F.batch_norm(
        torch.from_numpy(kernel).reshape(1, 6, -1), None, None, training=True, eps=1e-3
    )
    expected = F.conv2d(nchw(x), standard.reshape(kernel.shape), padding=1)
    assert relative_error(forward.conv(op, {"weight": kernel}, x), nhwc(expected)) <= OPERATOR_LIMIT


def norm_weights(channels: int) -> dict[str, np.ndarray]:
    found = {leaf: random(leaf, channels) for leaf in ("weight", "bias", "running_mean")}
    return found | {"running_var": random("running_var", channels) ** 2}


def test_batch_norm() -> None:
    x, weights = random("x", 2, 5, 6, 8), norm_weights(8)
    mean, variance, gamma, beta = (
        torch.from_numpy(weights[leaf])
        for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    expected = F.batch_norm(nchw(x), mean, variance, gamma, beta, eps=1.001e-5)
    found = forward.batch_norm(ops.BatchNorm(8, eps=1.001e-5), weights, x)
    assert relative_error(found, nhwc(expected)) <= OPERATOR_LIMIT


@pytest.mark.parametrize(("unbiased", "factor"), [(True, 6 / 5), (False, 1.0)])
def test_which_variance_is_stored(unbiased: bool, factor: float) -> None:
    """Six values of a channel, their variance (biased) 35 / 12; the old one counts for 3 / 4."""
    op = ops.BatchNorm(1, momentum=0.75, unbiased=unbiased)
    weights = {"running_mean": np.array([2.0]), "running_var": np.array([1.0])}
    x = np.arange(1.0, 7.0).reshape(1, 2, 3, 1)
    batch, moved = forward.batch_statistics(op, weights, x)
    assert batch["running_var"] == pytest.approx(35 / 12, rel=OPERATOR_LIMIT)
    assert moved["running_mean"] == pytest.approx(0.75 * 2.0 + 0.25 * 3.5, rel=OPERATOR_LIMIT)
    expected = 0.75 * 1.0 + 0.25 * 35 / 12 * factor
    assert moved["running_var"] == pytest.approx(expected, rel=OPERATOR_LIMIT)


def test_batch_norm_by_hand() -> None:
    weights = {
        leaf: np.array([v])
        for leaf, v in zip(
            ("weight", "bias", "running_mean", "running_var"), (3.0, 0.5, 1.0, 3.0), strict=True
        )
    }
    found = forward.batch_norm(ops.BatchNorm(1, eps=1.0), weights, np.full((1, 1, 1, 1), 5.0))
    assert found.item() == 3.0 * (5.0 - 1.0) / 2.0 + 0.5


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_group_norm(groups: int) -> None:
    x, weights = random("x", 2, 5, 6, 8), norm_weights(8)
    gamma, beta = torch.from_numpy(weights["weight"]), torch.from_numpy(weights["bias"])
    expected = F.group_norm(nchw(x), groups, gamma, beta, eps=1e-3)
    found = forward.group_norm(ops.GroupNorm(8, groups, eps=1e-3), weights, x)
    assert relative_error(found, nhwc(expected)) <= OPERATOR_LIMIT


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("padding", ["symmetric", "zero", "same"])
def test_max_pool(padding: str, size: tuple[int, int]) -> None:
    x = random("x", 2, *size, 3) - 2  # mostly negative, so that zeros in the border would win
    op = ops.MaxPool(padding=padding)
    pads = ((1, 1), (1, 1)) if padding != "same" else tuple(tensorflow_pads(n, 3, 2) for n in size)
    expected = F.max_pool2d(padded(x, pads, 0.0 if padding == "zero" else -torch.inf), 3, 2)
    assert np.array_equal(forward.max_pool(op, {}, x), nhwc(expected))


def caffe_max_pool(x: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    """Max pooling without padding as Caffe's pooling_layer.cpp loops over it, pixel by pixel.

    `pooled_height_` is ceil((height - kernel) / stride) + 1 in float arithmetic; the step that
    clips the last window is taken only where there is padding.
    """
    images, height, width, channels = x.shape
    pooled = [int(np.ceil((n - kernel) / stride)) + 1 for n in (height, width)]
    y = np.full((images, *pooled, channels), -np.finfo(np.float64).max)
    for ph in range(pooled[0]):
        for pw in range(pooled[1]):
            hstart, wstart = ph * stride, pw * stride
            hend, wend = min(hstart + kernel, height), min(wstart + kernel, width)
            for h in range(hstart, hend):
                for w in range(wstart, wend):
                    y[:, ph, pw] = np.maximum(y[:, ph, pw], x[:, h, w])
    return y


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 112, 113])
def test_ceil_pool_is_caffes(n: int) -> None:
    x = random("x", 2, n, 9, 3) - 2  # mostly negative, so that zeros in the border would win
    op = ops.MaxPool(padding="ceil")
    expected = caffe_max_pool(x, 3, 2)
    assert np.array_equal(forward.max_pool(op, {}, x), expected)
    assert op.output((n, 9, 3)) == expected.shape[1:]
    assert np.array_equal(nhwc(F.max_pool2d(nchw(x), 3, 2, ceil_mode=True)), expected)


def test_ceil_pool_differs_from_same_at_odd_sizes_alone() -> None:
    """The feature map behind the stem's pool has 56 rows and not 57 in He's networks at 225."""
    ceil, same = ops.MaxPool(padding="ceil"), ops.MaxPool(padding="same")
    even, odd = random("x", 2, 112, 8, 3), random("x", 2, 113, 9, 3)
    assert np.array_equal(forward.max_pool(ceil, {}, even), forward.max_pool(same, {}, even))
    assert forward.max_pool(ceil, {}, odd).shape == (2, 56, 4, 3)
    assert forward.max_pool(same, {}, odd).shape == (2, 57, 5, 3)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", LARGER_SIZES, ids=str)
def test_blur_pool(size: tuple[int, int], stride: int) -> None:
    """timm's BlurPool2d: one filter for each channel, on an image padded by reflection."""
    x, op = random("x", 2, *size, 3), ops.BlurPool(stride)
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
    framed = F.pad(nchw(x), (1, 1, 1, 1), mode="reflect")
    expected = F.conv2d(framed, kernel.double().expand(3, 1, 3, 3), stride=stride, groups=3)
    assert relative_error(forward.blur_pool(op, {}, x), nhwc(expected)) <= OPERATOR_LIMIT
    assert op.output((*size, 3)) == nhwc(expected).shape[1:]


def test_blur_pool_by_hand() -> None:
    """Two rows alike, (1, 3, 5): reflected, 3 1 3 5 3."""
    x = np.array([[1.0, 3.0, 5.0], [1.0, 3.0, 5.0]]).reshape(1, 2, 3, 1)
    assert forward.blur_pool(ops.BlurPool(), {}, x)[0, :, :, 0].tolist() == [[2.0, 4.0]]
    assert forward.blur_pool(ops.BlurPool(1), {}, x)[0, :, :, 0].tolist() == [[2.0, 3.0, 4.0]] * 2


@pytest.mark.parametrize("size", LARGER_SIZES, ids=str)
def test_valid_avg_pool(size: tuple[int, int]) -> None:
    x, op = random("x", 2, *size, 3), ops.AvgPool(padding="valid")
    expected = nhwc(F.avg_pool2d(nchw(x), 2))
    assert relative_error(forward.avg_pool(op, {}, x), expected) <= OPERATOR_LIMIT
    assert op.output((*size, 3)) == expected.shape[1:]


@pytest.mark.parametrize(
    ("padding", "expected"), [("symmetric", -1.0), ("zero", 0.0), ("same", -1.0), ("ceil", -1.0)]
)
def test_what_a_max_pool_sees_outside_the_image(padding: str, expected: float) -> None:
    x = np.full((1, 2, 2, 1), -1.0)
    assert forward.max_pool(ops.MaxPool(padding=padding), {}, x).item() == expected


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_avg_pool_is_pytorchs_ceil_mode(size: tuple[int, int]) -> None:
    x = random("x", 2, *size, 3)
    expected = F.avg_pool2d(nchw(x), 2, 2, ceil_mode=True, count_include_pad=False)
    assert relative_error(forward.avg_pool(ops.AvgPool(), {}, x), nhwc(expected)) <= OPERATOR_LIMIT


@pytest.mark.parametrize(("count_pad", "expected"), [(False, [1.5, 2.0]), (True, [1.5, 1.0])])
def test_avg_pool_at_the_border(count_pad: bool, expected: list[float]) -> None:
    """One row, (1, 2), at stride 1: the windows hang over the right and lower border."""
    x = np.array([[1.0, 2.0], [1.0, 2.0]]).reshape(1, 2, 2, 1)
    found = forward.avg_pool(ops.AvgPool(stride=1, count_pad=count_pad), {}, x)
    assert found[0, 0, :, 0].tolist() == expected


@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 2), (0, 4)])
def test_subsample(before: int, after: int) -> None:
    x = random("x", 2, 5, 6, 4)
    found = forward.subsample(ops.Subsample(2, before, after), {}, x)
    assert found.shape == (2, 3, 3, 4 + before + after)
    assert np.array_equal(found[..., before : before + 4], x[:, ::2, ::2])
    assert np.abs(np.delete(found, range(before, before + 4), axis=3)).sum() == 0


def test_subsample_is_the_one_by_one_max_pool_of_keras() -> None:
    x = random("x", 2, 5, 6, 4)
    assert np.array_equal(
        forward.subsample(ops.Subsample(2), {}, x), nhwc(F.max_pool2d(nchw(x), 1, 2))
    )


def test_relu_by_hand() -> None:
    assert forward.relu(ops.ReLU(), {}, np.array([-1.0, 0.0, 2.0])).tolist() == [0.0, 0.0, 2.0]


def test_dropout_does_nothing_at_inference() -> None:
    x = random("x", 2, 3)
    assert np.array_equal(forward.dropout(ops.Dropout(0.5), {}, x), x)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (ops.Merge(), 3.0 + 5.0),
        (ops.Merge("scale", (0.5, 2.0)), 1.5 + 10.0),
        (ops.Merge("exclusive_gate"), 0.25 * 3.0 + 0.75 * 5.0),
        (ops.Merge("shortcut_gate"), 0.25 * 3.0 + 5.0),
    ],
    ids=lambda value: getattr(value, "mode", ""),
)
def test_merges_by_hand(op: ops.Merge, expected: float) -> None:
    logit = np.log(3.0)  # sigmoid 3/4
    gate = (np.array([logit]),) if op.mode.endswith("gate") else ()
    found = forward.merge(op, {}, np.array([3.0]), np.array([5.0]), *gate)
    assert found.item() == pytest.approx(expected, rel=OPERATOR_LIMIT)


@pytest.mark.parametrize(("how", "expected"), [("avg", [2.5, 25.0]), ("max", [4.0, 40.0])])
def test_global_pool_by_hand(how: str, expected: list[float]) -> None:
    x = np.array([1.0, 10.0]) * np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 2, 2, 1)
    assert forward.global_pool(ops.GlobalPool(how), {}, x)[0].tolist() == expected


def test_linear_by_hand() -> None:
    weights = {
        "weight": np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        "bias": np.array([0.5, 0.0, -1.0]),
    }
    found = forward.linear(ops.Linear(2, 3), weights, np.array([[1.0, 10.0]]))
    assert found.tolist() == [[21.5, 43.0, 64.0]]


def test_every_operator_is_known() -> None:
    assert set(forward.OPERATORS) == set(ops.Op.__subclasses__())


def test_trace_has_every_layer_with_the_plans_shape() -> None:
    spec = miniature(get_spec("timm/resnet50d"))
    trace = reference.trace(loaded(reference, spec), images_for(spec))
    shapes = {f"eval/{row.name}": (2, *row.output) for row in make_plan(spec, SIZE).layers}
    assert {name: trace.shape(name) for name in trace.names} == shapes | {"eval/output": (2, 10)}
    assert np.array_equal(trace["eval/output"], trace["eval/head"])


def test_weights_come_back_as_they_went_in() -> None:
    spec = miniature(get_spec("resnet18"))
    model, weights = loaded(reference, spec), probe_weights(spec, seed=1, dtype="float64")
    reference.load_weights(model, weights)
    found = reference.export_weights(model)
    assert all(np.array_equal(found[name], weights[name]) for name in weights)


def test_a_refused_load_changes_nothing() -> None:
    spec = miniature(get_spec("resnet18"))
    model = loaded(reference, spec)
    before = reference.export_weights(model)
    weights = probe_weights(spec, seed=1)
    del weights["head.bias"]
    with pytest.raises(CheckpointError, match=r"head\.bias"):
        reference.load_weights(model, weights)
    assert all(np.array_equal(model.weights[name], before[name]) for name in before)


def test_a_check_that_is_not_recorded_is_refused() -> None:
    model = loaded(reference, get_spec("cifar/resnet20"))
    with pytest.raises(SpecError, match="unknown check 'backward'"):
        reference.trace(model, np.zeros((1, 8, 8, 3)), checks=("eval", "backward"))
