"""`shared.verification.comparison`: what passes, what does not, and where two traces part."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from shared import CheckpointError, SpecError, Trace, compare, get_spec, miniature, probe_weights
from shared.frameworks import reference
from shared.training.config import PROBE
from shared.verification.comparison import Comparison, Row, rounding_budget
from shared.verification.distance import distance, relative_error
from shared.verification.tolerances import (
    ERROR_GROWTH,
    EVAL_FLOAT64,
    ROUNDING_FACTOR,
    ROUNDING_FLOOR_ULPS,
    ULP,
    rounding_limit,
)
from shared.weights.probe import probe_images
from tests.probes import reference_trace

SPEC = miniature(get_spec("cifar/resnet20"))
LAYERS = (
    "eval/stages.0.blocks.1.conv1",
    "eval/stages.1.blocks.0.norm2",
    "eval/head",
)  # in the order of computation
KEYS = {
    "preset",
    "a",
    "b",
    "dtype",
    "check",
    "tensors",
    "judged",
    "passed",
    "worst",
    "first_divergence",
}


def trace(**about: str) -> Trace:
    """The reference trace of `SPEC`, free to be altered."""
    found = reference_trace(SPEC)
    return replace(found, arrays=dict(found.arrays), about={**found.about, **about})


def low_trace(
    dtype: str = "float32",
    framework: str = "torch",
    budget: float = ULP["float32"],
    **changed: float,
) -> Trace:
    """`trace` as if taken in a low precision, with the same budget for every layer but the
    `changed`.
    """
    budgets = dict.fromkeys(trace().names, budget) | changed
    return replace(trace(rounding=json.dumps(budgets)), dtype=dtype, framework=framework)


def scaled(found: Trace, name: str, factor: float) -> Trace:
    """A copy in which one tensor is multiplied: its relative error is `factor` - 1."""
    return replace(found, arrays={**found.arrays, name: found[name] * factor})


def without(found: Trace, name: str) -> Trace:
    return replace(found, arrays={key: array for key, array in found.arrays.items() if key != name})


def test_error_is_the_largest_difference_over_the_smaller_largest_value() -> None:
    assert relative_error(np.array([1.0, -4.0]), np.array([1.0, -4.5])) == 0.5 / 4.0
    assert relative_error(np.array([-2.0, 0.0]), np.array([-2.0, 1.0])) == 0.5
    assert relative_error(np.array([3.0]), np.array([3.0])) == 0.0


def test_error_is_computed_in_float64() -> None:
    a = np.array([60000.0, 1.0], np.float16)
    assert relative_error(a, -a) == 2.0  # 120000 is no float16


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1.0, math.nan], [1.0, math.nan]),
        ([math.inf], [math.inf]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([0.0], [1.0]),
        ([], []),
    ],
    ids=["nan", "inf", "both zero", "one zero", "empty"],
)
def test_error_that_cannot_be_said_is_infinite(a: list[float], b: list[float]) -> None:
    assert relative_error(np.array(a), np.array(b)) == math.inf


@pytest.mark.parametrize("place", [0, 9, 10, 24], ids="place {}".format)
@pytest.mark.parametrize("value", [-3.0, 1.5, math.nan, math.inf, -math.inf], ids=str)
def test_a_value_is_seen_in_whichever_part_it_lies(
    monkeypatch: pytest.MonkeyPatch, place: int, value: float
) -> None:
    monkeypatch.setattr("shared.verification.distance.PART", 10)
    a = np.linspace(-1, 1, 25).reshape(5, 5)
    b = a.astype(np.float32)
    b[place // 5, place % 5] = value
    found = distance(a, b)
    expected = [np.abs(x).max() for x in (a - np.float64(b), a, np.float64(b))]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(distance(b, a), [expected[0], expected[2], expected[1]])


def test_equal_traces_pass() -> None:
    comparison = compare(trace(), trace())
    assert comparison.passed
    assert comparison.tensors == len(trace().names) > 30
    assert comparison.problems == ()
    assert comparison.first_divergence is None
    assert {row.limit for row in comparison.rows} == {EVAL_FLOAT64}


def test_an_error_at_the_limit_passes_and_beyond_it_fails() -> None:
    assert compare(trace(), scaled(trace(), LAYERS[0], 1 + 0.9 * EVAL_FLOAT64)).passed
    assert not compare(trace(), scaled(trace(), LAYERS[0], 1 + 1.1 * EVAL_FLOAT64)).passed


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_values_that_show_nothing_fail_even_when_equal(value: float) -> None:
    a, b = trace(), trace()
    for side in (a, b):
        side.arrays[LAYERS[1]] = np.full_like(side[LAYERS[1]], value)  # type: ignore[index]
    comparison = compare(a, b)
    assert not comparison.passed
    assert comparison.first_divergence == LAYERS[1]


def test_no_tensors_are_no_proof() -> None:
    assert not Comparison("p", "a", "b", "float64", "eval", ()).passed
    with pytest.raises(CheckpointError, match="training"):
        compare(trace(), trace(), check="train")
    without_any = replace(trace(training=PROBE.to_json()), arrays={})
    assert not compare(without_any, without_any, check="train").passed


def test_missing_layer() -> None:
    comparison = compare(trace(), replace(without(trace(), LAYERS[1]), framework="torch"))
    assert not comparison.passed
    assert comparison.problems == (f"torch has no {LAYERS[1]}",)
    assert comparison.first_divergence == LAYERS[1]
    assert comparison.tensors == len(trace().names) - 1


def test_a_layer_missing_on_both_sides_fails() -> None:
    comparison = compare(without(trace(), LAYERS[1]), without(trace(), LAYERS[1]))
    assert not comparison.passed
    assert len(comparison.problems) == 2


def test_extra_layer() -> None:
    extra = trace()
    extra.arrays["eval/attention"] = extra[LAYERS[0]]  # type: ignore[index]
    comparison = compare(trace(), extra)
    assert not comparison.passed
    assert comparison.problems == ("reference: eval/attention is not in the plan",)
    assert comparison.first_divergence == "eval/attention"


def test_misshaped_layer() -> None:
    wrong = trace()
    wrong.arrays[LAYERS[0]] = wrong[LAYERS[0]][:, :-1]  # type: ignore[index]
    comparison = compare(trace(), wrong)
    assert not comparison.passed
    assert len(comparison.problems) == 1
    assert (
        f"{LAYERS[0]} has shape {wrong.shape(LAYERS[0])}, the plan says {trace().shape(LAYERS[0])}"
        in (comparison.problems[0])
    )
    assert comparison.first_divergence == LAYERS[0]


def test_both_misshaped_alike_fail() -> None:
    sides = [trace(), trace()]
    for side in sides:
        side.arrays[LAYERS[2]] = side[LAYERS[2]][:, :-1]  # type: ignore[index]
    comparison = compare(*sides)
    assert not comparison.passed
    assert comparison.first_divergence == LAYERS[2]


def test_layers_in_another_order() -> None:
    names = trace().names
    i = names.index(LAYERS[0])
    names[i], names[i + 1] = names[i + 1], names[i]
    comparison = compare(trace(), replace(trace(), arrays={name: trace()[name] for name in names}))
    assert not comparison.passed
    assert "computes" in comparison.problems[0]
    assert "at another place than the plan" in comparison.problems[0]
    assert comparison.first_divergence == names[i]


@pytest.mark.parametrize("missing", [0, 1, 2])
@pytest.mark.parametrize("altered", [0, 1, 2])
def test_first_divergence_is_the_earliest_of_structure_and_numbers(
    missing: int, altered: int
) -> None:
    b = trace()
    if altered != missing:
        b = scaled(b, LAYERS[altered], 2.0)
    assert (
        compare(trace(), without(b, LAYERS[missing])).first_divergence
        == LAYERS[min(missing, altered)]
    )


def test_worst_is_the_nearest_to_its_limit_and_not_the_largest() -> None:
    rows = (Row("large", 1e-3, 1.0), Row("near", 1e-6, 2e-6), Row("small", 0.0, 1e-9))
    worst = Comparison("p", "a", "b", "float32", "eval", rows).worst
    assert worst is not None
    assert worst.name == "near"


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (SPEC.replace(norm_eps=1e-3), "norm.eps 1e-05 and 0.001"),
        (SPEC.replace(depths=(1, 2, 2)), "depths"),
    ],
)
def test_different_networks_are_refused_with_the_field(other, field: str) -> None:
    with pytest.raises(SpecError, match="different networks") as error:
        compare(trace(), replace(trace(), spec=other))
    assert field in str(error.value)


@pytest.mark.parametrize("what", ["images", "weights"])
def test_different_inputs_are_a_problem(what: str) -> None:
    source = {f"{what}_source": "probe", "seed": "1"}
    comparison = compare(trace(), trace(**{what: "0" * 64}, **source))
    assert not comparison.passed
    assert len(comparison.problems) == 1
    assert f"the {what} of reference and reference are not the same" in comparison.problems[0]
    assert "probe of seed 1" in comparison.problems[0]
    assert comparison.first_divergence is None  # no layer is to blame


def test_to_dict_is_json_with_the_keys_of_the_contract() -> None:
    data = compare(trace(), scaled(trace(), LAYERS[1], 2.0)).to_dict()
    assert set(data) >= KEYS
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["passed"] is False
    assert data["first_divergence"] == LAYERS[1]
    assert data["worst"] == {"name": LAYERS[1], "error": pytest.approx(1.0), "limit": EVAL_FLOAT64}


def test_to_dict_says_null_where_the_error_is_infinite() -> None:
    data = compare(trace(), scaled(trace(), LAYERS[1], math.nan)).to_dict()
    assert data["worst"] == {"name": LAYERS[1], "error": None, "limit": EVAL_FLOAT64}
    json.dumps(data, allow_nan=False)


def test_to_dict_of_nothing() -> None:
    data = Comparison("p", "a", "b", "float64", "eval", ()).to_dict()
    assert data["worst"] is None
    assert data["tensors"] == 0


# Low precisions: the limit of a layer follows from the budgets.


FAR = 10**6  # a place so far behind that the random walk limits nothing


@pytest.mark.parametrize("dtype", ULP)
def test_rounding_limit_is_a_multiple_of_the_smaller_budget(dtype: str) -> None:
    floor = ROUNDING_FLOOR_ULPS * ULP[dtype]
    assert rounding_limit(dtype, FAR, 2 * floor, 3 * floor) == ROUNDING_FACTOR * 2 * floor
    assert rounding_limit(dtype, FAR, 3 * floor) == ROUNDING_FACTOR * 3 * floor


@pytest.mark.parametrize("dtype", ULP)
def test_rounding_limit_has_a_floor(dtype: str) -> None:
    floor = ROUNDING_FLOOR_ULPS * ULP[dtype]
    assert rounding_limit(dtype, FAR, 0.0, 3 * floor) == floor
    assert rounding_limit(dtype, 0, 3 * floor) >= floor


@pytest.mark.parametrize("dtype", ULP)
@pytest.mark.parametrize("place", [0, 3, 99])
def test_no_budget_goes_beyond_the_random_walk(dtype: str, place: int) -> None:
    assert rounding_limit(dtype, place, 1e9) == ERROR_GROWTH * ULP[dtype] * math.sqrt(place + 1)


@pytest.mark.parametrize(
    ("dtype", "eps"), [("float32", np.finfo(np.float32).eps), ("float16", np.finfo(np.float16).eps)]
)
def test_ulp_is_the_machine_epsilon(dtype: str, eps: float) -> None:
    assert ULP[dtype] == eps


def test_rounding_budget_is_the_distance_to_float64() -> None:
    low = scaled(trace(), LAYERS[0], 1.5)
    budget = rounding_budget(low, trace())
    assert list(budget) == trace().names
    assert budget[LAYERS[0]] == pytest.approx(0.5)
    assert budget[LAYERS[1]] == 0.0


def test_the_smaller_budget_of_the_two_counts() -> None:
    ulp = ULP["float32"]
    a = low_trace(budget=ulp)
    b = low_trace(framework="flax", budget=5 * ulp, **{LAYERS[0]: 0.75 * ulp})
    comparison = compare(a, b)
    limits = {row.name: row.limit for row in comparison.rows}
    assert comparison.dtype == "float32"
    assert limits[LAYERS[0]] == ROUNDING_FACTOR * 0.75 * ulp
    assert limits[LAYERS[1]] == ROUNDING_FACTOR * ulp


def test_against_float64_only_the_low_side_has_a_budget() -> None:
    for pair in ((low_trace(), trace()), (trace(), low_trace())):
        comparison = compare(*pair)
        assert comparison.passed
        assert comparison.dtype == "float32"
        assert max(row.limit for row in comparison.rows) == ROUNDING_FACTOR * ULP["float32"]


def low_training(budget: float, framework: str = "torch") -> Trace:
    """A trace of the loss and its gradients as if taken in float32, each tensor `budget` from its
    float64.
    """
    model = reference.build(SPEC, dtype="float64")
    reference.load_weights(model, probe_weights(SPEC, dtype="float64"))
    found = reference.trace(
        model, probe_images((2, 8, 8, 3), dtype="float64"), checks=("gradients",)
    )
    about = {**found.about, "rounding": json.dumps(dict.fromkeys(found.names, budget))}
    return replace(found, dtype="float32", framework=framework, about=about)


def test_training_below_float64_is_measured_beside_each_sides_own_distance() -> None:
    comparison = compare(
        low_training(1e-6),
        scaled(low_training(2e-3, "flax"), "grad/stem.conv1.weight", 1.5),
        check="gradients",
    )
    worst = comparison.worst
    assert worst is not None
    assert (worst.name, worst.limit, worst.own) == ("grad/stem.conv1.weight", None, (1e-6, 2e-3))
    assert worst.error == pytest.approx(0.5)
    assert comparison.median == 0.0
    assert comparison.passed
    assert not comparison.judged
    data = comparison.to_dict()
    assert data["judged"] is False
    assert data["worst"]["own"] == [1e-6, 2e-3]
    json.dumps(data, allow_nan=False)


def test_a_measured_tensor_must_be_finite() -> None:
    broken = scaled(low_training(1e-6, "flax"), "grad/stem.conv1.weight", math.nan)
    comparison = compare(low_training(1e-6), broken, check="gradients")
    assert not comparison.passed
    assert comparison.first_divergence == "grad/stem.conv1.weight"


def test_a_measured_check_must_be_whole() -> None:
    comparison = compare(
        low_training(1e-6), without(low_training(1e-6), "grad/stem.conv1.weight"), check="gradients"
    )
    assert not comparison.passed


def test_beyond_the_budget_fails() -> None:
    error = 1.1 * ROUNDING_FACTOR * ULP["float32"]
    comparison = compare(low_trace(), scaled(low_trace(framework="flax"), LAYERS[1], 1 + error))
    assert not comparison.passed
    assert comparison.first_divergence == LAYERS[1]


def test_a_layer_that_overflows_has_no_budget_and_fails() -> None:
    a = scaled(low_trace("float16", **{LAYERS[1]: math.inf}), LAYERS[1], math.inf)
    comparison = compare(a, trace())
    assert not comparison.passed
    assert comparison.first_divergence == LAYERS[1]
    json.dumps(comparison.to_dict(), allow_nan=False)


@pytest.mark.parametrize("lack", [{"budget": math.inf}, {"rounding": "{}"}])
def test_without_a_known_budget_only_the_floor_is_allowed(lack: dict) -> None:
    a = low_trace(budget=lack.get("budget", 1.0))
    a.about["rounding"] = lack.get("rounding", a.about["rounding"])
    floor = ROUNDING_FLOOR_ULPS * ULP["float32"]
    assert {row.limit for row in compare(a, trace()).rows} == {floor}
    assert not compare(a, scaled(trace(), LAYERS[0], 1 + 2 * floor)).passed


def test_low_precision_without_a_budget_is_refused() -> None:
    with pytest.raises(CheckpointError, match="float32 trace without its rounding budget"):
        compare(replace(trace(), dtype="float32"), trace())


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"eval/head": -1.0}', '{"eval/head": NaN}', '{"eval/head": "1"}']
)
def test_damaged_budget_is_refused(text: str) -> None:
    broken = low_trace()
    broken.about["rounding"] = text
    with pytest.raises(CheckpointError, match="rounding budget is not a table"):
        compare(trace(), broken)


def test_two_low_precisions_are_refused() -> None:
    with pytest.raises(SpecError, match="bfloat16 and float16"):
        compare(low_trace("bfloat16"), low_trace("float16"))


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(CheckpointError, match="float8"):
        compare(low_trace("float8"), trace())


@pytest.mark.parametrize("said", [None, "", "2x32", "2xAx45x3", "x".join("9" * 5000)])
def test_damaged_image_shape_is_refused(said: str | None) -> None:
    broken = trace()
    del broken.about["image_shape"]
    if said is not None:
        broken.about["image_shape"] = said
    with pytest.raises(CheckpointError, match="image_shape"):
        compare(broken, trace())


def test_tf32_is_beyond_the_walk_at_the_first_convolution() -> None:
    tf32_rounding = 2.0**-11
    assert rounding_limit("float32", 0, 1.0) < tf32_rounding / 8


def with_channel(original: Trace, name: str, scale: float, error: float) -> tuple[Trace, Trace]:
    """The trace with one channel scaled down to `scale`; and the same with that channel wrong."""
    a, b = np.array(original[name]), np.array(original[name])
    a[..., 1] *= scale
    b[..., 1] *= scale * (1 + error)
    return tuple(replace(original, arrays={**original.arrays, name: x}) for x in (a, b))  # type: ignore[return-value]


@pytest.mark.parametrize(("source", "seen"), [("their.pth", True), ("probe", False)])
def test_a_tiny_channel_is_judged_by_its_own_scale(source: str, seen: bool) -> None:
    """A channel of 1e-9 that is 0.05 % wrong is 5e-13 of the tensor, within the tensor's limit."""
    a, b = with_channel(trace(weights_source=source), LAYERS[1], 1e-9, 5e-4)
    comparison = compare(a, b)
    row = next(row for row in comparison.rows if row.name == LAYERS[1])
    assert row.error < EVAL_FLOAT64
    assert comparison.passed is not seen
    assert comparison.first_divergence == (LAYERS[1] if seen else None)
    if seen:
        assert row.channel is not None
        assert row.channel.number == 1
        assert row.channel.error == pytest.approx(5e-4, rel=1e-3)
        assert comparison.to_dict()["worst"]["channel"]["number"] == 1


def test_rounding_in_a_tiny_channel_is_no_mistake() -> None:
    """Where all channels differ by rounding, the tiny one may differ as much as the others do."""
    a, _ = with_channel(trace(weights_source="their.pth"), LAYERS[1], 1e-9, 0.0)
    noise = np.random.default_rng(0).normal(size=a[LAYERS[1]].shape) * 1e-15
    b = replace(a, arrays={**a.arrays, LAYERS[1]: a[LAYERS[1]] + noise})
    assert compare(a, b).passed


def test_another_projection_is_a_problem() -> None:
    """Steps of a trace that was taken with other random signs do not say that anything differs."""
    a, b = (trace(training=PROBE.to_json(), projection=p) for p in ("1", "2"))
    problems = compare(a, b, check="steps").problems
    assert any("projection" in problem for problem in problems)
