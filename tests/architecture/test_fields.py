"""`CheckedDataclass`: one rule for every dataclass that is written by a person or read from a
file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from shared import ResNetSpec, SpecError
from shared.architecture.fields import CheckedDataclass
from shared.training.augmentation import Augmentation
from shared.training.config import OptimizerConfig, Training
from shared.training.recipes import Recipe, Schedule

RECIPE = {"name": "a", "about": "", "dataset": "folder", "preset": "resnet18", "steps": 1}


@dataclass(frozen=True, kw_only=True)
class Inner(CheckedDataclass):
    label: ClassVar[str] = "inner"
    prefix: ClassVar[str] = "inner."

    size: int = 1


@dataclass(frozen=True, kw_only=True)
class Outer(CheckedDataclass):
    label: ClassVar[str] = "outer"

    name: str
    rate: float = 1.0
    sides: tuple[int, ...] = ()
    inner: Inner = field(default_factory=Inner)
    more: Mapping[str, Any] = field(default_factory=dict)


def test_values_get_the_types_of_their_fields() -> None:
    made = Outer(name="a", rate=2, sides=[1, 2], inner={"size": 3}, more={"x": [1]})  # type: ignore[arg-type]
    assert (made.rate, type(made.rate), made.sides) == (2.0, float, (1, 2))
    assert made.inner == Inner(size=3)
    assert Outer.from_json(made.to_json()) == made
    assert made.to_dict()["sides"] == [1, 2]


def test_a_mapping_is_copied() -> None:
    more = {"x": 1}
    made = Outer(name="a", more=more)
    more["x"] = 2
    assert made.more == {"x": 1}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "outer lacks the field 'name'"),
        ({"name": 5}, "name: expected str, found 5"),
        ({"name": "a", "rat": 1}, "outer has no field 'rat' (nearest: rate)"),
        ({"name": "a", 5: 1}, "outer has no field '5'"),
        ({"name": "a", "inner": {"size": True}}, "inner.size: expected int, found True"),
        ({"name": "a", "inner": []}, "inner: expected an object with fields, found []"),
        ({"name": "a", "more": []}, "more: expected an object with fields, found []"),
        ({"name": "a", "more": {1: 2}}, "more: expected an object with fields"),
        ({"name": "a", "sides": "12"}, "sides: expected a list"),
        ([], "outer: expected an object with fields, found []"),
    ],
    ids=str,
)
def test_refusals_name_the_field(fields: Any, says: str) -> None:
    with pytest.raises(SpecError) as refused:
        Outer.from_dict(fields)
    assert says in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5000, "null"])
@pytest.mark.parametrize(
    "cls", [ResNetSpec, OptimizerConfig, Training, Augmentation, Schedule, Recipe]
)
def test_text_that_is_no_object_is_refused(cls: type[CheckedDataclass], text: str) -> None:
    with pytest.raises(SpecError, match=cls.label):
        cls.from_json(text)


@pytest.mark.parametrize(
    ("cls", "required", "name"),
    [
        (ResNetSpec, {}, "num_classes"),
        (OptimizerConfig, {}, "nesterov"),
        (Training, {}, "label_smoothing"),
        (Augmentation, {}, "pad_crop"),
        (Schedule, {}, "warmup"),
        (Recipe, RECIPE, "batch"),
    ],
)
def test_every_dataclass_from_outside_is_checked(
    cls: type[CheckedDataclass], required: dict[str, Any], name: str
) -> None:
    """By its constructor as well: an object is no number."""
    with pytest.raises(SpecError, match=name):
        cls(**{**required, name: object()})
