"""Canonical weights: probe weights on which nothing hides, the round trip through a file, and every
refusal.
"""

from __future__ import annotations

import functools
import json

import ml_dtypes
import numpy as np
import pytest

from shared import (
    CheckpointError,
    ResNetSpec,
    SpecError,
    Trace,
    check_weights,
    get_spec,
    make_plan,
    probe_images,
    probe_weights,
    read_weights,
    save_weights,
)
from shared.architecture.presets import miniature
from shared.frameworks import reference
from shared.verification.recording import TRAIN
from shared.weights.canonical import (
    FORMAT,
    canonical_shape,
    cast_exactly,
    from_channels_last,
    to_channels_last,
    transposed,
)
from shared.weights.dtypes import dtype_name
from shared.weights.files import read_tensors, write_tensors
from shared.weights.random import named_rng
from tests.probes import DISTINCT, reference_trace, relative_error, same_weights
from tests.zoo import rest_in_zoo

SPEC = miniature(get_spec("torchvision/resnet18"))
PLAN = make_plan(SPEC)
DTYPES = ["bfloat16", "float16", "float32", "float64"]

# Standard deviation of any layer's output under probe weights, over all miniatures: measured 0.13
# to 32.
SMALLEST_SPREAD, LARGEST_SPREAD = 0.05, 50.0

# How much the two probe images must differ in any layer, relative to its largest value: a network
# that has forgotten its image has nothing left to compare. Rounding noise is 1e-16.
SMALLEST_DIFFERENCE = 1e-4

# A relative change of the images, and by how much a layer of a deep network may multiply it in
# training mode: 1e-16 of rounding, times this, stays below the limit of 1e-12. Measured 2.3 to 40;
# with ReLUs that are closed half the time 1e8 in plain networks, with the scale of a branch in the
# convolution before its last norm 8,400 in ResNet-164.
NOISE = 1e-10
LARGEST_GROWTH = 100

# As deep as they are published, where a branch that is too weak lets the image fade.
DEEP = [
    "he/plain34",
    "cifar/resnet110",
    "cifar/preresnet164",
    "ablation/resnet110_scale_0_1",
    "ablation/resnet110_scale_0.5_1",
    "ablation/resnet110_scale_0.5_0.5",
    "ablation/resnet110_exclusive_gate_b0",
    "ablation/resnet110_shortcut_gate_b0",
    "ablation/resnet110_norm_after_add",
    "ablation/resnet110_act_before_add",
]
# The deepest, and one of each kind of join that multiplies: scaled, gated, with a norm behind it.
DEEP_SHORT = {
    *("cifar/preresnet164", "ablation/resnet110_scale_0.5_0.5"),
    *("ablation/resnet110_exclusive_gate_b0", "ablation/resnet110_norm_after_add"),
}


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    """Fresh arrays that a test may damage."""
    return probe_weights(SPEC)


@functools.cache
def probe_of_resnet18() -> dict[str, np.ndarray]:
    return probe_weights(get_spec("torchvision/resnet18"), dtype="float64")


def of_kind(leaf: str, ndim: int, *, ends_branch: bool = False) -> np.ndarray:
    """All probe values of one kind of tensor, of the norms that end a basic block's branch or of
    all others.
    """
    found = probe_of_resnet18()
    kind = [n for n, a in found.items() if n.rpartition(".")[2] == leaf and a.ndim == ndim]
    return np.concatenate([found[n].ravel() for n in kind if (".norm2." in n) is ends_branch])


def test_probe_weights_are_deterministic(weights: dict) -> None:
    assert same_weights(weights, probe_weights(SPEC))
    assert not same_weights(weights, probe_weights(SPEC, seed=1))


def test_probe_values_are_pinned() -> None:
    """Golden traces rest on these values: they may not change with NumPy, the platform
    or the code.
    """
    assert named_rng("stem.conv1.weight", 0).standard_normal(2).tolist() == [
        -0.37603708626266935,
        1.9235540494058665,
    ]
    assert named_rng("a", 0).uniform(0.5, 1.5, 2).tolist() == [
        0.9304746167205964,
        1.2731162997415526,
    ]


def test_probe_tensors_depend_on_their_own_name_only(weights: dict) -> None:
    """A tensor of the same name and shape is the same in another network, wherever it
    stands there.
    """
    other = probe_weights(SPEC.replace(depths=(1, 2, 2, 2), num_classes=3, norm_eps=1e-3))
    equal = [n for n, a in other.items() if n in weights and a.shape == weights[n].shape]
    equal = [
        n for n in equal if ".norm2." not in n or "running" in n
    ]  # the scale of a branch goes by their number
    assert all(np.array_equal(other[name], weights[name]) for name in equal)
    assert "stages.3.blocks.1.norm2.running_var" in equal


def test_probe_weights_round_from_float64() -> None:
    exact = probe_weights(SPEC, dtype="float64")
    assert all(
        np.array_equal(array, exact[name].astype("float32"))
        for name, array in probe_weights(SPEC).items()
    )


@pytest.mark.parametrize(
    ("leaf", "ndim"), [("weight", 1), ("running_var", 1)], ids=["gamma", "running_var"]
)
def test_probe_scales_are_within_half_of_one(leaf: str, ndim: int) -> None:
    values = of_kind(leaf, ndim)
    assert 0.5 <= values.min() < 0.51
    assert 1.49 < values.max() < 1.5


def test_the_norm_that_ends_a_branch_makes_all_of_them_as_strong_as_the_stem() -> None:
    blocks = 8
    gamma = of_kind("weight", 1, ends_branch=True) * np.sqrt(blocks)
    assert 0.5 <= gamma.min() < 0.51
    assert 1.49 < gamma.max() < 1.5
    assert of_kind("bias", 1, ends_branch=True).std() * np.sqrt(blocks) == pytest.approx(
        0.3, rel=0.05
    )


@pytest.mark.parametrize("leaf", ["bias", "running_mean"])
def test_probe_offsets_are_not_zero(leaf: str) -> None:
    values = of_kind(leaf, 1)
    assert np.abs(values).min() > 0
    assert values.std() == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("preset", ["timm/resnet50", "flax/resnet50", "bit/r50x1"])
def test_no_probe_tensor_is_zero_where_fresh_weights_are(preset: str) -> None:
    assert all(np.abs(a).max() > 0 for a in probe_weights(miniature(get_spec(preset))).values())


@pytest.mark.parametrize("preset", DISTINCT)
def test_probe_activations_hide_nothing(preset: str) -> None:
    """They stay of the order of one, and depend on the image."""
    trace = reference_trace(miniature(get_spec(preset)))
    spreads = {name: float(trace[name].std()) for name in trace.names}
    assert {n: s for n, s in spreads.items() if not SMALLEST_SPREAD < s < LARGEST_SPREAD} == {}
    assert smallest_difference(trace) > (SMALLEST_DIFFERENCE,)


def smallest_difference(trace: Trace) -> tuple[float, str]:
    """The layer in which the two probe images differ least, relative to its largest value."""
    return min((relative_error(trace[name][0], trace[name][1]), name) for name in trace.names)


@pytest.mark.parametrize("preset", rest_in_zoo(DEEP, DEEP_SHORT))
def test_probe_activations_depend_on_the_image_at_full_depth(preset: str) -> None:
    assert smallest_difference(reference_trace(get_spec(preset))) > (SMALLEST_DIFFERENCE,)


def largest_growth(spec: ResNetSpec) -> tuple[float, str]:
    """By how much training mode multiplies a small difference of the images, at most, and in which
    layer.

    Norms by the statistics of two small images are as sensitive as the training checks ever meet.
    """
    model = reference.build(spec)
    reference.load_weights(model, probe_weights(spec, dtype="float64"))
    side = min(64, *make_plan(spec).image_size)
    images = probe_images((2, side, side, 3), dtype="float64")
    noise = named_rng("noise", 0).standard_normal(images.shape)
    one, other = (
        reference.trace(model, images * (1 + size * noise), checks=(TRAIN,))
        for size in (0.0, NOISE)
    )
    return max((relative_error(one[name], other[name]) / NOISE, name) for name in one.names)


@pytest.mark.parametrize(
    "preset",
    rest_in_zoo(
        [*DEEP, "ablation/resnet110_conv_shortcut", "ablation/resnet164_original"],
        {"ablation/resnet110_exclusive_gate_b0", "ablation/resnet110_norm_after_add"},
    ),
)
def test_rounding_does_not_grow_with_depth_in_training(preset: str) -> None:
    assert largest_growth(get_spec(preset)) < (LARGEST_GROWTH,)


def test_probe_images_are_deterministic_and_standard_normal() -> None:
    images = probe_images((2, 64, 65, 3), seed=3)
    assert np.array_equal(images, probe_images((2, 64, 65, 3), seed=3))
    assert images.dtype == np.float32
    assert (images.mean(), images.std()) == (
        pytest.approx(0.0, abs=0.02),
        pytest.approx(1.0, abs=0.02),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip_through_a_file(tmp_path, dtype: str) -> None:
    saved = probe_weights(SPEC, dtype=dtype)
    save_weights(tmp_path / "w.safetensors", saved, SPEC)
    found, spec = read_weights(tmp_path / "w.safetensors")
    assert spec == SPEC
    assert set(found) == set(saved)
    assert same_weights(found, saved)


def test_saving_takes_any_layout_in_memory(tmp_path, weights: dict) -> None:
    fortran = {name: np.asfortranarray(array) for name, array in weights.items()}
    save_weights(tmp_path / "w.safetensors", fortran, SPEC)
    assert same_weights(read_weights(tmp_path / "w.safetensors")[0], weights)


def test_a_canonical_file_is_plain_safetensors(tmp_path, weights: dict) -> None:
    from safetensors import safe_open

    save_weights(tmp_path / "w.safetensors", weights, SPEC)
    with safe_open(tmp_path / "w.safetensors", "np") as file:
        assert set(file.keys()) == set(PLAN.tensors)
        assert file.metadata()["format"] == FORMAT
        assert np.array_equal(file.get_tensor("head.weight"), weights["head.weight"])


def damaged(weights: dict, kind: str) -> tuple[dict, str]:
    """`weights` with one mistake, and the problem that must be reported."""
    changed = dict(weights)
    if kind == "missing":
        del changed["head.bias"]
        return changed, "missing head.bias [10]"
    if kind == "unexpected":
        changed["head.biass"] = np.zeros(10, np.float32)
        return changed, "unexpected head.biass (nearest: head.bias)"
    if kind == "mis-shaped":
        changed["head.weight"] = changed["head.weight"].T
        return changed, "head.weight has shape [64, 10], expected [10, 64]"
    if kind == "integer":
        changed["stem.conv1.weight"] = changed["stem.conv1.weight"].astype(np.int32)
        return changed, "stem.conv1.weight is int32, expected a float type"
    if kind == "complex":
        changed["stem.conv1.weight"] = changed["stem.conv1.weight"].astype(np.complex64)
        return changed, "stem.conv1.weight is complex64, expected a float type"
    if kind == "not finite":
        changed["stem.norm1.bias"] = changed["stem.norm1.bias"].copy()
        changed["stem.norm1.bias"][:2] = np.nan, np.inf
        return changed, "stem.norm1.bias has 2 values that are not finite"
    changed["stem.norm1.running_var"] = -changed["stem.norm1.running_var"]
    return changed, "stem.norm1.running_var has 8 negative variances"


KINDS = ["missing", "unexpected", "mis-shaped", "integer", "complex", "not finite", "negative"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_problem_is_refused(weights: dict, kind: str) -> None:
    changed, problem = damaged(weights, kind)
    with pytest.raises(CheckpointError) as refusal:
        check_weights(PLAN, changed)
    assert refusal.value.problems == (problem,)
    assert problem in str(refusal.value)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_damaged_is_written(tmp_path, weights: dict, kind: str) -> None:
    with pytest.raises(CheckpointError):
        save_weights(tmp_path / "w.safetensors", damaged(weights, kind)[0], SPEC)
    assert list(tmp_path.iterdir()) == []


def test_a_variance_of_zero_needs_an_eps(weights: dict) -> None:
    """Without one the norm divides by zero, as where float16 has made small variances 0."""
    variance = weights["stem.norm1.running_var"].copy()
    variance[:3] = 0
    changed = {**weights, "stem.norm1.running_var": variance}
    check_weights(PLAN, changed)
    without = make_plan(SPEC.replace(**{"norm.eps": 0.0}))
    check_weights(without, weights)
    with pytest.raises(CheckpointError, match=r"has 3 variances of 0 while norm\.eps is 0"):
        check_weights(without, changed)


def test_all_problems_are_reported_at_once(weights: dict) -> None:
    problems = []
    for kind in ("missing", "unexpected", "mis-shaped", "integer", "not finite", "negative"):
        weights, problem = damaged(weights, kind)
        problems.append(problem)
    with pytest.raises(CheckpointError) as refusal:
        check_weights(PLAN, weights)
    assert list(refusal.value.problems) == sorted(problems)
    assert "\n" not in str(refusal.value)


def test_a_refusal_shows_a_few_problems_and_holds_all() -> None:
    with pytest.raises(CheckpointError) as refusal:
        check_weights(PLAN, {})
    assert len(refusal.value.problems) == len(PLAN.tensors)
    assert len(str(refusal.value)) < 500


def test_weights_of_another_net_are_refused(tmp_path, weights: dict) -> None:
    save_weights(tmp_path / "w.safetensors", weights, SPEC)
    with pytest.raises(CheckpointError, match=r"2 of another shape: head\.bias"):
        read_weights(tmp_path / "w.safetensors", SPEC.replace(num_classes=11))


def test_a_file_without_a_spec_wants_a_preset(tmp_path, weights: dict) -> None:
    write_tensors(tmp_path / "w.safetensors", weights, {})
    with pytest.raises(CheckpointError, match="name the preset"):
        read_weights(tmp_path / "w.safetensors")
    assert same_weights(read_weights(tmp_path / "w.safetensors", SPEC)[0], weights)


@pytest.mark.parametrize("spec", ["{}x", '{"depths": []}', '{"dephts": [1]}', "[" * 100_000])
def test_an_invalid_spec_in_the_metadata_is_refused(tmp_path, weights: dict, spec: str) -> None:
    write_tensors(tmp_path / "w.safetensors", weights, {"format": FORMAT, "spec": spec})
    with pytest.raises(CheckpointError, match="spec in its metadata is invalid"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("table", ["{}x", "{}", "[]", "3"])
def test_an_invalid_table_of_digests_is_refused(tmp_path, weights: dict, table: str) -> None:
    write_tensors(tmp_path / "w.safetensors", weights, {"sha256": table})
    with pytest.raises(CheckpointError, match="SHA-256"):
        read_weights(tmp_path / "w.safetensors", SPEC)


@pytest.mark.parametrize("position", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_is_caught(tmp_path, weights: dict, position: float, bit: int) -> None:
    """safetensors itself has no checksum; ours names the tensor."""
    path = tmp_path / "w.safetensors"
    save_weights(path, weights, SPEC)
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start + round(position * (len(data) - start - 1))] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"does not match its SHA-256|not finite|negative"):
        read_weights(path)


def test_digests_cover_every_tensor(tmp_path, weights: dict) -> None:
    save_weights(tmp_path / "w.safetensors", weights, SPEC)
    digests = json.loads(read_tensors(tmp_path / "w.safetensors")[1]["sha256"])
    assert set(digests) == set(PLAN.tensors)
    assert len(set(digests.values())) == len(digests)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("float32", "float64"),
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float32", "float32"),
    ],
)
def test_widening_is_exact(source: str, target: str) -> None:
    narrow = probe_weights(SPEC, dtype=source)
    wide = cast_exactly(narrow, target)
    assert all(a.dtype == np.dtype(target) and a.flags.c_contiguous for a in wide.values())
    assert same_weights({n: a.astype(narrow[n].dtype) for n, a in wide.items()}, narrow)


@pytest.mark.parametrize(
    ("value", "source", "target"),
    [
        (0.1, "float64", "float32"),
        (0.1, "float32", "float16"),
        (0.1, "float32", "bfloat16"),
        (0.1, "float16", "bfloat16"),
    ],
)
def test_rounding_is_refused(value: float, source: str, target: str) -> None:
    with pytest.raises(CheckpointError, match=f"a.b \\({source}\\) is not exact in {target}"):
        cast_exactly({"a.b": np.array([1.0, value], source)}, target)


def test_values_that_narrow_exactly_are_let_through() -> None:
    cast = cast_exactly({"a": np.array([0.5, -0.0, 3.0])}, "bfloat16")["a"]
    assert cast.dtype == ml_dtypes.bfloat16
    assert np.signbit(cast.astype(np.float64)).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [
        ((8, 2, 3, 5), (3, 5, 2, 8)),
        ((200, 130, 3, 1), (3, 1, 130, 200)),
        ((10, 64), (64, 10)),
        ((129, 193), (193, 129)),
        ((64,), (64,)),
    ],
    ids=["convolution", "convolution in tiles", "linear", "linear in tiles", "vector"],
)
def test_layouts_of_keras_and_flax(shape: tuple, channels_last: tuple) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    turned = to_channels_last("name", array)
    assert turned.shape == channels_last
    back = from_channels_last("name", turned)
    assert np.array_equal(back, array)
    assert back.flags["C_CONTIGUOUS"]
    assert not np.shares_memory(back, array)


@pytest.mark.parametrize("axes", [(3, 2, 0, 1), (2, 3, 1, 0)], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 130, 200), (200, 130, 2, 3), (2, 2, 1, 500)], ids=str)
def test_a_transposed_copy_is_that_of_numpy(shape: tuple, axes: tuple) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    copy = transposed(array, axes)
    assert np.array_equal(copy, array.transpose(axes))
    assert copy.flags["C_CONTIGUOUS"]


def test_kernel_layout_value_by_value() -> None:
    array = np.arange(8 * 2 * 3 * 5).reshape(8, 2, 3, 5)
    assert to_channels_last("name", array)[2, 4, 1, 7] == array[7, 1, 2, 4]


@pytest.mark.parametrize("shape", [(3, 5, 2, 7), (4, 6), (5,)], ids=str)
def test_canonical_shapes_are_those_of_the_tensors(shape: tuple[int, ...]) -> None:
    assert canonical_shape(shape) == from_channels_last("a.weight", np.zeros(shape)).shape


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dtype_has_a_name_in_whatever_form(dtype: str) -> None:
    numpys = ml_dtypes.bfloat16 if dtype == "bfloat16" else getattr(np, dtype)
    assert {dtype_name(d) for d in (dtype, f"torch.{dtype}", numpys, np.dtype(numpys))} == {dtype}


@pytest.mark.parametrize("dtype", ["float", float, "int8", np.int8, None, 32, "torch.int8"])
def test_what_is_no_float_type_is_refused(dtype: object) -> None:
    with pytest.raises(SpecError, match=r"dtype = .*: must be one of float64, float32"):
        dtype_name(dtype)
