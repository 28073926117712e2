"""The bundled weights and test images: what they say of themselves is true, in every
framework.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from shared.architecture.preprocessing import PREPROCESSING
from shared.datasets import DATASETS, open_split
from shared.datasets.opening import BUNDLED
from shared.errors import SpecError
from shared.images.labels import class_names
from shared.training.recipes import Recipe, get_recipe
from shared.weights.canonical import read_weights, save_weights
from shared.weights.files import read_tensors
from shared.weights.pretrained import PRETRAINED, pretrained_file
from tests.cli_runner import Rosetta
from tests.parity.rendering import FRAMEWORKS
from tests.zoo import rest_in_zoo

EXAMPLES = DATASETS["fashion-mnist"].examples["test"]


@pytest.fixture
def nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without datasets, and without a network."""
    for variable in ("HOME", "XDG_CACHE_HOME", "KERAS_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.delenv("ROSETTA_DATA", raising=False)
    monkeypatch.setattr("shared.datasets.places.SYSTEM", tmp_path)
    monkeypatch.setattr("shared.datasets.places.download_dataset", None)
    monkeypatch.chdir(tmp_path)


def metadata(name: str) -> dict[str, str]:
    return read_tensors(pretrained_file(name))[1]


@pytest.mark.usefixtures("nothing_else")
def test_the_test_split_that_comes_along_is_the_published_one() -> None:
    source = open_split("fashion-mnist", "test")
    assert source.published
    assert (len(source), source.num_classes) == (EXAMPLES, 10)
    assert np.bincount([source[i][1] for i in range(EXAMPLES)]).tolist() == [1000] * 10
    assert (BUNDLED["fashion-mnist", "test"] / "LICENSE").exists()


@pytest.mark.parametrize("name", PRETRAINED)
def test_they_say_how_they_were_made(name: str) -> None:
    about = metadata(name)
    recipe = Recipe.from_dict(json.loads(about["recipe"]))
    assert recipe == get_recipe(name)
    assert read_weights(pretrained_file(name))[1] == recipe.make_spec()
    assert about["preprocessing"] == "fashion-mnist"
    assert 0.9 < float(about["test_accuracy"]) < 1
    assert pretrained_file(name).stat().st_size < 1.2e6


@pytest.mark.zoo
@pytest.mark.parametrize("name", PRETRAINED)
def test_every_framework_gets_the_number_right_that_they_say(name: str, rosetta: Rosetta) -> None:
    result = rosetta(
        "evaluate", f"rosetta:{name}", "--framework", ",".join(FRAMEWORKS), "--json", "-"
    )
    said = round(float(metadata(name)["test_accuracy"]) * EXAMPLES)
    assert [(r["correct"], r["examples"]) for r in result.json] == [(said, EXAMPLES)] * len(
        FRAMEWORKS
    )
    assert all(r["wrong"] == result.json[0]["wrong"] for r in result.json), (
        "the same images, not only as many"
    )
    assert len(result.json[0]["wrong"]) == EXAMPLES - said


@pytest.mark.zoo
def test_several_weights_are_compared_image_by_image(rosetta: Rosetta) -> None:
    result = rosetta(
        "evaluate", *(f"rosetta:{name}" for name in PRETRAINED), "--framework", "torch"
    )
    assert result.code == 0
    assert "the same images, in torch" in result.out
    assert "p (McNemar)" in result.out
    assert [name for name in ("resnet20 ", "resnet20-v2") if name not in result.out] == []


def test_weights_of_different_datasets_are_not_compared(rosetta: Rosetta, tmp_path: Path) -> None:
    source = pretrained_file(PRETRAINED[0])
    weights, spec = read_weights(source)
    about = metadata(PRETRAINED[0])
    recipe = {**json.loads(about["recipe"]), "dataset": "cifar10"}
    save_weights(
        tmp_path / "other.safetensors", weights, spec, {**about, "recipe": json.dumps(recipe)}
    )
    found = rosetta(
        "evaluate",
        f"rosetta:{PRETRAINED[0]}",
        tmp_path / "other.safetensors",
        "--framework",
        "torch",
    )
    found.refused("trained on different datasets")


@pytest.mark.parametrize("name", rest_in_zoo(PRETRAINED, list(PRETRAINED)[:1]))
def test_a_picture_file_is_seen_as_the_dataset_is(
    name: str, rosetta: Rosetta, tmp_path: Path
) -> None:
    """A PNG goes through the preprocessing that the weights name; the input pipeline goes by the
    recipe's.
    """
    from PIL import Image

    source, count = open_split("fashion-mnist", "test"), 12
    files = [tmp_path / f"{i}.png" for i in range(count)]
    for i, file in enumerate(files):
        Image.fromarray(source[i][0][..., 0]).save(file)
    found = rosetta(
        "predict", *files, "--weights", f"rosetta:{name}", "--framework", "torch", "--json", "-"
    ).json
    right = [one["top"][0]["class"] == source[i][1] for i, one in enumerate(found)]
    assert sum(right) >= count - 2
    how, recipe = PREPROCESSING[metadata(name)["preprocessing"]], get_recipe(name)
    assert (how.mean[:1], how.std[:1], how.divisor) == (
        recipe.augmentation.mean,
        recipe.augmentation.std,
        255,
    )
    names = class_names("fashion-mnist")
    assert all(one["top"][0]["label"] == names[one["top"][0]["class"]] for one in found)


def test_other_names_are_refused(rosetta: Rosetta) -> None:
    with pytest.raises(SpecError, match="nearest: fashion-mnist/resnet20"):
        pretrained_file("fashion-mnist/resnet2")
    rosetta("inspect", "rosetta:cifar10/resnet20").refused("no bundled weights 'cifar10/resnet20'")
