"""`shared.training.recipes`: recipes are data, and say what the papers say."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math

import pytest

from shared import SpecError, list_presets
from shared.datasets import DATASETS
from shared.training.recipes import Recipe, Schedule, get_recipe, preprocessing_of, recipes
from tests.training.mutations import VALUES, as_json, mutated, places


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_whole(name: str) -> None:
    recipe = recipes()[name]
    spec = recipe.make_spec()
    dataset = DATASETS[recipe.dataset]
    assert name.partition("/")[0] in ("fashion-mnist", "cifar10", "imagenet")
    assert spec.num_classes == dataset.num_classes
    assert dataset.image_shape is None or dataset.image_shape[2] == spec.in_channels
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_every_ablation_has_a_recipe() -> None:
    ablations = [name for name in list_presets() if name.startswith("ablation/")]
    assert len(ablations) >= 11
    assert all(f"cifar10/{name}" in recipes() for name in ablations)


def test_the_articles_recipe_is_as_printed() -> None:
    recipe = get_recipe("fashion-mnist/d2l-resnet18")
    assert (recipe.batch, recipe.epochs, recipe.augmentation.resize) == (256, 5, 96)
    assert (recipe.training.optimizer.kind, recipe.training.optimizer.weight_decay) == ("adam", 0.0)
    assert recipe.training.label_smoothing == 0.0
    assert [recipe.schedule(step, 1170) for step in (1, 600, 1170)] == [1e-3] * 3
    assert recipe.total_steps(60_000) == 5 * 234


def test_the_papers_schedule() -> None:
    """Rate 0.1, a tenth of it at 32k and 48k of 64k steps (2015, 4.2); 0.01 for the first 400 of
    ResNet-110.
    """
    recipe = get_recipe("cifar10/resnet20")
    rates = [recipe.schedule(step, 64_000) for step in (1, 32_000, 32_001, 48_000, 48_001, 64_000)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert (recipe.batch, recipe.total_steps(50_000), recipe.training.optimizer.weight_decay) == (
        128,
        64_000,
        1e-4,
    )
    warm = get_recipe("cifar10/resnet110").schedule
    assert [warm(step, 64_000) for step in (1, 400, 401)] == pytest.approx([0.01, 0.01, 0.1])


def test_schedules() -> None:
    cosine = Schedule(kind="cosine", rate=1.0, warmup=10, warmup_rate=0.0)
    assert [cosine(step, 110) for step in (1, 6, 11, 61)] == pytest.approx([0.0, 0.5, 1.0, 0.5])
    assert 0 < cosine(110, 110) < 1e-3
    assert Schedule(rate=0.3)(7, 9) == 0.3


def test_fields_are_changed_by_their_paths() -> None:
    recipe = get_recipe(
        "fashion-mnist/resnet20",
        {
            "epochs": 1,
            "schedule.rate": 0.05,
            "training.optimizer.kind": "adamw",
            "augmentation.flip": False,
            "spec.depths": [1, 1, 1],
        },
    )
    assert (recipe.epochs, recipe.schedule.rate, recipe.augmentation.flip) == (1, 0.05, False)
    assert recipe.training.optimizer.kind == "adamw"
    assert recipe.make_spec().depths == (1, 1, 1)
    assert get_recipe("fashion-mnist/resnet20", {"steps": 7}).total_steps(60_000) == 7


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epoch": 1}, "nearest: epochs"),
        ({"schedule.rat": 1}, "no field 'schedule.rat'"),
        ({"batch": 0}, "batch = 0"),
        ({"schedule.kind": "linear"}, "is not one of"),
        ({"training.optimizer.nesterov": "yes"}, "expected bool"),
        ({"epochs": 1, "steps": 1}, "say epochs or steps"),
        ({"augmentation.pad_crop": -1}, "pad_crop"),
        ({"batch": 1.5}, r"^batch: expected int, found 1\.5$"),
        ({"batch": True}, "^batch: expected int, found True$"),
        ({"batch": "abc"}, "^batch: expected int, found 'abc'$"),
        ({"epochs": 1.5}, "^epochs: expected int"),
        ({"epochs": 10**400}, "^epochs = 1"),
        ({"seed": "abc"}, "^seed: expected int"),
        ({"seed": -1}, "^seed = -1: must be from 0"),
        ({"dataset": 5}, "^dataset: expected str"),
        ({"schedule.warmup": 1.5}, "^schedule.warmup: expected int"),
        ({"schedule.factor": 1e300}, "^schedule.factor"),
        ({"schedule": []}, "^schedule: expected an object"),
        ({"spec": []}, "^spec: expected an object"),
        ({"training.optimizer.kind": "lion"}, "^training.optimizer.kind: 'lion'"),
        ({"name": "../../evil"}, "^name = '../../evil'"),
        ({"name": "/evil"}, "^name = "),
        ({"name": "a/./b"}, "^name = "),
        ({"name": "a//b"}, "^name = "),
        ({"name": "a/"}, "^name = "),
        ({"name": "a\nb"}, "^name = "),
        ({"name": ""}, "^name = "),
        ({"name": "a" * 201}, "^name = "),
    ],
)
def test_impossible_recipes_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        get_recipe("fashion-mnist/resnet20", changes)


@pytest.mark.parametrize("key", ["self", "preset", "", "name.x"])
def test_a_field_that_no_spec_has_is_refused(key: str) -> None:
    with pytest.raises(SpecError, match="spec has no field"):
        get_recipe("fashion-mnist/resnet20", {f"spec.{key}": 1}).make_spec()


WITH_SPEC = {**get_recipe("fashion-mnist/resnet20").to_dict(), "spec": {"in_channels": 1}}


@pytest.mark.parametrize("path", list(places(WITH_SPEC)), ids=lambda path: ".".join(path) or "all")
def test_a_changed_recipe_is_usable_or_refused(path: tuple) -> None:
    """Whatever stands at one place of it: a number where it is used is a number."""
    usable = 0
    for value in VALUES:
        with contextlib.suppress(SpecError):
            recipe = Recipe.from_json(as_json(mutated(WITH_SPEC, path, value)))
            total = recipe.total_steps(60_000)
            rates = [recipe.schedule(step, total) for step in (1, 2, 1000, total)]
            assert all(math.isfinite(rate) for rate in rates)
            recipe.make_spec()
            preprocessing_of(recipe)
            assert Recipe.from_json(recipe.to_json()) == recipe
            usable += 1
    assert usable < len(VALUES)


def test_unknown_recipes_name_the_nearest() -> None:
    with pytest.raises(SpecError, match="fashion-mnist/resnet20"):
        get_recipe("fashion-mnist/resnet2")


def test_a_batch_larger_than_the_data_is_refused() -> None:
    recipe = dataclasses.replace(get_recipe("fashion-mnist/resnet20"), batch=100)
    with pytest.raises(SpecError, match="a batch of 100 from 99 examples"):
        recipe.total_steps(99)
