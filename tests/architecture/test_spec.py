"""The spec: what it accepts, what it refuses and how it says so, and that JSON loses nothing."""

from __future__ import annotations

import dataclasses
import json

import pytest

from shared import ResNetSpec, RosettaError, SpecError, get_spec
from shared.architecture.spec import MAX_BLOCKS, MAX_IMAGE_SIZE, StemSpec, parse_setting
from tests.probes import PRESETS

BASIC = {"block.kind": "basic", "block.stride_conv": 1}
TOO_MANY_DIGITS = "9" * 5000  # Python refuses to make an integer of more than 4300


def test_every_preset_goes_through_json_and_back() -> None:
    specs = [get_spec(preset) for preset in PRESETS]
    assert [ResNetSpec.from_json(spec.to_json()) for spec in specs] == specs
    assert [json.loads(spec.to_json()) for spec in specs] == [spec.to_dict() for spec in specs]


def test_missing_fields_keep_their_defaults() -> None:
    assert ResNetSpec.from_dict({"norm": {"eps": 1e-3}}) == ResNetSpec().replace(norm_eps=1e-3)


def test_spec_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ResNetSpec().num_classes = 10  # type: ignore[misc]


def test_spec_is_hashable_and_compares_by_value() -> None:
    assert {get_spec("resnet18"), get_spec("torchvision/resnet18").replace()} == {
        get_spec("resnet18")
    }


@pytest.mark.parametrize(
    ("changes", "path", "value"),
    [
        ({"num_classes": 10}, ("num_classes",), 10),
        ({"norm.eps": 1e-3}, ("norm", "eps"), 1e-3),
        ({"norm_eps": 1e-3}, ("norm", "eps"), 1e-3),
        ({"stem.norm_act": False}, ("stem", "norm_act"), False),
        ({"stem_norm_act": False}, ("stem", "norm_act"), False),
        ({"block_first_preact": True}, ("block", "first_preact"), True),
        ({"stem": {"bias": True}}, ("stem", "bias"), True),
        ({"stem": StemSpec(bias=True)}, ("stem", "bias"), True),
        ({"stem": {"bias": True}, "stem.pool": "none"}, ("stem", "bias"), True),
        ({"stem": {"bias": True}, "stem.pool": "none"}, ("stem", "pool"), "none"),
        ({"stem.convs": [[3, 1, 64]]}, ("stem", "convs"), ((3, 1, 64),)),
        ({"norm.eps": 1}, ("norm", "eps"), 1.0),
        ({"weight_std_eps": None}, ("weight_std_eps",), None),
        ({"anti_alias": "blur"}, ("anti_alias",), "blur"),
        ({"depths": [1, 1]}, ("widths",), (64, 128)),  # per-stage fields follow a cut in depths
        ({"depths": [1, 1]}, ("dilate",), (False, False)),
    ],
    ids=str,
)
def test_replace(changes: dict, path: tuple[str, ...], value: object) -> None:
    found = ResNetSpec().replace(**changes)
    for name in path:
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_replace_leaves_the_original_alone() -> None:
    spec = ResNetSpec()
    spec.replace(norm_eps=1e-3, stem={"bias": True})
    assert spec == ResNetSpec()


def test_creating_a_spec_leaves_its_groups_alone() -> None:
    stem = StemSpec(convs=[[3, 1, 64]])  # type: ignore[arg-type]
    assert ResNetSpec(stem=stem).stem.convs == ((3, 1, 64),)
    assert stem.convs == [[3, 1, 64]]


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("num_classes=10", ("num_classes", 10)),
        ("norm.eps=1e-3", ("norm.eps", 1e-3)),
        ("stem.pool=none", ("stem.pool", "none")),
        ("stem.bias=true", ("stem.bias", True)),
        ("stem.bias=True", ("stem.bias", True)),
        ("weight_std_eps=null", ("weight_std_eps", None)),
        ("depths=2,2,2,2", ("depths", [2, 2, 2, 2])),
        ("depths=[2,2]", ("depths", [2, 2])),
        ("stem.convs=[[3,1,16]]", ("stem.convs", [[3, 1, 16]])),
        (" num_classes = 10 ", ("num_classes", 10)),
        ("name=a=b", ("name", "a=b")),
    ],
)
def test_parse_setting(text: str, setting: tuple[str, object]) -> None:
    assert parse_setting(text) == setting


@pytest.mark.parametrize("text", ["", "num_classes", "=10"])
def test_parse_setting_refuses(text: str) -> None:
    with pytest.raises(SpecError, match="key=value"):
        parse_setting(text)


@pytest.mark.parametrize("value", [TOO_MANY_DIGITS, "[" * 100_000], ids=["5000-digits", "deep"])
def test_settings_that_json_cannot_take_are_refused_like_any_other(value: str) -> None:
    with pytest.raises(SpecError):
        ResNetSpec().replace(**dict([parse_setting(f"num_classes={value}")]))


# Changes to the default spec, and what the message must name: the field, the value, what is
# allowed.
IMPOSSIBLE = [
    ({"in_channels": 0}, ["in_channels = 0", "from 1 to"]),
    ({"num_classes": -1}, ["num_classes = -1", "from 0 to"]),
    ({"image_size": 0}, ["image_size = 0", f"from 1 to {MAX_IMAGE_SIZE}"]),
    (
        {"image_size": MAX_IMAGE_SIZE + 1},
        [f"image_size = {MAX_IMAGE_SIZE + 1}", f"from 1 to {MAX_IMAGE_SIZE}"],
    ),
    ({"depths": []}, ["depths", "= 0", "from 1 to 8"]),
    ({"depths": [1] * 9}, ["depths", "= 9", "from 1 to 8"]),
    ({"depths": [3, 0, 6, 3]}, ["depths = [3, 0, 6, 3]", "at least one block"]),
    ({"depths": [MAX_BLOCKS, 1, 1, 1]}, ["depths", f"at most {MAX_BLOCKS}"]),
    ({"depths": [10**30, 1, 1, 1]}, ["depths", f"at most {MAX_BLOCKS}"]),
    ({"depths": [1] * 5}, ["widths", "each of the 5 stages"]),
    ({"widths": [64, 128]}, ["widths = [64, 128]", "each of the 4 stages"]),
    ({"strides": [1]}, ["strides = [1]", "each of the 4 stages"]),
    ({"dilate": [True]}, ["dilate = [true]", "each of the 4 stages"]),
    ({"widths": [64, 128, 256, 0]}, ["widths = 0", "from 1 to"]),
    ({"widths": [10**9] * 4}, ["widths = 1000000000", "from 1 to"]),
    ({"strides": [1, 2, 0, 2]}, ["strides = 0", "from 1 to 4"]),
    ({"strides": [1, 2, 5, 2]}, ["strides = 5", "from 1 to 4"]),
    ({"stem.convs": []}, ["stem.convs = []", "at least one"]),
    ({"stem.convs": [[4, 2, 64]]}, ["stem.convs kernel = 4", "odd"]),
    ({"stem.convs": [[17, 2, 64]]}, ["stem.convs kernel = 17", "from 1 to 15"]),
    ({"stem.convs": [[-1, 2, 64]]}, ["stem.convs kernel = -1", "from 1 to 15"]),
    ({"stem.convs": [[7, 5, 64]]}, ["stem.convs stride = 5", "from 1 to 4"]),
    ({"stem.convs": [[7, 2, 0]]}, ["stem.convs width = 0", "from 1 to"]),
    ({"block.groups": 0}, ["block.groups = 0", "from 1 to"]),
    ({"block.base_width": 0}, ["block.base_width = 0", "from 1 to"]),
    ({"block.base_width": 65536}, ["mid width of width 128 = 131072", "from 1 to"]),
    ({"widths": [1, 1, 1, 1], "block.base_width": 4}, ["mid width of width 1 = 0", "from 1 to"]),
    ({**BASIC, "block.groups": 2}, ["block.groups = 2", "bottleneck"]),
    ({**BASIC, "block.base_width": 128}, ["block.base_width = 128", "bottleneck"]),
    ({"block.kind": "basic"}, ["block.stride_conv = 2", "convolution 1"]),
    ({"head.final": "norm_act"}, ["head.final = norm_act", "full_pre"]),
    ({"head.final": "act"}, ["head.final = act", "none", "post"]),
    ({"block.first_preact": False}, ["block.first_preact = false", "pre-activation"]),
    (
        {"block.order": "full_pre", "block.first_preact": False, "stem.norm_act": False},
        ["stem.norm_act = false", "must be true"],
    ),
    ({"shortcut.pool": "avg", "strides": [1, 3, 2, 2]}, ["strides = [1, 3, 2, 2]", "at most 2"]),
    ({"block.dropout": 0.3}, ["block.dropout = 0.3", "block.kind=basic"]),
    ({**BASIC, "block.dropout": 1.0}, ["block.dropout = 1.0", "[0, 1)"]),
    ({**BASIC, "block.dropout": -0.1}, ["block.dropout = -0.1", "[0, 1)"]),
    (
        {**BASIC, "anti_alias": "blur", "block.dropout": 0.3},
        ["block.dropout = 0.3", "must be 0 where anti_alias=blur"],
    ),
    (
        {"stem.input_norm": "shift", "norm.kind": "group"},
        ["stem.input_norm = shift", "must be none where norm.kind=group"],
    ),
    ({"shortcut.dropout": 1.0}, ["shortcut.dropout = 1.0", "[0, 1)"]),
    ({"shortcut.dropout": -0.1}, ["shortcut.dropout = -0.1", "[0, 1)"]),
    ({"norm.eps": -1e-5}, ["norm.eps = -1e-05", "not be negative"]),
    ({"norm.momentum": 1.0}, ["norm.momentum = 1.0", "[0, 1)"]),
    ({"weight_std_eps": 0.0}, ["weight_std_eps = 0.0", "positive"]),
    ({"head.pool": "none"}, ["head.pool = none", "avg or max", "num_classes=0"]),
    (
        {"shortcut.projection": "never", "widths": [64, 32, 64, 64]},
        ["shortcut.projection = never", "[64, 256, 128"],
    ),
    ({"norm.kind": "group", "norm.groups": 48}, ["norm.groups = 48", "does not divide"]),
    ({"norm.kind": "group", "norm.groups": 0}, ["norm.groups = 0"]),
    ({"norm.kind": "group", "norm.groups": -4}, ["norm.groups = -4"]),
    (
        {"anti_alias": "blur", "block.order": "full_pre"},
        ["block.order = full_pre", "must be post where anti_alias=blur"],
    ),
    ({"anti_alias": "average", "block.stride_conv": 1}, ["block.stride_conv = 1", "must be 2"]),
    ({"anti_alias": "average", "shortcut.join": "scale"}, ["shortcut.join = scale", "must be add"]),
    ({"anti_alias": "blur", "strides": [1, 3, 2, 2]}, ["strides = [1, 3, 2, 2]", "at most 2"]),
    (
        {"anti_alias": "blur", "stem.pool_padding": "ceil"},
        ["stem.pool_padding = ceil", "must be symmetric"],
    ),
]


def test_an_eps_of_zero_is_possible() -> None:
    assert ResNetSpec().replace(**{"norm.eps": 0}).norm.eps == 0.0


@pytest.mark.parametrize(
    ("changes", "parts"), IMPOSSIBLE, ids=[str(changes)[:60] for changes, _ in IMPOSSIBLE]
)
def test_impossible_specs_are_refused(changes: dict, parts: list[str]) -> None:
    with pytest.raises(SpecError) as refusal:
        ResNetSpec().replace(**changes)
    assert [part for part in parts if part not in str(refusal.value)] == []
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("number", [float("inf"), float("nan")], ids=str)
@pytest.mark.parametrize(
    "field", ["norm.eps", "weight_std_eps", "shortcut.scales", "init.gate_bias"]
)
def test_numbers_are_finite(field: str, number: float) -> None:
    with pytest.raises(SpecError, match=field):
        ResNetSpec().replace(**{field: [number, 1.0] if field == "shortcut.scales" else number})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": True}, "num_classes: expected int, found True"),
        ({"num_classes": 10.0}, "num_classes: expected int, found 10.0"),
        ({"num_classes": "10"}, "num_classes: expected int, found '10'"),
        ({"num_classes": [10]}, "num_classes: expected int, found [10]"),
        ({"name": 3}, "name: expected str, found 3"),
        ({"depths": 3}, "depths: expected a list, found 3"),
        ({"depths": "3463"}, "depths: expected a list, found '3463'"),
        ({"depths": [3, True, 6, 3]}, "depths[1]: expected int, found True"),
        ({"dilate": [0, 0, 1, 1]}, "dilate[0]: expected bool, found 0"),
        ({"stem.convs": [[7, 2]]}, "stem.convs[0]: expected 3 values, found [7, 2]"),
        ({"stem.convs": [[7, 2, "64"]]}, "stem.convs[0][2]: expected int, found '64'"),
        ({"stem.bias": 1}, "stem.bias: expected bool, found 1"),
        ({"norm.eps": 10**400}, "norm.eps: expected float, found 1000"),
        ({"norm.eps": True}, "norm.eps: expected float, found True"),
        ({"norm.eps": "1e-5"}, "norm.eps: expected float, found '1e-5'"),
        ({"norm.eps": None}, "norm.eps: expected float, found None"),
        ({"stem.pool": "avg"}, "stem.pool: 'avg' is not one of none, max"),
        ({"anti_alias": "blurpc"}, "anti_alias: 'blurpc' is not one of none, average, blur"),
        ({"anti_alias": True}, "anti_alias: True is not one of none, average, blur"),
        ({"block.stride_conv": True}, "block.stride_conv: True is not one of 1, 2"),
        ({"block.stride_conv": 3}, "block.stride_conv: 3 is not one of 1, 2"),
        ({"block.order": ["post"]}, "block.order: ['post'] is not one of post"),
        ({"stem": 3}, "stem: expected an object with fields, found 3"),
        ({"stem": 3, "stem.bias": True}, "stem: expected an object with fields, found 3"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_values_of_another_type_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(SpecError) as refusal:
        ResNetSpec().replace(**changes)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("attempt", "hint"),
    [
        (lambda: ResNetSpec().replace(num_clases=10), "num_classes"),
        (lambda: ResNetSpec().replace(**{"norm.epsilon": 1e-3}), "norm.eps"),
        (lambda: ResNetSpec.from_dict({"dephts": [1]}), "depths"),
        (lambda: ResNetSpec.from_dict({"stem": {"pol": "max"}}), "pool"),
        (lambda: get_spec("torchvison/resnet50"), "torchvision/resnet50"),
        (lambda: get_spec("resnet55"), "resnet50"),
    ],
    ids=["field", "group-field", "json-field", "json-group-field", "preset", "bare-preset"],
)
def test_unknown_names_come_with_the_nearest(attempt, hint: str) -> None:
    with pytest.raises(SpecError) as refusal:
        attempt()
    assert f"(nearest: {hint}" in str(refusal.value) or f", {hint}" in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        '"resnet50"',
        "[" * 100_000,
        f'{{"num_classes": {TOO_MANY_DIGITS}}}',
    ],
    ids=["empty", "cut", "list", "number", "null", "string", "deep", "5000-digits"],
)
def test_text_that_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="spec"):
        ResNetSpec.from_json(text)


def test_spec_error_is_one_of_the_family() -> None:
    assert issubclass(SpecError, RosettaError)
    assert issubclass(SpecError, ValueError)
